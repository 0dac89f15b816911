# The script behind bin/soak, run by `mix run`: see there.
#
#     writers ──capture/4──▶ client ──HTTP──▶ collector, in a VM of its own, that fails at random
#                              │                  │ distinct events, repeats, order
#         memory, threads ◀── watch ──▶ verdict ◀─┘
defmodule Soak do
  alias BilldogEng.Analytics

  @writers 4
  # Each of this many is marked; some of them will be refused.
  @marked 997
  # The growth that a heap or the allocator's reserve may account for.
  @growth_kib 16 * 1024
  @every 10_000

  def main(argv) do
    {opts, []} =
      OptionParser.parse!(argv, strict: [minutes: :float, rate: :integer, seed: :integer, spool: :boolean])

    minutes = opts[:minutes] || 30.0
    rate = opts[:rate] || 5_000
    seed = opts[:seed] || :rand.uniform(1_000_000)
    ms = round(minutes * 60_000)
    IO.puts("soak: #{minutes} min, #{rate} events/s, seed #{seed}#{if opts[:spool], do: ", with a spool"}")

    ingest = ingest(seed, div(ms, 1_000) * rate + 10 * rate)
    spool = if opts[:spool], do: Path.join(System.tmp_dir!(), "billdogeng-soak-#{System.pid()}")
    client = client(ingest.url, spool)
    started = now()

    writers =
      for writer <- 0..(@writers - 1) do
        Task.async(fn -> write(client, writer, rate / @writers, started, started + ms, 0) end)
      end

    samples = watch(client, ingest, started, ms, [])
    captured = writers |> Task.await_many(:infinity) |> Enum.sum()
    verdict = verdict(client, ingest, captured, samples)
    GenServer.stop(client)
    if spool, do: File.rm_rf!(spool)
    System.halt(if verdict == [], do: 0, else: 1)
  end

  defp client(url, spool) do
    {:ok, client} =
      Analytics.start_link(
        api_key: "key",
        host: url,
        request_timeout: 2_000,
        # Nothing may be dropped for a bound: what has arrived is then known to the event.
        max_queue_size: :infinity,
        max_queue_bytes: 1_000_000_000,
        spool_dir: spool
      )

    client
  end

  # Up to its share of the rate, each 10 ms; what it was kept from it makes up for.
  defp write(client, writer, per_second, started, until, count) do
    now = now()
    due = trunc((min(now, until) - started) * per_second / 1_000)
    for n <- count..(due - 1)//1, do: capture(client, n * @writers + writer)

    if now >= until do
      # So many of each writer that their numbers have no gap.
      last = trunc((until - started) * per_second / 1_000)
      for n <- due..(last - 1)//1, do: capture(client, n * @writers + writer)
      last
    else
      Process.sleep(10)
      write(client, writer, per_second, started, until, due)
    end
  end

  defp capture(client, n) do
    Analytics.capture(client, "user-#{rem(n * 7_919, 10_007)}", "product_viewed", %{
      n: n,
      marked: rem(n, @marked) == 0,
      path: "/products/#{n}/reviews",
      referrer: "https://www.example.com/search?q=item+#{n}",
      price: n * 1.37,
      quantity: rem(n, 9) + 1
    })
  end

  # ── what is looked at meanwhile ──

  defp watch(client, ingest, started, ms, samples) do
    left = started + ms - now()

    if left <= 0 do
      Enum.reverse(samples)
    else
      control(ingest)
      Process.sleep(min(@every, left))
      sample = sample(client, now() - started)
      IO.puts(line(sample))
      watch(client, ingest, started, ms, [sample | samples])
    end
  end

  defp sample(client, at) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    status = File.read!("/proc/self/status")
    stats = Analytics.stats(client)

    %{
      at: at,
      rss: field(status, "VmRSS"),
      threads: length(File.ls!("/proc/self/task")),
      processes: length(Process.list()),
      stats: stats,
      balanced?: balanced?(stats)
    }
  end

  defp line(%{stats: stats} = sample) do
    dropped = for {reason, count} <- stats.dropped, do: ", #{count} #{reason}"

    "#{pad(div(sample.at, 1_000), 5)} s  RSS #{pad(div(sample.rss, 1_024), 4)} MiB  #{sample.threads} threads  " <>
      "captured #{stats.captured}, delivered #{stats.delivered}, queued #{stats.queued} " <>
      "(#{div(stats.queued_bytes, 1_048_576)} MiB)#{dropped}"
  end

  defp field(status, name),
    do: Regex.run(~r/^#{name}:\s+(\d+)/m, status) |> List.last() |> String.to_integer()

  defp pad(number, width), do: String.pad_leading("#{number}", width)

  defp balanced?(stats),
    do: stats.captured == stats.delivered + stats.queued + Enum.sum(Map.values(stats.dropped))

  # ── the end ──

  defp verdict(client, ingest, captured, samples) do
    Port.command(ingest.port, "heal\n")
    hear(ingest, "healed")
    flushed = flush(client, 10)
    stats = Analytics.stats(client)
    Port.command(ingest.port, "report #{captured}\n")
    report = ingest |> hear("report ") |> String.split() |> Enum.map(&String.to_integer/1)
    [distinct, repeats, lost, disorder, requests] = report
    rejected = Map.get(stats.dropped, :rejected, 0)

    IO.puts("""

    captured #{stats.captured}, delivered #{stats.delivered}, rejected #{rejected}, queued #{stats.queued}, \
    retries #{stats.retries}
    the collector has #{distinct} distinct events, #{repeats} repeats, #{lost} missing, #{disorder} out of order, \
    of #{requests} requests
    """)

    [
      {flushed == :ok, "the last flush failed: #{inspect(flushed)}"},
      {stats.captured == captured, "#{captured} captures returned, and #{stats.captured} are counted"},
      {balanced?(stats) and Enum.all?(samples, & &1.balanced?),
       "captured isn't delivered + dropped + queued"},
      {Map.delete(stats.dropped, :rejected) == %{}, "dropped: #{inspect(stats.dropped)}"},
      {stats.queued == 0, "#{stats.queued} are queued after the last flush"},
      {distinct == stats.delivered, "#{stats.delivered} delivered, and #{distinct} have arrived"},
      {lost == 0, "#{lost} are missing that nobody refused"},
      {disorder == 0, "#{disorder} are out of order"}
      | flat(samples)
    ]
    |> tap(fn _ -> IO.puts(summary(samples)) end)
    |> Enum.reject(&elem(&1, 0))
    |> Enum.map(fn {_, wrong} -> IO.puts("WRONG: #{wrong}") end)
    |> case do
      [] -> IO.puts("All of it holds.") && []
      wrong -> wrong
    end
  end

  defp flush(client, tries) do
    case Analytics.flush(client, timeout: 120_000) do
      {:error, _} when tries > 1 -> flush(client, tries - 1)
      answer -> answer
    end
  end

  # The least of each half: what a queue holds that has grown meanwhile is no leak. The first minute is for what
  # is made once.
  defp flat(samples) do
    case split(samples) do
      {[_ | _] = before, [_ | _] = later} ->
        grown = least(later) - least(before)
        threads = for sample <- before ++ later, uniq: true, do: sample.threads

        [
          {grown <= @growth_kib, "memory has grown by #{grown} KiB"},
          {length(threads) == 1, "the numbers of threads were #{inspect(threads)}"}
        ]

      _ ->
        [{false, "the run was too short to judge memory and threads: two minutes at least"}]
    end
  end

  defp summary(samples) do
    case split(samples) do
      {[_ | _] = before, [_ | _] = later} ->
        "RSS at its least: #{div(least(before), 1_024)} MiB in the first half, #{div(least(later), 1_024)} MiB in " <>
          "the second; at its most #{div(Enum.max(for s <- samples, do: s.rss), 1_024)} MiB"

      _ ->
        ""
    end
  end

  defp split(samples) do
    samples = Enum.filter(samples, &(&1.at > 60_000))
    Enum.split(samples, div(length(samples), 2))
  end

  defp least(samples), do: Enum.min(for sample <- samples, do: sample.rss)

  # ── the ingest's VM ──

  defp ingest(seed, events) do
    script = Path.join(__DIR__, "soak_ingest.exs")

    args =
      ["-pa", Application.app_dir(:billdogeng, "ebin"), script] ++
        Enum.map([seed, events, @writers], &"#{&1}")

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [:binary, line: 1_000, args: args])

    ingest = %{port: port, url: nil}
    %{ingest | url: hear(ingest, "listening ")}
  end

  defp hear(%{port: port} = ingest, start) do
    receive do
      {^port, {:data, {:eol, line}}} ->
        if String.starts_with?(line, start),
          do: String.replace_prefix(line, start, ""),
          else: hear(ingest, start)
    after
      120_000 -> raise "the ingest did not report: #{start}"
    end
  end

  # Its faults, since the last time.
  defp control(%{port: port} = ingest) do
    receive do
      {^port, {:data, {:eol, "fault " <> fault}}} ->
        IO.puts("         the ingest: #{fault}")
        control(ingest)
    after
      0 -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end

Soak.main(System.argv())
