defmodule BilldogEng.Telemetry.Address do
  @moduledoc false
  # A LiveView's address without its query, at each change of it: `URI` and `:binary.split/2` take longer than
  # a capture.

  @enforce_keys [:text, :origin, :host, :path]
  defstruct @enforce_keys

  @doc false
  # Whether it is the address of `uri`, whatever the query.
  def of?(nil, _uri), do: false

  def of?(%{text: text}, uri) do
    size = byte_size(text)

    case uri do
      <<^text::binary-size(size), rest::binary>> -> until(rest, ??, ?#) == 0
      _ -> false
    end
  end

  @doc false
  # The address of `uri`. Its origin is nearly always that of the last one, and then isn't looked into again.
  def parse(uri, last \\ nil) do
    {origin, host} = origin(uri, last)
    from = byte_size(origin)
    <<_::binary-size(from), rest::binary>> = uri
    size = until(rest, ??, ?#)
    path = if size == 0, do: "/", else: binary_part(rest, 0, size)
    %__MODULE__{text: binary_part(uri, 0, from + size), origin: origin, host: host, path: path}
  end

  defp origin(uri, %{origin: origin, host: host}) do
    size = byte_size(origin)

    case uri do
      <<^origin::binary-size(size), "/", _::binary>> -> {origin, host}
      _ -> origin(uri, nil)
    end
  end

  defp origin("http://" <> rest = uri, nil), do: by_authority(uri, rest)
  defp origin("https://" <> rest = uri, nil), do: by_authority(uri, rest)
  defp origin(uri, nil), do: by_uri(uri)

  defp by_authority(uri, rest) do
    size = authority(rest, 0)
    authority = binary_part(rest, 0, size)

    if until(authority, ?@, ?[) == size do
      {binary_part(uri, 0, byte_size(uri) - byte_size(rest) + size),
       binary_part(authority, 0, until(authority, ?:, ?:))}
    else
      by_uri(uri)
    end
  end

  defp authority(<<byte, rest::binary>>, size) when byte not in ~c"/?#", do: authority(rest, size + 1)
  defp authority(_end, size), do: size

  # Another scheme, a user's name, an IPv6 address.
  defp by_uri(uri) do
    text = binary_part(uri, 0, until(uri, ??, ?#))
    %URI{host: host, path: path} = URI.parse(text)
    {binary_part(text, 0, byte_size(text) - byte_size(path || "")), host}
  end

  @doc false
  # The segments of a path, decoded, as the router is given them.
  def segments(""), do: []
  def segments("/" <> rest), do: segments(rest)

  def segments(path) do
    {size, encoded} = segment(path, 0, false)
    segment = binary_part(path, 0, size)
    <<_::binary-size(size), rest::binary>> = path
    [if(encoded, do: URI.decode(segment), else: segment) | segments(rest)]
  end

  defp segment(<<byte, rest::binary>>, size, encoded) when byte != ?/,
    do: segment(rest, size + 1, encoded or byte == ?%)

  defp segment(_end, size, encoded), do: {size, encoded}

  # How many bytes are before the first of them.
  defp until(binary, one, other, size \\ 0)
  defp until(<<byte, _::binary>>, one, other, size) when byte == one or byte == other, do: size
  defp until(<<_, rest::binary>>, one, other, size), do: until(rest, one, other, size + 1)
  defp until("", _one, _other, size), do: size
end
