defmodule BilldogEng.LiveView do
  @moduledoc """
  An `on_mount` hook that puts the `BilldogEng.Context` of a LiveView: whose it is, and the route that it shows.

      # in the router, after what finds the user
      live_session :default, on_mount: [{MyAppWeb.UserAuth, :mount_current_scope}, BilldogEng.LiveView] do
        live "/orders/:id", MyAppWeb.OrderLive
      end

  or, with options, `{BilldogEng.LiveView, distinct_id: &MyAppWeb.Analytics.visitor/1}`. They are those of
  `BilldogEng.Plug`, their functions being given the socket.

  It does so once the LiveView is connected; for the request that comes before there is `BilldogEng.Plug`. In what
  handlers capture, views within such a view have its context; for captures of their own they take `on_mount` too.
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

  # Only there is an address, and a hook for it allowed.
  defp at_router?(params, socket), do: is_map(params) and socket.parent_pid == nil and socket.router != nil

  # The hook may be there already, from a second on_mount.
  defp follow(socket) do
    socket
    |> Phoenix.LiveView.detach_hook(__MODULE__, :handle_params)
    |> Phoenix.LiveView.attach_hook(__MODULE__, :handle_params, &__MODULE__.handle_params/3)
  end

  @doc false
  # At most patches nothing but the query changes.
  def handle_params(_params, uri, socket) when is_binary(uri) do
    last = Process.get(__MODULE__)
    unless Address.of?(last, uri), do: at(Address.parse(uri, last), socket)
    {:cont, socket}
  end

  def handle_params(_params, _uri, socket), do: {:cont, socket}

  defp at(address, socket) do
    Process.put(__MODULE__, address)

    with %{properties: properties} = context <- Context.get() do
      Context.put(%{context | properties: Map.put(properties, :route, Route.of_view(socket, address))})
    end
  end
end
