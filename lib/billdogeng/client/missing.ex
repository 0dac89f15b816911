defmodule BilldogEng.Client.Missing do
  @moduledoc false
  # Captures under a name that no client has: they are lost, so they are counted, and the first one of each name is
  # logged. Names may be made at run time, so only some of them are kept.

  use GenServer

  alias BilldogEng.Log.Warning

  # Names with a counter of their own; further ones share one.
  @most_names 100
  @others :"other names"

  def start_link(_opts), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    :ets.new(__MODULE__, [:named_table, :public, write_concurrency: true])
    {:ok, nil}
  end

  @doc false
  # Counts one capture. Where the library's application isn't running there is no table: nothing is counted.
  def count(name) do
    :ets.update_counter(__MODULE__, name, 1)
    :ok
  rescue
    ArgumentError ->
      first(name)
      :ok
  end

  # Two callers may both find the table not yet full: a few names more do no harm.
  defp first(name) do
    cond do
      :ets.whereis(__MODULE__) == :undefined ->
        :ok

      :ets.info(__MODULE__, :size) < @most_names ->
        if :ets.insert_new(__MODULE__, {name, 1}), do: warn(name), else: count(name)

      :ets.update_counter(__MODULE__, @others, 1, {@others, 0}) == 1 ->
        Warning.log("captures are dropped under more than #{@most_names} names that no client has")

      true ->
        :ok
    end
  end

  defp warn(name) do
    # Nothing can be added to a VM that stops.
    unless match?({:stopping, _}, :init.get_status()) do
      Warning.log(
        "a capture for #{shown(name)} was dropped: no client has this name, so it was not started or has ended. " <>
          "Put #{child(name)} among the children of the app's supervisor, before those that capture; further " <>
          "ones are counted in BilldogEng.Analytics.missing/0"
      )
    end
  end

  defp child(name) do
    if is_atom(name) and Code.ensure_loaded?(name) and function_exported?(name, :__billdogeng__, 0),
      do: inspect(name),
      else: "{BilldogEng, name: #{shown(name)}, api_key: …}"
  end

  defp shown(name), do: inspect(name, limit: 5, printable_limit: 100)

  @doc false
  # A client has this name from now on. Should it end for good, that is worth a line again.
  def found(nil), do: :ok

  def found(name) do
    case :ets.take(__MODULE__, name) do
      [{_, count}] ->
        Warning.log("#{count} capture(s) for #{shown(name)} were dropped while no client had this name")

      [] ->
        :ok
    end
  rescue
    ArgumentError -> :ok
  end

  @doc false
  def counts do
    Map.new(:ets.tab2list(__MODULE__))
  rescue
    ArgumentError -> %{}
  end
end
