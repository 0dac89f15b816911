defmodule BilldogEng.Telemetry.Phoenix do
  @moduledoc false
  # Reads the telemetry of Phoenix and LiveView.
  #
  # A page of a LiveView is viewed by one of these:
  #
  #     request   a GET that the router dispatches; the mount over the socket that follows is not another view
  #     navigate  a mount over the socket for which the browser sends a referer
  #     patch     handle_params in a running LiveView, for a path that differs from the last one
  #
  # A mount after a lost connection is not a page view. `BilldogEng.Telemetry.Page` distinguishes the mounts.

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

  # The `:telemetry` events from which each captured event is read.
  @sources [
    page_viewed: [@dispatched, @mounted, @params],
    request_failed: [@error],
    live_event: [@view_event, @component_event],
    live_view_failed: @failures,
    channel_joined: [@joined]
  ]

  # The topics of channels that belong to Phoenix and LiveView.
  @library_topics ["lv:", "lvu:", "phoenix:"]

  def attach(client, opts) do
    {own, opts} = Keyword.split(opts, [:events, :path, :form_changes])
    names = Handler.names(own[:events], Keyword.keys(@sources))

    for option <- [:path, :form_changes] do
      Handler.check!(option, own[option] in [nil, true, false], "true or false", own[option])
    end

    events = Enum.flat_map(@sources, fn {kind, events} -> if names[kind], do: events, else: [] end)
    options = %{names: names, path: own[:path] == true, form_changes: own[:form_changes] == true}
    Handler.attach(client, events, {__MODULE__, options}, opts)
  end

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

  # A failed update of a component is reported a second time, as a failed render of its view. The view then ends, so the
  # mark in the process dictionary needs no reset.
  def read([:phoenix, _, callback, :exception], _measurements, %{socket: socket} = metadata, options) do
    unless fails_in_request?(metadata) or Process.put({__MODULE__, :failed, options.key}, true) do
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
    unless String.starts_with?(socket.topic, @library_topics) do
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

  # Routers also dispatch scripts, styles, downloads and JSON.
  defp html?(conn) do
    case List.keyfind(conn.resp_headers, "content-type", 0) do
      {_, "text/html" <> _} -> true
      {_, "application/xhtml+xml" <> _} -> true
      _ -> false
    end
  end

  # The router to which this one forwards emits its own event.
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

  # Only the view at the router has an address; nested and embedded views have none.
  defp page(callback, measurements, %{uri: uri, socket: %{transport_pid: pid} = socket}, options)
       when is_binary(uri) and is_pid(pid) do
    route = &Route.of_view(socket, &1)

    with {via, address, route, duration} <-
           Page.viewed(callback, measurements.duration, uri, socket, options.key, route) do
      properties =
        %{view: ModuleName.shown(socket.view), via: via, duration_ms: Handler.ms(duration)}
        |> put(:route, route)
        |> put(:action, action(socket.assigns[:live_action]))
        |> with_path(address.path, options)

      {options.names.page_viewed, properties}
    end
  end

  defp page(_callback, _measurements, _metadata, _options), do: nil

  # Returns whether a request reports the failure as well. Without a connection to the browser, the failure is that of
  # the request. After a mount that fails with a 4xx, the browser loads the page again, and this request fails.
  defp fails_in_request?(%{socket: %{transport_pid: nil}}), do: true

  defp fails_in_request?(%{socket: %{private: %{connect_params: _}}, kind: :error, reason: reason}) do
    is_exception(reason) and Plug.Exception.status(reason) in 400..499
  end

  defp fails_in_request?(_metadata), do: false

  # ── properties ──

  defp with_component(properties, %{component: component}),
    do: Map.put(properties, :component, ModuleName.shown(component))

  defp with_component(properties, _metadata), do: properties

  defp with_path(properties, path, %{path: true}), do: Map.put(properties, :path, path)
  defp with_path(properties, _path, _options), do: properties

  defp put(properties, _key, nil), do: properties
  defp put(properties, key, value), do: Map.put(properties, key, value)
end
