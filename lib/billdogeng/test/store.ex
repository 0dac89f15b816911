defmodule BilldogEng.Test.Store do
  @moduledoc false
  # The events of tests, and their owners.
  #
  #     capture ──▶ NIF: JSON, and back as a term ──▶ file/2: who answers for this process? ──▶ table of events
  #                                                    │ itself, its $callers, its $ancestors, its parents;
  #                                                    │ allowances; who shares
  #                                                    └─ nobody: counted as unowned, and kept nowhere
  #
  # Captures and looks go to the tables directly. The process owns them, and takes out what an owner leaves.

  use GenServer

  alias BilldogEng.Client.Native

  # {{:owner, pid}} · {{:allowed, client, pid}, owner} · {{:lazy, client, ref}, owner, fun} ·
  # {{:shared, client | :all}, owner} · {{:waiter, owner, ref}, pid} · {:unowned, count}
  @relations __MODULE__.Relations
  # {{owner, number}, client, event}
  @events __MODULE__.Events

  # ── the process ──

  # Where nobody tests, there is none. Its tables are there once this has answered.
  def ensure_started do
    if Process.whereis(__MODULE__) == nil, do: GenServer.start(__MODULE__, [], name: __MODULE__)
    GenServer.call(__MODULE__, :ready, :infinity)
  end

  @impl true
  def init([]) do
    for table <- [@relations, @events] do
      :ets.new(table, [:ordered_set, :named_table, :public, read_concurrency: true, write_concurrency: true])
    end

    :ets.insert(@relations, {:unowned, 0})
    {:ok, nil}
  end

  def own(pid), do: call({:own, pid})

  # `:ok`, or `{:error, owner}` where `pid` is another's.
  def allow(client, owner, pid_or_fun), do: call({:allow, client, owner, pid_or_fun})

  def share(client, owner), do: call({:share, client, owner})

  defp call(request) do
    ensure_started()
    GenServer.call(__MODULE__, request, :infinity)
  end

  @impl true
  def handle_call(:ready, _from, state), do: {:reply, :ok, state}
  def handle_call({:own, pid}, _from, state), do: {:reply, register(pid), state}

  def handle_call({:share, client, owner}, _from, state) do
    register(owner)
    :ets.insert(@relations, {{:shared, client}, owner})
    {:reply, :ok, state}
  end

  def handle_call({:allow, client, owner, fun}, _from, state) when is_function(fun) do
    owner = answering(client, owner) || register_owner(owner)
    :ets.insert(@relations, {{:lazy, client, make_ref()}, owner, fun})
    {:reply, :ok, state}
  end

  def handle_call({:allow, client, owner, pid}, _from, state) do
    owner = answering(client, owner) || register_owner(owner)

    case answering(client, pid) do
      other when other not in [nil, owner] ->
        {:reply, {:error, other}, state}

      _ ->
        :ets.insert(@relations, {{:allowed, client, pid}, owner})
        {:reply, :ok, state}
    end
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    # First of all: a capture that comes later finds that there is no such owner.
    :ets.delete(@relations, {:owner, pid})
    :ets.match_delete(@events, {{pid, :_}, :_, :_})
    :ets.match_delete(@relations, {{:allowed, :_, :_}, pid})
    :ets.match_delete(@relations, {{:lazy, :_, :_}, pid, :_})
    :ets.match_delete(@relations, {{:shared, :_}, pid})
    :ets.match_delete(@relations, {{:waiter, pid, :_}, :_})
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp register(pid) do
    if :ets.insert_new(@relations, {{:owner, pid}}), do: Process.monitor(pid)
    :ok
  end

  defp register_owner(pid) do
    register(pid)
    pid
  end

  # ── captures ──

  # Of the process that captured it. A message to the client's process is that process's event.
  def file(client, lane, event) do
    number = :erlang.unique_integer([:monotonic])
    owner = owner(client)

    if owner do
      :ets.insert(@events, {{owner, number}, client, event})

      # It may have ended since it was found, and been cleaned up after.
      if owner?(owner) do
        for [pid, ref] <- :ets.match(@relations, {{:waiter, owner, :"$2"}, :"$1"}),
            do: send(pid, {ref, :captured})
      else
        :ets.delete(@events, {owner, number})
        unowned(client, lane)
      end
    else
      unowned(client, lane)
    end

    :ok
  end

  defp unowned(client, lane) do
    :ets.update_counter(@relations, :unowned, 1)
    Native.disown(client, lane)
  end

  def unowned, do: :ets.lookup_element(@relations, :unowned, 2)

  # ── who answers for the calling process ──

  # Its owner with `client`, a pid or `:all`; nil where there is none.
  def owner(client) do
    family = family()

    Enum.find_value(family, &answering(client, &1)) || spawned(client, self()) ||
      lazily_allowed(client, family) || sharing(client) || sharing(:all)
  end

  # By a plain spawn, which sets none of a family's keys. Only as far up as the parents live.
  defp spawned(client, pid) do
    case Process.info(pid, :parent) do
      {:parent, parent} when is_pid(parent) and node(parent) == node() ->
        answering(client, parent) || spawned(client, parent)

      _ ->
        nil
    end
  end

  defp answering(client, pid) do
    if owner?(pid), do: pid, else: value({:allowed, client, pid})
  end

  # A function of the test's own: whatever it does, the capture is none the worse.
  defp lazily_allowed(client, family) do
    Enum.find_value(:ets.match(@relations, {{:lazy, client, :_}, :"$1", :"$2"}), fn [owner, fun] ->
      if Enum.any?(List.wrap(resolved(fun)), &(&1 in family)), do: owner
    end)
  end

  defp resolved(fun) do
    fun.()
  catch
    _, _ -> nil
  end

  defp sharing(client), do: value({:shared, client})

  # The nearest first. Ancestors may be names.
  defp family do
    pids =
      for process <- Process.get(:"$callers", []) ++ Process.get(:"$ancestors", []),
          pid = if(is_atom(process), do: Process.whereis(process), else: process),
          do: pid

    [self() | pids]
  end

  defp owner?(pid), do: :ets.member(@relations, {:owner, pid})

  defp value(key) do
    case :ets.lookup(@relations, key) do
      [{_key, value}] -> value
      [] -> nil
    end
  end

  # ── looks ──

  # The events of `owner` by `client`, or by `:all`, in their order.
  def events(owner, client) do
    client = if client == :all, do: :_, else: client
    for [event] <- :ets.match(@events, {{owner, :_}, client, :"$1"}), do: event
  end

  # The first event that matches, once there is one: `{:ok, event}`, or `:none` after `timeout` ms.
  def await(owner, client, matches?, timeout) do
    ref = make_ref()
    # Before the first look, so that nothing comes in between unseen.
    :ets.insert(@relations, {{:waiter, owner, ref}, self()})
    deadline = System.monotonic_time(:millisecond) + timeout

    try do
      look(fn -> Enum.find(events(owner, client), matches?) end, ref, deadline)
    after
      :ets.delete(@relations, {:waiter, owner, ref})
      flush(ref)
    end
  end

  defp look(find, ref, deadline) do
    if event = find.() do
      {:ok, event}
    else
      receive do
        {^ref, :captured} -> look(find, ref, deadline)
      after
        max(deadline - System.monotonic_time(:millisecond), 0) -> :none
      end
    end
  end

  defp flush(ref) do
    receive do
      {^ref, :captured} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
