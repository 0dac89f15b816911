defmodule BilldogEng.Telemetry.Address do
  @moduledoc false
  # The address of a LiveView without its query. Each navigation and patch parses one, and `URI` and `:binary.split/2`
  # take longer than a capture.

  @enforce_keys [:text, :origin, :host, :path]
  defstruct @enforce_keys

  # Returns whether `uri` has this address, with any query.
  def of?(nil, _uri), do: false
  def of?(%{text: text}, uri), do: starts_with?(uri, text) and until(rest(uri, text), ??, ?#) == 0

  # Returns the address of `uri`. An origin that is equal to the last one is not parsed again.
  def parse(uri, last \\ nil) do
    {origin, host} = origin(uri, last)
    rest = rest(uri, origin)
    size = until(rest, ??, ?#)
    path = if size == 0, do: "/", else: binary_part(rest, 0, size)
    text = binary_part(uri, 0, byte_size(origin) + size)
    %__MODULE__{text: text, origin: origin, host: host, path: path}
  end

  defp origin(uri, %{origin: origin, host: host}) do
    if starts_with?(uri, origin) and match?("/" <> _, rest(uri, origin)),
      do: {origin, host},
      else: origin(uri, nil)
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

  # Parses other schemes, user names and IPv6 addresses.
  defp by_uri(uri) do
    text = binary_part(uri, 0, until(uri, ??, ?#))
    %URI{host: host, path: path} = URI.parse(text)
    {binary_part(text, 0, byte_size(text) - byte_size(path || "")), host}
  end

  # Returns the decoded segments of a path, as the router expects them.
  def segments(""), do: []
  def segments("/" <> rest), do: segments(rest)

  def segments(path) do
    {size, encoded} = segment(path, 0, false)
    segment = binary_part(path, 0, size)
    [if(encoded, do: URI.decode(segment), else: segment) | segments(rest(path, segment))]
  end

  defp segment(<<byte, rest::binary>>, size, encoded) when byte != ?/,
    do: segment(rest, size + 1, encoded or byte == ?%)

  defp segment(_end, size, encoded), do: {size, encoded}

  # Faster than `String.starts_with?/2`, which compiles a pattern.
  defp starts_with?(text, prefix) do
    size = byte_size(prefix)
    byte_size(text) >= size and binary_part(text, 0, size) == prefix
  end

  # Returns the text after a prefix of that length. A bit pattern cannot do this without warnings: before Elixir 1.20 the
  # size must not be pinned, since then it must be.
  defp rest(text, prefix) do
    from = byte_size(prefix)
    binary_part(text, from, byte_size(text) - from)
  end

  # Returns the number of bytes before the first `one` or `other`.
  defp until(binary, one, other, size \\ 0)
  defp until(<<byte, _::binary>>, one, other, size) when byte == one or byte == other, do: size
  defp until(<<_, rest::binary>>, one, other, size), do: until(rest, one, other, size + 1)
  defp until("", _one, _other, size), do: size
end
