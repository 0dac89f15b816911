defmodule BilldogEng.Collector.Server do
  @moduledoc false
  # The collector's process: it keeps the accounts, owns the listener and decides what each
  # request meets. Connections are linked to it, so that none outlives it however it ends; it
  # traps exits since they come and go.

  use GenServer

  alias BilldogEng.Error
  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.{Connection, Ingest, Printer}

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)

    state = %{
      ip: Keyword.get(opts, :ip, {127, 0, 0, 1}),
      port: Keyword.get(opts, :port, 0),
      connection: %{
        api_key: opts[:api_key],
        idle_timeout: Keyword.get(opts, :idle_timeout, 60_000),
        read_timeout: Keyword.get(opts, :read_timeout, 30_000)
      },
      print: Keyword.get(opts, :print, false),
      keep: Keyword.get(opts, :keep, true),
      listener: nil,
      acceptor: nil,
      connections: MapSet.new(),
      subscribers: MapSet.new(),
      mode: :ok,
      next_id: 0
    }

    # Which decodes JSON.
    with nil <- Native.load_error(),
         {:ok, state} <- listen(forget(state)) do
      {:ok, state}
    else
      {:error, reason} ->
        {:stop, {reason, cannot_listen(state, reason)}}

      reason ->
        {:stop, Error.new("the native library can't be loaded: #{reason}", 0, "NOT_LOADED")}
    end
  end

  @impl true
  def handle_call(:port, _from, state), do: {:reply, state.port, state}

  def handle_call(:url, _from, state), do: {:reply, "http://" <> address(state), state}

  def handle_call(:events, _from, state), do: {:reply, in_order(state.batches), state}
  def handle_call(:invalid_events, _from, state), do: {:reply, in_order(state.invalid), state}

  def handle_call(:requests, _from, state) do
    requests = state.requests |> Enum.sort_by(&elem(&1, 0)) |> Enum.map(&elem(&1, 1))
    {:reply, requests, state}
  end

  def handle_call(:totals, _from, state), do: {:reply, state.totals, state}
  def handle_call(:reset, _from, state), do: {:reply, :ok, forget(state)}

  def handle_call({:subscribe, pid}, _from, state),
    do: {:reply, :ok, %{state | subscribers: MapSet.put(state.subscribers, pid)}}

  def handle_call({:respond, :refuse}, _from, state),
    do: {:reply, :ok, %{stop_listening(state) | mode: :refuse}}

  def handle_call({:respond, mode}, _from, state) do
    case listen(state) do
      {:ok, state} -> {:reply, :ok, %{state | mode: mode}}
      {:error, reason} -> {:reply, {:error, cannot_listen(state, reason)}, state}
    end
  end

  def handle_call({:request, request, verdict}, {pid, _}, state) do
    if MapSet.member?(state.connections, pid) do
      id = state.next_id
      {mode, left} = next_mode(state.mode)
      state = arrived(%{state | next_id: id + 1, mode: left}, id, request)
      {step, state} = settle(mode, id, verdict, state)
      {:reply, {id, step}, state}
    else
      # Closed by :refuse while its question was on the way.
      {:noreply, state}
    end
  end

  def handle_call({:settle, id, verdict, mode}, _from, state) do
    {step, state} = settle(mode, id, verdict, state)
    {:reply, step, state}
  end

  @impl true
  def handle_info({:accepted, pid}, %{acceptor: pid} = state),
    do: {:noreply, start_acceptor(state)}

  def handle_info({:EXIT, pid, _reason}, %{acceptor: pid, listener: listener} = state)
      when listener != nil,
      do: {:noreply, state |> forget_connection(pid) |> start_acceptor()}

  # It could not be read, and so is no request.
  def handle_info({:unreadable, status, message}, state) do
    if state.print, do: Printer.puts(Printer.refused(status, message))
    {:noreply, state}
  end

  def handle_info({:EXIT, pid, _reason}, state), do: {:noreply, forget_connection(state, pid)}
  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: stop_listening(state)

  ## What a request meets

  defp next_mode({:sequence, [mode]}), do: next_mode(mode)

  defp next_mode({:sequence, [mode | modes]}) do
    {mode, _} = next_mode(mode)
    {mode, {:sequence, modes}}
  end

  defp next_mode(mode), do: {mode, mode}

  defp settle(:ok, id, %{accepted: true} = verdict, state),
    do: answer(verdict.answer, id, keep(state, verdict))

  defp settle(:ok, id, verdict, state) do
    {status, _, _} = verdict.answer
    if state.print, do: Printer.puts(Printer.refused(status, verdict.reason))
    answer(verdict.answer, id, state)
  end

  defp settle({:status, status}, id, verdict, state),
    do: settle({:status, status, []}, id, verdict, state)

  defp settle({:status, status, headers}, id, _verdict, state) do
    {_, _, body} =
      if status in 200..299,
        do: {status, [], ~s({"success":true,"data":{}})},
        else: Ingest.error(status, "HTTP_#{status}", "the collector was told to answer so")

    answer({status, headers, body}, id, state)
  end

  defp settle({:status, status, headers, body}, id, _verdict, state),
    do: answer({status, headers, body}, id, state)

  defp settle({:json, status, body}, id, _verdict, state),
    do: answer({status, [], body}, id, state)

  defp settle({:delay, ms, mode}, id, verdict, state) do
    {step, state} = settle(mode, id, verdict, state)
    {{:delay, ms, step}, state}
  end

  # In a sequence: the connection that asked is closed with all others.
  defp settle(:refuse, _id, _verdict, state),
    do: {:reset, %{stop_listening(state) | mode: after_refusal(state.mode)}}

  defp settle({:sequence, _} = sequence, id, verdict, state) do
    {mode, _} = next_mode(sequence)
    settle(mode, id, verdict, state)
  end

  defp settle(step, _id, _verdict, state) when step in [:hang, :reset], do: {step, state}
  defp settle({:gate, pid}, _id, _verdict, state), do: {{:gate, pid}, state}
  defp settle(choose, _id, _verdict, state) when is_function(choose, 1), do: {{:choose, choose}, state}

  defp after_refusal({:sequence, _}), do: :refuse
  defp after_refusal(mode), do: mode

  defp answer({status, _, _} = answer, id, state) do
    state =
      if is_map_key(state.requests, id),
        do: put_in(state.requests[id].status, status),
        else: state

    {{:answer, answer}, state}
  end

  ## Accounts

  defp in_order(batches), do: batches |> Enum.reverse() |> Enum.concat()

  defp forget(state) do
    totals = %{events: 0, invalid: 0, requests: 0, accepted: 0, wire_bytes: 0, bytes: 0}
    Map.merge(state, %{batches: [], invalid: [], requests: %{}, totals: totals})
  end

  defp arrived(state, id, request) do
    totals =
      Map.merge(state.totals, %{
        requests: state.totals.requests + 1,
        wire_bytes: state.totals.wire_bytes + request.wire_bytes,
        bytes: state.totals.bytes + request.bytes
      })

    requests = if state.keep, do: Map.put(state.requests, id, request), else: state.requests
    %{state | totals: totals, requests: requests}
  end

  defp keep(state, %{events: events, invalid: invalid}) do
    if state.print, do: Enum.each(events, &Printer.puts(Printer.event(&1)))
    Enum.each(state.subscribers, &send(&1, {:collector, events}))

    totals =
      Map.merge(state.totals, %{
        events: state.totals.events + length(events),
        invalid: state.totals.invalid + length(invalid),
        accepted: state.totals.accepted + 1
      })

    if state.keep,
      do: %{state | totals: totals, batches: [events | state.batches], invalid: [invalid | state.invalid]},
      else: %{state | totals: totals}
  end

  ## Listening

  defp listen(%{listener: nil} = state) do
    family = if tuple_size(state.ip) == 8, do: [:inet6], else: []

    options = [
      :binary,
      active: false,
      reuseaddr: true,
      nodelay: true,
      ip: state.ip,
      backlog: 1024,
      buffer: 65_536,
      send_timeout: 5_000,
      send_timeout_close: true
    ]

    with {:ok, listener} <- :gen_tcp.listen(state.port, family ++ options),
         {:ok, port} <- :inet.port(listener) do
      {:ok, start_acceptor(%{state | listener: listener, port: port})}
    end
  end

  defp listen(state), do: {:ok, state}

  defp address(%{ip: ip, port: port}) do
    host = ip |> :inet.ntoa() |> to_string()
    if tuple_size(ip) == 8, do: "[#{host}]:#{port}", else: "#{host}:#{port}"
  end

  defp cannot_listen(state, reason), do: "cannot listen on #{address(state)}: #{:inet.format_error(reason)}"

  defp start_acceptor(%{listener: nil} = state), do: state

  defp start_acceptor(state) do
    pid = Connection.start_link(state.listener, self(), state.connection)
    %{state | acceptor: pid, connections: MapSet.put(state.connections, pid)}
  end

  defp forget_connection(state, pid),
    do: %{state | connections: MapSet.delete(state.connections, pid)}

  defp stop_listening(%{listener: nil} = state), do: state

  defp stop_listening(state) do
    :gen_tcp.close(state.listener)
    Enum.each(state.connections, &Process.exit(&1, :kill))

    for pid <- state.connections do
      receive do
        {:EXIT, ^pid, _} -> :ok
      end
    end

    %{state | listener: nil, acceptor: nil, connections: MapSet.new()}
  end
end
