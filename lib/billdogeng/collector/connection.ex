defmodule BilldogEng.Collector.Connection do
  @moduledoc false
  # One process for each connection. It waits in accept, notifies the collector, which starts the next one, reads requests,
  # asks the collector how to answer each, and answers.
  #
  #     accept ──► read request ──► collector decides ──► answer ──► read request …
  #
  # Whoever accepts owns the socket, so nothing is handed over and a killed process closes it.

  alias BilldogEng.Collector.{Feed, HTTP, Ingest, Mode, Probe, Response}

  require Logger

  @probe Probe.path()

  # For a peer that still sends when it is refused: a close would reset the connection under the answer.
  @drain_ms 5_000

  @doc false
  @spec start_link(:gen_tcp.socket(), pid, map) :: pid
  def start_link(listener, collector, options),
    do: spawn_link(fn -> accept(listener, collector, options) end)

  @doc false
  @spec release({pid, reference}, term) :: :ok
  def release({pid, ref}, mode) do
    monitor = Process.monitor(pid)
    send(pid, {:release, ref, mode, {self(), monitor}})

    receive do
      {^monitor, :released} -> Process.demonitor(monitor, [:flush])
      {:DOWN, ^monitor, _, _, _} -> true
    end

    :ok
  end

  defp accept(listener, collector, options) do
    case :gen_tcp.accept(listener) do
      {:ok, socket} ->
        send(collector, {:accepted, self()})
        serve(HTTP.new(socket), collector, options)

      {:error, :closed} ->
        :ok

      # The peer left before it was accepted, or descriptors are short for a moment.
      {:error, _} ->
        Process.sleep(10)
        accept(listener, collector, options)
    end
  end

  defp serve(%{socket: socket} = reader, collector, options) do
    case HTTP.read(reader, options) do
      # In every mode, and in no account.
      {:ok, %{path: @probe}, _, _} ->
        Response.send(socket, Probe.answer(options.page_url), false)
        finish(socket)

      {:ok, request, keep_alive?, reader} ->
        verdict = Ingest.judge(request, options.api_key)
        request = readable(request, verdict)
        verdict = Map.put(verdict, :bytes, request.bytes)
        # They can be many, and are counted.
        verdict = if verdict.accepted, do: verdict, else: %{verdict | events: []}
        {id, step} = GenServer.call(collector, {:request, request, verdict}, :infinity)
        asked = {collector, id, request, verdict, options.feed}

        case step |> recorded(asked) |> act(socket, keep_alive?, asked) do
          :ok when keep_alive? -> serve(reader, collector, options)
          :ok -> finish(socket)
          _ -> :gen_tcp.close(socket)
        end

      {:refused, {status, code, message}} ->
        send(collector, {:unreadable, status, message})
        if options.feed, do: Feed.record(options.feed, Feed.Record.unreadable(status, message))
        Response.send(socket, Ingest.error(status, code, message), false)
        finish(socket)

      :closed ->
        :gen_tcp.close(socket)
    end
  end

  defp finish(socket) do
    :gen_tcp.shutdown(socket, :write)
    HTTP.drain(socket, @drain_ms)
    :gen_tcp.close(socket)
  end

  defp readable(request, verdict) do
    body = if is_binary(request.body), do: request.body, else: ""

    Map.merge(request, %{
      body: body,
      bytes: byte_size(body),
      events: length(verdict.events),
      status: nil
    })
  end

  ## The page's feed

  # Before the answer: a client that has it finds its request on the page. A step that is not decided yet is recorded
  # when it is.
  defp recorded(step, {_, _, _, _, nil}), do: step

  defp recorded(step, asked) do
    record(step, 0, asked)
    step
  end

  defp record({:delay, ms, step}, delay, asked), do: record(step, delay + ms, asked)

  defp record(step, delay, {_, _, request, verdict, feed}) do
    if step in [:hang, :reset] or match?({:answer, _}, step),
      do: Feed.record(feed, Feed.Record.new(request, verdict, step, delay))
  end

  ## Steps

  defp act({:answer, answer}, socket, keep_alive?, _), do: Response.send(socket, answer, keep_alive?)

  # The mode's effect comes first, its answer after the delay.
  defp act({:delay, ms, {:choose, choose}}, socket, keep_alive?, asked),
    do: act({:delay, ms, chosen(choose, asked)}, socket, keep_alive?, asked)

  defp act({:delay, ms, step}, socket, keep_alive?, asked) do
    Process.sleep(ms)
    act(step, socket, keep_alive?, asked)
  end

  defp act({:choose, choose}, socket, keep_alive?, asked),
    do: act(chosen(choose, asked), socket, keep_alive?, asked)

  # It ends when the peer closes the connection.
  defp act(:hang, socket, _keep_alive?, _) do
    HTTP.drain(socket, :infinity)
    :closed
  end

  defp act(:reset, socket, _keep_alive?, _) do
    :inet.setopts(socket, linger: {true, 0})
    :closed
  end

  defp act({:gate, pid}, socket, keep_alive?, {collector, id, request, verdict, _} = asked) do
    ref = make_ref()
    send(pid, {:collector_request, {self(), ref}, request})

    receive do
      {:release, ^ref, mode, {caller, tag}} ->
        step = GenServer.call(collector, {:settle, id, verdict, mode}, :infinity)
        step = if match?({:choose, _}, step), do: chosen(elem(step, 1), asked), else: recorded(step, asked)
        send(caller, {tag, :released})
        act(step, socket, keep_alive?, asked)
    end
  end

  # Here, and not in the collector's process: the function can use the collector, and takes nothing with it.
  defp chosen(choose, {collector, id, request, verdict, _} = asked) do
    mode =
      case called(choose, request) do
        {:ok, mode} ->
          mode

        {:error, reason} ->
          reason = reason |> String.replace(~r/\s+/, " ") |> without_key(request)
          Logger.error("BilldogEng.Collector: answered 500, the function given to respond/2 #{reason}")
          {_, _, body} = Ingest.error(500, "RESPOND_FAILED", "the function given to respond/2 failed")
          {:status, 500, [], body}
      end

    collector |> GenServer.call({:settle, id, verdict, mode}, :infinity) |> recorded(asked)
  end

  defp called(choose, request) do
    with {:error, reason} <- Mode.check(choose.(request)), do: {:error, "returned #{reason}"}
  catch
    kind, reason -> {:error, "failed: #{Exception.format_banner(kind, reason, __STACKTRACE__)}"}
  end

  # An error can quote the request. A key of a few letters is none, and would be found in words.
  defp without_key(text, request) do
    for {"x-" <> _, key} when byte_size(key) >= 8 <- request.headers, reduce: text do
      text -> String.replace(text, key, "[key]")
    end
  end
end
