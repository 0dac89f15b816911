defmodule BilldogEng.Client.Owner do
  @moduledoc false
  # The process that a client belongs to: its pid is the client's address, its end is the client's end.
  #
  # It handles the original's messages, passes calls to the flush thread and replies to their callers, and logs the
  # flush thread's notices: `BilldogEng.Log.Notices` decides which lines they are worth. Captures don't pass through
  # it. It does not trap exits.

  use GenServer

  alias BilldogEng.Client.{Capture, Missing, Native, Options, PersonUpdate, Reporter}
  alias BilldogEng.Error
  alias BilldogEng.Log.{Notices, Writer}
  alias BilldogEng.Telemetry.Emitter
  alias BilldogEng.Test.Store

  # The handle is only held: the client drains once nothing holds it any more.
  defstruct [
    :handle,
    :mode,
    :name,
    :sleep_fn,
    :notices,
    calls: %{},
    sleepers: %{}
  ]

  # The process takes its name itself, once it has its client: by a name that is known captures reach one. Those that
  # went to the mailbox of a process without one would be overtaken by the next, and be later than they were.
  def start_link(options, name) do
    with nil <- holder(name),
         :ignore <- GenServer.start_link(__MODULE__, {options, name}) do
      {:error, {:already_started, holder(name)}}
    else
      pid when is_pid(pid) -> {:error, {:already_started, pid}}
      started -> started
    end
  end

  defp holder(nil), do: nil
  defp holder(name), do: GenServer.whereis(name)

  @impl true
  def init({{:ok, %Options{} = options}, name}) do
    with nil <- load_error(options.mode),
         :ok <- Reporter.ensure_started(),
         :ok <- if(options.mode == :test, do: Store.ensure_started(), else: :ok),
         {:ok, handle} <- start(options),
         :ok <- Reporter.keep_name(if(options.mode == :live, do: name)),
         :ok <- register(name) do
      await_spool(options)
      Missing.found(name)

      {:ok,
       %__MODULE__{
         handle: handle,
         mode: options.mode,
         name: name,
         sleep_fn: options.transport.sleep_fn,
         notices: Notices.new(options.transport, options.native, options.enable_logging)
       }}
    else
      :taken -> :ignore
      {:error, reason} -> {:stop, Error.new("the client can't be started: #{reason}", 0, "NOT_STARTED")}
      reason -> {:stop, Error.new("the native library can't be loaded: #{reason}", 0, "NOT_LOADED")}
    end
  end

  # A disabled client needs none: then its captures are not counted.
  defp load_error(:disabled), do: nil
  defp load_error(_mode), do: if(reason = Native.load_error(), do: "#{reason}: #{Native.load_remedy()}")

  # An exception would carry the arguments, and with them the key, into crash reports.
  defp start(options) do
    if Native.load_error(),
      do: {:ok, nil},
      else: Native.start(options.native, options.hooks, Emitter.label(options.name))
  rescue
    _ -> {:error, "the native library does not accept the value of an option"}
  end

  # As `GenServer.start_link/3` does it.
  defp register(nil), do: :ok

  defp register({:via, module, name}), do: registered(module.register_name(name, self()))
  defp register({:global, name}), do: registered(:global.register_name(name, self()))

  defp register(name) do
    registered(Process.register(self(), name))
  rescue
    ArgumentError -> :taken
  end

  defp registered(answer), do: if(answer in [true, :yes], do: :ok, else: :taken)

  # Whoever starts a client finds in its accounts what the spool has, unless the disk takes longer than some seconds.
  # Captures don't wait for that.
  defp await_spool(%Options{native: %{spool_dir: nil}}), do: :ok
  defp await_spool(_options), do: receive(do: (:billdogeng_open -> :ok))

  # ── the original's messages ──

  @impl true
  def handle_cast({:enqueue, distinct_id, event, {:with_groups, properties, groups}}, state) do
    Capture.item(self(), :event, {distinct_id, event, properties, groups, nil}, :with_groups)
    {:noreply, state}
  end

  def handle_cast({:enqueue, distinct_id, event, {:raw, properties}}, state) do
    Capture.item(self(), :event, {distinct_id, event, properties, %{}, nil}, :raw)
    {:noreply, state}
  end

  # Not the original's: from a caller that found no client of this process.
  def handle_cast({:set_person_properties, distinct_id, operations}, state) do
    PersonUpdate.enqueue(self(), distinct_id, operations)
    {:noreply, state}
  end

  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_call(:flush, from, state), do: {:noreply, command(:flush, from, state)}
  def handle_call(:queue_length, from, state), do: {:noreply, command(:settle, from, state)}
  def handle_call(:shutdown, from, state), do: {:noreply, command(:shutdown, from, state)}
  def handle_call(:purge, from, state), do: {:noreply, command(:purge, from, state)}
  def handle_call(:stats, _from, %{handle: nil} = state), do: {:reply, no_stats(), state}
  def handle_call(:stats, _from, state), do: {:reply, Native.stats(self()), state}

  # The process that each call came from.
  def handle_call(:callers, _from, state) do
    {:reply, Map.new(state.calls, fn {id, {{pid, _tag}, _replies, _answer}} -> {id, pid} end), state}
  end

  def handle_call(_other, _from, state), do: {:noreply, state}

  @impl true
  def handle_info({:billdogeng_updates, lane}, state) do
    # To make terms of long ones takes a dirty scheduler.
    case with(:dirty <- Native.updates(self(), lane), do: Native.updates_dirty(self(), lane)) do
      {notices, missed, sleep, replies} ->
        now = System.monotonic_time(:millisecond)

        state =
          state.notices |> Notices.handle(lane, notices, missed, now) |> carry_out(state) |> sleep(sleep)

        {:noreply, Enum.reduce(replies, state, &reply/2)}

      :no_client ->
        {:noreply, state}
    end
  end

  def handle_info(:flush_tick, state) do
    Native.command(self(), :tick, 0)
    {:noreply, state}
  end

  def handle_info({:DOWN, ref, :process, _pid, _reason}, state) when is_map_key(state.sleepers, ref) do
    {id, sleepers} = Map.pop!(state.sleepers, ref)
    Native.command(self(), :slept, id)
    {:noreply, %{state | sleepers: sleepers}}
  end

  # From a capturing process, once for each option.
  def handle_info({:hook_failed, _option, _failure} = notice, state) do
    Writer.write(notice, state.name)
    {:noreply, state}
  end

  def handle_info({:drop_summary, key}, state) do
    {:noreply, state.notices |> Notices.summarise(key) |> carry_out(state)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Of a disabled client without the native library.
  defp no_stats do
    counts =
      Map.new([:captured, :delivered, :queued, :queued_bytes, :in_flight, :retries, :replaced], &{&1, 0})

    status = %{state: :idle, next_attempt_in: nil, last_error: nil, last_success: nil}
    none = counts |> Map.put(:dropped, %{}) |> Map.merge(status)
    Map.merge(none, %{mode: :disabled, person_updates: none})
  end

  # ── calls ──

  # There is no flush thread to ask, and nothing to wait for.
  defp command(name, from, %{mode: mode} = state) when mode != :live do
    GenServer.reply(from, idle(name))
    state
  end

  defp command(name, from, state) do
    id = :erlang.unique_integer([:positive])

    case Native.command(self(), name, id) do
      replies when is_integer(replies) ->
        %{state | calls: Map.put(state.calls, id, {from, replies, :ok})}

      :no_client ->
        # The VM is stopping, and the library has taken its leave already.
        GenServer.reply(from, ended(name))
        state
    end
  end

  defp idle(:settle), do: 0
  defp idle(_done), do: :ok

  defp ended(:settle), do: 0
  defp ended(:purge), do: :ok
  defp ended(_flush), do: {:error, Error.new("the client has ended", 0, "ENDED")}

  # A call returns its last reply, or the first error.
  defp reply({id, answer}, state) do
    case state.calls do
      %{^id => {from, replies, before}} ->
        answer = if before == :ok, do: answer(answer), else: before

        if replies > 1 do
          put_in(state.calls[id], {from, replies - 1, answer})
        else
          GenServer.reply(from, answer)
          %{state | calls: Map.delete(state.calls, id)}
        end

      _ ->
        state
    end
  end

  defp answer(:ok), do: :ok
  defp answer({:settled, queued}), do: queued
  defp answer({:error, error}), do: {:error, Error.from_native(error)}

  # A wait that the user's own function makes, in place of the flush thread.
  defp sleep(state, nil), do: state

  defp sleep(state, {id, ms}) do
    sleep_fn = state.sleep_fn
    {_pid, ref} = spawn_monitor(fn -> sleep_fn.(ms) end)
    %{state | sleepers: Map.put(state.sleepers, ref, id)}
  end

  # ── notices ──

  defp carry_out({notices, actions}, state) do
    Enum.each(actions, &act(&1, state))
    %{state | notices: notices}
  end

  defp act({:write, notice}, state), do: Writer.write(notice, state.name)
  defp act({:logged, lane, reason, count}, _state), do: Native.reported_drops(self(), lane, reason, count)
  defp act({:summarise, key, ms}, _state), do: Process.send_after(self(), {:drop_summary, key}, ms)
end
