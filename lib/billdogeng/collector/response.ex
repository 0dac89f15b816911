defmodule BilldogEng.Collector.Response do
  @moduledoc false
  # Writes an HTTP/1.1 response to a socket.

  @reasons %{
    200 => "OK",
    204 => "No Content",
    400 => "Bad Request",
    401 => "Unauthorized",
    403 => "Forbidden",
    404 => "Not Found",
    405 => "Method Not Allowed",
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

  @doc "Sends status, headers and body. The type is JSON unless a header states another one."
  @spec send(:gen_tcp.socket(), {pos_integer, [{String.t(), String.t()}], iodata}, boolean) ::
          :ok | {:error, term}
  def send(socket, {status, headers, body}, keep_alive?) do
    headers = if keep_alive?, do: headers, else: [{"connection", "close"} | headers]
    # 204 and 304 have no body, and so no length.
    bodiless? = status in [204, 304]
    length = {"content-length", Integer.to_string(IO.iodata_length(body))}
    headers = if bodiless?, do: headers, else: [length | headers]
    :gen_tcp.send(socket, [head(status, headers), if(bodiless?, do: "", else: body)])
  end

  @doc "Returns the head of a response, with the empty line at its end."
  @spec head(pos_integer, [{String.t(), String.t()}]) :: iolist
  def head(status, headers) do
    typed? = Enum.any?(headers, fn {name, _} -> String.downcase(name) == "content-type" end)
    headers = if typed?, do: headers, else: [{"content-type", "application/json"} | headers]

    [
      "HTTP/1.1 #{status} #{Map.get(@reasons, status, "Status")}\r\n",
      for({name, value} <- headers, do: [name, ": ", value, "\r\n"]),
      "\r\n"
    ]
  end
end
