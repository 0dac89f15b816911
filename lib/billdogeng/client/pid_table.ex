defmodule BilldogEng.Client.PidTable do
  @moduledoc false
  # A table whose rows are of processes, and leave with them. Whoever may write a row does; the process here does
  # no more than to own the table and to drop the rows of processes that have died.
  #
  # Where the library's application isn't running there is no table, and its users do without.

  use GenServer

  def child_spec(table), do: %{id: table, start: {__MODULE__, :start_link, [table]}}

  def start_link(table), do: GenServer.start_link(__MODULE__, table, name: table)

  # Of a row that is in the table already. A process that has died by then loses it all the same.
  def watch(table, pid), do: GenServer.cast(table, {:watch, pid})

  @impl true
  def init(table) do
    :ets.new(table, [:named_table, :public, read_concurrency: true, write_concurrency: true])
    {:ok, table}
  end

  @impl true
  def handle_cast({:watch, pid}, table) do
    Process.monitor(pid)
    {:noreply, table}
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _reason}, table) do
    :ets.delete(table, pid)
    {:noreply, table}
  end

  def handle_info(_other, table), do: {:noreply, table}
end
