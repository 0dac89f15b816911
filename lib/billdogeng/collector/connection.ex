defmodule BilldogEng.Collector.Connection do
  @moduledoc false
  # One process a connection: it waits in accept, tells the collector (which then starts the
  # next one to wait), reads requests, asks the collector what to do with each, and does it.
  #
  #     accept ──► read request ──► collector decides ──► answer ──► read request …
  #
  # Whoever accepts owns the socket, so nothing is handed over and a killed process closes it.

  alias BilldogEng.Collector.Ingest

  @max_body 64 * 1024 * 1024
  @piece 1024 * 1024

  @reasons %{
    200 => "OK",
    204 => "No Content",
    400 => "Bad Request",
    401 => "Unauthorized",
    403 => "Forbidden",
    404 => "Not Found",
    408 => "Request Timeout",
    413 => "Content Too Large",
    422 => "Unprocessable Content",
    429 => "Too Many Requests",
    500 => "Internal Server Error",
    502 => "Bad Gateway",
    503 => "Service Unavailable",
    504 => "Gateway Timeout"
  }

  @doc false
  @spec start_link(:gen_tcp.socket(), pid, nil | String.t()) :: pid
  def start_link(listener, collector, api_key),
    do: spawn_link(fn -> accept(listener, collector, api_key) end)

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

  defp accept(listener, collector, api_key) do
    case :gen_tcp.accept(listener) do
      {:ok, socket} ->
        send(collector, {:accepted, self()})
        serve(socket, collector, api_key)

      {:error, :closed} ->
        :ok

      # The peer left before it was accepted, or descriptors are short for a moment.
      {:error, _} ->
        Process.sleep(10)
        accept(listener, collector, api_key)
    end
  end

  defp serve(socket, collector, api_key) do
    case read(socket) do
      {:ok, request, keep_alive?} ->
        verdict = Ingest.judge(request, api_key)
        request = readable(request, verdict)
        {id, step} = GenServer.call(collector, {:request, request, verdict}, :infinity)

        case act(step, socket, keep_alive?, {collector, id, request, verdict}) do
          :ok when keep_alive? -> serve(socket, collector, api_key)
          _ -> :gen_tcp.close(socket)
        end

      {:bad, status, message} ->
        answer(socket, Ingest.error(status, "BAD_REQUEST", message), false)
        :gen_tcp.close(socket)

      {:error, _} ->
        :gen_tcp.close(socket)
    end
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

  defp act({:delay, ms, step}, socket, keep_alive?, asked) do
    Process.sleep(ms)
    act(step, socket, keep_alive?, asked)
  end

  # Active, so that the process ends when the peer gives up.
  defp act(:hang, socket, _keep_alive?, _) do
    :inet.setopts(socket, packet: :raw, active: true)

    receive do
      {:tcp_closed, ^socket} -> :closed
      {:tcp_error, ^socket, _} -> :closed
    end
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
        send(caller, {tag, :released})
        act(step, socket, keep_alive?, asked)
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

  ## Reading a request

  defp read(socket) do
    :inet.setopts(socket, packet: :http_bin)

    with {:ok, {:http_request, method, target, version}} <- :gen_tcp.recv(socket, 0),
         {:ok, headers} <- headers(socket, []),
         :ok <- go_on(socket, headers),
         {:ok, wire} <- body(socket, headers) do
      request = %{
        method: to_string(method),
        path: path(target),
        headers: headers,
        body: decoded(wire, header(headers, "content-encoding")),
        wire_bytes: byte_size(wire)
      }

      {:ok, request, keep_alive?(version, header(headers, "connection"))}
    else
      {:ok, {:http_error, line}} -> {:bad, 400, "not HTTP: #{inspect(line)}"}
      {:ok, other} -> {:bad, 400, "not a request: #{inspect(other)}"}
      other -> other
    end
  end

  defp headers(socket, read) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, {:http_header, _, name, _, value}} ->
        headers(socket, [{name |> to_string() |> String.downcase(), value} | read])

      {:ok, :http_eoh} ->
        :inet.setopts(socket, packet: :raw)
        {:ok, Enum.reverse(read)}

      other ->
        other
    end
  end

  defp go_on(socket, headers) do
    case header(headers, "expect") do
      nil -> :ok
      _ -> :gen_tcp.send(socket, "HTTP/1.1 100 Continue\r\n\r\n")
    end
  end

  defp body(socket, headers) do
    chunked? = String.downcase(header(headers, "transfer-encoding") || "") == "chunked"

    if chunked? do
      chunks(socket, [], 0)
    else
      case Integer.parse(header(headers, "content-length") || "0") do
        {length, ""} when length in 0..@max_body -> exactly(socket, length, [])
        {length, ""} when length > @max_body -> {:bad, 413, "the body is too long"}
        _ -> {:bad, 400, "content-length isn't a number"}
      end
    end
  end

  defp exactly(_socket, 0, read), do: {:ok, IO.iodata_to_binary(read)}

  defp exactly(socket, length, read) do
    with {:ok, piece} <- :gen_tcp.recv(socket, min(length, @piece)) do
      exactly(socket, length - byte_size(piece), [read, piece])
    end
  end

  defp chunks(socket, read, total) do
    with {:ok, line} <- line(socket) do
      case Integer.parse(line, 16) do
        {0, _} -> trailers(socket, read)
        {size, _} when size < 0 -> {:bad, 400, "a chunk without a size"}
        {size, _} when total + size > @max_body -> {:bad, 413, "the body is too long"}
        {size, _} -> chunk(socket, read, total, size)
        :error -> {:bad, 400, "a chunk without a size"}
      end
    end
  end

  defp chunk(socket, read, total, size) do
    with {:ok, piece} <- exactly(socket, size, []),
         {:ok, _end_of_chunk} <- line(socket) do
      chunks(socket, [read, piece], total + size)
    end
  end

  defp trailers(socket, read) do
    case line(socket) do
      {:ok, "\r\n"} -> {:ok, IO.iodata_to_binary(read)}
      {:ok, _trailer} -> trailers(socket, read)
      other -> other
    end
  end

  defp line(socket) do
    :inet.setopts(socket, packet: :line)
    line = :gen_tcp.recv(socket, 0)
    :inet.setopts(socket, packet: :raw)
    line
  end

  defp decoded(wire, nil), do: wire

  defp decoded(wire, encoding) do
    case String.downcase(encoding) do
      "gzip" -> :zlib.gunzip(wire)
      "identity" -> wire
      other -> {:error, "unknown content-encoding #{other}"}
    end
  rescue
    ErlangError -> {:error, "the body isn't gzip"}
  end

  defp path({:abs_path, path}), do: path
  defp path({:absoluteURI, _scheme, _host, _port, path}), do: path
  defp path(:*), do: "*"
  defp path(other), do: inspect(other)

  defp keep_alive?(version, nil), do: version >= {1, 1}
  defp keep_alive?(version, value), do: version >= {1, 1} and String.downcase(value) != "close"

  defp header(headers, name) do
    Enum.find_value(headers, fn {key, value} -> if key == name, do: value end)
  end
end
