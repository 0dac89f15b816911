# This client against one of the original's kind (bench/baseline.ex): in turns, in one VM, on one collector.
#
#     bin/bench                       all of it
#     bin/bench --only capture        what a capture costs its caller, nothing else running
#     bin/bench --only paced          the same at 20,000 captures a second, with all of it running
#     bin/bench --only 20             delivery at flush_at 20; any number will do
#     bin/bench --rounds 9 --ms 2000  more and longer rounds
#
# Each round measures both, one right after the other, and gives one ratio; the table has the medians. So what
# else the machine does at the time weighs on both. A run fails if the collector counted other than was
# captured.
Code.require_file("support.ex", __DIR__)
Code.require_file("baseline.ex", __DIR__)
Code.require_file("posthog.ex", __DIR__)

defmodule Bench.Ours do
  alias BilldogEng.Analytics

  @most_queued 20_000

  defdelegate start_link(opts), to: Analytics
  defdelegate capture(pid, id, name, properties), to: Analytics
  defdelegate flush(pid), to: Analytics

  # Options with which nothing becomes due, so that its thread sleeps.
  def bursts, do: [flush_at: :infinity, max_queue_size: :infinity]
  def quiet(_pid, fun), do: fun.()

  # Called every 1,000 captures: keeps the queue from growing without end.
  def pace(pid, state) do
    if Analytics.stats(pid).queued > @most_queued do
      Process.sleep(1)
      pace(pid, state)
    end
  end

  def dropped(pid), do: Analytics.stats(pid).dropped |> Map.values() |> Enum.sum()
end

defmodule Bench.Theirs do
  alias Bench.Baseline

  defdelegate start_link(opts), to: Baseline
  defdelegate capture(pid, id, name, properties), to: Baseline
  defdelegate flush(pid), to: Baseline

  # It would work on each message at once: it is held still, and a burst waits in its mailbox.
  def bursts, do: [flush_at: 1_000]

  def quiet(pid, fun) do
    :erlang.suspend_process(pid)
    fun.()
  after
    :erlang.resume_process(pid)
  end

  # Between 1,000 and 2,000 messages wait: it never idles, and its mailbox, of which httpc looks through all
  # for each answer, stays short. In a burst it fares worse.
  def pace(pid, asked) do
    if asked, do: {:reply, _} = :gen_server.receive_response(asked, :infinity)
    :gen_server.send_request(pid, :queue_length)
  end

  def dropped(_pid), do: 0
end

defmodule Bench.Run do
  alias Bench.{Collector, Numbers, Paced, Report}
  import Bench.Clock

  @burst 20_000
  @clients [Bench.Theirs, Bench.Ours]
  @columns ["this client", "ratio", "of each round"]

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [only: :keep, rounds: :integer, ms: :integer])

    settings = %{
      url: Collector.start(),
      rounds: opts[:rounds] || 7,
      ms: opts[:ms] || 1_000,
      events: Bench.Events.eight(1_000)
    }

    settings = Map.put(settings, :peer, Bench.PostHog.find())

    parts =
      case Keyword.get_values(opts, :only) do
        [] -> ["capture", "paced", "20", "1000"]
        parts -> parts
      end

    rows = Enum.flat_map(parts, &part(&1, settings))
    {peers, rows} = Enum.split_with(rows, &Map.has_key?(&1, :peer))

    table = fn base, rows ->
      [["8 properties an event, gzip", base | @columns] | Enum.map(rows, & &1.cells)]
    end

    Report.write(
      "delivery",
      "Against a client of the original's kind",
      String.trim_trailing(
        "bin/bench " <> Enum.map_join(Keyword.get_values(opts, :only), " ", &"--only #{&1}")
      ),
      "Medians of #{settings.rounds} rounds in turns. The original's kind: one GenServer, httpc, #{Bench.JSON.name()}. " <>
        "CPU is that of the VM's process, callers and all. Nothing was dropped.",
      [table.("the original's kind", rows) | if(peers != [], do: [table.(settings.peer, peers)], else: [])],
      charts(rows ++ peers, settings)
    )
  end

  # Delivery at each flush_at, beside wrk with ready-made bodies, which only sends.
  defp charts(rows, settings) do
    bars = fn text ->
      for %{what: what} = row <- rows, String.ends_with?(what, text), {name, number} <- row.numbers do
        ["#{name}, #{what |> String.split(":") |> hd()}", number]
      end
      |> Enum.uniq_by(&hd/1)
      |> Enum.sort_by(fn [name, _] -> name |> String.split(", ") |> List.last() end)
    end

    case bars.("delivered events/s") do
      [] ->
        []

      delivered ->
        panels = [
          Report.panel("Events delivered per second (more is better)", delivered ++ wrk(settings)),
          Report.panel("CPU per event in µs (less is better)", bars.("CPU, µs an event"))
        ]

        [
          Report.bars(
            "delivery",
            "Delivery of events of 8 properties to an ingest on the same two cores",
            panels
          )
        ]
    end
  end

  # The most that this machine's sockets and ingest take: one connection, and bodies of 1,000 events made before.
  defp wrk(settings) do
    if wrk = System.find_executable("wrk") do
      events =
        for {id, name, properties} <- settings.events,
            do: %{user_id: id, event_name: name, properties: properties}

      body = :zlib.gzip(Bench.JSON.encoder().(%{api_key: "key", events: events}))
      folder = Path.join(System.tmp_dir!(), "billdogeng_bench_#{System.pid()}")
      File.mkdir_p!(folder)
      File.write!(Path.join(folder, "body"), body)

      File.write!(Path.join(folder, "post.lua"), """
      local file = assert(io.open("#{folder}/body", "rb"))
      wrk.method, wrk.body = "POST", file:read("*a")
      wrk.headers["content-type"], wrk.headers["content-encoding"] = "application/json", "gzip"
      """)

      arguments = [
        "-t1",
        "-c1",
        "-d3s",
        "-s",
        Path.join(folder, "post.lua"),
        settings.url <> "/ingest-events"
      ]

      {output, 0} = System.cmd(wrk, arguments)
      File.rm_rf!(folder)
      [_, per_second] = Regex.run(~r{Requests/sec: *([\d.]+)}, output)
      [["wrk, ready-made bodies of 1,000", String.to_float(per_second) * length(events)]]
    else
      IO.puts(:stderr, "wrk is not installed: its row is left out")
      []
    end
  end

  # ── parts ──

  defp part("capture", settings) do
    rounds = rounds("caller alone", settings, &alone(&1, settings))
    [row("caller alone, ns a capture", rounds, :ns)]
  end

  defp part("paced", settings) do
    rounds = rounds("20,000 captures/s", settings, &paced(&1, settings))

    for {percentile, key} <- [{"p50", :p50}, {"p99", :p99}, {"p99.9", :p999}] do
      row("20,000 captures/s: #{percentile}, ns a capture", rounds, key)
    end
  end

  defp part(flush_at, settings) do
    peers = if settings.peer, do: [Bench.PostHog], else: []
    clients = @clients ++ peers
    measure = &deliver(&1, String.to_integer(flush_at), settings)
    rounds = rounds("flush_at #{flush_at}", settings, measure, clients)

    rows = [
      {"flush_at #{flush_at}: caller, ns a capture", :ns},
      {"flush_at #{flush_at}: delivered events/s", :per_second},
      {"flush_at #{flush_at}: CPU, µs an event", :cpu},
      {"flush_at #{flush_at}: events a request", :batch}
    ]

    for({what, key} <- rows, do: row(what, rounds, key)) ++
      for peer <- peers, {what, key} <- rows, do: Map.put(row(what, rounds, key, peer), :peer, peer)
  end

  # A map from client to result for each round. They take turns at going first.
  defp rounds(what, settings, measure, clients \\ @clients) do
    Enum.each(clients, measure)

    for round <- 1..settings.rounds do
      order = if rem(round, 2) == 1, do: clients, else: Enum.reverse(clients)
      results = Map.new(order, &{&1, measure.(&1)})
      IO.puts(:stderr, "#{what}, round #{round}: #{inspect(results)}")
      results
    end
  end

  defp row(what, rounds, key, base \\ Bench.Theirs) do
    ratios = for round <- rounds, do: round[Bench.Ours][key] / round[base][key]
    {least, most} = Enum.min_max(ratios)
    theirs = Numbers.median(for round <- rounds, do: round[base][key])
    ours = Numbers.median(for round <- rounds, do: round[Bench.Ours][key])
    range = "#{ratio(least)} – #{ratio(most)}"
    name = if base == Bench.Theirs, do: "GenServer", else: "posthog-elixir"

    %{
      what: what,
      numbers: [{name, theirs}, {"BilldogEng", ours}],
      cells: [what, Numbers.show(theirs), Numbers.show(ours), ratio(Numbers.median(ratios)), range]
    }
  end

  defp ratio(ratio) when ratio < 0.5, do: "1/" <> Numbers.show(1 / ratio)
  defp ratio(ratio), do: Numbers.show(ratio)

  # ── measurements, each in a process of its own: a caller's heap is small ──

  # Bursts into a client for which nothing becomes due; between them what was captured is delivered, untimed.
  defp alone(client, settings) do
    checked(client, client.bursts(), settings, fn pid ->
      bursts =
        for _ <- 1..5 do
          :erlang.garbage_collect()
          ns = client.quiet(pid, fn -> time(fn -> burst(client, pid, settings.events, @burst) end) end)
          :ok = client.flush(pid)
          ns / @burst
        end

      {5 * @burst, %{ns: Numbers.median(bursts)}}
    end)
  end

  defp paced(client, settings) do
    checked(client, [flush_at: 20], settings, fn pid ->
      sorted = Paced.samples(settings.ms, &client.capture(pid, &1, &2, &3))
      :ok = client.flush(pid)
      percentiles = Paced.percentiles(sorted)
      {percentiles.count, percentiles}
    end)
  end

  # One caller that captures as fast as the client takes it, for some time; then a flush. All of that counts.
  defp deliver(client, flush_at, settings) do
    checked(client, [flush_at: flush_at], settings, fn pid ->
      cpu = cpu_us()
      start = now()
      {captured, samples} = load(client, pid, settings, start + settings.ms * 1_000_000)
      :ok = client.flush(pid)
      ns = now() - start

      {captured,
       %{
         ns: Numbers.median(samples),
         per_second: captured / ns * 1.0e9,
         cpu: (cpu_us() - cpu) / captured
       }}
    end)
  end

  defp load(client, pid, settings, until, count \\ 0, pace \\ nil, samples \\ []) do
    if now() >= until do
      {count, samples}
    else
      pace = client.pace(pid, pace)
      samples = Enum.reduce(1..10, samples, fn _, samples -> [sample(client, pid, settings) | samples] end)
      load(client, pid, settings, until, count + 1_000, pace, samples)
    end
  end

  # The median of these is free of the times when another thread has the processor.
  defp sample(client, pid, settings), do: time(fn -> burst(client, pid, settings.events, 100) end) / 100

  defp burst(client, pid, events, count, rest \\ [])
  defp burst(_client, _pid, _events, 0, _rest), do: :ok
  defp burst(client, pid, events, count, []), do: burst(client, pid, events, count, events)

  defp burst(client, pid, events, count, [{id, name, properties} | rest]) do
    client.capture(pid, id, name, properties)
    burst(client, pid, events, count - 1, rest)
  end

  # Starts a client, has it measured, and holds what was captured against what the collector got.
  defp checked(client, opts, settings, measure) do
    Task.async(fn ->
      {:ok, pid} = client.start_link([api_key: "key", host: settings.url, flush_interval: 3_600_000] ++ opts)
      before = Collector.count(settings.url)
      {captured, result} = measure.(pid)
      got = Collector.since(settings.url, before)
      dropped = client.dropped(pid)
      GenServer.stop(pid)

      if got.events != captured or got.refused != 0 or dropped != 0 do
        IO.puts(:stderr, "#{inspect(client)}: captured #{captured}, dropped #{dropped}, got #{inspect(got)}")
        System.halt(1)
      end

      Map.put(result, :batch, got.events / got.requests)
    end)
    |> Task.await(:infinity)
  end

  # Of the process, all threads, its own and the kernel's part (getrusage).
  defp cpu_us, do: elem(:erlang.statistics(:runtime), 0) * 1_000
end

Bench.Run.main(System.argv())
