defmodule BilldogEng.Collector.Server do
  @moduledoc false
  # The collector's process: it keeps the accounts, owns the listener and decides what each
  # request meets. Connections are linked to it, so that none outlives it however it ends; it
  # traps exits since they come and go.

  use GenServer

  alias BilldogEng.Error
  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.{Connection, Feed, Ingest, Listener, Page, Printer}

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)

    state = %{
      ip: Keyword.get(opts, :ip, {127, 0, 0, 1}),
      port: Keyword.get(opts, :port, 0),
      connection: %{
        api_key: opts[:api_key],
        idle_timeout: Keyword.get(opts, :idle_timeout, 60_000),
        read_timeout: Keyword.get(opts, :read_timeout, 30_000),
        feed: nil,
        page_url: nil
      },
      print: Keyword.get(opts, :print, false),
      keep: Keyword.get(opts, :keep, true),
      listener: nil,
      acceptor: nil,
      connections: MapSet.new(),
      subscribers: MapSet.new(),
      mode: :ok,
      page: nil,
      next_id: 0
    }

    # Which decodes JSON.
    with nil <- Native.load_error(),
         {:ok, state} <- start_page(state, Keyword.get(opts, :page, false)),
         {:ok, state} <- listen(forget(state)) do
      {:ok, state}
    else
      {:error, {_reason, message} = error} when is_binary(message) ->
        {:stop, error}

      {:error, reason} ->
        {:stop, {reason, cannot_listen(state, reason)}}

      reason ->
        {:stop, Error.new("the native library can't be loaded: #{reason}", 0, "NOT_LOADED")}
    end
  end

  @impl true
  def handle_call(:port, _from, state), do: {:reply, state.port, state}

  def handle_call(:url, _from, state),
    do: {:reply, "http://" <> Listener.address(state.ip, state.port), state}

  def handle_call(:page_url, _from, state), do: {:reply, state.connection.page_url, state}

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
    do: {:reply, :ok, put_mode(stop_listening(state), :refuse)}

  def handle_call({:respond, mode}, _from, state) do
    case listen(state) do
      {:ok, state} -> {:reply, :ok, put_mode(state, mode)}
      {:error, reason} -> {:reply, {:error, cannot_listen(state, reason)}, state}
    end
  end

  def handle_call({:request, request, verdict}, {pid, _}, state) do
    if MapSet.member?(state.connections, pid) do
      id = state.next_id
      {mode, left} = next_mode(state.mode)
      state = %{state | next_id: id + 1} |> put_mode(left) |> arrived(id, request)
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

  # A page that stops showing what arrives would mislead.
  def handle_info({:EXIT, pid, reason}, %{page: %{pid: page, feed: feed}} = state) when pid in [page, feed],
    do: {:stop, reason, state}

  def handle_info({:EXIT, pid, _reason}, state), do: {:noreply, forget_connection(state, pid)}
  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: stop_listening(state)

  ## The page

  defp start_page(state, false), do: {:ok, state}

  defp start_page(state, page) do
    {:ok, feed} = Feed.start_link([])

    case Page.start_link(page, state.ip, state.connection.api_key, self(), Feed.handle(feed)) do
      {:ok, pid} ->
        connection = %{state.connection | feed: feed, page_url: Page.url(pid)}
        {:ok, %{state | connection: connection, page: %{pid: pid, feed: feed}}}

      {:error, error} ->
        {:error, error}
    end
  end

  ## Modes

  defp next_mode({:sequence, [mode]}), do: next_mode(mode)

  defp next_mode({:sequence, [mode | modes]}) do
    {mode, _} = next_mode(mode)
    {mode, {:sequence, modes}}
  end

  defp next_mode({:times, 1, mode}), do: {mode |> next_mode() |> elem(0), :ok}

  defp next_mode({:times, n, mode}) do
    {mode, left} = next_mode(mode)
    {mode, {:times, n - 1, left}}
  end

  defp next_mode(mode), do: {mode, mode}

  # The page shows it.
  defp put_mode(%{mode: mode} = state, mode), do: state

  defp put_mode(state, mode) do
    if state.page, do: Feed.mode(state.page.feed, mode)
    %{state | mode: mode}
  end

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
        else: Ingest.error(status, "HTTP_#{status}", "the collector answers so on request")

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

  defp settle({:too_large, most}, id, %{bytes: bytes} = verdict, state),
    do: settle(if(bytes > most, do: {:status, 413}, else: :ok), id, verdict, state)

  defp settle({:reject, name}, id, verdict, state) do
    named? = Enum.any?(verdict.events, &match?(%{"event_name" => ^name}, &1))
    settle(if(named?, do: {:status, 400}, else: :ok), id, verdict, state)
  end

  defp settle(:quota, id, _verdict, state),
    do: answer({200, [], ~s({"success":true,"data":{"accepted":0},"quota_limited":["events"]})}, id, state)

  # In a sequence: the connection that asked is closed with all others.
  defp settle(:refuse, _id, _verdict, state),
    do: {:reset, put_mode(stop_listening(state), after_refusal(state.mode))}

  # Given to release/2, or returned by a function.
  defp settle(many, id, verdict, state) when elem(many, 0) in [:sequence, :times] do
    {mode, _} = next_mode(many)
    settle(mode, id, verdict, state)
  end

  defp settle(step, _id, _verdict, state) when step in [:hang, :reset], do: {step, state}
  defp settle({:gate, pid}, _id, _verdict, state), do: {{:gate, pid}, state}
  defp settle(choose, _id, _verdict, state) when is_function(choose, 1), do: {{:choose, choose}, state}

  defp after_refusal({kind, _}) when kind == :sequence, do: :refuse
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
    with {:ok, listener, port} <- Listener.open(state.ip, state.port),
         do: {:ok, start_acceptor(%{state | listener: listener, port: port})}
  end

  defp listen(state), do: {:ok, state}

  defp cannot_listen(state, reason), do: Listener.error(state.ip, state.port, reason)

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
