# The time that a capture takes its caller while the ingest is out of order, beside a healthy one, in turns.
#
#     bin/bench --only callers
#     bin/bench --only callers --rounds 9 --ms 2000
#
# The client has its default options, so that its queue is soon full where nothing is delivered, and drops its
# oldest. Each round measures a healthy ingest and then the fault, and gives one ratio; the table has medians.
Code.require_file("support.ex", __DIR__)

defmodule Bench.Callers do
  alias BilldogEng.Analytics
  alias Bench.{Collector, Faulty, Numbers, Paced}

  @faults [
    hang: "hangs",
    slow: "sends one byte a second",
    reset: "resets",
    refuse: "refuses connections",
    unknown: "has a name that nobody knows",
    full: "swallows connections",
    deaf: "reads nothing",
    flood: "answers 100 MB",
    nonsense: "answers nonsense",
    close: "closes idle connections"
  ]

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [rounds: :integer, ms: :integer])
    {rounds, ms} = {opts[:rounds] || 5, opts[:ms] || 1_000}
    Logger.configure(level: :error)
    healthy = Collector.start()
    urls = Faulty.start()
    measure(healthy, ms)

    rows =
      for {fault, does} <- @faults do
        turns =
          for round <- 1..rounds do
            turn = {measure(healthy, ms), measure(urls[fault], ms)}
            IO.puts(:stderr, "#{fault}, round #{round}: #{inspect(turn)}")
            turn
          end

        [does | Enum.flat_map([:p50, :p99, :p999], &cells(turns, &1))]
      end

    header = ["an ingest that", "p50", "of healthy", "p99", "of healthy", "p99.9", "of healthy"]
    IO.puts("\n" <> Numbers.table([header | rows]))

    IO.puts("""

    ns a capture; medians of #{rounds} rounds of #{ms} ms in turns with a healthy ingest, some 20,000 captures a
    second. OTP #{System.otp_release()}, Elixir #{System.version()}, #{System.schedulers_online()} schedulers.
    """)
  end

  defp cells(turns, key) do
    [
      Numbers.show(Numbers.median(for {_, fault} <- turns, do: fault[key])),
      "× " <> Numbers.show(Numbers.median(for {healthy, fault} <- turns, do: fault[key] / healthy[key]))
    ]
  end

  defp measure(url, ms) do
    Task.async(fn ->
      {:ok, client} = Analytics.start_link(api_key: "key", host: url, shutdown_timeout: 0)
      capture = &Analytics.capture(client, &1, &2, &3)
      # The fault is in force: an attempt is under way, or has failed.
      for {id, name, properties} <- Bench.Events.eight(20), do: capture.(id, name, properties)
      Process.sleep(50)
      sorted = Paced.samples(ms, capture)
      GenServer.stop(client)
      Paced.percentiles(sorted)
    end)
    |> Task.await(:infinity)
  end
end

Bench.Callers.main(System.argv())
