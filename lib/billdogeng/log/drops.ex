defmodule BilldogEng.Log.Drops do
  @moduledoc false
  # Decides when drops are worth a log line. Pure: a map from a lane and a reason to the drops not yet logged.
  #
  #     the first drop of a reason      logged at once
  #     drops within the next minute    one sum at its end; none ends the minutes

  @doc false
  # Adds `count` drops. Returns `{drops, count}` if they are to be logged now and summed up later, else `{drops, nil}`.
  def add(drops, key, count) do
    case drops do
      %{^key => unlogged} -> {%{drops | key => unlogged + count}, nil}
      _ -> {Map.put(drops, key, 0), count}
    end
  end

  @doc false
  # Ends a minute. Returns as `add/3`.
  def summarise(drops, key) do
    case drops do
      %{^key => unlogged} when unlogged > 0 -> {%{drops | key => 0}, unlogged}
      _ -> {Map.delete(drops, key), nil}
    end
  end
end
