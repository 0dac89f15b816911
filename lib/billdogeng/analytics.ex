defmodule BilldogEng.Analytics do
  @moduledoc """
  The analytics client: `capture/6`, `identify/4`, `group_identify/4`, `alias/3`.

      children = [
        {BilldogEng.Analytics, api_key: "…", name: MyApp.Analytics},
        MyAppWeb.Endpoint
      ]

      BilldogEng.Analytics.capture(MyApp.Analytics, "user-1", "order_completed", %{revenue: 49.99})

  A capture turns the event into its final bytes and puts them into a queue outside the BEAM, in about
  a microsecond. It never blocks, never raises, and returns `:ok`. A thread of the client sends the queued
  events, in the order of the captures, when

    * `:flush_at` events are queued,
    * `:flush_interval` has passed and the queue is not empty,
    * `flush/2` or `shutdown/1` is called,
    * the client's process ends, in any way.

  Events that could not be delivered stay queued, within limits, and are sent again. Events that are dropped at a
  limit are counted in `stats/1` and logged.

  ## Servers

  Every function takes a server as `GenServer.cast/2` does (a pid, a local name, `{:global, _}`, `{:via, _, _}`,
  `{name, node}`), or a `%BilldogEng{}`. Clients on other nodes are reached by messages.
  Calls (`flush/2`, `queue_length/1`, `shutdown/1`, `stats/1`) exit as `GenServer.call/3` does if there
  is no such client.

  ## Properties

  Properties are a map or keyword list. Their values are written as JSON. A value without a JSON form is written in
  the nearest one: a tuple as an array, a pid as the text of its `inspect/1`. `stats/1` counts these as `replaced`.
  """

  alias BilldogEng.Error
  alias BilldogEng.Client.{Capture, Debug, Missing, Native, Options, Owner, PersonUpdate, Remote, Stats}
  alias BilldogEng.Exceptions
  alias BilldogEng.Terms.Budget

  @not_live "the client was started with mode: :disabled or without a key, and has nothing to send with: " <>
              "start it with mode: :live and a key, and switch it off by set_mode/2"

  @typedoc "A client: its pid, its name, or the struct of `BilldogEng.new/2`."
  @type server :: GenServer.server() | BilldogEng.t()

  @typedoc "The counters and the state of a client, see `BilldogEng.Stats`."
  @type stats :: BilldogEng.Stats.t()

  # ── start ──

  @doc group: "Start"
  @doc """
  Starts a client, linked to the caller.

  Raises `ArgumentError` for a value that an option does not accept. Unknown options are ignored with a warning.
  `config :billdogeng` sets defaults of all clients, for every option except `:name`.

  In a child spec the key, and a `:host`, `:proxy` or `:transport` with a password, are hidden from supervisors'
  reports.

  ## Examples

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", flush_at: 100)
      iex> is_pid(client)
      true

  ## Options

  #{Options.Docs.list("###")}
  """
  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts) do
    {:ok, options} = Options.parse(opts)
    Owner.start_link({:ok, options}, options.name)
  end

  @doc group: "Start"
  @doc """
  Returns the child spec of a client. Its `id` is the `:name`, or `BilldogEng.Analytics` without one.

      iex> BilldogEng.Analytics.child_spec(api_key: "key", name: MyApp.Analytics).id
      MyApp.Analytics
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    opts = Options.hide(opts)
    %{id: opts[:name] || __MODULE__, start: {__MODULE__, :start_link, [opts]}}
  end

  # ── captures ──

  @doc group: "Captures"
  @doc """
  Captures an event of the user `distinct_id`.

  `properties` and `groups` are maps or keyword lists. `opts`:

    * `:timestamp` - when it happened: a `DateTime`, a `NaiveDateTime` (taken as UTC) or integer ms since
      1970. Defaults to now

  Returns `:ok`, always: whatever the terms are, and whether or not the client is alive.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.capture(client, "user-1", "order_completed", %{revenue: 49.99}, %{company: "acme"})
      :ok
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up", [plan: :pro], %{}, timestamp: ~U[2026-01-01 00:00:00Z])
      :ok
      iex> BilldogEng.Analytics.queue_length(client)
      2
  """
  @spec capture(server(), term(), term(), term(), term(), keyword()) :: :ok
  def capture(server, distinct_id, event, properties \\ %{}, groups \\ %{}, opts \\ [])

  def capture(server, distinct_id, event, properties, groups, opts) do
    timestamp = Capture.timestamp(opts)
    Capture.event(unwrap(server), distinct_id, event, properties, groups, timestamp, :with_groups)
  end

  @doc group: "Users and groups"
  @doc """
  Sets properties of the user `distinct_id`, with the event `$identify`.

  `properties` is a map or keyword list; any other term becomes `{"$set": properties}`. `opts`:

    * `:set_once` - properties that are set only if the person does not have them yet, a map or keyword list: the
      event's `$set_once`

  Returns `:ok`, always. `set_person_properties/3` changes a person without an event, and can also count and append.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.identify(client, "user-1", %{plan: "pro"})
      :ok
      iex> BilldogEng.Analytics.identify(client, "user-1", %{plan: "pro"}, set_once: %{signed_up: "2026-01-01"})
      :ok
  """
  @spec identify(server(), term(), term(), keyword()) :: :ok
  def identify(server, distinct_id, properties \\ %{}, opts \\ []) do
    properties = properties |> Capture.identified() |> Capture.set_once(opts)
    raw(server, distinct_id, "$identify", properties)
  end

  @doc group: "Users and groups"
  @doc """
  Changes the person `distinct_id` without an event, with a request to `/user-properties`.

  `operations` is a map or keyword list of these, which are carried out in this order:

    * `:set` - properties to set, a map or keyword list
    * `:set_once` - the same, but only for properties that the person does not have yet
    * `:add` - numbers to add
    * `:append` - values to append to lists
    * `:unset` - a list of names of properties to remove

  Any other operation is left out, and named in one warning. Returns `:ok`, always. Nothing is sent if `distinct_id` is
  nil or empty.

  Person updates have a queue and a thread of their own, so that they and events do not wait for each other. They are
  sent one by one, in the order of their calls, and retried as events are. If the ingest refuses an update (400, 422),
  only that update is dropped. Up to 1,000 are kept, in memory: `:spool_dir`, `:before_send` and `:global_properties`
  are for events. `flush/2` and `shutdown/1` wait for person updates too, a client whose process has ended continues to
  send them for `:shutdown_timeout`, and `stats/1` counts them as `:person_updates`. A client on another node takes them
  if this library runs there, in no defined order.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.set_person_properties(client, "user-1", set: %{plan: "pro"}, add: %{logins: 1}, unset: [:trial])
      :ok
      iex> BilldogEng.Analytics.stats(client).person_updates.captured
      1
  """
  @spec set_person_properties(server(), term(), term()) :: :ok
  def set_person_properties(server, distinct_id, operations) do
    PersonUpdate.capture(unwrap(server), distinct_id, operations)
  end

  @doc group: "Users and groups"
  @doc """
  Sets properties of a group, with the event `$groupidentify` of the user `group_key`. Returns `:ok`, always.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.group_identify(client, "company", "acme", %{seats: 12})
      :ok
  """
  @spec group_identify(server(), term(), term(), term()) :: :ok
  def group_identify(server, group_type, group_key, properties \\ %{}) do
    properties = %{"$group_type" => group_type, "$group_key" => group_key, "$group_set" => properties}
    raw(server, group_key, "$groupidentify", properties)
  end

  @doc group: "Users and groups"
  @doc """
  Makes `alias` another ID of the user `distinct_id`, with the event `$create_alias`. Returns `:ok`, always.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.alias(client, "user-1", "anonymous-7")
      :ok
  """
  @spec alias(server(), term(), term()) :: :ok
  def alias(server, distinct_id, alias) do
    raw(server, distinct_id, "$create_alias", %{"alias" => alias, "distinct_id" => distinct_id})
  end

  defp raw(server, distinct_id, event, properties),
    do: Capture.event(unwrap(server), distinct_id, event, properties, %{}, nil, :raw)

  @doc group: "Captures"
  @doc """
  Captures an exception of the user `distinct_id`, as the event `$exception`.

  `exception` is an exception, `{kind, reason}` as `catch kind, reason` matches them, or any other term as an Erlang
  error. `properties` override those that are made from it. Up to 4 KiB of the exception's message are sent; arguments
  of calls never are. Returns `:ok`, always.

  `config :billdogeng, in_app: [:my_app]` sets the applications whose stacktrace frames are marked as `in_app`. It
  defaults to the applications that depend on this library, directly or through another, and to modules of no
  application.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> try do
      ...>   raise "out of stock"
      ...> rescue
      ...>   error -> BilldogEng.Analytics.capture_exception(client, "user-1", error, __STACKTRACE__, %{order: 7})
      ...> end
      :ok
  """
  @spec capture_exception(server(), term(), term(), Exception.stacktrace(), term()) :: :ok
  def capture_exception(server, distinct_id, exception, stacktrace, properties \\ %{}) do
    Capture.guard(unwrap(server), :event, fn ->
      properties = Exceptions.Event.captured(exception, stacktrace, properties)
      capture(server, distinct_id, "$exception", properties)
    end)
  end

  # ── calls ──

  @doc group: "Delivery"
  @doc """
  Sends all events that were captured before, and waits for the result.

  Options:

    * `:timeout` - milliseconds to wait, `:infinity` by default. After that the code of the error is `"TIMEOUT"`, and the
      flush continues

  Returns `:ok` if none of these events is left and the ingest refused none, else the first
  `{:error, %BilldogEng.Error{}}`. Events that were not delivered stay queued, except those that the ingest refused alone.

  A call ends any wait between two attempts, and the backoff after a failed flush. An attempt in flight that carries all
  of these events counts as its first. While the project's quota is used up, the call returns an error with the code
  `"QUOTA_LIMITED"` at once.

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: BilldogEng.Collector.url(collector))
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> BilldogEng.Analytics.flush(client)
      :ok
      iex> BilldogEng.Collector.count(collector)
      1
  """
  @spec flush(server(), timeout: timeout()) :: :ok | {:error, Error.t()}
  def flush(server, opts \\ []) do
    call(server, :flush, timeout!(opts))
  catch
    :exit, {:timeout, {GenServer, :call, _}} ->
      {:error,
       Error.new("the flush did not end within :timeout (#{opts[:timeout]} ms); it continues", 0, "TIMEOUT")}
  end

  @doc group: "State"
  @doc """
  Returns the number of events not yet delivered, after any flush that earlier captures triggered has ended.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> BilldogEng.Analytics.queue_length(client)
      1
  """
  @spec queue_length(server()) :: non_neg_integer()
  def queue_length(server), do: call(server, :queue_length, :infinity)

  @doc group: "Delivery"
  @doc """
  Stops the timer, then flushes and returns as `flush/2`, except that it returns `:ok` while the quota is used up. The
  client stays alive: events that are captured later are sent by `flush/2`, at `:flush_at`, or when the process ends.

      iex> {:ok, collector} = BilldogEng.Collector.start_link()
      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: BilldogEng.Collector.url(collector))
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> BilldogEng.Analytics.shutdown(client)
      :ok
      iex> BilldogEng.Analytics.queue_length(client)
      0
  """
  @spec shutdown(server()) :: :ok | {:error, Error.t()}
  def shutdown(server), do: call(server, :shutdown, :infinity)

  @doc group: "Delivery"
  @doc """
  Drops all queued events, in memory and on disk (`purged` in `stats/1`), and the batch in flight, which may have
  arrived. Returns `:ok` once none of it is left on disk.

  Returns an error with the code `"SPOOL_ERROR"` that names a file which could not be deleted. It is emptied, or its
  events are marked as removed, so that no later start sends them; the message names it where neither is possible.
  The events of a `:spool_dir` that is not open for now are deleted as soon as it is.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> BilldogEng.Analytics.purge(client)
      :ok
      iex> BilldogEng.Analytics.stats(client).dropped
      %{purged: 1}
  """
  @spec purge(server()) :: :ok | {:error, Error.t()}
  def purge(server),
    do: Remote.run(unwrap(server), {__MODULE__, :purge, []}, &GenServer.call(&1, :purge, :infinity))

  @doc group: "Delivery"
  @doc """
  Switches captures off (`:disabled`) and on again (`:live`), while the client runs.

  After `:disabled`, events and person updates of every process and handler are counted and dropped (`disabled` in
  `stats/1`). Events that were queued before are still delivered; `purge/1` drops those. `:live` restores the mode that
  the client was started in, which for `mode: :test` is `:test`.

  Returns `{:error, %BilldogEng.Error{}}` with the code `"NOT_LIVE"` for `:live` if the client was started with
  `mode: :disabled` or without a key. A client that is started again, by its supervisor or by a deployment, has the mode
  of its options.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.set_mode(client, :disabled)
      :ok
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> BilldogEng.Analytics.stats(client).dropped
      %{disabled: 1}
      iex> BilldogEng.Analytics.set_mode(client, :live)
      :ok
  """
  @spec set_mode(server(), :live | :disabled) :: :ok | {:error, Error.t()}
  def set_mode(server, mode) when mode in [:live, :disabled] do
    Remote.run(unwrap(server), {__MODULE__, :set_mode, [mode]}, fn pid ->
      with :error <- Native.set_mode(pid, mode), do: {:error, Error.new(@not_live, 0, "NOT_LIVE")}
    end)
  end

  def set_mode(_server, mode) do
    raise ArgumentError, "set_mode/2 takes :live or :disabled, got: #{inspect(mode)}"
  end

  @doc group: "State"
  @doc """
  Returns the client's counters and state, without waiting for a flush. Waits for a client that is just starting.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> %{captured: 1, delivered: 0, queued: 1, dropped: dropped} = BilldogEng.Analytics.stats(client)
      iex> dropped
      %{}
  """
  @spec stats(server()) :: stats()
  def stats(server), do: Remote.run(unwrap(server), {__MODULE__, :stats, []}, &Stats.of/1)

  @doc false
  # Shows why a call hangs: see `guides/outage.md`.
  def debug(server), do: Remote.run(unwrap(server), {__MODULE__, :debug, []}, &Debug.of/1)

  @doc group: "State"
  @doc """
  Returns the number of captures that were lost because no client had their name, by name. When a client starts under
  such a name, the number is logged and removed from here.

      iex> BilldogEng.Analytics.capture(MyApp.Forgotten, "user-1", "signed_up")
      :ok
      iex> BilldogEng.Analytics.missing()[MyApp.Forgotten]
      1

  The first one of each name is logged, together with the child spec that is missing. After 100 names, captures under
  further names are counted together, as `:"other names"`.
  """
  @spec missing() :: %{optional(term()) => pos_integer()}
  def missing, do: Missing.counts()

  # Every capture calls it, some with the struct of `BilldogEng.new/2`.
  @compile {:inline, unwrap: 1}
  defp unwrap(%_{analytics: server}), do: server
  defp unwrap(server), do: server

  defp call(server, request, timeout), do: server |> unwrap() |> GenServer.call(request, timeout)

  defp timeout!(opts) do
    timeout = Keyword.get(opts, :timeout, :infinity)

    if timeout == :infinity or (is_integer(timeout) and timeout >= 0) do
      timeout
    else
      raise ArgumentError,
            "invalid value for :timeout: expected milliseconds as an integer from 0, or :infinity, got: #{Budget.inspect(timeout)}"
    end
  end
end
