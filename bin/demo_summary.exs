# Shared by bin/demo.exs and bin/demo_file.exs: the client, its collector, and the accounts of both at the end.
defmodule Demo.Summary do
  alias BilldogEng.{Analytics, Collector}

  # Each event has an ID of its own, so that the collector's events can be counted apart from what the client reports.
  def start do
    {:ok, collector} = Collector.start_link(keep: false, page: [client: Demo.Client])

    {:ok, client} =
      Analytics.start_link(
        name: Demo.Client,
        api_key: "demo-key",
        host: Collector.url(collector),
        flush_at: 1_000,
        flush_interval: 1_000,
        max_queue_size: :infinity,
        insert_ids: true
      )

    IO.puts("see the events on #{Collector.page_url(collector)}")
    parent = self()

    tally =
      spawn_link(fn ->
        :ok = Collector.subscribe(collector)
        send(parent, :subscribed)
        tally(0, MapSet.new())
      end)

    receive(do: (:subscribed -> %{collector: collector, client: client, tally: tally}))
  end

  defp tally(all, ids) do
    receive do
      {:collector, events} ->
        ids = Enum.reduce(events, ids, &MapSet.put(&2, &1["properties"]["$insert_id"]))
        tally(all + length(events), ids)

      {:result, from} ->
        send(from, {:tally, all, MapSet.size(ids)})
    end
  end

  # Flushes, prints `rows` and the accounts, and returns the exit status.
  def finish(demo, sent, rows) do
    flushed = step("flush", fn -> Analytics.flush(demo.client, timeout: 120_000) end)
    if flushed != :ok, do: IO.puts(:stderr, "   flush: #{inspect(flushed)}")
    stats = Analytics.stats(demo.client)
    dropped = stats.dropped |> Map.values() |> Enum.sum()
    totals = Collector.totals(demo.collector)
    send(demo.tally, {:result, self()})
    {all, unique} = receive(do: ({:tally, all, unique} -> {all, unique}))

    rows =
      rows ++
        [
          {"captured", stats.captured},
          {"delivered", stats.delivered},
          {"dropped", if(dropped == 0, do: 0, else: "#{dropped} #{inspect(stats.dropped)}")},
          {"requests accepted", totals.accepted},
          {"retries", stats.retries},
          {"bytes before gzip", totals.bytes},
          {"bytes after gzip", totals.wire_bytes},
          {"events at the collector", "#{unique} (and #{all - unique} repeats)"}
        ]

    IO.puts("")
    for {name, value} <- rows, do: IO.puts("   #{String.pad_trailing(name, 28)}#{value}")
    IO.puts("")

    checks = [
      {"captured = delivered + dropped", stats.captured == stats.delivered + dropped},
      {"captured = sent", stats.captured == sent},
      {"the collector counted what was delivered", unique == stats.delivered}
    ]

    for {name, holds?} <- checks, do: IO.puts("   #{if holds?, do: "ok   ", else: "WRONG"} #{name}")
    if System.get_env("DEMO_STAY"), do: stay(demo.collector)
    if Enum.all?(checks, &elem(&1, 1)), do: 0, else: 1
  end

  defp stay(collector) do
    IO.puts("\n== #{Collector.page_url(collector)} stays up; Ctrl-C twice ends it")
    Process.sleep(:infinity)
  end

  # Prints what runs and how long it took.
  def step(name, work) do
    IO.puts("== #{name}")
    from = System.monotonic_time(:millisecond)
    result = work.()
    IO.puts("== #{name}: #{(System.monotonic_time(:millisecond) - from) / 1000} s")
    result
  end

  # Overwrites one line of a terminal; elsewhere each is a line of its own. bin/demo finds out which it is, since OTP 25 cannot.
  def progress(text) do
    if System.get_env("DEMO_TERMINAL"), do: IO.write("\r#{text}\e[K"), else: IO.puts(text)
  end
end
