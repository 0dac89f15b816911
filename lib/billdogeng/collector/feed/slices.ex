defmodule BilldogEng.Collector.Feed.Slices do
  @moduledoc false
  # Finds the text of each event in the body of a request, so that the page shows an event as it was sent: with its order
  # of keys and its numbers. The slices are parts of the body and take no memory of their own.

  # A longer string is searched for its end by the VM, a shorter one byte by byte.
  @short 64

  @doc """
  Returns the text of each element of the array `events`. The body must be valid JSON.

      iex> BilldogEng.Collector.Feed.Slices.events(~s({"api_key":"k","events":[ {"a":[1]}, {"b":"]"} ]}))
      [~s({"a":[1]}), ~s({"b":"]"})]
      iex> BilldogEng.Collector.Feed.Slices.events("[]")
      []
  """
  @spec events(binary) :: [binary]
  def events(body) do
    case blank(body) do
      <<?{, rest::binary>> -> members(blank(rest), body, [])
      _ -> []
    end
  end

  # Of keys that repeat, the last one counts, as in the decoded body.
  defp members(<<?", rest::binary>>, body, found) do
    after_key = string(rest)
    key = binary_part(rest, 0, byte_size(rest) - byte_size(after_key) - 1)
    <<?:, value::binary>> = blank(after_key)
    value = blank(value)
    {found, rest} = member(key, value, body, found)
    members(blank(rest), body, found)
  end

  defp members(<<?,, rest::binary>>, body, found), do: members(blank(rest), body, found)
  defp members(_end, _body, found), do: found

  defp member("events", <<?[, rest::binary>>, body, _found), do: elements(blank(rest), body, [])
  defp member("events", value, _body, _found), do: {[], value(value)}
  defp member(_key, value, _body, found), do: {found, value(value)}

  defp elements(<<?], rest::binary>>, _body, slices), do: {Enum.reverse(slices), rest}
  defp elements(<<?,, rest::binary>>, body, slices), do: elements(blank(rest), body, slices)

  defp elements(text, body, slices) do
    rest = value(text)
    from = byte_size(body) - byte_size(text)
    slice = binary_part(body, from, byte_size(text) - byte_size(rest))
    elements(blank(rest), body, [slice | slices])
  end

  # Each returns what follows.
  defp value(<<?", rest::binary>>), do: string(rest)
  defp value(<<byte, rest::binary>>) when byte in [?{, ?[], do: nested(rest, 1)
  defp value(text), do: scalar(text)

  defp nested(rest, 0), do: rest
  defp nested(<<?", rest::binary>>, depth), do: nested(string(rest), depth)
  defp nested(<<byte, rest::binary>>, depth) when byte in [?{, ?[], do: nested(rest, depth + 1)
  defp nested(<<byte, rest::binary>>, depth) when byte in [?}, ?]], do: nested(rest, depth - 1)
  defp nested(<<_, rest::binary>>, depth), do: nested(rest, depth)

  defp scalar(<<byte, _::binary>> = text) when byte in [?,, ?], ?}, ?\s, ?\t, ?\r, ?\n], do: text
  defp scalar(<<_, rest::binary>>), do: scalar(rest)
  defp scalar(<<>>), do: ""

  defp string(text), do: string(text, @short)
  defp string(<<?", rest::binary>>, _left), do: rest
  defp string(<<?\\, _, rest::binary>>, left), do: string(rest, left)

  defp string(text, 0) do
    {at, 1} = :binary.match(text, ["\"", "\\"])
    string(binary_part(text, at, byte_size(text) - at), @short)
  end

  defp string(<<_, rest::binary>>, left), do: string(rest, left - 1)

  defp blank(<<byte, rest::binary>>) when byte in [?\s, ?\t, ?\r, ?\n], do: blank(rest)
  defp blank(rest), do: rest
end
