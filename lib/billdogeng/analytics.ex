defmodule BilldogEng.Analytics do
  @moduledoc """
  The analytics client: `capture/6`, `identify/4`, `group_identify/4`, `alias/3`.

      children = [
        {BilldogEng.Analytics, api_key: "…", name: MyApp.Analytics},
        MyAppWeb.Endpoint
      ]

      BilldogEng.Analytics.capture(MyApp.Analytics, "user-1", "order_completed", %{revenue: 49.99})

  Capturing turns the event into its final bytes and puts them into a queue outside the BEAM, in about
  a microsecond; it never blocks, never raises, and answers `:ok`. A thread of the client's own sends
  what is queued, in the order of the captures, when

    * `:flush_at` events are queued,
    * `:flush_interval` has passed and anything is queued,
    * `flush/2` or `shutdown/1` is called,
    * the client's process ends, however it ends.

  What could not be delivered stays queued, within bounds, and is tried again. What is given up for a
  bound is counted in `stats/1` and logged.

  ## Servers

  Every function takes what `GenServer.cast/2` takes (a pid, a local name, `{:global, _}`, `{:via, _, _}`,
  `{name, node}`), or a `%BilldogEng{}`. Clients on other nodes are reached by messages.
  Calls (`flush/2`, `queue_length/1`, `shutdown/1`, `stats/1`) exit as `GenServer.call/3` does where there
  is no such client.

  ## Properties

  A map or keyword list. Values are written as JSON; what JSON has no word for is written in its nearest
  form, such as a tuple as an array and a pid as the text of its `inspect/1`. The `replaced` of `stats/1`
  counts these.
  """

  alias BilldogEng.Error
  alias BilldogEng.Client.{Capture, Missing, Native, Options, Owner, PersonUpdate, Remote, Stats}
  alias BilldogEng.Exceptions
  alias BilldogEng.Terms.Budget

  @not_live "the client was started with mode: :disabled or without a key, and has nothing to send with: " <>
              "start it with mode: :live and a key, and switch it off by set_mode/2"

  @typedoc "A client: its pid, its name, or the struct of `BilldogEng.new/2`."
  @type server :: GenServer.server() | BilldogEng.t()

  @typedoc """
  The accounts of a client: `captured = delivered + dropped + queued`.

    * `:mode` - `:live`, or `:test` or `:disabled`, in which nothing is sent; after `set_mode/2`, the mode of now
    * `:captured`, `:delivered` - events handed in, and accepted by the ingest; what a spool held at the start
      counts as captured
    * `:queued`, `:queued_bytes` - events not yet delivered, those in flight among them, and the bytes of
      JSON that memory holds of them
    * `:in_flight` - events of the batch that is being sent
    * `:retries` - attempts after the first of a batch
    * `:replaced` - values written in another form than their own
    * `:dropped` - events given up, by reason: `:queue_full`, `:too_large`, `:rejected`, `:quota`,
      `:before_send`, `:in_hook`, `:failed`, `:stopped`, `:purged`, and of a spool `:spool_full`, `:expired`, `:spool_lost`; of a
      client that sends nothing `:disabled`, and `:unowned` (see `BilldogEng.Test`)
    * `:state` - what the client is doing: `:idle`, `:in_flight` (a request is being made), `:waiting` (between two
      attempts of a flush), `:backing_off` (the last flush failed, so automatic ones are held back), `:suspended` (the
      project's quota is used up) or `:draining` (its process has ended)
    * `:next_attempt_in` - ms until the next attempt, or nil where none is planned
    * `:last_error` - the last attempt that failed, or nil: `:message`, `:status` and `:code` as in
      `BilldogEng.Error`, and `:time`, a `DateTime`
    * `:last_success` - when the ingest last accepted a request, a `DateTime` or nil
    * `:person_updates` - the same, but for `:mode`, of `set_person_properties/3`
  """
  @type stats :: %{
          mode: :live | :test | :disabled,
          captured: non_neg_integer(),
          delivered: non_neg_integer(),
          queued: non_neg_integer(),
          queued_bytes: non_neg_integer(),
          in_flight: non_neg_integer(),
          retries: non_neg_integer(),
          replaced: non_neg_integer(),
          dropped: %{optional(atom()) => pos_integer()},
          state: state(),
          next_attempt_in: non_neg_integer() | nil,
          last_error: last_error() | nil,
          last_success: DateTime.t() | nil,
          person_updates: %{
            captured: non_neg_integer(),
            delivered: non_neg_integer(),
            queued: non_neg_integer(),
            queued_bytes: non_neg_integer(),
            in_flight: non_neg_integer(),
            retries: non_neg_integer(),
            replaced: non_neg_integer(),
            dropped: %{optional(atom()) => pos_integer()},
            state: state(),
            next_attempt_in: non_neg_integer() | nil,
            last_error: last_error() | nil,
            last_success: DateTime.t() | nil
          }
        }

  @typedoc "What a client is doing, see `t:stats/0`."
  @type state :: :idle | :in_flight | :waiting | :backing_off | :suspended | :draining

  @typedoc "Why an attempt failed, and when."
  @type last_error :: %{
          message: String.t(),
          status: non_neg_integer(),
          code: String.t() | nil,
          time: DateTime.t()
        }

  # ── start ──

  @doc """
  Starts a client, linked to the caller.

  Options. `config :billdogeng, …` gives any but `:name` another default, for all clients:

    * `:api_key` - the project's key, a string. Without one, or with a blank one, the client is started with
      `mode: :disabled`, and says so in one warning
    * `:mode` - `:live`; `:test` keeps events in memory for `BilldogEng.Test`; `:disabled` counts them and
      keeps none. Neither of these two needs a key, and neither has a thread, a socket or a file
    * `:name` - a name to register: an atom, `{:global, _}` or `{:via, _, _}`
    * `:host` - the ingest's address, `"https://api.billdog.io/v1"`
    * `:flush_at` - events that make a flush due, 20; or `:infinity`
    * `:flush_interval` - ms between flushes by time, 10_000
    * `:max_queue_size` - events kept while the ingest fails or nothing is due, 1_000; or `:infinity`
    * `:max_queue_bytes` - bytes of JSON kept, always, 64 MiB
    * `:max_batch_size` - events in one POST, 1_000
    * `:max_batch_bytes` - bytes of JSON in one POST, before gzip, 1 MiB
    * `:max_event_bytes` - bytes of JSON of one event, 1 MiB; a larger one is dropped
    * `:request_timeout` - ms for one attempt, 10_000; or `:infinity`
    * `:max_retries` - attempts after the first one in a flush, 3; or `:infinity`
    * `:gzip` - whether larger bodies are compressed, true
    * `:shutdown_timeout` - ms that the client goes on sending after its process has ended, 5_000
    * `:spool_dir` - a directory in which events are kept on disk too until they are delivered, so that they
      outlive the VM; none by default. It is made where there is none, for one client of one VM at a time
    * `:max_spool_bytes` - bytes of the files there, 256 MiB; the oldest events make room
    * `:max_spool_age` - ms for which an event is kept there, 604_800_000 (7 days)
    * `:spool_sync` - `:interval` has each event on disk 100 ms after its capture at the latest; with `:always`
      `flush/2` and `shutdown/1` moreover wait until what they leave is there
    * `:group_type_index` - a map of group types to their numbers 0 to 4; others are ignored
    * `:enable_logging` - whether flushes are logged at debug, false
    * `:before_send` - a function of the event, called in the capturing process, which answers the event,
      changed or not, or nil to drop it; or `{module, function, args}`, the event being put before `args`.
      The event is a map of `"event_name"`, `"event_timestamp"` (ms), `"properties"`, `"user_id"`. One that
      raises or answers anything else drops its event
    * `:global_properties` - properties of every `capture/6`, which its own stand above: a map, or a function
      of no arguments or `{module, function, args}` that answers one
    * `:context` - whether every `capture/6` has the properties of its process's `BilldogEng.Context`, which
      its own stand above; false
    * `:insert_ids` - whether each event's properties get an `$insert_id`, a UUIDv7, the same in every retry,
      for an ingest that can tell repeats by it; false
    * `:person_profiles` - which events make a profile of their person, said in each event's
      `$process_person_profile`, unless it says so itself: `:always`, `:never`, or `:identified_only`, which are
      `$identify`, `$create_alias`, `$groupidentify`, and events with `$set`, `$set_once` or groups; nil, with
      which nothing is said and the ingest decides
    * `:geoip_resolution_level` - how exactly the ingest is to place the address that a request comes from, the
      header `x-geoip-resolution-level`; nil, with which it decides. `"none"` is right on servers: the address is
      the server's, not the user's
    * `:proxy` - the address of an HTTP proxy, or `:environment` for what `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`
      and `NO_PROXY` said when the VM was started; none by default, whatever they say
    * `:cacertfile` - a PEM file with the authorities to trust; by default those of `SSL_CERT_FILE` or
      `SSL_CERT_DIR`, else the system's, else `CAStore`'s where the app has it
    * `:transport` - what `BilldogEng.Transport.config/1` answers, in place of `:host`, `:request_timeout`,
      `:gzip`, `:max_retries`, `:sleep_fn`, `:proxy` and `:cacertfile`
    * `:sleep_fn` - called with the ms of each wait between attempts, in place of the wait; for tests. The waits
      of person updates are real ones

  Raises `ArgumentError` for a wrong value, naming the option and what it accepts. `:flush_at`, `:max_queue_size`,
  `:group_type_index` and `:enable_logging` accept any term; a warning names the effect of one that they were not
  made for. Unknown options are ignored with a warning that names the nearest known one.

  In a child spec the key, and a `:host`, `:proxy` or `:transport` with a password, are hidden from supervisors'
  reports.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", flush_at: 100)
      iex> is_pid(client)
      true
  """
  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts) do
    {:ok, options} = Options.parse(opts)
    Owner.start_link({:ok, options}, options.name)
  end

  @doc """
  The child spec of a client; its `id` is the `:name` where there is one.

      iex> BilldogEng.Analytics.child_spec(api_key: "key", name: MyApp.Analytics).id
      MyApp.Analytics
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    opts = hide_secrets(opts)
    %{id: opts[:name] || __MODULE__, start: {__MODULE__, :start_link, [opts]}}
  end

  @doc false
  # For a child's arguments.
  def hide_secrets(opts) do
    # Raised here, without them: the key is among them.
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "expected the options of a client as a keyword list")

    Options.hide(opts)
  end

  # ── captures ──

  @doc """
  Captures an event of the user `distinct_id`.

  `properties` and `groups` are maps or keyword lists. `opts`:

    * `:timestamp` - when it happened: a `DateTime`, a `NaiveDateTime` (taken as UTC) or integer ms since
      1970; now, where it is not given

  Always `:ok`, whatever the terms are and whether or not the client lives.

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

  @doc """
  Sets properties of the user `distinct_id`: the event `$identify`.

  `properties` is a map or keyword list; anything else becomes `{"$set": properties}`. `opts`:

    * `:set_once` - properties that are set only where the person has none of that name yet, a map or keyword
      list: the event's `$set_once`

  Always `:ok`. Of an event the ingest keeps what it said at that time; to change a person without one, or to
  count and collect, there is `set_person_properties/3`.

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

  @doc """
  Changes the person `distinct_id`, without an event: a request to `/user-properties` of its own.

  `operations` is a map or keyword list of these, which are carried out in this order:

    * `:set` - properties to be set, a map or keyword list
    * `:set_once` - the same, but only those that the person doesn't have yet
    * `:add` - numbers to be added
    * `:append` - values to be appended to lists
    * `:unset` - a list of names of properties to be removed

  What is none of them is left out, and named in one warning. Always `:ok`; nothing is sent for nobody, a nil or
  empty `distinct_id`.

  Updates have a queue and a thread of their own, from the first one on, so that neither they nor events wait
  for each other. They leave one by one, in the order of their calls, and are tried again as events are; an
  ingest that refuses one (400, 422) costs that one. Up to 1,000 of them are kept, in memory alone: `:spool_dir` is
  for events. `flush/2` and `shutdown/1` wait for them too, a client whose process has ended goes on sending them
  for `:shutdown_timeout`, and `stats/1` counts them apart, as `:person_updates`. `:before_send` and
  `:global_properties` are for events. A client on another node takes them where this library runs there,
  in no certain order.

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

  @doc """
  Sets properties of a group: the event `$groupidentify` of the user `group_key`. Always `:ok`.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.group_identify(client, "company", "acme", %{seats: 12})
      :ok
  """
  @spec group_identify(server(), term(), term(), term()) :: :ok
  def group_identify(server, group_type, group_key, properties \\ %{}) do
    properties = %{"$group_type" => group_type, "$group_key" => group_key, "$group_set" => properties}
    raw(server, group_key, "$groupidentify", properties)
  end

  @doc """
  Says that `alias` is another id of the user `distinct_id`: the event `$create_alias`. Always `:ok`.

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

  @doc """
  Captures an exception of the user `distinct_id`: the event `$exception`.

  `exception` is an exception, what `catch kind, reason` gives as `{kind, reason}`, or any other term, taken for
  an Erlang error. `properties` stand above those that are made of it. The exception's message is sent, up to
  4 KiB of it; arguments of calls never are. Always `:ok`.

  Which frames of the stacktrace are the app's own (`in_app`) is set by `config :billdogeng, in_app: [:my_app]`;
  by default they are those of the applications that depend on this library, directly or by another, and of
  modules of no application.

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

  @doc """
  Sends all that was captured before, and waits until that is done.

  `:ok` when nothing of it is left and the ingest refused none; else the first
  `{:error, %BilldogEng.Error{}}`, and what was not delivered stays queued, but for events that the ingest
  refused by themselves. It ends any wait between attempts and any pause after a failed flush. While the
  project's quota is used up it answers an error with the code `"QUOTA_LIMITED"` at once. An attempt in flight that
  carries all of it is its first.

    * `:timeout` - ms to wait, `:infinity`; after that the answer is an error with the code `"TIMEOUT"`,
      and the flush goes on

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
      {:error, Error.new("the flush did not end within #{opts[:timeout]} ms; it goes on", 0, "TIMEOUT")}
  end

  @doc """
  How many events are not yet delivered, once the flush that earlier captures made due has ended.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> BilldogEng.Analytics.queue_length(client)
      1
  """
  @spec queue_length(server()) :: non_neg_integer()
  def queue_length(server), do: call(server, :queue_length, :infinity)

  @doc """
  Stops the flushes by time, then answers as `flush/2`, but `:ok` where the quota is used up. The client stays
  up: what is captured later leaves by `flush/2`, when `:flush_at` is reached, or when the process ends.

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

  @doc """
  Gives up all that is queued, in memory and on disk (`purged` in `stats/1`), and the batch in flight, which may
  have arrived all the same. Returns `:ok` once nothing of it is left on disk.

  Returns an error with code `"SPOOL_ERROR"` that names the file if one could not be deleted. The file is emptied then,
  or its events are marked as removed, so that no later start sends them; the message says if neither was possible. If
  `:spool_dir` is not open for now, its events are deleted as soon as it is.

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

  @doc """
  Switches captures off (`:disabled`) and on again (`:live`), while the client runs.

  Once this has returned, events and person updates are counted and dropped (`disabled` in `stats/1`), by every
  process and handler. Events that were queued before are delivered all the same; `purge/1` drops those. `:live`
  restores what the client was started as, which for `mode: :test` is `:test`.

  Returns `{:error, %BilldogEng.Error{}}` with the code `"NOT_LIVE"` for `:live` where the client was started with
  `mode: :disabled` or without a key: it has nothing to send with. A client that is started again, by its supervisor or
  by a deployment, has the mode of its options.

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

  @doc """
  The client's accounts, at once: this waits for no flush. Only of a client that is just starting it waits for the
  end of that.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Analytics.capture(client, "user-1", "signed_up")
      iex> %{captured: 1, delivered: 0, queued: 1, dropped: dropped} = BilldogEng.Analytics.stats(client)
      iex> dropped
      %{}
  """
  @spec stats(server()) :: stats()
  def stats(server), do: Remote.run(unwrap(server), {__MODULE__, :stats, []}, &Stats.of/1)

  @doc """
  Returns the captures that were lost because no client had the name they were made under, by name. A client that
  takes such a name logs their number and takes it out of here.

      iex> BilldogEng.Analytics.capture(MyApp.Forgotten, "user-1", "signed_up")
      :ok
      iex> BilldogEng.Analytics.missing()[MyApp.Forgotten]
      1

  The first one of each name is logged with the child that is missing. After 100 names, captures under further
  ones are counted together, as `:"other names"`.
  """
  @spec missing() :: %{optional(term()) => pos_integer()}
  def missing, do: Missing.counts()

  # The struct of `BilldogEng.new/2`.
  defp unwrap(%_{analytics: server}), do: server
  defp unwrap(server), do: server

  defp call(server, request, timeout), do: server |> unwrap() |> GenServer.call(request, timeout)

  defp timeout!(opts) do
    case Keyword.get(opts, :timeout, :infinity) do
      :infinity ->
        :infinity

      ms when is_integer(ms) and ms >= 0 ->
        ms

      other ->
        raise ArgumentError,
              "the option :timeout takes milliseconds or :infinity; it was #{Budget.inspect(other)}"
    end
  end
end
