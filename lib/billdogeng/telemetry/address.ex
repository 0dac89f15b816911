defmodule BilldogEng.Telemetry.Address do
  @moduledoc false
  # Parts of a LiveView's address, at each change of it: `URI` and `:binary.split/2` take longer than a capture.

  @doc false
  def without_query(uri), do: binary_part(uri, 0, until(uri, ??, ?#, 0))

  @doc false
  # The host and the path of an address without query.
  def split("http://" <> rest), do: split_at_path(rest)
  def split("https://" <> rest), do: split_at_path(rest)

  def split(other) do
    %URI{host: host, path: path} = URI.parse(other)
    {host, path || "/"}
  end

  defp split_at_path(rest) do
    {authority, path} = cut(rest, ?/)
    {host(authority), if(path == "", do: "/", else: path)}
  end

  # Without port. Where there is more to it, as with a user's name or an IPv6 address, `URI` knows.
  defp host(authority) do
    if until(authority, ?@, ?[, 0) == byte_size(authority),
      do: authority |> cut(?:) |> elem(0),
      else: URI.parse("http://" <> authority).host
  end

  @doc false
  # The segments of a path, decoded, as the router is given them.
  def segments(""), do: []
  def segments("/" <> rest), do: segments(rest)

  def segments(path) do
    {segment, rest} = cut(path, ?/)
    [decode(segment) | segments(rest)]
  end

  @doc false
  def decode(segment) do
    if until(segment, ?%, ?%, 0) == byte_size(segment), do: segment, else: URI.decode(segment)
  end

  defp cut(binary, at) do
    size = until(binary, at, at, 0)
    {binary_part(binary, 0, size), binary_part(binary, size, byte_size(binary) - size)}
  end

  # How many bytes are before the first of either.
  defp until(<<byte, _::binary>>, one, other, size) when byte == one or byte == other, do: size
  defp until(<<_, rest::binary>>, one, other, size), do: until(rest, one, other, size + 1)
  defp until("", _one, _other, size), do: size
end
