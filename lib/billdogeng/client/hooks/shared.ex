defmodule BilldogEng.Client.Hooks.Shared do
  @moduledoc false
  # Keeps the hooks of clients where their captures find them: small ones in a table by the owner's pid, large ones in
  # persistent terms. The native library has all of them too, but in the external format, which takes three times as
  # long to read.
  #
  # A persistent term is read without a copy, but to erase one takes a pass over all processes of the VM. So clients with
  # the same hooks share a term, none is erased when a client ends, and a sweep erases at most one unused term a minute.
  # If there are too many terms, a client's hooks are copied at each capture.

  use GenServer

  alias BilldogEng.Client.{Hooks, Native, PidTable}
  alias BilldogEng.Terms.Budget

  # Hooks of more terms than this are large.
  @small 200
  @most 64
  @sweep :timer.minutes(1)

  def start_link(_opts), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc false
  # Returns the hooks of the client that `pid` owns, or nil.
  def of(pid) do
    case :ets.lookup(Hooks, pid) do
      [{_pid, {:shared, key}}] -> :persistent_term.get(key, nil) || Native.hooks(pid)
      [{_pid, :native}] -> Native.hooks(pid)
      [{_pid, hooks}] -> hooks
      [] -> pid |> Native.hooks() |> keep(pid)
    end
  rescue
    # No table.
    ArgumentError -> Native.hooks(pid)
  end

  defp keep(nil, _pid), do: nil

  defp keep(hooks, pid) do
    small? = Budget.walk_copied(hooks, @small) >= 0

    if :ets.insert_new(Hooks, {pid, if(small?, do: hooks, else: :native)}) do
      PidTable.watch(Hooks, pid)
      unless small?, do: GenServer.cast(__MODULE__, {:share, pid})
    end

    hooks
  end

  @doc false
  def keys, do: for({{Hooks, _hash} = key, _hooks} <- :persistent_term.get(), do: key)

  @impl true
  def init([]) do
    # Those of a predecessor that crashed.
    {:ok, schedule(%{keys: keys(), timer: nil})}
  end

  @impl true
  # Read here: a message would copy them once more.
  def handle_cast({:share, pid}, state) do
    hooks = Native.hooks(pid)
    key = {Hooks, :erlang.phash2(hooks)}

    case :persistent_term.get(key, nil) do
      _any when hooks == nil ->
        {:noreply, state}

      ^hooks ->
        {:noreply, use_by(pid, key, state)}

      nil when length(state.keys) < @most ->
        :persistent_term.put(key, hooks)
        {:noreply, use_by(pid, key, schedule(%{state | keys: [key | state.keys]}))}

      _full_or_other ->
        {:noreply, state}
    end
  end

  @impl true
  def handle_info(:sweep, state) do
    used = for [key] <- :ets.match(Hooks, {:_, {:shared, :"$1"}}), do: key

    keys =
      case state.keys -- used do
        [] ->
          state.keys

        [unused | _] ->
          :persistent_term.erase(unused)
          List.delete(state.keys, unused)
      end

    {:noreply, schedule(%{keys: keys, timer: nil})}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Adds no row: the client may have ended.
  defp use_by(pid, key, state) do
    :ets.update_element(Hooks, pid, {2, {:shared, key}})
    state
  end

  defp schedule(%{keys: [_ | _], timer: nil} = state),
    do: %{state | timer: Process.send_after(self(), :sweep, @sweep)}

  defp schedule(state), do: state
end
