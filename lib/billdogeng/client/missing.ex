defmodule BilldogEng.Client.Missing do
  @moduledoc false
  # Counts the captures for names that no client has, which are lost, and logs the first one of each name. Apps may
  # create names at run time, so only some of them are kept.

  use GenServer

  alias BilldogEng.Log.Writer

  # Names with their own counter; further names share one.
  @most_names 100
  @others :"other names"

  def start_link(_opts), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    :ets.new(__MODULE__, [:named_table, :public, write_concurrency: true])
    {:ok, nil}
  end

  # Counts one capture. Without the library's application there is no table, and nothing is counted.
  def count(name) do
    :ets.update_counter(__MODULE__, name, 1)
    :ok
  rescue
    ArgumentError ->
      first(name)
      :ok
  end

  # Two callers may both see that the table is not full. It then gets a few more names, which does no harm.
  defp first(name) do
    cond do
      :ets.whereis(__MODULE__) == :undefined ->
        :ok

      :ets.info(__MODULE__, :size) < @most_names ->
        if :ets.insert_new(__MODULE__, {name, 1}), do: log_first(name), else: count(name)

      :ets.update_counter(__MODULE__, @others, 1, {@others, 0}) == 1 ->
        Writer.write({:no_clients, @most_names})

      true ->
        :ok
    end
  end

  defp log_first(name) do
    # While the VM stops, the line's remedy is none.
    unless match?({:stopping, _}, :init.get_status()), do: Writer.write({:no_client, name, child(name)})
  end

  defp child(name) do
    if is_atom(name) and Code.ensure_loaded?(name) and function_exported?(name, :__billdogeng__, 0),
      do: :module,
      else: :tuple
  end

  # Removes the count of a name that a client has from now on. If that client ends for good, there is a line again.
  def found(nil), do: :ok

  def found(name) do
    case :ets.take(__MODULE__, name) do
      [{_, count}] ->
        Writer.write({:client_found, name, count})

      [] ->
        :ok
    end
  rescue
    ArgumentError -> :ok
  end

  def counts do
    Map.new(:ets.tab2list(__MODULE__))
  rescue
    ArgumentError -> %{}
  end
end
