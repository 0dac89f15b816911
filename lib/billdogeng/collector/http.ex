defmodule BilldogEng.Collector.HTTP do
  @moduledoc false
  # Reads HTTP/1.1 requests from a socket. Everything that a peer can send has a bound:
  #
  # | bound | answer |
  # |---|---|
  # | 64 KiB of request line, headers and trailers | 431 |
  # | 16 MiB of body, and 16 MiB after gzip | 413 |
  # | `idle_timeout` until the first byte of a request | the connection is closed |
  # | `read_timeout` from that byte until the last | 408 |
  #
  # The bytes that follow a request stay in the buffer, for the next `read/2`.

  @max_head 64 * 1024
  @max_body 16 * 1024 * 1024
  # The most digits that a length can have and be a length at all.
  @max_digits 18
  @piece 64 * 1024

  @type t :: %{
          socket: :gen_tcp.socket(),
          buffer: binary,
          head_left: integer,
          deadline: nil | integer
        }

  @typedoc "An answer that ends the connection: status, code, message."
  @type refusal :: {pos_integer, String.t(), String.t()}

  @doc "Returns a reader for a passive, raw socket."
  @spec new(:gen_tcp.socket()) :: t
  def new(socket), do: %{socket: socket, buffer: "", head_left: @max_head, deadline: nil}

  @doc """
  Reads the next request. Its `body` is a binary after gzip, or a refusal if it cannot be decoded.

  `{:refused, refusal}` means that the peer's bytes cannot be read on from here.
  """
  @spec read(t, %{:idle_timeout => timeout, :read_timeout => pos_integer, optional(atom) => term}) ::
          {:ok, map, boolean, t} | {:refused, refusal} | :closed
  def read(reader, %{idle_timeout: idle, read_timeout: read}) do
    # Large bodies of the last request would stay in memory for as long as the connection is idle.
    if reader.deadline, do: :erlang.garbage_collect()

    with {:ok, reader} <- first_bytes(reader, idle),
         reader = %{reader | deadline: now() + read, head_left: @max_head},
         {:ok, method, target, version, reader} <- request_line(reader),
         {:ok, headers, reader} <- headers(reader, []),
         {:ok, wire, reader} <- body(reader, version, headers) do
      request = %{
        method: to_string(method),
        path: path(target),
        headers: headers,
        body: decoded(wire, header(headers, "content-encoding")),
        wire_bytes: byte_size(wire)
      }

      {:ok, request, keep_alive?(version, header(headers, "connection")), reader}
    end
  end

  @doc "Reads and drops what the peer still sends, for `ms` or until it closes."
  @spec drain(:gen_tcp.socket(), timeout) :: :ok
  def drain(socket, ms) do
    deadline = if is_integer(ms), do: now() + ms
    drain_until(socket, deadline)
  end

  defp drain_until(socket, deadline) do
    case :gen_tcp.recv(socket, 0, time_left(deadline)) do
      {:ok, _} -> drain_until(socket, deadline)
      {:error, _} -> :ok
    end
  end

  ## The head

  # A pipelined request is in the buffer already.
  defp first_bytes(%{buffer: ""} = reader, idle) do
    case :gen_tcp.recv(reader.socket, 0, idle) do
      {:ok, bytes} -> {:ok, %{reader | buffer: bytes}}
      {:error, _} -> :closed
    end
  end

  defp first_bytes(reader, _idle), do: {:ok, reader}

  # Nothing in it would end a line, so it would be waited for.
  defp request_line(%{buffer: <<0x16, 0x03, _::binary>>}),
    do: refused(400, "BAD_REQUEST", "this is TLS: the collector has none, so its URL begins with http://")

  defp request_line(reader) do
    case packet(reader, :http_bin) do
      {:ok, {:http_request, method, target, {1, _} = version}, reader} ->
        {:ok, method, target, version, reader}

      {:ok, {:http_request, _, _, _}, _} ->
        refused(505, "BAD_REQUEST", "the version is not HTTP/1.1 or 1.0")

      # Empty lines ahead of a request are allowed.
      {:ok, {:http_error, line}, reader} when line in ["\r\n", "\n"] ->
        request_line(reader)

      {:ok, _, _} ->
        refused(400, "BAD_REQUEST", "the request line is not one of HTTP/1.1")

      other ->
        other
    end
  end

  defp headers(reader, read) do
    case packet(reader, :httph_bin) do
      {:ok, {:http_header, _, name, _, value}, reader} ->
        # A copy, since a request that is kept would keep the whole buffer.
        name = name |> to_string() |> String.downcase(:ascii) |> :binary.copy()
        headers(reader, [{name, :binary.copy(value)} | read])

      {:ok, :http_eoh, reader} ->
        {:ok, Enum.reverse(read), reader}

      {:ok, _, _} ->
        refused(400, "BAD_REQUEST", "a header line is not NAME: VALUE")

      other ->
        other
    end
  end

  # One line of the head, as :erlang.decode_packet/3 reads it.
  defp packet(reader, type) do
    case :erlang.decode_packet(type, reader.buffer, []) do
      {:ok, packet, rest} -> take_head(reader, packet, rest)
      {:more, _} -> with {:ok, reader} <- more_head(reader), do: packet(reader, type)
      {:error, _} -> refused(400, "BAD_REQUEST", "the head is not one of HTTP/1.1")
    end
  end

  defp take_head(reader, taken, rest) do
    case reader.head_left - (byte_size(reader.buffer) - byte_size(rest)) do
      left when left >= 0 -> {:ok, taken, %{reader | buffer: rest, head_left: left}}
      _ -> head_too_large()
    end
  end

  defp more_head(%{buffer: buffer, head_left: left}) when byte_size(buffer) > left, do: head_too_large()
  defp more_head(reader), do: more(reader)

  defp head_too_large,
    do: refused(431, "HEADERS_TOO_LARGE", "request line, headers and trailers have over #{@max_head} bytes")

  ## The body

  defp body(reader, version, headers) do
    length = header(headers, "content-length")

    case {headers |> header("transfer-encoding") |> downcase(), length} do
      {nil, nil} ->
        {:ok, "", reader}

      {nil, length} ->
        with :ok <- one_length(headers),
             {:ok, length} <- content_length(length),
             :ok <- go_on(reader, version, headers) do
          exactly(reader, length)
        end

      # Two lengths are how one request is smuggled in another.
      {_, length} when length != nil ->
        refused(400, "BAD_REQUEST", "both content-length and transfer-encoding")

      {"chunked", nil} ->
        with :ok <- go_on(reader, version, headers), do: chunks(reader, "")

      {_, nil} ->
        refused(501, "BAD_REQUEST", "the only transfer-encoding is chunked")
    end
  end

  defp one_length(headers) do
    case for {"content-length", length} <- headers, uniq: true, do: length do
      [_] -> :ok
      _ -> refused(400, "BAD_REQUEST", "content-length is there twice")
    end
  end

  defp content_length(text) do
    case digits(text, 10) do
      {:ok, length} when length <= @max_body -> {:ok, length}
      :error -> refused(400, "BAD_REQUEST", "content-length is not a number")
      _ -> body_too_large()
    end
  end

  # Digits and nothing else: Integer.parse/2 also accepts a sign.
  defp digits(<<sign, _::binary>>, _base) when sign in [?+, ?-], do: :error
  defp digits(text, _base) when byte_size(text) > @max_digits, do: :too_large

  defp digits(text, base) do
    case Integer.parse(text, base) do
      {number, ""} -> {:ok, number}
      _ -> :error
    end
  end

  defp go_on(reader, version, headers) do
    case {version, headers |> header("expect") |> downcase()} do
      {{1, 1}, "100-continue"} -> reply(:gen_tcp.send(reader.socket, "HTTP/1.1 100 Continue\r\n\r\n"))
      {{1, 1}, other} when other != nil -> refused(417, "BAD_REQUEST", "the only expectation is 100-continue")
      _ -> :ok
    end
  end

  defp reply(:ok), do: :ok
  defp reply({:error, _}), do: :closed

  defp exactly(%{buffer: buffer} = reader, length) when byte_size(buffer) >= length do
    {body, rest} = :erlang.split_binary(buffer, length)
    {:ok, :binary.copy(body), %{reader | buffer: rest}}
  end

  defp exactly(reader, length),
    do: pieces(%{reader | buffer: ""}, length - byte_size(reader.buffer), [reader.buffer])

  defp pieces(reader, 0, read), do: {:ok, IO.iodata_to_binary(read), reader}

  # In pieces: a length that is announced alone must not take its memory.
  defp pieces(reader, length, read) do
    with {:ok, piece} <- recv(reader, min(length, @piece)) do
      pieces(reader, length - byte_size(piece), [read, piece])
    end
  end

  # Appended to one binary: a list of 16 million chunks of one byte would take a gigabyte.
  defp chunks(reader, read) do
    with {:ok, line, reader} <- line(reader),
         {:ok, size} <- chunk_size(line) do
      cond do
        size == 0 -> trailers(reader, read)
        byte_size(read) + size > @max_body -> body_too_large()
        true -> chunk(reader, read, size)
      end
    end
  end

  defp chunk_size(line) do
    case line |> String.split(";", parts: 2) |> hd() |> String.trim() |> digits(16) do
      {:ok, size} -> {:ok, size}
      :error -> refused(400, "BAD_REQUEST", "a chunk without a size")
      :too_large -> body_too_large()
    end
  end

  defp chunk(reader, read, size) do
    with {:ok, piece, reader} <- exactly(reader, size),
         {:ok, "", reader} <- line(reader) do
      chunks(reader, read <> piece)
    else
      {:ok, _, _} -> refused(400, "BAD_REQUEST", "a chunk is longer than its size")
      other -> other
    end
  end

  defp trailers(reader, read) do
    case line(reader) do
      {:ok, "", reader} -> {:ok, :binary.copy(read), reader}
      {:ok, trailer, reader} -> trailers(%{reader | head_left: reader.head_left - byte_size(trailer)}, read)
      other -> other
    end
  end

  # A line of a chunked body, without its end. It may be as long as what is left of the head; of the lines
  # that stay within it, only the trailers add up.
  defp line(%{head_left: left}) when left < 0, do: head_too_large()

  defp line(reader) do
    case :binary.split(reader.buffer, "\n") do
      [line, rest] -> {:ok, String.trim_trailing(line, "\r"), %{reader | buffer: rest}}
      [_] -> with {:ok, reader} <- more_head(reader), do: line(reader)
    end
  end

  defp body_too_large, do: refused(413, "PAYLOAD_TOO_LARGE", "the body has over #{@max_body} bytes")

  ## Decoding

  defp decoded(wire, encoding) do
    case downcase(encoding) do
      "gzip" -> gunzip(wire)
      encoding when encoding in [nil, "identity"] -> wire
      _ -> {400, "INVALID_BODY", "the only content-encoding is gzip"}
    end
  end

  # Piece by piece: 16 MiB can unfold to 16 GiB.
  defp gunzip(wire) do
    z = :zlib.open()

    try do
      # 16 + 15: gzip's header. Further members follow the first, as they may in gzip.
      :ok = :zlib.inflateInit(z, 31, :reset)
      inflated(z, :zlib.safeInflate(z, wire), [], 0)
    rescue
      ErlangError -> {400, "INVALID_BODY", "the body is not gzip"}
    after
      :zlib.close(z)
    end
  end

  defp inflated(z, {more, piece}, read, total) do
    total = total + IO.iodata_length(piece)

    cond do
      total > @max_body ->
        {413, "PAYLOAD_TOO_LARGE", "the body has over #{@max_body} bytes after gzip"}

      more == :continue ->
        inflated(z, :zlib.safeInflate(z, []), [read, piece], total)

      true ->
        # It raises if the stream has no end.
        :zlib.inflateEnd(z)
        IO.iodata_to_binary([read, piece])
    end
  end

  ## Bytes

  defp more(reader) do
    with {:ok, bytes} <- recv(reader, 0), do: {:ok, %{reader | buffer: reader.buffer <> bytes}}
  end

  defp recv(reader, length) do
    case :gen_tcp.recv(reader.socket, length, time_left(reader.deadline)) do
      {:ok, bytes} -> {:ok, bytes}
      {:error, :timeout} -> refused(408, "REQUEST_TIMEOUT", "the request did not arrive in time")
      {:error, _} -> :closed
    end
  end

  defp refused(status, code, message), do: {:refused, {status, code, message}}

  defp now, do: System.monotonic_time(:millisecond)
  defp time_left(nil), do: :infinity
  defp time_left(deadline), do: max(deadline - now(), 0)

  ## Fields

  defp path({:abs_path, path}), do: :binary.copy(path)
  defp path({:absoluteURI, _scheme, _host, _port, path}), do: :binary.copy(path)
  defp path(:*), do: "*"
  defp path(other), do: inspect(other)

  defp keep_alive?({1, 0}, _), do: false
  defp keep_alive?(_, nil), do: true

  defp keep_alive?(_, value),
    do: "close" not in (value |> downcase() |> String.split(",") |> Enum.map(&String.trim/1))

  defp header(headers, name) do
    Enum.find_value(headers, fn {key, value} -> if key == name, do: value end)
  end

  defp downcase(nil), do: nil
  defp downcase(text), do: String.downcase(text, :ascii)
end
