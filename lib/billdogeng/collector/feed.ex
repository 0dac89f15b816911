defmodule BilldogEng.Collector.Feed do
  @moduledoc false
  # Keeps what the page shows: the newest rows with their requests, counters of everything, and the collector's mode.
  #
  #     connections ──record/2──► feed ──► rows and requests (ETS) ──read by──► streams and API, each in its own process
  #                                └──one message for each watch/2──► streams
  #
  # `record/2` is a call, so that the feed's mailbox never has more than one message for each connection. Readers of the
  # tables do not delay it.
  #
  # At most 10,000 rows and 64 MiB are kept: the oldest row is evicted first, and counted. The rows of a batch are parts
  # of its body, which is kept until the last of them is evicted.

  use GenServer

  alias BilldogEng.Collector.Feed.{Counters, Recent}
  alias BilldogEng.Collector.Problems

  @max_rows 10_000
  @max_bytes 64 * 1024 * 1024
  # The memory that a row and a request take beside their texts.
  @row_bytes 600
  @request_bytes 1_000
  @recent_bodies 2_000
  @recent_ids 20_000

  @typedoc "The feed for its readers. `instance` differs between any two feeds."
  @type t :: %{pid: pid, rows: :ets.tid(), requests: :ets.tid(), instance: String.t()}

  @doc "Starts a feed. `:max_rows` and `:max_bytes` are for tests."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @doc "Returns the feed of a process for its readers."
  @spec handle(pid) :: t
  def handle(pid), do: GenServer.call(pid, :handle)

  @doc "Takes the record of a request."
  @spec record(pid, BilldogEng.Collector.Feed.Record.t()) :: :ok
  def record(pid, record), do: GenServer.call(pid, {:record, record}, :infinity)

  @doc "Notes the mode of the collector."
  @spec mode(pid, term) :: :ok
  def mode(pid, mode), do: GenServer.cast(pid, {:mode, mode})

  @doc "Removes all rows and sets the counters to 0."
  @spec clear(t) :: :ok
  def clear(%{pid: pid}), do: GenServer.call(pid, :clear, :infinity)

  @doc "Sends `:feed_changed` to the caller once the version is no longer this one, which can be at once."
  @spec watch(t, integer) :: :ok
  def watch(%{pid: pid}, version), do: GenServer.cast(pid, {:watch, self(), version})

  @doc """
  Returns the state at one moment: `version`, `last` (the number of the newest row), `cleared` (that of the newest row at
  the last clear), `clears` (their number), `mode`, `evicted`, `kept` and `counters`.
  """
  @spec state(t) :: map
  def state(%{pid: pid}), do: GenServer.call(pid, :state, :infinity)

  @doc "Returns the last five minutes; see `Counters.history/2`."
  @spec history(t) :: [0 | [non_neg_integer]]
  def history(%{pid: pid}), do: GenServer.call(pid, :history, :infinity)

  @doc "Folds over the rows behind the number `from` up to `to`, newest first, until the function returns `{:halt, acc}`."
  @spec fold(t, integer, integer, acc, (map, acc -> {:cont, acc} | {:halt, acc})) :: acc when acc: term
  def fold(feed, from, to, acc, fun), do: older(feed, :ets.prev(feed.rows, to + 1), from, acc, fun)

  defp older(_feed, :"$end_of_table", _from, acc, _fun), do: acc
  defp older(_feed, number, from, acc, _fun) when number <= from, do: acc

  defp older(feed, number, from, acc, fun) do
    # A row can be evicted during the fold.
    with [{_, row}] <- :ets.lookup(feed.rows, number),
         {:halt, acc} <- fun.(row, acc) do
      acc
    else
      [] -> older(feed, :ets.prev(feed.rows, number), from, acc, fun)
      {:cont, acc} -> older(feed, :ets.prev(feed.rows, number), from, acc, fun)
    end
  end

  @doc "Returns a row with its request, or nil if it is no longer kept."
  @spec fetch(t, integer) :: {map, map} | nil
  def fetch(feed, number) do
    with [{_, row}] <- :ets.lookup(feed.rows, number),
         [{_, request, _, _}] <- :ets.lookup(feed.requests, row.request) do
      {row, request}
    else
      [] -> nil
    end
  end

  @impl true
  def init(opts) do
    # So that it ends with its collector, in whatever way that ends.
    Process.flag(:trap_exit, true)
    table = fn kind -> :ets.new(__MODULE__, [kind, :protected, read_concurrency: true]) end

    state = %{
      rows: table.(:ordered_set),
      requests: table.(:set),
      instance: Integer.to_string(:rand.uniform(0xFFFFFFFFFF), 36),
      max_rows: Keyword.get(opts, :max_rows, @max_rows),
      max_bytes: Keyword.get(opts, :max_bytes, @max_bytes),
      mode: :ok,
      version: 0,
      last: 0,
      cleared: 0,
      clears: 0,
      request: 0,
      watchers: []
    }

    {:ok, forget(state)}
  end

  @impl true
  def handle_call(:handle, _from, state) do
    handle = %{pid: self(), rows: state.rows, requests: state.requests, instance: state.instance}
    {:reply, handle, state}
  end

  def handle_call({:record, record}, _from, state),
    do: {:reply, :ok, state |> take(record) |> evict() |> changed()}

  def handle_call(:clear, _from, state) do
    :ets.delete_all_objects(state.rows)
    :ets.delete_all_objects(state.requests)
    {:reply, :ok, changed(forget(%{state | cleared: state.last, clears: state.clears + 1}))}
  end

  def handle_call(:state, _from, state) do
    shown =
      state
      |> Map.take([:version, :last, :cleared, :clears, :mode, :evicted, :kept, :bytes])
      |> Map.put(:counters, Counters.summary(state.counters))

    {:reply, shown, state}
  end

  def handle_call(:history, _from, state), do: {:reply, Counters.history(state.counters, now()), state}

  @impl true
  def handle_cast({:mode, mode}, state), do: {:noreply, changed(%{state | mode: mode})}

  def handle_cast({:watch, pid, version}, %{version: version} = state),
    do: {:noreply, %{state | watchers: [pid | state.watchers]}}

  def handle_cast({:watch, pid, _version}, state) do
    send(pid, :feed_changed)
    {:noreply, state}
  end

  @impl true
  def handle_info(_, state), do: {:noreply, state}

  defp changed(state) do
    Enum.each(state.watchers, &send(&1, :feed_changed))
    %{state | version: state.version + 1, watchers: []}
  end

  defp forget(state) do
    Map.merge(state, %{
      counters: Counters.new(),
      known: Problems.new(),
      bodies: Recent.new(@recent_bodies),
      ids: Recent.new(@recent_ids),
      kept: 0,
      bytes: 0,
      evicted: 0
    })
  end

  ## A request and its rows

  defp take(state, %{request: request, rows: rows} = record) do
    id = state.request + 1
    {attempts, accepted?} = (record.hash && Recent.get(state.bodies, record.hash)) || {0, false}
    accepts? = match?([%{kind: kind} | _] when kind != :refused, rows)
    marks = if(attempts > 0, do: [:retry], else: []) ++ if(accepted? and accepts?, do: [:duplicate], else: [])

    {rows, state} =
      rows
      |> Enum.with_index(1)
      |> Enum.map_reduce(%{state | request: id}, fn {row, index}, state ->
        {row, state} = complete(row, marks, state)
        row = Map.merge(row, %{request: id, index: index, status: record.status, outcome: record.outcome})
        {Map.merge(row, %{at: request.at, attempt: attempts + 1}), state}
      end)

    :ets.insert(state.rows, for(row <- rows, do: {row.number, row}))
    bytes = byte_size(request.body) + @request_bytes
    :ets.insert(state.requests, {id, request, length(rows), bytes})

    bodies =
      if record.hash,
        do: Recent.put(state.bodies, record.hash, {attempts + 1, accepted? or accepts?}),
        else: state.bodies

    # An accepted batch without events has no row, and nothing leads to its request.
    if rows == [], do: :ets.delete(state.requests, id)

    %{
      state
      | bodies: bodies,
        kept: state.kept + length(rows),
        bytes: state.bytes + if(rows == [], do: 0, else: bytes) + Enum.sum(Enum.map(rows, &row_bytes/1)),
        counters: Counters.add(state.counters, record, rows, now())
    }
  end

  defp complete(row, marks, state) do
    {facts, row} = Map.pop!(row, :facts)
    {problems, known} = Problems.compare(state.known, facts)
    {marks, ids} = repeated(row.insert_id, marks, state.ids)
    number = state.last + 1
    row = Map.merge(row, %{number: number, marks: marks, problems: row.problems ++ problems})
    {row, %{state | last: number, known: known, ids: ids}}
  end

  defp repeated(nil, marks, ids), do: {marks, ids}

  defp repeated(id, marks, ids) do
    if Recent.get(ids, id),
      do: {Enum.uniq(marks ++ [:duplicate]), ids},
      else: {marks, Recent.put(ids, id, true)}
  end

  defp row_bytes(row),
    do: @row_bytes + byte_size(row.name) + byte_size(row.id) + byte_size(row.preview)

  ## Eviction

  defp evict(%{kept: kept, bytes: bytes} = state)
       when kept > 0 and (kept > state.max_rows or bytes > state.max_bytes) do
    number = :ets.first(state.rows)
    [{_, row}] = :ets.take(state.rows, number)
    freed = row_bytes(row) + request_freed(state.requests, row.request)
    evict(%{state | kept: kept - 1, bytes: bytes - freed, evicted: state.evicted + 1})
  end

  defp evict(state), do: state

  defp request_freed(requests, id) do
    case :ets.update_counter(requests, id, {3, -1}) do
      0 ->
        [{_, _, _, bytes}] = :ets.take(requests, id)
        bytes

      _ ->
        0
    end
  end

  defp now, do: System.system_time(:second)
end
