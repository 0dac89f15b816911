defmodule BilldogEng.Client.Reporter do
  @moduledoc false
  # Logs what clients report that end after their owner, and keeps the library's application from stopping before all
  # of them have ended.

  use GenServer

  alias BilldogEng.Client.Native
  alias BilldogEng.Log.Writer

  # Waits for the clients, which all end within their :shutdown_timeout.
  def child_spec(_opts) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, []}, shutdown: :infinity}
  end

  def start_link do
    case GenServer.start_link(__MODULE__, [], name: __MODULE__) do
      {:error, {:already_started, pid}} ->
        # A client started it before the application did.
        GenServer.stop(pid, {:shutdown, :handed_over})
        start_link()

      started ->
        started
    end
  end

  # Starts a reporter if the application isn't running: in a script or a bare test.
  def ensure_started do
    if Process.whereis(__MODULE__) == nil, do: GenServer.start(__MODULE__, [], name: __MODULE__)
    :ok
  end

  # A name is removed so much later than the events of its client end: the person updates can end later.
  @forget_after :timer.minutes(10)

  @doc false
  # Keeps the name of the calling process's client for the lines after that process has ended.
  def keep_name(nil), do: :ok

  def keep_name(name) do
    :ets.insert(__MODULE__, {self(), name})
    :ok
  rescue
    # The reporter is being replaced: the lines go without the name.
    ArgumentError -> :ok
  end

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    :ets.new(__MODULE__, [:named_table, :public, write_concurrency: true])
    if Native.load_error() == nil, do: Native.report_to_me()
    {:ok, nil}
  end

  @impl true
  def handle_info({:billdogeng_ended, owner, lane, stopped, stats, unlogged}, state) do
    report(owner, lane, stopped, stats, unlogged)

    if lane == :event and :ets.member(__MODULE__, owner),
      do: Process.send_after(self(), {:forget_name, owner}, @forget_after)

    {:noreply, state}
  end

  def handle_info({:forget_name, owner}, state) do
    :ets.delete(__MODULE__, owner)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate({:shutdown, :handed_over}, _state), do: :ok

  def terminate(_reason, _state) do
    if Native.load_error() == nil do
      # Clients without a supervisor end with the VM.
      if stopping?(), do: Native.drain_all()
      wait()
    end
  end

  defp stopping?, do: match?({:stopping, _}, :init.get_status())

  defp wait do
    if Native.draining() > 0 do
      receive do
        {:billdogeng_ended, owner, lane, stopped, stats, unlogged} ->
          report(owner, lane, stopped, stats, unlogged)
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
      {:billdogeng_ended, owner, lane, stopped, stats, unlogged} ->
        report(owner, lane, stopped, stats, unlogged)
        report_all()
    after
      0 -> :ok
    end
  end

  defp name(owner) do
    case :ets.lookup(__MODULE__, owner) do
      [{_owner, name}] -> name
      [] -> nil
    end
  end

  # The owner may have ended before it logged all drops: one line names those that no line has named. Drops that the
  # app asked for need none.
  defp report(owner, lane, stopped, stats, unlogged) do
    name = name(owner)
    unlogged = Map.drop(unlogged, [:before_send, :purged, :disabled])
    if stats.queued > 0, do: Writer.write({:ended_with_spool, stats.queued}, name)

    if unlogged != %{} do
      {count, reasons} =
        if stopped > 0,
          do: {stopped, [:stopped]},
          else: {unlogged |> Map.values() |> Enum.sum(), Map.keys(unlogged)}

      stats = %{stats | dropped: Map.drop(stats.dropped, [:before_send, :purged])}
      Writer.write({:ended_with_drops, lane, count, reasons, stats}, name)
    end
  end
end
