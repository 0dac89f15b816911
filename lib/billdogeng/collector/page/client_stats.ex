defmodule BilldogEng.Collector.Page.ClientStats do
  @moduledoc false
  # The counters of a client in this VM, beside the faults of the page.

  alias BilldogEng.Analytics

  @doc "Returns the counters of the client, nil without a client, and `%{ended: true}` once it is not alive."
  @spec of(nil | GenServer.server()) :: nil | map
  def of(nil), do: nil

  def of(client) do
    stats = Analytics.stats(client)

    %{
      captured: stats.captured,
      delivered: stats.delivered,
      queued: stats.queued,
      queued_bytes: stats.queued_bytes,
      dropped: stats.dropped,
      retries: stats.retries,
      state: stats.state
    }
  catch
    :exit, _ -> %{ended: true}
  end
end
