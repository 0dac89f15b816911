# How the cost of a capture and of its delivery grows: with the queue's length, an event's properties and size, the time to
# the ingest and back, and the number of clients.
#
#     bin/bench --only growth
#     bin/bench --only growth --rounds 9
Code.require_file("support.ex", __DIR__)
Code.require_file("baseline.ex", __DIR__)

defmodule Bench.Growth do
  alias BilldogEng.Analytics
  alias Bench.{Baseline, Collector, Events, Numbers, Report}
  import Bench.Clock

  @queue [100, 1_000, 10_000, 100_000, 1_000_000]
  # The original's kind copies its whole queue for each event.
  @queue_of_theirs [100, 1_000, 10_000, 100_000]
  @properties [0, 1, 3, 10, 30, 100]
  @bytes [100, 1_000, 10_000, 100_000, 500_000]
  @delays [0, 10, 100]
  @clients [1, 10, 100, 1_000]
  @endless [
    flush_at: :infinity,
    flush_interval: 3_600_000,
    max_queue_size: :infinity,
    max_queue_bytes: 4_000_000_000,
    max_event_bytes: 1_000_000
  ]

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [rounds: :integer])
    rounds = opts[:rounds] || 5
    Logger.configure(level: :error)
    settings = %{url: Collector.start(), rounds: rounds}

    {queue, queue_of_theirs} = {queue(settings), queue_of_theirs(settings)}
    properties = turns(settings, "properties", @properties, &properties(&1, settings))
    bytes = turns(settings, "bytes", @bytes, &bytes(&1, settings))
    delays = turns(settings, "round trip", @delays, &delivered(&1, settings))
    clients = turns(settings, "clients", @clients, &clients(&1, settings))

    Report.write(
      "growth",
      "How costs grow",
      "bin/bench --only growth",
      "Medians of #{rounds} rounds in turns.",
      [
        table("events queued", "ns a capture", queue),
        table("events queued", "ns an event, in the GenServer", queue_of_theirs),
        table("properties", "ns a capture", properties),
        table("bytes of JSON", "ns a capture", bytes),
        [
          ["round trip, ms", "events/s at flush_at 20", "events a request"]
          | for(
              {ms, result} <- delays,
              do: ["#{ms}", Numbers.show(result.per_second), Numbers.show(result.batch)]
            )
        ],
        table("clients", "ns a capture, to one after the other", clients)
      ],
      [
        Report.line(
          "queue",
          "Time per event against the length of the queue",
          {"events queued", :log},
          {"ns", :log},
          [
            Report.series("a capture", queue),
            Report.series("the GenServer's work per event", queue_of_theirs)
          ]
        ),
        Report.line("properties", "Time per capture against the number of properties", "properties", "ns", [
          Report.series("a capture", properties)
        ]),
        Report.line(
          "size",
          "Time per capture against the size of an event",
          {"bytes of JSON", :log},
          {"ns", :log},
          [
            Report.series("a capture", bytes)
          ]
        ),
        Report.line("clients", "Time per capture against the number of clients", {"clients", :log}, "ns", [
          Report.series("a capture", clients)
        ])
      ]
    )
  end

  defp table(of, what, points),
    do: [[of, what] | for({n, ns} <- points, do: [Numbers.show(n), Numbers.show(ns)])]

  # `[{input, median}]`: all inputs once a round.
  defp turns(settings, name, inputs, measure) do
    measure.(hd(inputs))

    rounds =
      for round <- 1..settings.rounds do
        IO.puts(:stderr, "#{name}: round #{round} of #{settings.rounds}")
        Map.new(inputs, &{&1, measure.(&1)})
      end

    for input <- inputs, do: {input, rounds |> Enum.map(& &1[input]) |> median()}
  end

  defp median([%{} = first | _] = results),
    do: Map.new(first, fn {key, _} -> {key, Numbers.median(Enum.map(results, & &1[key]))} end)

  defp median(numbers), do: Numbers.median(numbers)

  # ── the queue's length ──

  # One queue that grows, and bursts of 1,000 captures at each length.
  defp queue(settings) do
    rounds =
      for round <- 1..settings.rounds do
        IO.puts(:stderr, "queue: round #{round} of #{settings.rounds}")

        alone(fn ->
          {:ok, client} = start(settings.url, @endless)
          events = Events.eight(1_000)

          points =
            for length <- @queue do
              fill(client, events, length)
              {length, burst(client, events)}
            end

          Analytics.purge(client)
          GenServer.stop(client)
          Map.new(points)
        end)
      end

    for length <- @queue, do: {length, Numbers.median(for round <- rounds, do: round[length])}
  end

  defp fill(client, events, length) do
    if Analytics.stats(client).queued < length do
      capture_all(client, events)
      fill(client, events, length)
    end
  end

  # The work of the original's process for each event while it keeps so many.
  defp queue_of_theirs(settings) do
    event = {:enqueue, "user-1", "order_completed", {:with_groups, %{plan: "pro"}, %{}}}

    for length <- @queue_of_theirs do
      state = %Baseline{flush_at: :infinity, max_queue_size: length, queue: List.duplicate(%{}, length)}
      times = max(div(100_000, length), 3)

      samples =
        for _ <- 1..settings.rounds do
          alone(fn ->
            time(fn ->
              Enum.reduce(1..times, state, fn _, state -> elem(Baseline.handle_cast(event, state), 1) end)
            end) / times
          end)
        end

      {length, Numbers.median(samples)}
    end
  end

  # ── an event's properties and size ──

  defp properties(count, settings) do
    properties =
      for n <- 1..count//1, into: %{}, do: {:"property_#{n}", Enum.at(["a value", n, n / 7, true], rem(n, 4))}

    captures(properties, 2_000, settings)
  end

  defp bytes(count, settings) do
    captures(%{text: String.duplicate("x", max(count - 80, 1))}, max(div(2_000_000, count), 20), settings)
  end

  defp captures(properties, times, settings) do
    alone(fn ->
      {:ok, client} = start(settings.url, @endless)
      # The first ones get memory that later ones use again.
      capture_times(client, properties, times)
      :ok = Analytics.purge(client)
      ns = time(fn -> capture_times(client, properties, times) end) / times
      Analytics.purge(client)
      GenServer.stop(client)
      ns
    end)
  end

  defp capture_times(_client, _properties, 0), do: :ok

  defp capture_times(client, properties, times) do
    Analytics.capture(client, "user-1", "order_completed", properties)
    capture_times(client, properties, times - 1)
  end

  # ── the way to the ingest ──

  # The most that a client delivers, of a queue that never runs empty.
  defp delivered(ms, settings) do
    post(settings.url, "/delay/#{ms}")

    result =
      alone(fn ->
        {:ok, client} = start(settings.url, flush_at: 20, max_queue_size: :infinity)
        events = Events.eight(1_000)
        before = Collector.count(settings.url)
        until = now() + 2_000_000_000
        start = now()
        keep_queued(client, events, until)
        got = Collector.since(settings.url, before)
        ns = now() - start
        Analytics.purge(client)
        GenServer.stop(client)
        %{per_second: got.events / ns * 1.0e9, batch: got.events / max(got.requests, 1)}
      end)

    post(settings.url, "/delay/0")
    result
  end

  defp keep_queued(client, events, until) do
    if now() < until do
      if Analytics.stats(client).queued < 20_000, do: capture_all(client, events), else: Process.sleep(1)
      keep_queued(client, events, until)
    end
  end

  defp post(url, path) do
    {:ok, {{_, 200, _}, _, _}} =
      :httpc.request(:post, {String.to_charlist(url <> path), [], ~c"text/plain", ""}, [], [])
  end

  # ── clients ──

  defp clients(count, settings) do
    alone(fn ->
      clients = for _ <- 1..count, do: elem(start(settings.url, @endless), 1)
      [event | _] = Events.eight(1)
      rounds = max(div(20_000, count), 1)
      for _ <- 1..2, client <- clients, do: capture(client, event)

      ns =
        time(fn -> for(_ <- 1..rounds, client <- clients, do: capture(client, event)) end) / (rounds * count)

      for client <- clients, do: GenServer.stop(client)
      ns
    end)
  end

  # ──

  defp start(url, opts), do: Analytics.start_link([api_key: "key", host: url, shutdown_timeout: 0] ++ opts)
  defp capture(client, {id, name, properties}), do: Analytics.capture(client, id, name, properties)
  defp capture_all(client, events), do: Enum.each(events, &capture(client, &1))

  # The median of 20 bursts of 50, per capture.
  defp burst(client, events) do
    events
    |> Enum.chunk_every(50)
    |> Enum.map(fn some -> time(fn -> capture_all(client, some) end) / 50 end)
    |> Numbers.median()
  end

  # In a process of its own: its heap is small.
  defp alone(measure), do: measure |> Task.async() |> Task.await(:infinity)
end

Bench.Growth.main(System.argv())
