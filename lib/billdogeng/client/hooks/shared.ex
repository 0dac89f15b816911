defmodule BilldogEng.Client.Hooks.Shared do
  @moduledoc false
  # Keeps hooks that close over much where a capture reads them without a copy.
  #
  # A persistent term is read so, but to erase one costs a pass over all processes of the VM. So clients with the same
  # hooks share a term, nothing is erased when a client ends, and one that no client uses is erased by a sweep, at most
  # one a minute. Beyond the bound on terms a client's hooks are copied at each capture.

  use GenServer

  alias BilldogEng.Client.{Hooks, Native}

  @most 64
  @sweep :timer.minutes(1)

  def start_link(_opts), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc false
  # Has the hooks of `pid` kept, whose row is in the table of hooks already.
  def keep(pid), do: GenServer.cast(__MODULE__, {:keep, pid})

  @doc false
  def keys, do: for({{Hooks, _hash} = key, _hooks} <- :persistent_term.get(), do: key)

  @impl true
  def init([]) do
    # Of one before this that crashed.
    {:ok, schedule(%{keys: keys(), timer: nil})}
  end

  @impl true
  # Fetched here, for a message would copy it once more.
  def handle_cast({:keep, pid}, state) do
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

  # A row that has left the table stays out.
  defp use_by(pid, key, state) do
    :ets.update_element(Hooks, pid, {2, {:shared, key}})
    state
  end

  defp schedule(%{keys: [_ | _], timer: nil} = state),
    do: %{state | timer: Process.send_after(self(), :sweep, @sweep)}

  defp schedule(state), do: state
end
