defmodule BilldogEng.Collector.Page.Stream do
  @moduledoc false
  # One open page: server-sent events, at most four updates a second however many events arrive.
  #
  # An update has the rows behind the last one that pass the filter, the newest first. Rows are filtered before they are
  # sampled, so the totals are exact: `matched` rows passed, of which `hidden` are not sent; `missed` rows were evicted
  # before the filter saw them.
  #
  # An update's ID is INSTANCE-CLEARS-NUMBER: the feed, how often it was cleared, and its newest row. A browser that
  # reconnects sends the last ID, and gets the rows behind it. After a restart of the collector, or a clear, the page begins
  # anew.

  alias BilldogEng.Collector.{Fault, Feed, Filter, JSONWriter, Problems, Response}
  alias BilldogEng.Collector.Page.{ClientStats, Headers}

  @interval 250
  # For proxies, and to notice a browser that is gone.
  @ping 15_000
  @rows 50
  # The first update, and one after a reconnect, are as long as the page.
  @first_rows 2_000

  @doc "Returns the options of a stream: the filter, the column, and the ID to resume from."
  @spec options(map, nil | String.t()) :: map
  def options(query, last_event_id) do
    %{
      filter: Filter.parse(query["q"] || ""),
      column: column(query["column"]),
      after: last_event_id || query["after"]
    }
  end

  defp column(empty) when empty in [nil, ""], do: nil
  defp column(path), do: String.split(path, ".")

  @doc "Sends updates until the browser closes the connection."
  @spec run(:gen_tcp.socket(), map, BilldogEng.Collector.Page.t()) :: :ok | {:error, term}
  def run(socket, options, page) do
    headers = [{"content-type", "text/event-stream"}, {"connection", "close"} | Headers.security()]
    {resumed?, from} = position(options.after, page.feed)

    stream = %{
      socket: socket,
      page: page,
      filter: options.filter,
      column: options.column,
      number: from,
      clears: Feed.state(page.feed).clears,
      version: -1,
      rows: @first_rows,
      sent_at: nil,
      second: nil,
      client: nil
    }

    with :ok <- :gen_tcp.send(socket, Response.head(200, headers)),
         :ok <- send_event(stream, "hello", nil, hello(page, resumed?)) do
      :inet.setopts(socket, active: :once)
      updates(stream)
    end
  end

  defp position(id, feed) do
    with id when is_binary(id) <- id,
         [instance, clears, number] <- String.split(id, "-"),
         true <- instance == feed.instance and clears == "#{Feed.state(feed).clears}",
         {number, ""} when number >= 0 <- Integer.parse(number) do
      {true, number}
    else
      _ -> {false, 0}
    end
  end

  defp hello(page, resumed?) do
    kinds = for {code, title, remedy} <- Problems.kinds(), do: %{code: code, title: title, remedy: remedy}

    faults =
      for {kind, parameter} <- Fault.kinds(),
          do: %{kind: kind, value: with({label, default, _} <- parameter, do: [label, default])}

    %{
      instance: page.feed.instance,
      resumed: resumed?,
      ingest: GenServer.call(page.collector, :url, :infinity),
      problems: kinds,
      faults: faults
    }
  end

  defp updates(stream) do
    with {:ok, stream} <- update(stream), do: wait(stream, now() + @interval)
  end

  # Until something changed, and for at least the interval. Traffic moves with the clock, so it has a second of its own.
  defp wait(stream, earliest) do
    Feed.watch(stream.page.feed, stream.version)
    wait(stream, earliest, false)
  end

  defp wait(stream, earliest, changed?) do
    timeout = if changed?, do: max(earliest - now(), 0), else: quiet(stream)

    receive do
      :feed_changed ->
        wait(stream, earliest, true)

      {:tcp_closed, _} ->
        :ok

      {:tcp_error, _, _} ->
        :ok

      # A browser sends nothing here.
      {:tcp, socket, _} ->
        with :ok <- :inet.setopts(socket, active: :once), do: wait(stream, earliest, changed?)
    after
      timeout -> updates(stream)
    end
  end

  defp quiet(%{page: %{client: client}}) when client != nil, do: @interval
  defp quiet(%{second: second}) when second != nil, do: 1_000
  defp quiet(_), do: @ping

  defp update(stream) do
    state = Feed.state(stream.page.feed)
    client = ClientStats.of(stream.page.client)

    cond do
      state.version != stream.version or client != stream.client -> changed(stream, state, client)
      true -> traffic(stream)
    end
  end

  defp changed(%{page: page} = stream, state, client) do
    from = max(stream.number, state.cleared)
    {rows, counts} = collect(stream, from, state.last)

    data =
      {:object,
       clear: state.clears != stream.clears,
       rows: Enum.map(rows, &row(&1, stream.column)),
       matched: counts.matched,
       hidden: counts.matched - length(rows),
       examined: counts.examined,
       missed: state.last - from - counts.examined,
       evicted: state.evicted,
       kept: state.kept,
       counters: state.counters,
       fault: Fault.describe(state.mode),
       client: client}

    id = "#{page.feed.instance}-#{state.clears}-#{state.last}"

    stream = %{
      stream
      | number: state.last,
        clears: state.clears,
        version: state.version,
        rows: @rows,
        client: client
    }

    with :ok <- send_event(stream, "update", id, data), do: traffic(stream)
  end

  defp collect(%{filter: filter, rows: most} = stream, from, to) do
    {rows, counts} =
      Feed.fold(stream.page.feed, from, to, {[], %{matched: 0, examined: 0}}, fn row, {rows, counts} ->
        counts = %{counts | examined: counts.examined + 1}

        if Filter.passes?(filter, row) do
          rows = if counts.matched < most, do: [row | rows], else: rows
          {:cont, {rows, %{counts | matched: counts.matched + 1}}}
        else
          {:cont, {rows, counts}}
        end
      end)

    {Enum.reverse(rows), counts}
  end

  defp row(row, column) do
    {:object,
     [
       n: row.number,
       k: row.kind,
       t: row.at,
       o: row.outcome,
       e: row.name,
       u: row.id,
       p: row.preview,
       m: row.marks,
       w: row.timestamp,
       x: for({code, _} <- row.problems, uniq: true, do: code)
     ] ++ if(column, do: [c: cell(row, column)], else: [])}
  end

  defp cell(%{kind: :event, slice: slice}, column) do
    with {:ok, %{"properties" => properties}} <- BilldogEng.Client.Native.json_decode(slice),
         {:ok, value} <- Filter.fetch(properties, column) do
      Feed.Text.short(value)
    else
      _ -> ""
    end
  end

  defp cell(_row, _column), do: ""

  # Once a second, while any of the last five minutes had a request.
  defp traffic(stream) do
    second = System.system_time(:second)

    if second == stream.second do
      {:ok, stream}
    else
      history = Feed.history(stream.page.feed)
      quiet? = Enum.all?(history, &(&1 == 0))
      data = %{now: second, seconds: if(quiet?, do: [], else: history)}
      stream = %{stream | second: if(quiet? and stream.version >= 0 and idle?(stream), do: nil, else: second)}
      with :ok <- send_event(stream, "traffic", nil, data), do: {:ok, stream}
    end
  end

  # The current second is not in the history yet.
  defp idle?(stream), do: Feed.state(stream.page.feed).counters.requests == 0

  defp send_event(stream, name, id, data) do
    :gen_tcp.send(stream.socket, [
      if(id, do: ["id: ", id, ?\n], else: ""),
      ["event: ", name, "\ndata: ", JSONWriter.iodata(data), "\n\n"]
    ])
  end

  defp now, do: System.monotonic_time(:millisecond)
end
