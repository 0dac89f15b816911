defmodule BilldogEng.Telemetry do
  @moduledoc """
  Captures [`:telemetry`](https://hexdocs.pm/telemetry) events of the app, and emits those of a client.

      # in the application's start/2, before the Endpoint
      BilldogEng.Telemetry.attach(MyApp.Analytics, [:my_app, :order, :placed],
        event: "order_placed",
        distinct_id: fn _measurements, metadata -> metadata.user_id end,
        properties: fn measurements, _metadata -> %{total: measurements.total} end
      )

  ## Handlers

  Each `attach` function accepts a client and options. Pass the client's name, so that the handler outlives a restart
  of the client. The options of every handler are:

    * `:distinct_id` - the user of the event: a value or a function. Default: the distinct ID of the request
      (`BilldogEng.Plug`), else of the process's `BilldogEng.Context`, else the `current_scope`, `current_user` or
      `user_id` of a channel's socket. If it is nil or `""`, nothing is captured; this is logged at info level, once for
      each event and view
    * `:properties` - the properties of the event: a map, a keyword list or a function. Default: none
    * `:groups` - the groups of the event, in the same forms. Default: none
    * `:filter` - a function. If it returns nil or false, nothing is captured
    * `:sample_rate` - the share of users whose events are captured, from 0 to 1. The same users are selected for all
      events and on all nodes. Default: 1
    * `:id` - the ID of the handler for `detach/1`

  A function receives the measurements and the metadata of the event, or the event's name before them if its arity is 3.
  Pass a function of the form `&MyApp.Analytics.user/2`: an anonymous function is lost when its module has been reloaded
  twice.

  Handlers run in the process that emits the event, and take 1 to 3 µs in addition to the capture. If a handler fails,
  only that event is lost. The handler stays attached, its first failure is logged, and `handlers/0` counts all of them.

  ## Events of the client

  A client emits events for the start and the end of each flush, and for drops. `measure/1` emits
  `[:billdogeng, :queue]`. [Telemetry events](telemetry.html) lists them with their measurements and metadata.
  """

  alias BilldogEng.Analytics
  alias BilldogEng.Telemetry.{Custom, Ecto, Emitter, Handler, Metrics, Oban, Phoenix}

  @typedoc "The name of a `:telemetry` event."
  @type event :: [atom(), ...]

  @doc group: "Handlers"
  @doc """
  Captures an event for each of the given `:telemetry` events.

  Metadata is only captured by `:properties`. Options, in addition to those of every handler:

    * `:event` - the name of the captured event, or a function that returns it, or nil to capture nothing. Default: the
      name of the `:telemetry` event, joined by dots
    * `:id` - default: `{BilldogEng.Telemetry, client, event_or_events}`

  Returns `{:error, :already_exists}` if the `:id` is taken. Raises `ArgumentError` for an option with an invalid value,
  and if the app does not have `:telemetry`.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Telemetry.attach(client, [:docs, :order, :placed], id: "orders", distinct_id: "user-1")
      :ok
      iex> BilldogEng.Telemetry.attach(client, [:docs, :order, :placed], id: "orders")
      {:error, :already_exists}
      iex> :telemetry.execute([:docs, :order, :placed], %{total: 12})
      iex> Enum.find(BilldogEng.Telemetry.handlers(), & &1.id == "orders").captured
      1
      iex> BilldogEng.Telemetry.detach("orders")
      :ok
  """
  @spec attach(Analytics.server(), event() | [event(), ...], keyword()) :: :ok | {:error, :already_exists}
  def attach(client, event_or_events, opts \\ []) do
    {name, opts} = opts |> with_id(client, event_or_events) |> Keyword.pop(:event)
    Handler.attach(client, Custom.events(event_or_events), {Custom, Custom.options(name)}, opts)
  end

  defp with_id(opts, client, handler) do
    if Keyword.keyword?(opts),
      do: Keyword.put_new(opts, :id, {__MODULE__, Handler.unwrap(client), handler}),
      else: raise(ArgumentError, "invalid options of a handler: expected a keyword list")
  end

  @doc group: "Handlers"
  @doc """
  Captures the telemetry of Phoenix and LiveView as these events:

    * `page_viewed` - the router dispatched a GET that returned 2xx and HTML (also a HEAD that `Plug.Head` turned into a
      GET), or the browser navigated to a LiveView, or a LiveView was patched to another path. Properties: `route`,
      `via` (`"request"`, `"navigate"` or `"patch"`), `controller` or `view`, `action`, `duration_ms`
    * `request_failed` - an action raised, threw or exited, and an error page with status 400 or more was rendered.
      Properties: `status`, `method`, `route`, `error` (the exception's module)
    * `live_event` - a LiveView or component handled an event of the browser. Properties: `event`, `view`, `component`,
      `route`, `duration_ms`
    * `live_view_failed` - a callback of a connected LiveView raised. Properties: `callback`, `event`, `view`,
      `component`, `route`, `error`
    * `channel_joined` - a channel of the app was joined. Properties: `channel`, `topic` (the text after `:` as `*`),
      `duration_ms`

  `route` is the router's pattern, such as `/users/:id`. The properties never contain parameters, queries, headers,
  bodies, addresses or the messages of exceptions.

  A LiveView's page is captured once, by its request: not again when its socket connects or reconnects. A nested view, or
  a change of the query alone, is no page view. Of pages that redirect, navigate or patch immediately, only the last one
  is captured; its `duration_ms` includes the callbacks before it in the same LiveView. A navigation to a LiveView without
  `mount/3`, `handle_params/3` and `on_mount` is not captured, because LiveView emits no telemetry for it.

  LiveView emits no telemetry if `handle_info/2` or `handle_async/3` raises or, before 1.2, if a component raises when it
  is rendered again. `BilldogEng.LoggerHandler` captures these crashes.

  Options, in addition to those of every handler:

    * `:events` - other names for the events, or false to capture none: `[page_viewed: "$pageview", live_event: false]`
    * `:path` - whether the property `path` contains the request's path, which may be private. Default: false
    * `:form_changes` - whether changes of forms are captured, one for each key press. Default: false, which captures
      only submits
    * `:id` - default: `{BilldogEng.Telemetry, client, :phoenix}`

  Returns `{:error, :already_exists}` if the `:id` is taken.

      iex> BilldogEng.Telemetry.attach_phoenix(MyApp.Analytics, events: [channel_joined: false], sample_rate: 0.1)
      :ok
      iex> BilldogEng.Telemetry.detach({BilldogEng.Telemetry, MyApp.Analytics, :phoenix})
      :ok
  """
  @spec attach_phoenix(Analytics.server(), keyword()) :: :ok | {:error, :already_exists}
  def attach_phoenix(client, opts \\ []), do: Phoenix.attach(client, with_id(opts, client, :phoenix))

  @doc group: "Handlers"
  @doc """
  Captures the slow queries of an Ecto repo as `slow_query`.

  Properties: `source` (the table), `command` (such as `SELECT`), `repo`, `result` (`"ok"`, `"error"`), `duration_ms`,
  and its parts `queue_ms`, `query_ms` and `decode_ms`. They never contain the statement or its parameters. Queries
  without a source, migrations, and queries of Oban's tables are not captured.

  Options, in addition to those of every handler:

    * `:slower_than` - the time above which a query is captured, in milliseconds, from the wait for a connection to the
      decoded result. Required
    * `:event` - the name of the captured event. Default: `"slow_query"`
    * `:id` - default: `{BilldogEng.Telemetry, client, {:ecto, repo}}`

  Returns `{:error, :already_exists}` if the `:id` is taken.

      iex> BilldogEng.Telemetry.attach_ecto(MyApp.Analytics, MyApp.Repo, slower_than: 500)
      :ok
      iex> BilldogEng.Telemetry.detach({BilldogEng.Telemetry, MyApp.Analytics, {:ecto, MyApp.Repo}})
      :ok
  """
  @spec attach_ecto(Analytics.server(), module(), keyword()) :: :ok | {:error, :already_exists}
  def attach_ecto(client, repo, opts), do: Ecto.attach(client, repo, with_id(opts, client, {:ecto, repo}))

  @doc group: "Handlers"
  @doc """
  Captures Oban's jobs: `job_completed` for each job that succeeded, `job_failed` for each attempt that failed. Jobs that
  were cancelled, discarded or snoozed are not captured.

  Properties: `worker`, `queue`, `attempt`, `max_attempts`, `duration_ms`, `queue_ms` (the time since the job was due);
  of failures also `state` (`"failure"`, or `"discard"` after the last attempt) and `error` (the exception's module).
  They never contain the arguments.

  Set the user of a job in its `meta`: `MyApp.Mailer.new(args, meta: %{distinct_id: user.id})`.

  Options, in addition to those of every handler:

    * `:events` - other names for the events, or false to capture none: `[job_completed: false]`
    * `:id` - default: `{BilldogEng.Telemetry, client, :oban}`

  Returns `{:error, :already_exists}` if the `:id` is taken.

      iex> BilldogEng.Telemetry.attach_oban(MyApp.Analytics, events: [job_failed: "mail_failed"])
      :ok
      iex> BilldogEng.Telemetry.detach({BilldogEng.Telemetry, MyApp.Analytics, :oban})
      :ok
  """
  @spec attach_oban(Analytics.server(), keyword()) :: :ok | {:error, :already_exists}
  def attach_oban(client, opts \\ []), do: Oban.attach(client, with_id(opts, client, :oban))

  @doc group: "Handlers"
  @doc """
  Detaches the handler with this ID. Returns `{:error, :not_found}` if this module did not attach it.

      iex> BilldogEng.Telemetry.detach("another")
      {:error, :not_found}
  """
  @spec detach(term()) :: :ok | {:error, :not_found}
  def detach(id), do: Handler.detach(id)

  @doc group: "Handlers"
  @doc """
  Returns the attached handlers with their counters: events that were `captured`, that had no distinct ID
  (`without_id`), and for which the handler `failed`. Events that were filtered or not sampled are not counted.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Telemetry.attach(client, [:docs, :signed_up], id: :signed_up, properties: fn _, _ -> 1 / 0 end)
      iex> :telemetry.execute([:docs, :signed_up], %{})
      iex> handler = Enum.find(BilldogEng.Telemetry.handlers(), & &1.id == :signed_up)
      iex> Map.take(handler, [:events, :captured, :without_id, :failed])
      %{events: [[:docs, :signed_up]], captured: 0, without_id: 1, failed: 0}
      iex> BilldogEng.Telemetry.detach(:signed_up)
      :ok
  """
  @spec handlers() :: [
          %{
            id: term(),
            client: Analytics.server(),
            events: [event(), ...],
            captured: non_neg_integer(),
            without_id: non_neg_integer(),
            failed: non_neg_integer()
          }
        ]
  def handlers, do: Handler.list()

  @doc group: "Metrics"
  @doc """
  Emits `[:billdogeng, :queue]` with the counters of `client`, in the calling process. Returns `:ok`.

      {:telemetry_poller, measurements: [{BilldogEng.Telemetry, :measure, [MyApp.Analytics]}], period: 10_000}

  If there is no such client it emits nothing, because a poller removes a measurement that raises.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Telemetry.measure(client)
      :ok
  """
  @spec measure(Analytics.server()) :: :ok
  def measure(client) do
    if Emitter.telemetry() != false do
      stats = Analytics.stats(client)
      {captured, delivered} = rates(client, stats)

      measurements =
        stats
        |> Map.take([:queued, :queued_bytes, :in_flight, :captured, :delivered, :retries, :replaced])
        |> Map.merge(%{
          captured_per_second: captured,
          delivered_per_second: delivered,
          dropped: stats.dropped |> Map.values() |> Enum.sum()
        })

      Emitter.execute([:billdogeng, :queue], measurements, %{client: label(client)})
    end

    :ok
  catch
    :exit, _ -> :ok
  end

  # The last counters are in the process dictionary, because a poller measures in one process. A restarted client counts
  # from 0.
  defp rates(client, %{captured: captured, delivered: delivered}) do
    now = System.monotonic_time()
    last = Process.put({__MODULE__, :measured, client}, {now, captured, delivered})

    case last do
      {then, captured_then, delivered_then} when now > then ->
        {per_second(captured - captured_then, now - then), per_second(delivered - delivered_then, now - then)}

      _ ->
        {0.0, 0.0}
    end
  end

  defp per_second(count, duration),
    do: max(count, 0) * System.convert_time_unit(1, :second, :native) / duration

  defp label(%BilldogEng{analytics: pid}), do: label(pid)

  defp label(pid) when is_pid(pid) and node(pid) == node() do
    case Process.info(pid, :registered_name) do
      {:registered_name, name} when is_atom(name) -> name
      _ -> pid
    end
  end

  defp label(server), do: server

  @doc group: "Metrics"
  @doc """
  Returns the metrics of the client's events, for a reporter of
  [`Telemetry.Metrics`](https://hexdocs.pm/telemetry_metrics) or the metrics page of LiveDashboard:

      # in MyAppWeb.Telemetry, with the metrics of the app
      def metrics, do: [summary("phoenix.endpoint.stop.duration") | BilldogEng.Telemetry.metrics()]

  Sizes are in kilobytes. Raises if the app does not have `telemetry_metrics`.
  """
  @spec metrics() :: [struct()]
  def metrics, do: Metrics.list()
end
