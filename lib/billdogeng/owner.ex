defmodule BilldogEng.Owner do
  @moduledoc false
  # The process that a client belongs to: its pid is the client's address, its end is the client's end.
  #
  # It answers the original's messages, hands calls to the flush thread and their answers back, and turns
  # the flush thread's notices into log lines. Captures don't pass through it. It does not trap exits.

  use GenServer

  alias BilldogEng.{Analytics, Error, Native, Options, Reporter, Warning}
  require Logger

  @drop_summary_interval :timer.minutes(1)

  # The handle is only held: the client drains once nothing holds it any more.
  defstruct [
    :handle,
    :enable_logging,
    :sleep_fn,
    before_send_failed: false,
    calls: %{},
    sleepers: %{},
    drops: %{}
  ]

  def start_link(options, name) do
    GenServer.start_link(__MODULE__, options, if(name, do: [name: name], else: []))
  end

  @impl true
  def init({:error, message}), do: {:stop, ArgumentError.exception(message)}

  def init({:ok, %Options{} = options}) do
    with nil <- Native.load_error(),
         :ok <- Reporter.ensure_started(),
         {:ok, handle} <- start(options) do
      {:ok,
       %__MODULE__{
         handle: handle,
         enable_logging: options.enable_logging,
         sleep_fn: options.transport.sleep_fn
       }}
    else
      {:error, reason} -> {:stop, Error.new("the client could not be started: #{reason}", 0, "NOT_STARTED")}
      reason -> {:stop, Error.new("the native library could not be loaded: #{reason}", 0, "NOT_LOADED")}
    end
  end

  # An exception would carry the arguments, and with them the key, into crash reports.
  defp start(options) do
    Native.start(options.native, options.hooks)
  rescue
    ArgumentError -> {:error, "an option has a value that can't be handed to the native library"}
  end

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

  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_call(:flush, from, state), do: {:noreply, command(:flush, from, state)}
  def handle_call(:queue_length, from, state), do: {:noreply, command(:settle, from, state)}
  def handle_call(:shutdown, from, state), do: {:noreply, command(:shutdown, from, state)}
  def handle_call(:purge, from, state), do: {:noreply, command(:purge, from, state)}
  def handle_call(_other, _from, state), do: {:noreply, state}

  @impl true
  def handle_info(:billdogeng_news, state) do
    case Native.tidings(self()) do
      {notices, missed, sleep, replies} ->
        state = notices |> Enum.reduce(state, &notice/2) |> missed(missed) |> sleep(sleep)
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

  # Of a capturing process. Said once; the drops are counted.
  def handle_info({:before_send_failed, why}, %{before_send_failed: false} = state) do
    Warning.log(":before_send #{why}; its event was dropped, as will be those of further failures")
    {:noreply, %{state | before_send_failed: true}}
  end

  def handle_info({:drop_summary, reason}, state), do: {:noreply, summarise(reason, state)}
  def handle_info(_other, state), do: {:noreply, state}

  # ── calls ──

  defp command(name, from, state) do
    id = :erlang.unique_integer([:positive])

    case Native.command(self(), name, id) do
      :ok ->
        %{state | calls: Map.put(state.calls, id, from)}

      :no_client ->
        # The VM is stopping, and the library has taken its leave already.
        GenServer.reply(from, ended(name))
        state
    end
  end

  defp ended(:settle), do: 0
  defp ended(:purge), do: :ok
  defp ended(_flush), do: {:error, Error.new("the client has ended", 0, "ENDED")}

  defp reply({id, answer}, state) do
    {from, calls} = Map.pop(state.calls, id)

    if from do
      GenServer.reply(from, answer(answer))
    end

    %{state | calls: calls}
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

  defp notice({:flushed, count}, state), do: debug(state, "flushed #{count} event(s)")

  defp notice({:flush_failed, count, message}, state) do
    debug(state, "flush failed, re-queued #{count} event(s): #{message}")
  end

  defp notice({:dropped, :queue_full, count}, state) do
    state |> debug("max queue size exceeded, dropped #{count} oldest event(s)") |> dropped(:queue_full, count)
  end

  # Told by the suspension's own lines.
  defp notice({:dropped, :quota, _count}, state), do: state
  # Asked for.
  defp notice({:dropped, :purged, _count}, state), do: state
  defp notice({:dropped, reason, count}, state), do: dropped(state, reason, count)

  defp notice({:replaced_at, event, path}, state) do
    Warning.log(
      "the event #{inspect(event)} has a value that JSON has no word for, at #{path}: it was sent in its " <>
        "nearest form; further ones are counted in stats/1 as replaced"
    )

    state
  end

  defp notice({:too_large_at, event, path}, state) do
    Warning.log(
      "the event #{inspect(event)} is larger than :max_event_bytes; the bound was reached at #{path}"
    )

    state
  end

  defp notice({:suspended, seconds}, state) do
    Warning.log(
      "the project's quota is used up: events are dropped (quota) for #{div(seconds, 60)} min, then it is tried again"
    )

    state
  end

  defp notice({:resumed, given_up}, state) do
    Logger.info("[BilldogEng:analytics] the ingest takes events again; #{given_up} were dropped (quota)")
    state
  end

  defp notice({:no_spool, reason}, state) do
    Logger.error("[BilldogEng:analytics] no :spool_dir, events are kept in memory alone: #{reason}")
    state
  end

  defp notice({:spool_failed, problem}, state) do
    Logger.error("[BilldogEng:analytics] the spool: #{problem}")
    state
  end

  defp notice(:spool_resumed, state) do
    Logger.info("[BilldogEng:analytics] the spool: events go to the disk again")
    state
  end

  defp notice(:panicked, state) do
    Logger.error("[BilldogEng:analytics] the flush thread panicked and went on; its events are kept")
    state
  end

  defp missed(state, 0), do: state
  defp missed(state, count), do: debug(state, "#{count} older notice(s) were left out")

  defp debug(state, message) do
    if state.enable_logging, do: Logger.debug("[BilldogEng:analytics] #{message}")
    state
  end

  # The first drop of a reason is told at once, what follows within a minute in one sum.
  defp dropped(state, reason, count) do
    case state.drops do
      %{^reason => untold} ->
        put_in(state.drops[reason], untold + count)

      _ ->
        warn_of_drops(reason, count)
        Process.send_after(self(), {:drop_summary, reason}, @drop_summary_interval)
        put_in(state.drops[reason], 0)
    end
  end

  defp summarise(reason, state) do
    case state.drops[reason] do
      0 ->
        # The next drop is told at once again.
        %{state | drops: Map.delete(state.drops, reason)}

      untold ->
        warn_of_drops(reason, untold)
        Process.send_after(self(), {:drop_summary, reason}, @drop_summary_interval)
        put_in(state.drops[reason], 0)
    end
  end

  defp warn_of_drops(reason, count) do
    Warning.log("dropped #{count} event(s), #{reason}: #{why(reason)}")
  end

  defp why(:queue_full), do: "the queue is at its bound and the oldest made room"
  defp why(:rejected), do: "the ingest refused them, and took others of their batch"
  defp why(:before_send), do: ":before_send answered nil, or failed"
  defp why(:too_large), do: "larger than :max_event_bytes, or refused by the ingest for its size"
  defp why(:spool_full), do: "the spool is at :max_spool_bytes and the oldest made room"
  defp why(:expired), do: "on disk for longer than :max_spool_age"
  defp why(:spool_lost), do: "they were on disk and could not be read back"
  defp why(_reason), do: "given up"
end
