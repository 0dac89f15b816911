defmodule BilldogEng.Telemetry do
  @moduledoc """
  Telemetry, both ways: captures from the app's [`:telemetry`](https://hexdocs.pm/telemetry) events, and what a
  client tells of itself.

      # in the application's start/2, before the Endpoint
      BilldogEng.Telemetry.attach(MyApp.Analytics, [:my_app, :order, :placed],
        event: "order_placed",
        distinct_id: fn _measurements, metadata -> metadata.user_id end,
        properties: fn measurements, _metadata -> %{total: measurements.total} end
      )

  ## Handlers

  Each `attach` function takes the client (its name, so that handlers outlive a restart of its process), and
  options. All of them take:

    * `:distinct_id` - whose the event is: a function, or a value. By default whose the request is
      (`BilldogEng.Plug`), else that of the process's `BilldogEng.Context`, else the `current_scope`,
      `current_user` or `user_id` of a channel's socket. Where it is nil or `""` nothing is captured; that is
      logged at info, once for each event and view
    * `:properties` - properties of the event: a function, a map or a keyword list
    * `:groups` - its groups, the same
    * `:filter` - a function; only where it answers something true is the event captured
    * `:sample_rate` - the share of users whose events are captured, 0 to 1: a distinct id is in or out, as a
      whole and everywhere
    * `:id` - a name for the handler, by which `detach/1` finds it

  A function is given the event's measurements and metadata, or its name before them if it takes three. It had
  better be of the form `&MyApp.Analytics.user/2`: a function without a name is gone once its module has been
  reloaded twice.

  Handlers run in the process in which the event happens, and take one to three microseconds beside the capture;
  `BilldogEng.Plug` a few microseconds a request, `BilldogEng.LiveView` as much a change of address. One that fails costs that event
  alone: it stays attached (what raises into `:telemetry` is detached for good), its first failure is logged, and all
  are counted in `handlers/0`.

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
  Captures an event each time that one of `:telemetry`'s happens.

  Options, beside those of every handler:

    * `:event` - the name to capture it by, or a function that answers one, or nil for nothing to be captured; by
      default the name of the `:telemetry` event, its parts joined by dots
    * `:id` - by default `{BilldogEng.Telemetry, client, event_or_events}`

  Nothing of the metadata is captured but what `:properties` says. Answers `{:error, :already_exists}` where the
  id is taken; raises `ArgumentError` for an option that it can't use, and where the app has no `:telemetry`.

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
      else: raise(ArgumentError, "expected the options of a handler as a keyword list")
  end

  @doc group: "Handlers"
  @doc """
  Captures the telemetry of Phoenix and LiveView, at most one event for each thing that happened:

    * `page_viewed` - a GET that the router dispatched returned 2xx and HTML (also a HEAD that `Plug.Head` turned into a
      GET), or a LiveView was navigated to, or patched to another path, and redirects nowhere. Properties: `route`, `via`
      (`"request"`, `"navigate"` or `"patch"`), `controller` or `view`, `action`, `duration_ms`
    * `request_failed` - an action raised, threw or exited, and an error page with status 400 or more was rendered.
      Properties: `status`, `method`, `route`, `error` (the exception's module)
    * `live_event` - a LiveView or component handled an event of the browser. Properties: `event`, `view`, `component`,
      `route`, `duration_ms`
    * `live_view_failed` - a callback of a connected LiveView raised. Properties: `callback`, `event`, `view`,
      `component`, `route`, `error`
    * `channel_joined` - a channel of the app was joined. Properties: `channel`, `topic` (the text after `:` as `*`),
      `duration_ms`

  Parameters, queries, headers, bodies, addresses and the messages of exceptions are in none of them; `route` is
  the router's pattern, such as `/users/:id`. A LiveView's page is counted where it is shown: by its request, and
  not again when its socket connects, or connects anew; a view within a view, or a change of the query alone, is
  no page. One without `mount/3`, without `handle_params/3` and without an `on_mount` tells nothing when it is
  navigated to. Of pages that redirect, navigate or patch on at once only the last one is viewed; its `duration_ms`
  has what led to it in the same LiveView.

  LiveView emits no telemetry where `handle_info/2` or `handle_async/3` raises or, before 1.2, a component that is
  rendered again. `BilldogEng.LoggerHandler` captures these crashes, as it does all others.

  Options, beside those of every handler:

    * `:events` - names to capture them by, or false for what isn't wanted:
      `[page_viewed: "$pageview", live_event: false]`
    * `:path` - whether the path itself, which may hold what is private, is in `path`; false
    * `:form_changes` - whether events of forms that change are captured, one at each key, not only of those that
      are submitted; false
    * `:id` - by default `{BilldogEng.Telemetry, client, :phoenix}`

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
  Captures the queries of an Ecto repo that take longer than `:slower_than` ms, from the queue for a connection to
  the decoded result, as `slow_query`.

  Properties: `source` (the table), `command` (such as `SELECT`), `repo`, `result` (`"ok"`, `"error"`),
  `duration_ms`, and what of it were `queue_ms`, `query_ms` and `decode_ms`. The statement is not among them, nor
  are its parameters. Queries without a source, migrations and those of Oban's tables are left out.

  Options, beside those of every handler:

    * `:slower_than` - ms, a number; required
    * `:event` - another name to capture them by
    * `:id` - by default `{BilldogEng.Telemetry, client, {:ecto, repo}}`

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
  Captures Oban's jobs: `job_completed` for each that has succeeded, `job_failed` for each attempt that has failed.
  Jobs that were cancelled, discarded or snoozed are neither.

  Properties: `worker`, `queue`, `attempt`, `max_attempts`, `duration_ms`, `queue_ms` (from when it was due), and
  of failures `state` (`"failure"`, or `"discard"` after the last attempt) and `error`, the exception's module. The
  arguments are not among them.

  Whose a job is stands in its `meta`: `MyApp.Mailer.new(args, meta: %{distinct_id: user.id})`.

  Options, beside those of every handler:

    * `:events` - names to capture them by, or false for what isn't wanted: `[job_completed: false]`
    * `:id` - by default `{BilldogEng.Telemetry, client, :oban}`

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
  Detaches the handler of that id; `{:error, :not_found}` where this module has attached none.

      iex> BilldogEng.Telemetry.detach("another")
      {:error, :not_found}
  """
  @spec detach(term()) :: :ok | {:error, :not_found}
  def detach(id), do: Handler.detach(id)

  @doc group: "Handlers"
  @doc """
  The handlers that are attached, with what they came to: events that were `captured`, that had no distinct id
  (`without_id`), and in which the handler `failed`. What was filtered or sampled out is in none of them.

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
  Emits `[:billdogeng, :queue]` with the accounts of `client`, in the calling process. Made for `telemetry_poller`:

      {:telemetry_poller, measurements: [{BilldogEng.Telemetry, :measure, [MyApp.Analytics]}], period: 10_000}

  Always `:ok`. Where there is no such client, for one that is about to be started again, it emits nothing:
  a poller drops for good what raises.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Telemetry.measure(client)
      :ok
  """
  @spec measure(Analytics.server()) :: :ok
  def measure(client) do
    if Emitter.telemetry() != false do
      stats = Analytics.stats(client)
      {captured, delivered} = rates(client, stats)

      measurements = %{
        queued: stats.queued,
        queued_bytes: stats.queued_bytes,
        in_flight: stats.in_flight,
        captured: stats.captured,
        captured_per_second: captured,
        delivered: stats.delivered,
        delivered_per_second: delivered,
        dropped: stats.dropped |> Map.values() |> Enum.sum(),
        retries: stats.retries,
        replaced: stats.replaced
      }

      Emitter.execute([:billdogeng, :queue], measurements, %{client: label(client)})
    end

    :ok
  catch
    :exit, _ -> :ok
  end

  # A poller measures in one process. A client that was started anew counts from 0.
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
  Metrics of the events above, for a reporter of [`Telemetry.Metrics`](https://hexdocs.pm/telemetry_metrics) or the
  metrics page of LiveDashboard:

      # in MyAppWeb.Telemetry, beside the metrics that are there
      def metrics, do: [summary("phoenix.endpoint.stop.duration") | BilldogEng.Telemetry.metrics()]

  Sizes are in kilobytes. Raises where the app has no `telemetry_metrics`.
  """
  @spec metrics() :: [struct()]
  def metrics, do: Metrics.list()
end
