# How captures scale with callers on this machine, and how they would on one with more cores: bench/scale measures the
# client's lock and simulates it.
#
#     bin/bench --only scale
#     bin/bench --only scale --rounds 9 --ms 1000
Code.require_file("support.ex", __DIR__)

defmodule Bench.Scale do
  alias BilldogEng.Analytics
  alias Bench.{Collector, Numbers, Report}
  import Bench.Clock

  @callers [1, 2, 4, 8, 16, 32, 64]

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [rounds: :integer, ms: :integer])
    {rounds, ms} = {opts[:rounds] || 7, opts[:ms] || 500}
    url = Collector.start()
    Logger.configure(level: :error)
    # Two callers with a client each, too: what two of them cost that share nothing.
    inputs = [{2, 2} | for(callers <- @callers, do: {callers, 1})]
    captured({2, 1}, url, ms)

    turns =
      for round <- 1..rounds do
        IO.puts(:stderr, "scale: round #{round} of #{rounds}")
        Map.new(inputs, &{&1, captured(&1, url, ms)})
      end

    measured =
      for callers <- @callers, do: {callers, Numbers.median(for turn <- turns, do: turn[{callers, 1}])}

    {1, alone} = hd(measured)
    model = model(1.0e9 / alone, measured)
    report(measured, turns, model, rounds, ms)
  end

  # Captures per second of all callers together, to so many clients. Nothing is due, so that the callers have the machine to
  # themselves; the queues are full, so that they do not grow.
  defp captured({callers, clients}, url, ms) do
    clients = for _ <- 1..clients, do: start(url)
    until = now() + ms * 1_000_000
    start = now()

    tasks =
      for {_, client} <- Enum.zip(1..callers, Stream.cycle(clients)) do
        # A caller makes its events itself: no two share the terms.
        Task.async(fn -> capture_until(client, Bench.Events.eight(100), until, 0) end)
      end

    count = tasks |> Task.await_many(:infinity) |> Enum.sum()
    ns = now() - start
    ^count = clients |> Enum.map(&Analytics.stats(&1).captured) |> Enum.sum()

    for client <- clients do
      :ok = Analytics.purge(client)
      GenServer.stop(client)
    end

    count / ns * 1.0e9
  end

  defp start(url) do
    {:ok, client} =
      Analytics.start_link(
        api_key: "key",
        host: url,
        flush_at: :infinity,
        flush_interval: 3_600_000,
        max_queue_size: 10_000,
        shutdown_timeout: 0
      )

    client
  end

  defp capture_until(client, events, until, count) do
    if now() >= until do
      count
    else
      for {id, name, properties} <- events, do: Analytics.capture(client, id, name, properties)
      capture_until(client, events, until, count + length(events))
    end
  end

  defp model(capture_ns, measured) do
    points = for {callers, per_second} <- measured, do: "#{callers}:#{per_second}"
    {json, 0} = System.cmd(System.fetch_env!("BENCH_SCALE"), ["#{capture_ns}" | points])
    {:ok, model} = BilldogEng.Client.Native.json_decode(json)
    model
  end

  defp report(measured, turns, model, rounds, ms) do
    {_, alone} = hd(measured)
    ratio = fn a, b -> Numbers.show(Numbers.median(for turn <- turns, do: turn[a] / turn[b])) end
    [first | _] = simulated = model["simulated"]

    callers =
      for {callers, per_second} <- measured,
          do: [
            "#{callers}",
            Numbers.show(per_second),
            "× #{ratio.({callers, 1}, {1, 1})}",
            "× #{ratio.({callers, 1}, {2, 1})}"
          ]

    apart = ["2, a client each", "", "× #{ratio.({2, 2}, {1, 1})}", "× #{ratio.({2, 2}, {2, 1})}"]

    schedulers =
      for row <- simulated do
        [
          "#{row["schedulers"]}",
          Numbers.show(row["capture_ns"]),
          "#{Numbers.show(100 * (row["capture_ns"] / first["capture_ns"] - 1))} %",
          Numbers.show(row["wait_ns"]),
          Numbers.show(row["p99_wait_ns"]),
          Numbers.show(row["flat_out_per_second"])
        ]
      end

    Report.write(
      "scale",
      "Callers and cores",
      "bin/bench --only scale",
      "#{rounds} rounds of #{ms} ms in turns, 8 properties. With the lock, a capture takes #{Numbers.show(model["same_core_ns"])} ns, " <>
        "and #{Numbers.show(model["other_core_ns"])} ns if another core had it before. #{law("measured callers", model["law_of_measured"])} " <>
        "#{law("simulated schedulers", model["law_of_simulated"])}",
      [
        [["callers", "captures/s", "of 1", "of 2"] | callers] ++ [apart],
        [
          [
            "schedulers, 20,000 captures/s each (simulated)",
            "ns a capture",
            "more than 1",
            "wait, ns",
            "p99 of the wait",
            "at most, captures/s"
          ]
          | schedulers
        ]
      ],
      [
        Report.line(
          "scale",
          "Captures per second on more schedulers",
          {"schedulers", :log},
          {"captures/s", :log},
          [
            Report.series(
              "measured, as fast as they can",
              Enum.filter(measured, fn {n, _} -> n <= System.schedulers_online() end)
            ),
            Report.series(
              "simulated, as fast as they can",
              for(row <- simulated, do: {row["schedulers"], row["flat_out_per_second"]})
            ),
            Report.series(
              "without a lock",
              for(row <- simulated, do: {row["schedulers"], alone * row["schedulers"]})
            ),
            Report.series(
              "needed for 20,000/s each",
              for(row <- simulated, do: {row["schedulers"], 20_000 * row["schedulers"]})
            )
          ]
        )
      ]
    )
  end

  defp law(of, %{"sigma" => sigma, "kappa" => kappa, "peak" => peak}) do
    peak = if peak, do: ", highest at #{Numbers.show(peak)}", else: ""
    "Universal scalability law of the #{of}: σ = #{digits(sigma)}, κ = #{digits(kappa)}#{peak}."
  end

  defp digits(number), do: :erlang.float_to_binary(number * 1.0, decimals: 4)
end

Bench.Scale.main(System.argv())
