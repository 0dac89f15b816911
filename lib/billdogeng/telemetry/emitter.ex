defmodule BilldogEng.Telemetry.Emitter do
  @moduledoc false
  # The one process in which handlers of this library's own events run.
  #
  #     flush threads ── reports, bounded ──▶ the native library ── one wake-up ──▶ here ──▶ :telemetry.execute/3
  #
  # It fetches what the flush threads report; no client's process and no call is on that way, so a slow
  # handler delays neither. Where `:telemetry` isn't there, it isn't either, and nothing is reported.

  use GenServer

  alias BilldogEng.Error
  alias BilldogEng.Client.Native

  @compile {:no_warn_undefined, :telemetry}

  @flush [:billdogeng, :flush]
  @dropped [:billdogeng, :event, :dropped]

  # The real one keeps its handlers in a process of this name, and without it some releases log a warning
  # for each event.
  @table :telemetry_handler_table

  # ── whether anybody could listen ──

  @doc false
  # Looked up once in the life of the VM: the answer is false, or the process without which nobody listens.
  def telemetry do
    case :persistent_term.get(__MODULE__, nil) do
      nil ->
        telemetry =
          if Code.ensure_loaded?(:telemetry), do: if(Code.ensure_loaded?(@table), do: @table), else: false

        :persistent_term.put(__MODULE__, {telemetry})
        telemetry

      {telemetry} ->
        telemetry
    end
  end

  @doc false
  # Emits the event; in the calling process.
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

  # Before the reporter, and so stopped after it: the drains that it waits for are told too.
  def child_spec(_opts), do: %{id: __MODULE__, start: {__MODULE__, :start_link, []}}

  def start_link do
    if telemetry() == false or Native.load_error() != nil, do: :ignore, else: start_linked()
  end

  defp start_linked do
    case GenServer.start_link(__MODULE__, [], name: __MODULE__) do
      {:error, {:already_started, pid}} ->
        # One that a client started before the application did.
        GenServer.stop(pid)
        start_linked()

      started ->
        started
    end
  end

  @doc false
  # What the calling owner's client is to be called in its reports; nil where nobody could listen.
  def label(name) do
    if telemetry() != false do
      if Process.whereis(__MODULE__) == nil, do: GenServer.start(__MODULE__, [], name: __MODULE__)
      name || self()
    end
  end

  # ── reports ──

  # The state: of each open flush its context and when it began.
  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    Native.report_flushes_to_me()
    # What came before, or was left by another one.
    {:ok, %{}, {:continue, :fetch}}
  end

  @impl true
  def handle_continue(:fetch, spans), do: {:noreply, fetch(spans)}

  @impl true
  def handle_info(:billdogeng_reports, spans), do: {:noreply, fetch(spans)}
  def handle_info(_other, spans), do: {:noreply, spans}

  @impl true
  def terminate(_reason, spans), do: fetch(spans)

  # While the stub module is being replaced, a call would load the old one again, and the new one could no
  # longer be.
  defp fetch(spans) do
    if :erlang.module_loaded(Native) do
      emit(Native.take_reports(), spans)
    else
      Process.send_after(self(), :billdogeng_reports, 100)
      spans
    end
  end

  @doc false
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

  # A start that went with another process is unknown here.
  defp pop(spans, id, began), do: Map.pop_lazy(spans, id, fn -> {make_ref(), native(began)} end)

  defp native(ns), do: System.convert_time_unit(ns, :nanosecond, :native)
end
