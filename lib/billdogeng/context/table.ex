defmodule BilldogEng.Context.Table do
  @moduledoc false
  # Contexts, for tasks to find: no process is ever asked for its own.
  #
  #     {{:process, pid}, marker}   of a process that has put a context
  #     {marker, context}           false once the context was taken out
  #
  # A marker stands for one user in one process. Tasks inherit it in `$callers`, where it is found by standing there
  # twice. So a task has the context of the request that started it, whoever is served by the same process since. A
  # marker that was replaced, or whose process has ended, is kept for a while: tasks often ask late, and a web server may
  # log a crash once the request's process has ended.
  #
  # Only a process itself writes its rows. The server owns the table and deletes.

  use GenServer

  alias BilldogEng.Terms.Budget

  @kept_for :timer.seconds(5)

  def start_link(_opts), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true, write_concurrency: true])
    {:ok, nil}
  end

  # ── a process's own context ──

  def put(pid, marker, context) do
    # A table's copy of shared parts could take all the VM's memory. Tasks then find none.
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
    # Where the library's application isn't running there is no table, and tasks find nothing.
    ArgumentError -> :ok
  end

  # The row stays: a task of a task must not find what is further up.
  def clear(pid) do
    if marker = marker(pid), do: :ets.insert(__MODULE__, {marker, false})
    :ok
  rescue
    ArgumentError -> :ok
  end

  # ── `$callers` ──

  @doc false
  def mark(callers, nil), do: callers
  def mark(callers, marker), do: [marker, marker | callers]

  @doc false
  def unmark([marker, marker | callers], marker), do: callers
  def unmark(callers, _marker), do: callers

  @doc false
  # A marker that no context has; nil where there is no table.
  def nobody, do: Process.whereis(__MODULE__)

  @doc false
  # The context of the nearest marker; nil where that has none, or none any more.
  def of_callers([marker, marker | _]), do: context(marker)
  def of_callers([_pid | callers]), do: of_callers(callers)
  def of_callers([]), do: nil

  @doc false
  # The context of that process, whoever asks; nil where it has none.
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
