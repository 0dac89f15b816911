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
  alias Bench.{Collector, Numbers}

  @burst 20_000
  @clients [Bench.Theirs, Bench.Ours]

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [only: :keep, rounds: :integer, ms: :integer])
    {:ok, _} = Application.ensure_all_started(:inets)
    settings = %{url: Collector.start(), rounds: opts[:rounds] || 7, ms: opts[:ms] || 1_000, events: events()}

    rows =
      case Keyword.get_values(opts, :only) do
        [] -> ["capture", "paced", "20", "1000"]
        parts -> parts
      end
      |> Enum.flat_map(&part(&1, settings))

    header = [
      "8 properties an event, gzip",
      "the original's kind",
      "this client",
      "ratio",
      "of each round",
      "goal"
    ]

    IO.puts("\n" <> Numbers.table([header | rows]))

    IO.puts("""

    Medians of #{settings.rounds} rounds in turns. The original's kind: one GenServer, httpc, #{Bench.JSON.name()}.
    OTP #{System.otp_release()}, Elixir #{System.version()}, #{System.schedulers_online()} schedulers. \
    CPU is that of the VM's process, callers and all. Nothing was dropped.
    """)
  end

  # ── parts ──

  defp part("capture", settings) do
    rounds = rounds("caller alone", settings, &alone(&1, settings))
    [row("caller alone, ns a capture", rounds, :ns, "≤ 1.5")]
  end

  defp part("paced", settings) do
    rounds = rounds("20,000 captures/s", settings, &paced(&1, settings))

    for {percentile, key} <- [{"p50", :p50}, {"p99", :p99}, {"p99.9", :p999}] do
      row("20,000 captures/s: #{percentile}, ns a capture", rounds, key, "")
    end
  end

  defp part(flush_at, settings) do
    rounds = rounds("flush_at #{flush_at}", settings, &deliver(&1, String.to_integer(flush_at), settings))
    goal = if flush_at == "20", do: 10, else: 8

    [
      row("flush_at #{flush_at}: caller, ns a capture", rounds, :ns, "≤ 1.5"),
      row("flush_at #{flush_at}: delivered events/s", rounds, :per_second, "≥ #{goal}"),
      row("flush_at #{flush_at}: CPU, µs an event", rounds, :cpu, "≤ 1/#{goal}"),
      row("flush_at #{flush_at}: events a request", rounds, :batch, "")
    ]
  end

  # `[{theirs, ours}]`. They take turns at going first.
  defp rounds(what, settings, measure) do
    Enum.each(@clients, measure)

    for round <- 1..settings.rounds do
      order = if rem(round, 2) == 1, do: @clients, else: Enum.reverse(@clients)
      results = Map.new(order, &{&1, measure.(&1)})

      IO.puts(
        :stderr,
        "#{what}, round #{round}: #{inspect(results[Bench.Theirs])} #{inspect(results[Bench.Ours])}"
      )

      {results[Bench.Theirs], results[Bench.Ours]}
    end
  end

  defp row(what, rounds, key, goal) do
    ratios = for {theirs, ours} <- rounds, do: ours[key] / theirs[key]
    {least, most} = Enum.min_max(ratios)

    [
      what,
      Numbers.show(Numbers.median(for {theirs, _} <- rounds, do: theirs[key])),
      Numbers.show(Numbers.median(for {_, ours} <- rounds, do: ours[key])),
      ratio(Numbers.median(ratios)),
      "#{ratio(least)} – #{ratio(most)}",
      goal
    ]
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

  # As a busy app captures: 40 at a time, each measured, and a sleep of 1 ms.
  defp paced(client, settings) do
    checked(client, [flush_at: 20], settings, fn pid ->
      events = Enum.take(settings.events, 40)
      samples = :atomics.new(settings.ms * 40 + 40, signed: false)
      count = paces(client, pid, events, samples, 0, now() + settings.ms * 1_000_000)
      :ok = client.flush(pid)
      sorted = Enum.sort(for n <- 1..count, do: :atomics.get(samples, n))
      of = &Enum.at(sorted, trunc(count * &1))
      {count, %{p50: of.(0.5), p99: of.(0.99), p999: of.(0.999)}}
    end)
  end

  # Kept where no garbage collection of the caller's sees them.
  defp paces(client, pid, events, samples, count, until) do
    if now() >= until do
      count
    else
      for {{id, name, properties}, n} <- Enum.with_index(events, 1) do
        start = now()
        client.capture(pid, id, name, properties)
        :atomics.put(samples, count + n, now() - start)
      end

      Process.sleep(1)
      paces(client, pid, events, samples, count + length(events), until)
    end
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

  defp time(fun) do
    start = now()
    fun.()
    now() - start
  end

  defp now, do: System.monotonic_time(:nanosecond)

  # Of the process, all threads, its own and the kernel's part (getrusage).
  defp cpu_us, do: elem(:erlang.statistics(:runtime), 0) * 1_000

  # 1,000 that differ, made before: a capture's cost is not that of making its terms.
  defp events do
    for n <- 1..1_000 do
      properties = %{
        path: "/products/#{n}/reviews",
        referrer: "https://www.example.com/search?q=item+#{n}",
        plan: Enum.at(["free", "pro", "enterprise"], rem(n, 3)),
        title: "Reviews of product #{n}: by our customers",
        price: n * 1.37,
        quantity: rem(n, 9) + 1,
        duration_ms: n * 317,
        returning: rem(n, 2) == 0
      }

      {"user-#{n * 7919}", Enum.at(["$pageview", "product_viewed", "order_completed"], rem(n, 3)), properties}
    end
  end
end

Bench.Run.main(System.argv())
