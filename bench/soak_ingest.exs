# The ingest of bin/soak: a collector in a VM of its own, so that its memory isn't the client's, that fails at
# random and counts how often each event has arrived.
#
#     elixir bench/soak_ingest.exs SEED EVENTS WRITERS
#
# Prints where it listens, and each fault as it begins. `heal` ends the faults, `report` prints
# its accounts.
defmodule SoakIngest do
  alias BilldogEng.Collector

  # With what time it takes, in ms: of the client's own time-out of 2 s, and beyond.
  @faults [
    {"hang", :hang},
    {"500", {:status, 500}},
    {"429", {:status, 429, [{"retry-after", "2"}]}},
    {"429 for long", {:status, 429, [{"retry-after", "31"}]}},
    {"reset", :reset},
    {"slow", {:delay, 500}},
    {"too slow", {:delay, 2_500}},
    {"refuse", :refuse},
    {"400 to some", :refuse_marked}
  ]

  def main([seed, events, writers]) do
    [seed, events, writers] = Enum.map([seed, events, writers], &String.to_integer/1)
    {:ok, collector} = Collector.start_link(keep: false)
    counts = :atomics.new(events, signed: false)
    counter = spawn_link(fn -> count(counts, :atomics.new(writers, signed: false), writers, 0) end)
    Collector.subscribe(collector, counter)
    faults = spawn_link(fn -> fail(collector, :rand.seed_s(:exsss, seed)) end)
    IO.puts("listening #{Collector.url(collector)}")

    on_command(fn
      "heal" ->
        Process.unlink(faults)
        Process.exit(faults, :kill)
        Collector.respond(collector, :ok)
        IO.puts("healed")

      "report " <> captured ->
        send(counter, {:disorder, self()})
        disorder = receive do: ({:disorder, disorder} -> disorder)
        report(counts, String.to_integer(captured), disorder, Collector.totals(collector))
    end)
  end

  defp on_command(act) do
    case IO.gets("") do
      line when is_binary(line) ->
        act.(String.trim(line))
        on_command(act)

      :eof ->
        :ok
    end
  end

  defp fail(collector, random) do
    Collector.respond(collector, :ok)
    random = pass(random, 3_000, 10_000)
    {n, random} = :rand.uniform_s(length(@faults), random)
    {name, mode} = Enum.at(@faults, n - 1)
    IO.puts("fault #{name}")
    Collector.respond(collector, mode(mode))
    fail(collector, pass(random, 500, 6_000))
  end

  defp pass(random, least, most) do
    {ms, random} = :rand.uniform_s(most - least, random)
    Process.sleep(least + ms)
    random
  end

  defp mode(:refuse_marked), do: &if(&1.body =~ ~s("marked":true), do: {:status, 400}, else: :ok)
  defp mode(mode), do: mode

  # Each event has a number, of which its writer is the rest: for the first time they arrive in order.
  defp count(counts, last, writers, disorder) do
    receive do
      {:collector, events} ->
        disorder =
          Enum.reduce(events, disorder, &(&2 + arrived(&1["properties"]["n"], counts, last, writers)))

        count(counts, last, writers, disorder)

      {:disorder, from} ->
        send(from, {:disorder, disorder})
        count(counts, last, writers, disorder)
    end
  end

  defp arrived(n, counts, last, writers) do
    writer = rem(n, writers) + 1

    cond do
      :atomics.add_get(counts, n + 1, 1) > 1 -> 0
      n + 1 > :atomics.exchange(last, writer, n + 1) -> 0
      true -> 1
    end
  end

  defp report(counts, captured, disorder, totals) do
    {distinct, repeats, lost} =
      Enum.reduce(0..(captured - 1)//1, {0, 0, 0}, fn n, {distinct, repeats, lost} ->
        case :atomics.get(counts, n + 1) do
          # Marked events may be refused.
          0 when rem(n, 997) == 0 -> {distinct, repeats, lost}
          0 -> {distinct, repeats, lost + 1}
          times -> {distinct + 1, repeats + times - 1, lost}
        end
      end)

    IO.puts("report #{distinct} #{repeats} #{lost} #{disorder} #{totals.requests}")
  end
end

SoakIngest.main(System.argv())
