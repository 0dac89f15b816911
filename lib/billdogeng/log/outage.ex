defmodule BilldogEng.Log.Outage do
  @moduledoc false
  # Decides which log lines failing flushes are worth. Pure: the caller passes in what happens and when.
  #
  #     a flush fails      a warning the first time; then, as long as flushes fail, one in ten minutes at most
  #     a flush delivers   one info line after a warning
  #
  # Flushes that fail and succeed in turns get one warning in ten minutes, too.

  # Ms between two warnings.
  @quiet :timer.minutes(10)

  # `failed` counts the failed flushes in a row; `announced` is true after a warning that no info line has followed.
  defstruct failed: 0, announced: false, quiet_until: nil

  @doc false
  # Adds a failed flush. Returns `{outage, nil}`, or `{outage, {:first | :still, failed}}` if it is to be logged.
  def failed(%__MODULE__{} = outage, now) do
    outage = %{outage | failed: outage.failed + 1}

    if outage.quiet_until == nil or now >= outage.quiet_until do
      which = if outage.announced, do: :still, else: :first
      {%{outage | announced: true, quiet_until: now + @quiet}, {which, outage.failed}}
    else
      {outage, nil}
    end
  end

  @doc false
  # Adds a flush that delivered. Returns `{outage, nil}`, or `{outage, failed}` if the end of the outage is to be logged.
  def delivered(%__MODULE__{failed: 0} = outage), do: {outage, nil}
  def delivered(outage), do: {over(outage), if(outage.announced, do: outage.failed)}

  @doc false
  # Ends the outage without a line: the ingest responds and stores nothing, so the lines of the quota take over.
  def over(outage), do: %{outage | failed: 0, announced: false}
end
