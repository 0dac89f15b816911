defmodule BilldogEng.Client.Debug do
  @moduledoc false
  # Shows the state of a client, the calls that wait for it, and its queue.

  alias BilldogEng.Client.{Address, Native}

  @doc false
  # Returns a map, or `:no_client` if the process owns none:
  #
  #   * `:state` as in `stats/1`, `:since` for how many ms it has lasted, and the event that the client `:waits_for`
  #   * `:callers` - the calls that wait, each with its process and the number of undelivered events that it waits for
  #   * `:host`, `:max_queue_size` and `:next_attempt_in` (ms)
  #   * `:oldest` - the `DateTime` of the oldest event in memory, or nil
  #   * `:spool` - its `:events`, `:bytes` and the `:age` in ms of its oldest file, or nil
  #   * `:person_updates` - the same for these, or nil if there were none
  def of(pid) do
    with %{} = debug <- Native.debug(pid) do
      pids = GenServer.call(pid, :callers)
      debug |> lane(pids) |> Map.update!(:person_updates, &(&1 && lane(&1, pids)))
    end
  end

  defp lane(lane, pids) do
    callers = for {id, call, events} <- lane.callers, do: %{pid: pids[id], call: call, events: events}
    oldest = with ms when is_integer(ms) <- lane.oldest, do: time(ms)
    %{lane | callers: callers, host: Address.shown(lane.host), oldest: oldest, spool: spool(lane.spool)}
  end

  # A capture can have any time.
  defp time(ms), do: with({:ok, time} <- DateTime.from_unix(ms, :millisecond), do: time, else: (_ -> nil))

  defp spool(nil), do: nil
  defp spool({events, bytes, age}), do: %{events: events, bytes: bytes, age: age}
end
