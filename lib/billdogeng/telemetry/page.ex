defmodule BilldogEng.Telemetry.Page do
  @moduledoc false
  # Finds the page views of a LiveView from the telemetry of its callbacks.
  #
  #     mount ──▶ handle_params ──▶ handle_params ──▶ …        one page view, at the last callback
  #       │            │ push_patch ───▲                       that does not redirect
  #       └────────────┴─▶ redirect, push_navigate             none: the next page is viewed
  #
  # LiveView emits nothing for a callback that a view does not have. So both callbacks are handled, and a mount waits for
  # handle_params only if LiveView will call it. The process dictionary of the LiveView has its last address.

  alias BilldogEng.Telemetry.Address

  # The last page's address and route, and the time spent in callbacks since then, in native units.
  @no_page {nil, nil, 0}

  # Returns `{via, address, route, duration}` of a page view, or nil if the callback did not complete one. `route` is a
  # function of the address.
  def viewed(callback, duration, uri, socket, key, route) do
    {last, last_route, waited} = Process.get({__MODULE__, key}, @no_page)

    cond do
      continues?(callback, socket) ->
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

  # Returns the route of the page that the process shows, or nil.
  def route(key) do
    {_last, route, _waited} = Process.get({__MODULE__, key}, @no_page)
    route
  end

  # Returns whether another callback, or another page, follows this one.
  defp continues?(_callback, %{redirected: to}) when to != nil, do: true
  defp continues?(:mount, socket), do: handles_params?(socket)
  defp continues?(_callback, _socket), do: false

  # Decides this like LiveView: by the hooks of the view's lifecycle, else by the view.
  defp handles_params?(%{private: %{lifecycle: %{handle_params: [_ | _]}}}), do: true
  defp handles_params?(%{view: view}), do: function_exported?(view, :handle_params, 3)

  # A navigation has a referer and is a first mount. The mount after a request has no referer, and the mount after a lost
  # connection is not the first.
  defp via(nil, %{"_live_referer" => referer} = params) when is_binary(referer) do
    if Map.get(params, "_mounts", 0) == 0, do: "navigate"
  end

  # LiveView deletes the connect params after the mount.
  defp via(%Address{}, nil), do: "patch"
  defp via(_, _), do: nil
end
