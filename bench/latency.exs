# How long a capture takes its caller at 20,000 captures a second: beside a message to a GenServer, with a spool, and
# with ingests that hang or refuse connections, in turns.
#
#     bin/bench --only latency
#     bin/bench --only latency --rounds 9 --ms 4000
#     bin/bench --only latency --hogs 6      beside six programs that use the processor without end
#
# The histograms have the captures of all rounds; the ratios are medians of those of each round.
Code.require_file("support.ex", __DIR__)
Code.require_file("baseline.ex", __DIR__)

defmodule Bench.Latency do
  alias BilldogEng.Analytics
  alias Bench.{Baseline, Collector, Faulty, Paced, Report}

  # Buckets per factor of 10.
  @per_decade 12

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [rounds: :integer, ms: :integer, hogs: :integer])
    {rounds, ms, hogs} = {opts[:rounds] || 7, opts[:ms] || 2_000, opts[:hogs] || 0}
    Logger.configure(level: :error)
    {healthy, faulty} = {Collector.start(), Faulty.start()}
    spool = Path.join(System.tmp_dir!(), "billdogeng_bench_#{System.pid()}")

    contenders = [
      {"a message to a GenServer", fn -> theirs(healthy, ms) end},
      {"a capture", fn -> ours([host: healthy], ms) end},
      {"a capture, with a spool", fn -> ours([host: healthy, spool_dir: spool], ms) end},
      {"a capture, the ingest hangs", fn -> ours([host: faulty.hang], ms) end},
      {"a capture, the ingest is down", fn -> ours([host: faulty.refuse], ms) end}
    ]

    for {_, measure} <- contenders, do: measure.()
    for _ <- 1..hogs//1, do: hog()

    turns =
      for round <- 1..rounds do
        order = if rem(round, 2) == 1, do: contenders, else: Enum.reverse(contenders)
        turn = Map.new(order, fn {name, measure} -> {name, measure.()} end)
        IO.puts(:stderr, "round #{round} of #{rounds}")
        turn
      end

    File.rm_rf!(spool)
    report(Enum.map(contenders, &elem(&1, 0)), turns, rounds, ms, hogs)
  end

  defp report([base | _] = names, turns, rounds, ms, hogs) do
    of = fn turn, name -> turn[name].percentiles end

    rows =
      for name <- names do
        cells =
          for key <- [:first, :p50, :p99, :p999, :p9999] do
            ns = Bench.Numbers.median(for turn <- turns, do: of.(turn, name)[key])
            ratio = Bench.Numbers.median(for turn <- turns, do: of.(turn, name)[key] / of.(turn, base)[key])
            "#{Bench.Numbers.show(ns / 1_000)} (× #{Bench.Numbers.show(ratio)})"
          end

        most = turns |> Enum.map(&of.(&1, name).max) |> Enum.max()
        [name] ++ cells ++ [Bench.Numbers.show(most / 1_000)]
      end

    beside = if hogs > 0, do: ", beside #{hogs} busy programs", else: ""
    part = if hogs > 0, do: "latency-busy", else: "latency"

    Report.write(
      part,
      "The time that a capture takes its caller#{beside}",
      "bin/bench --only latency" <> if(hogs > 0, do: " --hogs #{hogs}", else: ""),
      "#{rounds} rounds of #{ms} ms in turns, 20,000 captures/s, 8 properties, flush_at 20. Medians of the rounds in µs, " <>
        "and of the ratios to the message; the most of all rounds. The first: the median of those after a sleep of 1 ms.",
      [[["µs", "the first", "p50", "p99", "p99.9", "p99.99", "most"] | rows]],
      [
        Report.steps(
          part,
          "Time per capture at 20,000 captures/s#{beside}",
          {"µs", :log},
          {"% of the captures, per bar", :log},
          for(name <- names, do: Report.series(name, histogram(Enum.flat_map(turns, & &1[name].sorted))))
        )
      ]
    )
  end

  # `[{from_us, percent}]`, in buckets of the same width on a logarithmic axis.
  defp histogram(samples) do
    counts = Enum.frequencies_by(samples, &floor(:math.log10(max(&1, 1)) * @per_decade))
    {least, most} = counts |> Map.keys() |> Enum.min_max()
    all = length(samples)

    for bucket <- least..(most + 1) do
      # An empty bucket is at the bottom of the axis.
      {:math.pow(10, bucket / @per_decade) / 1_000, 100 * max(Map.get(counts, bucket, 0), 0.5) / all}
    end
  end

  defp theirs(url, ms) do
    measured(
      fn ->
        {:ok, pid} = Baseline.start_link(api_key: "key", host: url, flush_at: 20, flush_interval: 5_000)
        {pid, &Baseline.capture(pid, &1, &2, &3)}
      end,
      ms
    )
  end

  defp ours(opts, ms) do
    measured(
      fn ->
        {:ok, pid} = Analytics.start_link([api_key: "key", flush_at: 20, shutdown_timeout: 0] ++ opts)
        for {id, name, properties} <- Bench.Events.eight(20), do: Analytics.capture(pid, id, name, properties)
        # A fault is in force: an attempt is under way, or has failed.
        Process.sleep(50)
        {pid, &Analytics.capture(pid, &1, &2, &3)}
      end,
      ms
    )
  end

  # In a process of its own: a caller's heap is small.
  defp measured(start, ms) do
    Task.async(fn ->
      {pid, capture} = start.()
      in_order = Paced.in_order(ms, capture)
      GenServer.stop(pid, :normal, :infinity)
      sorted = Enum.sort(in_order)
      first = Bench.Numbers.median(Paced.after_sleep(in_order))
      %{sorted: sorted, percentiles: Map.put(Paced.percentiles(sorted), :first, first)}
    end)
    |> Task.await(:infinity)
  end

  # Ends with this VM: its standard input is closed then.
  defp hog do
    script = "(while :; do :; done) & hog=$!; cat >/dev/null; kill $hog"
    Port.open({:spawn_executable, System.find_executable("sh")}, [:binary, args: ["-c", script]])
  end
end

Bench.Latency.main(System.argv())
