defmodule BilldogEng.Client.Reporter do
  @moduledoc false
  # Hears the last words of clients whose owner has ended, and keeps the library's application from
  # stopping before all of them have ended.

  use GenServer

  alias BilldogEng.Client.Native
  alias BilldogEng.Log.{Outage, Warning}
  require Logger

  # Every client ends by itself within its shutdown time-out; until then this waits.
  def child_spec(_opts) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, []}, shutdown: :infinity}
  end

  def start_link do
    case GenServer.start_link(__MODULE__, [], name: __MODULE__) do
      {:error, {:already_started, pid}} ->
        # One that a client started before the application did.
        GenServer.stop(pid, {:shutdown, :handed_over})
        start_link()

      started ->
        started
    end
  end

  # Where the application isn't running (a script, a bare test), clients have a reporter all the same.
  def ensure_started do
    if Process.whereis(__MODULE__) == nil, do: GenServer.start(__MODULE__, [], name: __MODULE__)
    :ok
  end

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    if Native.load_error() == nil, do: Native.report_to_me()
    {:ok, nil}
  end

  @impl true
  def handle_info({:billdogeng_ended, kind, stopped, stats, untold}, state) do
    report(kind, stopped, stats, untold)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate({:shutdown, :handed_over}, _state), do: :ok

  def terminate(_reason, _state) do
    if Native.load_error() == nil do
      # Clients that nobody supervises end with the VM.
      if stopping?(), do: Native.drain_all()
      wait()
    end
  end

  defp stopping?, do: match?({:stopping, _}, :init.get_status())

  defp wait do
    if Native.draining() > 0 do
      receive do
        {:billdogeng_ended, kind, stopped, stats, untold} -> report(kind, stopped, stats, untold)
      after
        100 -> :ok
      end

      wait()
    else
      report_all()
    end
  end

  defp report_all do
    receive do
      {:billdogeng_ended, kind, stopped, stats, untold} ->
        report(kind, stopped, stats, untold)
        report_all()
    after
      0 -> :ok
    end
  end

  # The owner may have ended with drops that it had still to sum up: one line names all that no line has named,
  # but for what the app itself took out. Where there is nothing of that kind nothing is logged.
  defp report(kind, stopped, stats, untold) do
    untold = Map.drop(untold, [:before_send, :purged, :disabled])

    if stats.queued > 0 do
      Logger.info(
        "[BilldogEng:analytics] a client whose process had ended left #{stats.queued} event(s) in its spool, " <>
          "to be sent by the next start"
      )
    end

    if untold != %{} do
      {count, why} =
        if stopped > 0,
          do: {stopped, "stopped"},
          else: {untold |> Map.values() |> Enum.sum(), untold |> Map.keys() |> Enum.join(", ")}

      dropped = Map.drop(stats.dropped, [:before_send, :purged])

      Warning.log(
        "a client whose process had ended dropped #{count} #{Outage.noun(kind)} (#{why}); " <>
          "captured #{stats.captured}, delivered #{stats.delivered}, dropped in all: #{reasons(dropped)}"
      )
    end
  end

  defp reasons(dropped) do
    dropped |> Enum.sort() |> Enum.map_join(", ", fn {reason, count} -> "#{count} #{reason}" end)
  end
end
