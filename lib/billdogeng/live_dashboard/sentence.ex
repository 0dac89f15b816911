defmodule BilldogEng.LiveDashboard.Sentence do
  @moduledoc false
  # The state of a client in words: pure functions.

  alias BilldogEng.Log.Diagnosis

  # A response that takes longer than this is worth a word.
  @slow 2_000

  @doc false
  # Returns `{level, state, remedy}`: `:good`, `:warning` or `:bad`; a sentence; and what to do, or nil.
  def of(%{stats: stats, debug: debug} = view) do
    {level, text, remedy} = state(stats, debug, view)

    {level, capitalised(text) <> "; " <> queue(stats, debug, view) <> ".",
     remedy && capitalised(remedy) <> "."}
  end

  defp state(%{mode: :disabled}, _debug, _view) do
    {:warning, "disabled: nothing is sent, and captures are only counted",
     "set :api_key and mode: :live, or call set_mode/2"}
  end

  defp state(%{mode: :test}, _debug, _view), do: {:warning, "test mode: nothing is sent", nil}

  defp state(%{state: :draining}, _debug, _view),
    do: {:warning, "draining: the client's process has ended, and its queue is being sent", nil}

  defp state(%{state: :suspended} = stats, _debug, view) do
    {:bad, "suspended: the project's quota is used up, the next try is at #{next(stats, view)}",
     "raise the project's quota, or wait for its next period; events captured meanwhile are dropped (quota)"}
  end

  defp state(%{state: :backing_off} = stats, debug, view) do
    {cause, remedy} = failure(stats, debug)
    {:bad, "backing off: #{cause}, next try at #{next(stats, view)}", remedy}
  end

  defp state(%{state: :waiting} = stats, debug, view) do
    {cause, remedy} = failure(stats, debug)
    {:bad, "retrying: #{cause}, next try at #{next(stats, view)}", remedy}
  end

  defp state(%{state: :in_flight} = stats, %{since: since} = debug, _view) when since > @slow do
    {:warning,
     "waiting #{duration(since)} for the response of #{name(debug.host)} to #{events(stats.in_flight)}",
     "the ingest, or the network before it, is slow; a request ends after :request_timeout"}
  end

  defp state(%{state: :in_flight} = stats, debug, _view),
    do: {:good, "sending #{events(stats.in_flight)} to #{name(debug.host)}", nil}

  defp state(%{last_error: error, last_success: success} = stats, debug, _view) when error != nil do
    if success == nil or DateTime.compare(error.time, success) == :gt do
      {cause, remedy} = failure(stats, debug)
      {:bad, "the last request failed: #{cause}", remedy}
    else
      {:good, "idle: the last request succeeded", nil}
    end
  end

  defp state(%{last_success: nil}, _debug, _view), do: {:good, "idle: nothing was sent yet", nil}
  defp state(_stats, _debug, _view), do: {:good, "idle: the last request succeeded", nil}

  defp failure(%{last_error: nil}, _debug), do: {"the last flush failed", nil}

  defp failure(%{last_error: error}, debug) do
    {cause, remedy} = diagnosis(error, debug.host)
    short = if error.status > 0, do: "#{error.status} from #{name(debug.host)}", else: cause
    {short, remedy}
  end

  @doc false
  # Returns the probable cause of an error and the remedy.
  def diagnosis(error, host),
    do: Diagnosis.of(Map.take(error, [:message, :status, :code]), %{host: host, proxy: nil, variable: nil})

  defp queue(%{queued: 0}, _debug, _view), do: "nothing is queued"

  defp queue(stats, debug, view) do
    "#{count(stats.queued)}#{most(debug)} queued" <> oldest(debug, view)
  end

  @doc false
  # The limit of the queue. With a spool the limit is that of the spool, in bytes.
  def most(%{max_queue_size: most, spool: nil}) when is_integer(most), do: " of #{count(most)}"
  def most(_debug), do: ""

  defp oldest(debug, view) do
    case age(debug, view) do
      nil -> ""
      ms -> ", oldest #{duration(ms)}"
    end
  end

  @doc false
  # Returns the age of the oldest event in ms, or nil.
  def age(%{oldest: oldest, spool: spool}, %{now: now}) do
    ages = [oldest && max(DateTime.diff(now, oldest, :millisecond), 0), spool && spool.age]
    ages |> Enum.reject(&is_nil/1) |> Enum.max(fn -> nil end)
  end

  defp next(%{next_attempt_in: nil}, _view), do: "any moment"

  defp next(%{next_attempt_in: ms}, %{now: now}),
    do:
      now
      |> DateTime.add(ms, :millisecond)
      |> DateTime.to_time()
      |> Time.truncate(:second)
      |> Time.to_iso8601()

  defp name(host), do: URI.parse(host).host || host

  defp events(1), do: "1 event"
  defp events(n), do: "#{count(n)} events"

  @doc false
  # 1234567 as "1,234,567".
  def count(n) do
    n
    |> Integer.digits()
    |> Enum.reverse()
    |> Enum.chunk_every(3)
    |> Enum.map_join(",", &Enum.join/1)
    |> String.reverse()
  end

  @doc false
  def bytes(n) when n < 1024, do: "#{n} B"
  def bytes(n) when n < 1024 * 1024, do: "#{Float.round(n / 1024, 1)} KiB"
  def bytes(n), do: "#{Float.round(n / 1024 / 1024, 1)} MiB"

  @doc false
  def duration(ms) when ms < 60_000, do: "#{div(ms, 1_000)} s"
  def duration(ms) when ms < 3_600_000, do: "#{div(ms, 60_000)} min"
  def duration(ms) when ms < 172_800_000, do: "#{div(ms, 3_600_000)} h"
  def duration(ms), do: "#{div(ms, 86_400_000)} days"

  @doc false
  def capitalised(<<first::utf8, rest::binary>>), do: String.upcase(<<first::utf8>>) <> rest
end
