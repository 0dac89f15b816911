defmodule BilldogEng.Telemetry.Phoenix do
  @moduledoc false
  # What Phoenix and LiveView tell, as at most one event for each thing that happened.
  #
  # A page of a LiveView comes to its user in one of four ways:
  #
  #     request   a GET that the router dispatches. Its LiveView's first mount over the socket is no other view
  #     navigate  a mount over the socket for which the browser tells where it comes from
  #     patch     handle_params in a LiveView that runs, for another path than its last
  #     –         a mount again, after the connection was lost: nothing
  #
  # `BilldogEng.Telemetry.Page` tells the last three apart.

  alias BilldogEng.Telemetry.{Handler, Page, Route}
  alias BilldogEng.Terms.ModuleName

  @compile {:no_warn_undefined, Plug.Exception}

  @dispatched [:phoenix, :router_dispatch, :stop]
  @error [:phoenix, :error_rendered]
  @mounted [:phoenix, :live_view, :mount, :stop]
  @params [:phoenix, :live_view, :handle_params, :stop]
  @view_event [:phoenix, :live_view, :handle_event, :stop]
  @component_event [:phoenix, :live_component, :handle_event, :stop]
  @joined [:phoenix, :channel_joined]

  @failures for {kind, callbacks} <- [
                  live_view: [:mount, :handle_params, :handle_event, :render],
                  live_component: [:handle_event, :update]
                ],
                callback <- callbacks,
                do: [:phoenix, kind, callback, :exception]

  # Which of `:telemetry`'s events tell of each of ours.
  @sources [
    page_viewed: [@dispatched, @mounted, @params],
    request_failed: [@error],
    live_event: [@view_event, @component_event],
    live_view_failed: @failures,
    channel_joined: [@joined]
  ]

  # Channels of the libraries' own.
  @not_the_apps ["lv:", "lvu:", "phoenix:"]

  @doc false
  def attach(client, opts) do
    {own, opts} = Keyword.split(opts, [:events, :path, :form_changes])
    names = Handler.names(own[:events], Keyword.keys(@sources))

    for option <- [:path, :form_changes] do
      Handler.must(option, own[option] in [nil, true, false], "true or false")
    end

    events = Enum.flat_map(@sources, fn {kind, events} -> if names[kind], do: events, else: [] end)
    options = %{names: names, path: own[:path] == true, form_changes: own[:form_changes] == true}
    Handler.attach(client, events, {__MODULE__, options}, opts)
  end

  @doc false
  def read(@dispatched, measurements, metadata, options) do
    conn = metadata.conn

    if conn.method == "GET" and conn.status in 200..299 and html?(conn) and not forwarded?(metadata) do
      properties = %{route: metadata[:route], via: "request", duration_ms: Handler.ms(measurements.duration)}

      {options.names.page_viewed,
       properties |> Map.merge(target(metadata)) |> with_path(conn.request_path, options)}
    end
  end

  def read(@mounted, measurements, metadata, options), do: page(:mount, measurements, metadata, options)

  def read(@params, measurements, metadata, options),
    do: page(:handle_params, measurements, metadata, options)

  def read(@error, _measurements, %{status: status, conn: conn} = metadata, options) when status >= 400 do
    properties =
      %{status: status, method: conn.method, error: Handler.error(metadata)}
      |> put(:route, Route.of_conn(conn))
      |> with_path(conn.request_path, options)

    {options.names.request_failed, properties}
  end

  def read([:phoenix, _, :handle_event, :stop], measurements, %{socket: socket} = metadata, options) do
    if options.form_changes or not match?(%{params: %{"_target" => _}}, metadata) do
      properties = %{
        event: metadata.event,
        view: ModuleName.shown(socket.view),
        duration_ms: Handler.ms(measurements.duration)
      }

      {options.names.live_event,
       properties |> with_component(metadata) |> put(:route, Page.route(options.key))}
    end
  end

  # A view that has failed ends; before that, a component's failure to update comes again as its view's to render.
  def read([:phoenix, _, callback, :exception], _measurements, %{socket: socket} = metadata, options) do
    unless told_by_request?(metadata) or Process.put({__MODULE__, :failed, options.key}, true) do
      properties = %{
        view: ModuleName.shown(socket.view),
        callback: Atom.to_string(callback),
        error: Handler.error(metadata)
      }

      properties =
        properties
        |> with_component(metadata)
        |> put(:event, metadata[:event])
        |> put(:route, Page.route(options.key))

      {options.names.live_view_failed, properties}
    end
  end

  def read(@joined, measurements, %{result: :ok, socket: socket}, options) do
    unless String.starts_with?(socket.topic, @not_the_apps) do
      [topic | rest] = String.split(socket.topic, ":", parts: 2)

      {options.names.channel_joined,
       %{
         channel: ModuleName.shown(socket.channel),
         topic: if(rest == [], do: topic, else: topic <> ":*"),
         duration_ms: Handler.ms(measurements.duration)
       }}
    end
  end

  def read(_other, _measurements, _metadata, _options), do: nil

  # ── requests ──

  # Scripts, styles, downloads and JSON are answered by routers as well.
  defp html?(conn) do
    case List.keyfind(conn.resp_headers, "content-type", 0) do
      {_, "text/html" <> _} -> true
      {_, "application/xhtml+xml" <> _} -> true
      _ -> false
    end
  end

  # A router to which another one forwards tells of the request itself.
  defp forwarded?(%{plug: plug}) when is_atom(plug), do: function_exported?(plug, :__match_route__, 3)
  defp forwarded?(_metadata), do: false

  defp target(%{phoenix_live_view: {view, action, _, _}}),
    do: put(%{view: ModuleName.shown(view)}, :action, action(action))

  defp target(%{plug: plug} = metadata) when is_atom(plug) do
    put(%{controller: ModuleName.shown(plug)}, :action, action(metadata[:plug_opts]))
  end

  defp target(_metadata), do: %{}

  defp action(action) when is_atom(action) and action != nil, do: Atom.to_string(action)
  defp action(_options), do: nil

  # ── LiveViews ──

  # Only the view at the router has an address; those within it, and beside it, have not.
  defp page(callback, measurements, %{uri: uri, socket: %{transport_pid: pid} = socket}, options)
       when is_binary(uri) and is_pid(pid) do
    route = &Route.of_view(socket, &1)

    with {via, address, route, duration} <-
           Page.arrived(callback, measurements.duration, uri, socket, options.key, route),
         do: viewed(duration, socket, route, address.path, via, options)
  end

  defp page(_callback, _measurements, _metadata, _options), do: nil

  defp viewed(duration, socket, route, path, via, options) do
    properties = %{
      view: ModuleName.shown(socket.view),
      via: via,
      duration_ms: Handler.ms(duration)
    }

    properties =
      properties
      |> put(:route, route)
      |> put(:action, action(socket.assigns[:live_action]))
      |> with_path(path, options)

    {options.names.page_viewed, properties}
  end

  # Without a connection to the browser it is the request that fails. A mount that is the client's own fault
  # (4xx) has the browser load the page anew, and so comes to a request that fails.
  defp told_by_request?(%{socket: %{transport_pid: nil}}), do: true

  defp told_by_request?(%{socket: %{private: %{connect_params: _}}, kind: :error, reason: reason}) do
    is_exception(reason) and Plug.Exception.status(reason) in 400..499
  end

  defp told_by_request?(_metadata), do: false

  # ── properties ──

  defp with_component(properties, %{component: component}),
    do: Map.put(properties, :component, ModuleName.shown(component))

  defp with_component(properties, _metadata), do: properties

  defp with_path(properties, path, %{path: true}), do: Map.put(properties, :path, path)
  defp with_path(properties, _path, _options), do: properties

  defp put(properties, _key, nil), do: properties
  defp put(properties, key, value), do: Map.put(properties, key, value)
end
