defmodule BilldogEng.RawHTTP do
  @moduledoc "HTTP by hand, over raw sockets, for what no client would send."

  alias BilldogEng.Collector

  def connect(collector) do
    options = [:binary, active: false, packet: :raw]
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, Collector.port(collector), options)
    socket
  end

  def batch(names, key \\ "k") do
    events =
      Enum.map_join(names, ",", fn name ->
        ~s({"event_name":"#{name}","event_timestamp":1,"properties":{"a":1},"user_id":"u"})
      end)

    ~s({"api_key":"#{key}","events":[#{events}]})
  end

  def send_post(socket, body, headers \\ [], path \\ "/ingest-events") do
    headers =
      for {name, value} <-
            [{"X-Api-Key", "k"}, {"Content-Length", "#{byte_size(body)}"}] ++ headers,
          do: "#{name}: #{value}\r\n"

    :ok = :gen_tcp.send(socket, ["POST #{path} HTTP/1.1\r\nHost: x\r\n", headers, "\r\n", body])
  end

  def read_answer(socket) do
    :inet.setopts(socket, packet: :http_bin)

    with {:ok, {:http_response, _, status, _}} <- :gen_tcp.recv(socket, 0, 30_000) do
      headers = read_headers(socket, %{})
      length = headers |> Map.get("content-length", "0") |> String.to_integer()
      :inet.setopts(socket, packet: :raw)
      body = if length > 0, do: elem(:gen_tcp.recv(socket, length, 30_000), 1), else: ""
      {status, headers, body}
    end
  end

  defp read_headers(socket, read) do
    case :gen_tcp.recv(socket, 0, 30_000) do
      {:ok, {:http_header, _, name, _, value}} ->
        read_headers(socket, Map.put(read, String.downcase("#{name}"), value))

      {:ok, :http_eoh} ->
        read
    end
  end

  def post(socket, body, headers \\ [], path \\ "/ingest-events") do
    send_post(socket, body, headers, path)
    read_answer(socket)
  end
end
