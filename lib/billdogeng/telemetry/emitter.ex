defmodule BilldogEng.Telemetry.Emitter do
  @moduledoc false
  # The process in which the handlers of this library's telemetry events run.
  #
  #     flush threads ── reports, limited ──▶ the native library ── one wake-up ──▶ Emitter ──▶ :telemetry.execute/3
  #
  # It fetches the reports of all flush threads. A slow handler delays no client and no call, because neither is on this
  # path. Without `:telemetry` the process does not start, and the threads make no reports.

  use GenServer

  alias BilldogEng.Error
  alias BilldogEng.Client.Native

  @compile {:no_warn_undefined, :telemetry}

  @flush [:billdogeng, :flush]
  @dropped [:billdogeng, :event, :dropped]

  # `:telemetry` keeps its handlers in a process with this name. If that process does not run, some releases of
  # `:telemetry` log a warning for each event.
  @table :telemetry_handler_table

  # ── :telemetry ──

  # Returns false without `:telemetry`, else the name of the process that must run, or nil if there is none. Looked up
  # once in the life of the VM.
  def telemetry do
    with nil <- :persistent_term.get(__MODULE__, nil) do
      table = if Code.ensure_loaded?(@table), do: @table
      :persistent_term.put(__MODULE__, {if(Code.ensure_loaded?(:telemetry), do: table, else: false)})
      telemetry()
    else
      {telemetry} -> telemetry
    end
  end

  # Emits the event in the calling process.
  def execute(event, measurements, metadata) do
    if running?(), do: :telemetry.execute(event, measurements, metadata)
    :ok
  end

  defp running? do
    case telemetry() do
      false -> false
      nil -> true
      table -> Process.whereis(table) != nil
    end
  end

  # ── start ──

  # The supervisor starts it before the reporter and stops it after it, so it also emits the drains that the reporter
  # waits for.
  def child_spec(_opts), do: %{id: __MODULE__, start: {__MODULE__, :start_link, []}}

  def start_link do
    if telemetry() == false or Native.load_error() != nil, do: :ignore, else: start_linked()
  end

  defp start_linked do
    case GenServer.start_link(__MODULE__, [], name: __MODULE__) do
      {:error, {:already_started, pid}} ->
        # A client started it before the application.
        GenServer.stop(pid)
        start_linked()

      started ->
        started
    end
  end

  # Returns the label of the calling owner's client in its reports, or nil without `:telemetry`.
  def label(name) do
    if telemetry() != false do
      if Process.whereis(__MODULE__) == nil, do: GenServer.start(__MODULE__, [], name: __MODULE__)
      name || self()
    end
  end

  # ── reports ──

  # The state has the span context and the start time of each open flush.
  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    Native.report_flushes_to_me()
    # There may be reports from before, or from an emitter that ended.
    {:ok, %{}, {:continue, :fetch}}
  end

  @impl true
  def handle_continue(:fetch, spans), do: {:noreply, fetch(spans)}

  @impl true
  def handle_info(:billdogeng_reports, spans), do: {:noreply, fetch(spans)}
  def handle_info(_other, spans), do: {:noreply, spans}

  @impl true
  def terminate(_reason, spans), do: fetch(spans)

  # During an upgrade of the stub module, a call would load the old version again, and block the new one.
  defp fetch(spans) do
    if :erlang.module_loaded(Native) do
      emit(Native.take_reports(), spans)
    else
      Process.send_after(self(), :billdogeng_reports, 100)
      spans
    end
  end

  def emit({reports, dropped, missed}, spans) do
    spans = Enum.reduce(reports, spans, fn {client, report}, spans -> span(report, client, spans) end)

    for {client, reason, count} <- dropped do
      execute(@dropped, %{count: count}, %{client: client, reason: reason})
    end

    for {client, count} <- missed, do: execute(@flush ++ [:missed], %{count: count}, %{client: client})
    spans
  end

  defp span({:started, id, trigger, began, {}}, client, spans) do
    began = native(began)
    context = make_ref()
    measurements = %{monotonic_time: began, system_time: began + System.time_offset()}
    execute(@flush ++ [:start], measurements, metadata(client, trigger, context))
    Map.put(spans, id, {context, began})
  end

  defp span({:stopped, id, trigger, began, rest}, client, spans) do
    {duration, events, bytes, wire_bytes, attempts, status, error} = rest
    {{context, began}, spans} = pop(spans, id, began)
    duration = native(duration)

    measurements = %{
      duration: duration,
      monotonic_time: began + duration,
      events: events,
      bytes: bytes,
      wire_bytes: wire_bytes,
      attempts: attempts
    }

    result = %{
      result: if(error, do: :error, else: :ok),
      status: status,
      error: error && Error.from_native(error)
    }

    execute(@flush ++ [:stop], measurements, Map.merge(metadata(client, trigger, context), result))
    spans
  end

  defp span({:panicked, id, trigger, began, {duration}}, client, spans) do
    {{context, began}, spans} = pop(spans, id, began)
    duration = native(duration)

    reason =
      Error.new("the flush thread panicked and goes on; its events are still queued", 0, "INTERNAL_ERROR")

    failure = %{kind: :error, reason: reason, stacktrace: []}
    measurements = %{duration: duration, monotonic_time: began + duration}
    execute(@flush ++ [:exception], measurements, Map.merge(metadata(client, trigger, context), failure))
    spans
  end

  defp metadata(client, trigger, context) do
    %{client: client, trigger: trigger, telemetry_span_context: context}
  end

  # The start of a flush is unknown if another emitter emitted it.
  defp pop(spans, id, began), do: Map.pop_lazy(spans, id, fn -> {make_ref(), native(began)} end)

  defp native(ns), do: System.convert_time_unit(ns, :nanosecond, :native)
end
