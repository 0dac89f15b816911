# The cost of a spool: delivered events/s and a capture's p99, with and without one, in turns; and what a queued
# event costs in memory.
#
#     bin/bench --only spool
#     bin/bench --only spool --rounds 9 --ms 4000
#
# The spool is under the system's folder for temporary files; TMPDIR names another disk.
Code.require_file("support.ex", __DIR__)

defmodule Bench.Spool do
  alias BilldogEng.Analytics
  alias Bench.{Collector, Numbers}

  # The caller is held back at this many, so that no bound drops any.
  @most_queued 20_000
  @burst 100
  @queued 500_000

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [rounds: :integer, ms: :integer])
    {rounds, ms} = {opts[:rounds] || 7, opts[:ms] || 3_000}
    url = Collector.start()
    # First of all, in a heap that nothing has grown yet.
    queued = queued()
    for spool? <- [false, true], do: deliver(spool?, url, ms)

    turns =
      for round <- 1..rounds do
        order = if rem(round, 2) == 1, do: [false, true], else: [true, false]
        turn = Map.new(order, &{&1, deliver(&1, url, ms)})
        IO.puts(:stderr, "round #{round}: #{inspect(turn)}")
        {turn[false], turn[true]}
      end

    rows =
      for {what, key} <- [{"delivered events/s", :per_second}, {"a capture, p50 ns", :p50}, {"p99 ns", :p99}] do
        ratios = for {without, with} <- turns, do: with[key] / without[key]
        {least, most} = Enum.min_max(ratios)

        [
          what,
          Numbers.show(Numbers.median(for {without, _} <- turns, do: without[key])),
          Numbers.show(Numbers.median(for {_, with} <- turns, do: with[key])),
          "× " <> Numbers.show(Numbers.median(ratios)),
          "#{Numbers.show(least)} – #{Numbers.show(most)}"
        ]
      end

    IO.puts("\n" <> Numbers.table([["", "without a spool", "with one", "ratio", "of each round"] | rows]))

    IO.puts("""

    Medians of #{rounds} rounds of #{ms} ms in turns, flush_at 1,000, 8 properties an event. OTP #{System.otp_release()}, \
    #{System.schedulers_online()} schedulers.
    #{@queued} events queued while the ingest is down: #{queued.json} bytes of JSON, #{queued.grown} bytes of the \
    process's memory, × #{Numbers.show(queued.grown / queued.json)}.
    """)
  end

  # One caller as fast as the client takes it, then a flush; all of that counts.
  defp deliver(spool?, url, ms) do
    dir =
      Path.join(System.tmp_dir!(), "billdogeng-bench-#{System.pid()}-#{System.unique_integer([:positive])}")

    Task.async(fn ->
      options = [api_key: "key", host: url, flush_at: 1_000, max_queue_size: :infinity]
      {:ok, client} = Analytics.start_link(if(spool?, do: [spool_dir: dir] ++ options, else: options))
      samples = :atomics.new(4_000_000, signed: false)
      start = now()
      captured = load(client, events(), samples, 0, start + ms * 1_000_000)
      :ok = Analytics.flush(client)
      ns = now() - start
      %{delivered: ^captured, dropped: dropped} = Analytics.stats(client)
      true = dropped == %{}
      GenServer.stop(client)
      sorted = Enum.sort(for n <- 1..min(captured, 4_000_000), do: :atomics.get(samples, n))
      of = &Enum.at(sorted, trunc(length(sorted) * &1))
      %{per_second: captured / ns * 1.0e9, p50: of.(0.5), p99: of.(0.99)}
    end)
    |> Task.await(:infinity)
  after
    :erlang.garbage_collect()
  end

  defp load(client, events, samples, count, until) do
    cond do
      now() >= until ->
        count

      Analytics.stats(client).queued > @most_queued ->
        Process.sleep(1)
        load(client, events, samples, count, until)

      true ->
        for {{id, name, properties}, n} <- events do
          start = now()
          Analytics.capture(client, id, name, properties)
          :atomics.put(samples, rem(count + n - 1, 4_000_000) + 1, now() - start)
        end

        load(client, events, samples, count + @burst, until)
    end
  end

  defp queued do
    Task.async(fn ->
      options = [
        flush_at: :infinity,
        max_queue_size: :infinity,
        max_queue_bytes: 1_000_000_000,
        shutdown_timeout: 0
      ]

      {:ok, client} = Analytics.start_link([api_key: "key", host: "http://127.0.0.1:9"] ++ options)
      events = events()
      capture(client, events, 1)
      :erlang.garbage_collect()
      {before, queued} = {rss(), Analytics.stats(client).queued_bytes}
      capture(client, events, div(@queued, @burst))
      :erlang.garbage_collect()
      grown = %{grown: rss() - before, json: Analytics.stats(client).queued_bytes - queued}
      GenServer.stop(client)
      grown
    end)
    |> Task.await(:infinity)
  end

  defp capture(client, events, rounds) do
    for _ <- 1..rounds,
        {{id, name, properties}, _} <- events,
        do: Analytics.capture(client, id, name, properties)

    :ok
  end

  defp rss do
    [_, kib] = Regex.run(~r/^VmRSS:\s+(\d+)/m, File.read!("/proc/self/status"))
    String.to_integer(kib) * 1024
  end

  defp events do
    for n <- 1..@burst do
      {{"user-#{n * 7919}", "product_viewed",
        %{
          path: "/products/#{n}/reviews",
          referrer: "https://www.example.com/search?q=item+#{n}",
          plan: "pro",
          title: "Reviews of product #{n}: by our customers",
          price: n * 1.37,
          quantity: rem(n, 9) + 1,
          duration_ms: n * 317,
          returning: true
        }}, n}
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)
end

Bench.Spool.main(System.argv())
