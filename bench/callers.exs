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
  alias Bench.{Collector, Numbers}

  # Captures at a time, between which the caller sleeps: 20,000 a second or so, as a busy app has.
  @burst 40
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
    {:ok, _} = Application.ensure_all_started(:inets)
    Logger.configure(level: :error)
    healthy = Collector.start()
    urls = Map.merge(faults(), %{refuse: nobody(), unknown: "http://#{String.duplicate("a", 64)}.invalid"})
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
      # The fault is in force: an attempt is under way, or has failed.
      for event <- Enum.take(events(), 20), do: capture(client, event)
      Process.sleep(50)
      samples = :atomics.new(ms * @burst, signed: false)
      count = load(client, events(), samples, 0, now() + ms * 1_000_000)
      GenServer.stop(client)
      sorted = Enum.sort(for n <- 1..count, do: :atomics.get(samples, n))
      of = &Enum.at(sorted, trunc(count * &1))
      %{p50: of.(0.5), p99: of.(0.99), p999: of.(0.999), count: count}
    end)
    |> Task.await(:infinity)
  end

  # Kept where no garbage collection of the caller's sees them.
  defp load(client, events, samples, count, until) do
    if now() >= until or count + @burst > :atomics.info(samples).size do
      count
    else
      for {event, n} <- Enum.with_index(events, 1) do
        start = now()
        capture(client, event)
        :atomics.put(samples, count + n, now() - start)
      end

      Process.sleep(1)
      load(client, events, samples, count + @burst, until)
    end
  end

  defp capture(client, {id, name, properties}), do: Analytics.capture(client, id, name, properties)

  defp events do
    for n <- 1..@burst do
      {"user-#{n * 7919}", "product_viewed",
       %{
         path: "/products/#{n}/reviews",
         referrer: "https://www.example.com/search?q=item+#{n}",
         plan: "pro",
         title: "Reviews of product #{n}: by our customers",
         price: n * 1.37,
         quantity: rem(n, 9) + 1,
         duration_ms: n * 317,
         returning: true
       }}
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)

  # The faulty ingests, in a VM of their own, which ends with this one.
  defp faults do
    script = Path.join(__DIR__, "faults.exs")

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [:binary, line: 200, args: [script]])

    for {fault, _} <- @faults, fault not in [:refuse, :unknown], into: %{} do
      receive do
        {^port, {:data, {:eol, line}}} ->
          [name, url] = String.split(line)
          {String.to_existing_atom(name), url}
      after
        30_000 -> raise "the faulty ingests did not start"
      end
    end
  end

  defp nobody do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    "http://127.0.0.1:#{port}"
  end
end

Bench.Callers.main(System.argv())
