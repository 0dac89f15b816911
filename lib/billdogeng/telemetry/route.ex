defmodule BilldogEng.Telemetry.Route do
  @moduledoc false
  # Finds the router's pattern of a request or an address, such as `/users/:id`.

  alias BilldogEng.Telemetry.Address

  @compile {:no_warn_undefined, Phoenix.Router}

  # Returns the pattern of the route that a request has taken or will take, or nil.
  def of_conn(%{private: %{phoenix_router: router}} = conn) do
    path = Enum.map(conn.path_info, &URI.decode/1)

    with %{route: route} <- Phoenix.Router.route_info(router, conn.method, path, conn.host),
         do: route,
         else: (_ -> nil)
  rescue
    # The router is not Phoenix's, or the path cannot be decoded.
    _ -> nil
  end

  def of_conn(_conn), do: nil

  # Returns the pattern of the route of a LiveView's address, as LiveView finds it, or nil.
  def of_view(%{router: router, endpoint: endpoint}, address) when is_atom(router) and router != nil do
    segments = drop_prefix(endpoint.script_name(), Address.segments(address.path))

    with %{route: route} <- Phoenix.Router.route_info(router, "GET", segments, address.host),
         do: route,
         else: (_ -> nil)
  rescue
    _ -> nil
  end

  def of_view(_socket, _address), do: nil

  defp drop_prefix([same | prefix], [same | segments]), do: drop_prefix(prefix, segments)
  defp drop_prefix(_prefix, segments), do: segments
end
