defmodule BilldogEng.Log.Outage do
  @moduledoc false
  # Which log lines failing flushes are worth. Pure: the owner passes in what happens and when, and logs the lines.
  #
  #     a flush fails      the first time, a warning; then, while it lasts, at most one summary in ten minutes
  #     a flush delivers   one info line after the warning
  #
  # Flushes that fail and succeed in turns get one warning in ten minutes too.

  alias BilldogEng.Log.Diagnosis

  # Ms between two warnings.
  @quiet :timer.minutes(10)

  # `failed` flushes in a row; `announced` by a warning that no info line has followed yet.
  defstruct failed: 0, announced: false, quiet_until: nil

  @doc false
  # A flush failed with `error`, and `count` events (or person updates, by `words`) are queued again.
  def failed(%__MODULE__{} = outage, count, error, words, now) do
    outage = %{outage | failed: outage.failed + 1}

    if outage.quiet_until == nil or now >= outage.quiet_until do
      line = warning(outage, count, error, words)
      {%{outage | announced: true, quiet_until: now + @quiet}, {:warning, line}}
    else
      {outage, nil}
    end
  end

  @doc false
  # A flush delivered `count`.
  def delivered(%__MODULE__{failed: 0} = outage, _count, _words), do: {outage, nil}

  def delivered(outage, count, words) do
    line =
      "flushes to #{words.route.host} succeed again, after #{outage.failed} that failed: " <>
        "delivered #{count} #{words.noun}"

    {%{outage | failed: 0, announced: false}, if(outage.announced, do: {:info, line})}
  end

  @doc false
  # The ingest answers, and stores nothing: the lines of a suspension take over.
  def over(outage), do: %{outage | failed: 0, announced: false}

  defp warning(outage, count, error, words) do
    {cause, remedy} = Diagnosis.of(error, words.route)

    "flushes to #{words.route.host} #{failing(outage)}: #{cause}. #{count} #{words.noun} of the last one are " <>
      "kept #{words.kept}, and tried again. What to do: #{remedy}"
  end

  defp failing(%{announced: true, failed: failed}), do: "still fail, #{failed} in a row"
  defp failing(%{failed: 1}), do: "fail"
  defp failing(%{failed: failed}), do: "fail, #{failed} in a row"

  @doc false
  # What the lines of one kind have in common: by which way requests go, the noun, and where what failed is kept.
  def words(kind, route, native) do
    kept =
      cond do
        kind == :person_update -> "in memory, up to 1000 of them"
        native.spool_dir -> "on disk, up to :max_spool_bytes"
        most = native.max_queue_size -> "in memory, up to :max_queue_size (#{most})"
        true -> "in memory, up to :max_queue_bytes"
      end

    %{route: route, noun: noun(kind), kept: kept}
  end

  @doc false
  def noun(:event), do: "event(s)"
  def noun(:person_update), do: "person update(s)"
end
