defmodule BilldogEng.Client.Debug do
  @moduledoc false
  # What a client waits for, and who waits for it.

  alias BilldogEng.Client.Native

  @doc false
  # Returns the `:state` of `stats/1`, for how many ms it has lasted (`:since`), what the client `:waits_for`, and the calls
  # that wait (`:callers`), each with its process and the number of undelivered events that it waits for. The same of the
  # person updates, or nil if there were none. Returns `:no_client` if the process owns none.
  def of(pid) do
    with %{} = debug <- Native.debug(pid) do
      pids = GenServer.call(pid, :callers)
      debug |> with_pids(pids) |> Map.update!(:person_updates, &(&1 && with_pids(&1, pids)))
    end
  end

  defp with_pids(lane, pids) do
    %{
      lane
      | callers: for({id, call, events} <- lane.callers, do: %{pid: pids[id], call: call, events: events})
    }
  end
end
