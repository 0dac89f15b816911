defmodule BilldogEng.Context.Table do
  @moduledoc false
  # The contexts of all processes, so that tasks find them without a call to another process.
  #
  #     {{:process, pid}, marker}   for a process that put a context
  #     {marker, context}           false after the context was removed
  #
  # A marker stands for one user in one process. Tasks inherit it in `$callers`, where it occurs twice in a row. So a task
  # finds the context of the request that started it, also if the same process serves another user by then. A marker that
  # was replaced, or that belongs to a process that ended, is kept for a while: tasks may start their work late, and a web
  # server may log a crash after the request's process has ended.
  #
  # Each process writes only its own rows. The server owns the table and deletes rows.

  use GenServer

  alias BilldogEng.Terms.Budget

  @kept_for :timer.seconds(5)

  def start_link(_opts), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true, write_concurrency: true])
    {:ok, nil}
  end

  # ── the context of a process ──

  def put(pid, marker, context) do
    # A copy into a table loses shared parts, so a large context could use all memory. Tasks do not find such a one.
    context = if Budget.walk_copied(context, Budget.most()) >= 0, do: context, else: false
    :ets.insert(__MODULE__, {marker, context})

    case marker(pid) do
      ^marker ->
        :ok

      before ->
        :ets.insert(__MODULE__, {{:process, pid}, marker})
        GenServer.cast(__MODULE__, if(before, do: {:replaced, before}, else: {:watch, pid}))
    end
  rescue
    # Without the library's application there is no table, and tasks find nothing.
    ArgumentError -> :ok
  end

  # The row stays, so that a task of a task does not find the context of a process further up.
  def clear(pid) do
    if marker = marker(pid), do: :ets.insert(__MODULE__, {marker, false})
    :ok
  rescue
    ArgumentError -> :ok
  end

  # ── `$callers` ──

  def mark(callers, nil), do: callers
  def mark(callers, marker), do: [marker, marker | callers]

  def unmark([marker, marker | callers], marker), do: callers
  def unmark(callers, _marker), do: callers

  # Returns a marker without a context, or nil without a table.
  def empty_marker, do: Process.whereis(__MODULE__)

  # Returns the context of the nearest marker, or nil.
  def of_callers([marker, marker | _]), do: context(marker)
  def of_callers([_pid | callers]), do: of_callers(callers)
  def of_callers([]), do: nil

  # Returns the context of any process, or nil.
  def of(pid) do
    if marker = marker(pid), do: context(marker)
  rescue
    ArgumentError -> nil
  end

  defp marker(pid) do
    case :ets.lookup(__MODULE__, {:process, pid}) do
      [{_, marker}] -> marker
      [] -> nil
    end
  end

  defp context(marker) do
    case :ets.lookup(__MODULE__, marker) do
      [{_, %{} = context}] -> context
      _ -> nil
    end
  rescue
    ArgumentError -> nil
  end

  # ── deletion ──

  @impl true
  def handle_cast({:watch, pid}, state) do
    Process.monitor(pid)
    {:noreply, state}
  end

  def handle_cast({:replaced, marker}, state) do
    forget_later(marker)
    {:noreply, state}
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    forget_later({:process, pid})
    if marker = marker(pid), do: forget_later(marker)
    {:noreply, state}
  end

  def handle_info({:forget, key}, state) do
    :ets.delete(__MODULE__, key)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp forget_later(key), do: Process.send_after(self(), {:forget, key}, @kept_for)
end
