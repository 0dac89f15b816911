defmodule BilldogEng.Telemetry.Page do
  @moduledoc false
  # The page that a LiveView shows, followed by the telemetry of its callbacks.
  #
  #     mount ──▶ handle_params ──▶ handle_params ──▶ …        one view is counted where this comes to rest:
  #       │            │ push_patch ───▲                       at the last callback that redirects nowhere
  #       └────────────┴─▶ redirect, push_navigate             none: the next page is counted
  #
  # LiveView emits nothing for a callback that a view lacks, so both callbacks are followed, and a mount waits for
  # handle_params only where that will be called. The last address is kept in the LiveView's process.

  alias BilldogEng.Telemetry.Address

  # The last page's address and route, and the time spent in callbacks since, in native units.
  @nowhere {nil, nil, 0}

  @doc false
  # `{via, address, route, duration}` of a page that has come to its user; nil where there is none. `route` is a
  # function of the address.
  def arrived(callback, duration, uri, socket, key, route) do
    {last, last_route, waited} = Process.get({__MODULE__, key}, @nowhere)

    cond do
      moves_on?(callback, socket) ->
        Process.put({__MODULE__, key}, {last, last_route, waited + duration})
        nil

      Address.of?(last, uri) ->
        Process.put({__MODULE__, key}, {last, last_route, 0})
        nil

      true ->
        address = Address.parse(uri, last)
        route = route.(address)
        Process.put({__MODULE__, key}, {address, route, 0})
        via = via(last, Map.get(socket.private, :connect_params))
        if via, do: {via, address, route, waited + duration}
    end
  end

  @doc false
  # The route of the page that the process shows, nil where none is known.
  def route(key) do
    {_last, route, _waited} = Process.get({__MODULE__, key}, @nowhere)
    route
  end

  # Whether another callback, or another page, follows this one.
  defp moves_on?(_callback, %{redirected: to}) when to != nil, do: true
  defp moves_on?(:mount, socket), do: handles_params?(socket)
  defp moves_on?(_callback, _socket), do: false

  # As LiveView decides it: by the hooks of the view's lifecycle, else by the view itself.
  defp handles_params?(%{private: %{lifecycle: %{handle_params: [_ | _]}}}), do: true
  defp handles_params?(%{view: view}), do: function_exported?(view, :handle_params, 3)

  # A navigation names the page that it comes from; a first mount after a request doesn't, and a mount after a lost
  # connection is not the first.
  defp via(nil, %{"_live_referer" => referer} = params) when is_binary(referer) do
    if Map.get(params, "_mounts", 0) == 0, do: "navigate"
  end

  # With a page before, and the mount over.
  defp via(%Address{}, nil), do: "patch"
  defp via(_, _), do: nil
end
