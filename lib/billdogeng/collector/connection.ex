defmodule BilldogEng.Collector.Connection do
  @moduledoc false
  # One process a connection: it waits in accept, tells the collector (which then starts the
  # next one to wait), reads requests, asks the collector what to do with each, and does it.
  #
  #     accept ──► read request ──► collector decides ──► answer ──► read request …
  #
  # Whoever accepts owns the socket, so nothing is handed over and a killed process closes it.

  alias BilldogEng.Collector.{HTTP, Ingest, Mode, Probe}

  require Logger

  @probe Probe.path()

  # For a peer that still sends when it is refused: a close would reset the connection under the answer.
  @drain_ms 5_000

  @reasons %{
    200 => "OK",
    204 => "No Content",
    400 => "Bad Request",
    401 => "Unauthorized",
    403 => "Forbidden",
    404 => "Not Found",
    408 => "Request Timeout",
    413 => "Content Too Large",
    417 => "Expectation Failed",
    422 => "Unprocessable Content",
    429 => "Too Many Requests",
    431 => "Request Header Fields Too Large",
    500 => "Internal Server Error",
    501 => "Not Implemented",
    502 => "Bad Gateway",
    503 => "Service Unavailable",
    504 => "Gateway Timeout",
    505 => "HTTP Version Not Supported"
  }

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
        answer(socket, Probe.answer(), false)
        finish(socket)

      {:ok, request, keep_alive?, reader} ->
        verdict = Ingest.judge(request, options.api_key)
        request = readable(request, verdict)
        # They can be many, and are counted.
        verdict = if verdict.accepted, do: verdict, else: %{verdict | events: []}
        {id, step} = GenServer.call(collector, {:request, request, verdict}, :infinity)

        case act(step, socket, keep_alive?, {collector, id, request, verdict}) do
          :ok when keep_alive? -> serve(reader, collector, options)
          :ok -> finish(socket)
          _ -> :gen_tcp.close(socket)
        end

      {:refused, {status, code, message}} ->
        send(collector, {:unreadable, status, message})
        answer(socket, Ingest.error(status, code, message), false)
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

  ## What the collector tells it to do

  defp act({:answer, answer}, socket, keep_alive?, _), do: answer(socket, answer, keep_alive?)

  # The mode's effect comes first, its answer after the delay.
  defp act({:delay, ms, {:choose, choose}}, socket, keep_alive?, asked),
    do: act({:delay, ms, chosen(choose, asked)}, socket, keep_alive?, asked)

  defp act({:delay, ms, step}, socket, keep_alive?, asked) do
    Process.sleep(ms)
    act(step, socket, keep_alive?, asked)
  end

  defp act({:choose, choose}, socket, keep_alive?, asked),
    do: act(chosen(choose, asked), socket, keep_alive?, asked)

  # It ends when the peer gives up.
  defp act(:hang, socket, _keep_alive?, _) do
    HTTP.drain(socket, :infinity)
    :closed
  end

  defp act(:reset, socket, _keep_alive?, _) do
    :inet.setopts(socket, linger: {true, 0})
    :closed
  end

  defp act({:gate, pid}, socket, keep_alive?, {collector, id, request, verdict} = asked) do
    ref = make_ref()
    send(pid, {:collector_request, {self(), ref}, request})

    receive do
      {:release, ^ref, mode, {caller, tag}} ->
        step = GenServer.call(collector, {:settle, id, verdict, mode}, :infinity)
        step = with {:choose, choose} <- step, do: chosen(choose, asked)
        send(caller, {tag, :released})
        act(step, socket, keep_alive?, asked)
    end
  end

  # Here, and not in the collector's process: the function can use the collector, and takes nothing with it.
  defp chosen(choose, {collector, id, request, verdict}) do
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

    GenServer.call(collector, {:settle, id, verdict, mode}, :infinity)
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

  defp answer(socket, {status, headers, body}, keep_alive?) do
    typed? = Enum.any?(headers, fn {name, _} -> String.downcase(name) == "content-type" end)
    headers = if typed?, do: headers, else: [{"content-type", "application/json"} | headers]
    # 204 and 304 have no body, and so no length.
    headers =
      if status in [204, 304],
        do: headers,
        else: [{"content-length", Integer.to_string(byte_size(body))} | headers]

    headers = if keep_alive?, do: headers, else: [{"connection", "close"} | headers]

    :gen_tcp.send(socket, [
      "HTTP/1.1 #{status} #{Map.get(@reasons, status, "Status")}\r\n",
      for({name, value} <- headers, do: [name, ": ", value, "\r\n"]),
      "\r\n",
      if(status in [204, 304], do: "", else: body)
    ])
  end
end
