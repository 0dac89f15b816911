defmodule BilldogEng.Collector.Feed.Counters do
  @moduledoc false
  # Counts all that the feed has seen, also what it no longer keeps: pure functions over maps of bounded size.

  @seconds 300
  # Names are the sender's, so their number is bounded; further ones are counted together.
  @most_names 1_000
  @top 10

  @type t :: map

  @doc "Returns counters at 0."
  @spec new() :: t
  def new do
    %{
      events: 0,
      updates: 0,
      requests: 0,
      refused: %{},
      statuses: %{},
      names: %{},
      other_names: 0,
      problems: %{},
      duplicates: 0,
      retries: 0,
      wire_bytes: 0,
      bytes: 0,
      largest_batch: 0,
      batches: 0,
      seconds: %{}
    }
  end

  @doc "Counts a request and its rows. `second` is the system time in seconds."
  @spec add(t, map, [map], integer) :: t
  def add(counters, record, rows, second) do
    %{request: request, outcome: outcome} = record
    kinds = Enum.frequencies_by(rows, & &1.kind)
    events = Map.get(kinds, :event, 0)
    retried? = Enum.any?(rows, &(:retry in &1.marks))

    %{
      counters
      | events: counters.events + events,
        updates: counters.updates + Map.get(kinds, :update, 0),
        requests: counters.requests + 1,
        refused: if(kinds[:refused], do: add(counters.refused, outcome, 1), else: counters.refused),
        statuses: add(counters.statuses, outcome, 1),
        duplicates: counters.duplicates + Enum.count(rows, &(:duplicate in &1.marks)),
        retries: counters.retries + if(retried?, do: 1, else: 0),
        wire_bytes: counters.wire_bytes + request.wire_bytes,
        bytes: counters.bytes + request.bytes,
        largest_batch: max(counters.largest_batch, events),
        batches: counters.batches + if(events > 0, do: 1, else: 0),
        seconds: second(counters.seconds, second, events, class(record.status))
    }
    |> names_and_problems(rows)
  end

  defp add(counts, key, n), do: Map.update(counts, key, n, &(&1 + n))

  defp names_and_problems(counters, rows) do
    Enum.reduce(rows, counters, fn row, counters ->
      counters = if row.kind == :event, do: name(counters, row.name), else: counters

      row.problems
      |> Enum.uniq_by(&elem(&1, 0))
      |> Enum.reduce(counters, fn {code, _}, counters ->
        %{counters | problems: add(counters.problems, code, 1)}
      end)
    end)
  end

  defp name(%{names: names} = counters, name) do
    case names do
      %{^name => n} -> %{counters | names: %{names | name => n + 1}}
      _ when map_size(names) < @most_names -> %{counters | names: Map.put(names, name, 1)}
      _ -> %{counters | other_names: counters.other_names + 1}
    end
  end

  # {events, 2xx, 4xx, 5xx, others} of a second.
  defp second(seconds, second, events, class) do
    {e, a, b, c, d} = Map.get(seconds, second, {0, 0, 0, 0, 0})

    counts =
      case class do
        2 -> {e + events, a + 1, b, c, d}
        4 -> {e + events, a, b + 1, c, d}
        5 -> {e + events, a, b, c + 1, d}
        _ -> {e + events, a, b, c, d + 1}
      end

    seconds = if map_size(seconds) > 2 * @seconds, do: recent(seconds, second), else: seconds
    Map.put(seconds, second, counts)
  end

  # A clock that steps back leaves seconds of the future, which are dropped as well.
  defp recent(seconds, now), do: Map.filter(seconds, fn {second, _} -> second in (now - @seconds)..now end)

  defp class(nil), do: nil
  defp class(status), do: div(status, 100)

  @doc "Returns the counters as the page shows them."
  @spec summary(t) :: map
  def summary(counters) do
    top =
      counters.names
      |> Enum.sort_by(fn {name, n} -> {-n, name} end)
      |> Enum.take(@top)
      |> Enum.map(fn {name, n} -> [name, n] end)

    counters
    |> Map.drop([:names, :other_names, :seconds])
    |> Map.put(:top, top)
    |> Map.put(:names, map_size(counters.names))
  end

  @doc """
  Returns the last 300 complete seconds up to `now`, oldest first: `[events, 2xx, 4xx, 5xx, others]`, or 0 for a second
  without a request.
  """
  @spec history(t, integer) :: [0 | [non_neg_integer]]
  def history(%{seconds: seconds}, now) do
    for second <- (now - @seconds)..(now - 1) do
      with {_, _, _, _, _} = counts <- Map.get(seconds, second, 0), do: Tuple.to_list(counts)
    end
  end
end
