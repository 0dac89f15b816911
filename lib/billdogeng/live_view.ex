defmodule BilldogEng.LiveView do
  @moduledoc """
  Puts the `BilldogEng.Context` of a LiveView: its user and the route that it shows. This module is an `on_mount` hook.

      # in the router, after the hook that assigns the user
      live_session :default, on_mount: [{MyAppWeb.UserAuth, :mount_current_scope}, BilldogEng.LiveView] do
        live "/orders/:id", MyAppWeb.OrderLive
      end

  To pass options, write `{BilldogEng.LiveView, distinct_id: &MyAppWeb.Analytics.visitor/1}`. The options are those of
  `BilldogEng.Plug`; their functions receive the socket.

  The hook puts the context when the LiveView is connected. The request before that is covered by `BilldogEng.Plug`.
  Events that telemetry handlers capture in a nested LiveView have the context of its parent. For other captures, add the
  hook to the nested LiveView too.
  """

  alias BilldogEng.{Context, Visitor}
  alias BilldogEng.Context.Request
  alias BilldogEng.Telemetry.{Address, Route}
  alias BilldogEng.Terms.ModuleName

  @compile {:no_warn_undefined, Phoenix.LiveView}

  @doc false
  def on_mount(:default, params, session, socket), do: on_mount([], params, session, socket)

  def on_mount(opts, params, session, %{transport_pid: pid} = socket) when is_pid(pid) do
    socket = Visitor.of_session(socket, session)
    opts = Request.options(opts, "BilldogEng.LiveView")
    Process.delete(__MODULE__)
    Context.put(Request.context(socket, %{view: ModuleName.shown(socket.view)}, opts))
    {:cont, if(at_router?(params, socket), do: follow(socket), else: socket)}
  end

  def on_mount(_opts, _params, _session, socket), do: {:cont, socket}

  # Only a LiveView at the router has an address and may have a hook for it.
  defp at_router?(params, socket), do: is_map(params) and socket.parent_pid == nil and socket.router != nil

  # A second on_mount finds the hook of the first.
  defp follow(socket) do
    socket
    |> Phoenix.LiveView.detach_hook(__MODULE__, :handle_params)
    |> Phoenix.LiveView.attach_hook(__MODULE__, :handle_params, &__MODULE__.handle_params/3)
  end

  @doc false
  # Most patches change only the query, which needs no work.
  def handle_params(_params, uri, socket) when is_binary(uri) do
    last = Process.get(__MODULE__)
    unless Address.of?(last, uri), do: put_route(Address.parse(uri, last), socket)
    {:cont, socket}
  end

  def handle_params(_params, _uri, socket), do: {:cont, socket}

  defp put_route(address, socket) do
    Process.put(__MODULE__, address)

    with %{properties: properties} = context <- Context.get() do
      Context.put(%{context | properties: Map.put(properties, :route, Route.of_view(socket, address))})
    end
  end
end
