defmodule BilldogEng.Owner do
  @moduledoc false
  # The process that a client belongs to: its pid is the client's address, its end is the client's end.
  #
  # It answers the original's messages, hands calls to the flush thread and their answers back, and turns
  # the flush thread's notices into log lines. Captures don't pass through it. It does not trap exits.

  use GenServer

  alias BilldogEng.{
    Analytics,
    Diagnosis,
    Error,
    Missing,
    Native,
    Options,
    Outage,
    PersonUpdate,
    Reporter,
    Warning
  }

  alias BilldogEng.Telemetry.Emitter
  alias BilldogEng.Test.Store
  require Logger

  @drop_summary_interval :timer.minutes(1)

  # The handle is only held: the client drains once nothing holds it any more.
  defstruct [
    :handle,
    :mode,
    :enable_logging,
    :sleep_fn,
    :words,
    outages: %{event: %Outage{}, person_update: %Outage{}},
    refused_with: %{},
    calls: %{},
    sleepers: %{},
    drops: %{}
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
         :ok <- register(name) do
      await_spool(options)
      Missing.found(name)

      {:ok,
       %__MODULE__{
         handle: handle,
         mode: options.mode,
         enable_logging: options.enable_logging,
         sleep_fn: options.transport.sleep_fn,
         words: words(options)
       }}
    else
      :taken -> :ignore
      {:error, reason} -> {:stop, Error.new("the client could not be started: #{reason}", 0, "NOT_STARTED")}
      reason -> {:stop, Error.new("the native library could not be loaded: #{reason}", 0, "NOT_LOADED")}
    end
  end

  defp words(options) do
    route = Diagnosis.route(options.transport)
    for kind <- [:event, :person_update], into: %{}, do: {kind, Outage.words(kind, route, options.native)}
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
    _ -> {:error, "an option has a value that can't be handed to the native library"}
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
  defp await_spool(%Options{native: %{spool: nil}}), do: :ok
  defp await_spool(_options), do: receive(do: (:billdogeng_open -> :ok))

  # ── the original's messages ──

  @impl true
  def handle_cast({:enqueue, distinct_id, event, {:with_groups, properties, groups}}, state) do
    Analytics.enqueue(self(), distinct_id, event, properties, groups, :with_groups)
    {:noreply, state}
  end

  def handle_cast({:enqueue, distinct_id, event, {:raw, properties}}, state) do
    Analytics.enqueue(self(), distinct_id, event, properties, %{}, :raw)
    {:noreply, state}
  end

  # Not the original's: of a caller that found no client of this process.
  def handle_cast({:set_person_properties, distinct_id, operations}, state) do
    PersonUpdate.hand_in(self(), distinct_id, operations)
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
    {:reply, Map.new(state.calls, fn {id, {{pid, _tag}, _replies, _before}} -> {id, pid} end), state}
  end

  def handle_call(_other, _from, state), do: {:noreply, state}

  @impl true
  def handle_info(:billdogeng_news, state) do
    case tidings() do
      {_, _, _, _} = tidings ->
        state = heard(tidings, :event, state)
        {:noreply, heard(person_tidings(), :person_update, state)}

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
  def handle_info({:hook_failed, :before_send, why}, state) do
    Warning.log(":before_send #{why}; its event was dropped, as will be those of further failures")
    {:noreply, state}
  end

  def handle_info({:hook_failed, :global_properties, why}, state) do
    Warning.log(":global_properties #{why}; its event goes without them, as will those of further failures")
    {:noreply, state}
  end

  def handle_info({:drop_summary, key}, state), do: {:noreply, summarise(key, state)}
  def handle_info(_other, state), do: {:noreply, state}

  # Of a disabled client without the native library.
  defp no_stats do
    counts =
      Map.new([:captured, :delivered, :queued, :queued_bytes, :in_flight, :retries, :replaced], &{&1, 0})

    status = %{state: :idle, next_attempt_in: nil, last_error: nil, last_success: nil}
    none = counts |> Map.put(:dropped, %{}) |> Map.merge(status)
    Map.merge(none, %{mode: :disabled, person_updates: none})
  end

  # ── tidings: of the flush thread, and of that of person updates ──

  # Long ones are made on a dirty scheduler.
  defp tidings, do: with(:dirty <- Native.tidings(self()), do: Native.tidings_dirty(self()))

  defp person_tidings do
    with :dirty <- Native.person_tidings(self()), do: Native.person_tidings_dirty(self())
  end

  defp heard(nil, :person_update, state), do: state

  defp heard({notices, missed, sleep, replies}, kind, state) do
    state = notices |> noticed(kind, state) |> missed(missed) |> sleep(sleep)
    Enum.reduce(replies, state, &reply/2)
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

  # The last reply of a call is its answer; an error before it stands above that.
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

  defp noticed([], _kind, state), do: state

  # Of one flush, which has failed.
  defp noticed([{:flushed, count}, {:flush_failed, _, _} = failed | rest], kind, state) do
    state = debug(state, "flushed #{counted(kind, count)}")
    noticed(rest, kind, notice(failed, kind, state))
  end

  defp noticed([one | rest], kind, state), do: noticed(rest, kind, notice(one, kind, state))

  defp notice({:flushed, count}, kind, state) do
    state = debug(state, "flushed #{counted(kind, count)}")
    outage(state, kind, Outage.delivered(state.outages[kind], count, state.words[kind]))
  end

  defp notice({:flush_failed, count, error}, kind, state) do
    error = Error.from_native(error)
    state = debug(state, "flush failed, re-queued #{counted(kind, count)}: #{error.message}")
    now = System.monotonic_time(:millisecond)
    outage(state, kind, Outage.failed(state.outages[kind], count, error, state.words[kind], now))
  end

  defp notice({:dropped, :queue_full, count}, kind, state) do
    state
    |> debug("max queue size exceeded, dropped #{count} oldest #{Outage.noun(kind)}")
    |> dropped(kind, :queue_full, count)
  end

  # Told by the suspension's own lines.
  defp notice({:dropped, :quota, _count}, _kind, state), do: state
  # Asked for, by purge/1 and by set_mode/2.
  defp notice({:dropped, reason, _count}, _kind, state) when reason in [:purged, :disabled], do: state
  defp notice({:dropped, reason, count}, kind, state), do: dropped(state, kind, reason, count)

  # Comes before the drops that it is for.
  defp notice({:refused_with, status}, kind, state), do: put_in(state.refused_with[kind], status)

  defp notice({:replaced_at, event, path}, kind, state) do
    Warning.log(
      "#{the(kind, event)} has a value that JSON has no word for, at #{path}: it was sent in its " <>
        "nearest form; further ones are counted in stats/1 as replaced"
    )

    state
  end

  defp notice({:too_large_at, event, path}, kind, state) do
    Warning.log("#{the(kind, event)} is larger than :max_event_bytes; the bound was reached at #{path}")
    state
  end

  defp notice({:suspended, seconds}, kind, state) do
    Warning.log(
      "the project's quota is used up: #{plural(kind)} are dropped (quota) for #{div(seconds, 60)} min, then it is tried again"
    )

    update_in(state.outages[kind], &Outage.over/1)
  end

  defp notice({:resumed, given_up}, kind, state) do
    Logger.info(
      "[BilldogEng:analytics] the ingest takes #{plural(kind)} again; #{given_up} were dropped (quota)"
    )

    Native.told_drops(self(), kind, :quota, given_up)
    state
  end

  defp notice({:no_spool, reason}, _kind, state) do
    Logger.error(
      "[BilldogEng:analytics] no :spool_dir, events are kept in memory alone: #{reason}; it is tried again"
    )

    state
  end

  defp notice({:spool_failed, problem}, _kind, state) do
    Logger.error("[BilldogEng:analytics] the spool: #{problem}")
    state
  end

  defp notice({:spool_resumed, what}, _kind, state) do
    Logger.info("[BilldogEng:analytics] the spool: #{what}")
    state
  end

  defp notice({:spool_opened, count}, kind, state) do
    Logger.info("[BilldogEng:analytics] the spool: it is open now, with #{counted(kind, count)}")
    state
  end

  defp notice({:spool_of_another, count}, kind, state) do
    Logger.info(
      "[BilldogEng:analytics] the spool: #{counted(kind, count)} in it were captured for another key or host, " <>
        "and are sent with this client's"
    )

    state
  end

  defp notice(:panicked, kind, state) do
    Logger.error("[BilldogEng:analytics] the flush thread panicked and went on; its #{plural(kind)} are kept")
    state
  end

  # Whatever :enable_logging says.
  defp outage(state, kind, {outage, line}) do
    case line do
      nil -> :ok
      {:warning, text} -> Warning.log(text)
      {:info, text} -> Logger.info("[BilldogEng:analytics] " <> text)
    end

    put_in(state.outages[kind], outage)
  end

  defp counted(kind, count), do: "#{count} #{Outage.noun(kind)}"

  defp plural(:event), do: "events"
  defp plural(:person_update), do: "person updates"

  defp the(:event, name), do: "the event #{inspect(name)}"
  defp the(:person_update, _name), do: "a person update"

  defp missed(state, 0), do: state
  defp missed(state, count), do: debug(state, "#{count} older notice(s) were left out")

  defp debug(state, message) do
    if state.enable_logging, do: Logger.debug("[BilldogEng:analytics] #{message}")
    state
  end

  # The first drop of a reason is told at once, what follows within a minute in one sum.
  defp dropped(state, kind, reason, count) do
    key = {kind, reason}

    case state.drops do
      %{^key => untold} -> put_in(state.drops[key], untold + count)
      _ -> tell_drops(state, key, count)
    end
  end

  defp summarise(key, state) do
    case state.drops[key] do
      # The next drop is told at once again.
      0 -> %{state | drops: Map.delete(state.drops, key)}
      untold -> tell_drops(state, key, untold)
    end
  end

  defp tell_drops(state, {kind, reason} = key, count) do
    Warning.log("dropped #{counted(kind, count)}, #{reason}: #{why(reason, kind, state)}")
    Native.told_drops(self(), kind, reason, count)
    Process.send_after(self(), {:drop_summary, key}, @drop_summary_interval)
    put_in(state.drops[key], 0)
  end

  defp why(:rejected, kind, state) do
    accepted = if kind == :event, do: ", and accepted others", else: ""
    "the ingest answered HTTP #{state.refused_with[kind]} to them alone" <> accepted
  end

  defp why(reason, _kind, _state), do: why(reason)

  defp why(:queue_full), do: "the queue is at its bound and the oldest made room"
  defp why(:before_send), do: ":before_send answered nil, or failed"
  defp why(:in_hook), do: "captured by a hook of this client, which would run that hook again"
  defp why(:failed), do: "code of the app or of this library failed while they were captured"
  defp why(:too_large), do: "larger than :max_event_bytes, or refused by the ingest for its size"
  defp why(:spool_full), do: "the spool is at :max_spool_bytes and the oldest made room"
  defp why(:expired), do: "on disk for longer than :max_spool_age"
  defp why(:spool_lost), do: "they were on disk and could not be read back"
  defp why(_reason), do: "given up"
end
