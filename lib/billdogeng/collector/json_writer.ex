defmodule BilldogEng.Collector.JSONWriter do
  @moduledoc false
  # Writes the JSON of the page's API: decoded JSON, atoms, and two forms that keep an order or a text as it is.

  @doc """
  Returns the JSON of a term. `{:object, pairs}` keeps the order of its pairs, and `{:raw, json}` is written as it is.
  Invalid UTF-8 in a string becomes U+FFFD.

      iex> term = {:object, [n: 1, list: [true, nil, 1.5], raw: {:raw, "{}"}, text: "a\\"b\\n"]}
      iex> IO.iodata_to_binary(BilldogEng.Collector.JSONWriter.iodata(term))
      ~S({"n":1,"list":[true,null,1.5],"raw":{},"text":"a\\"b\\u000A"})
  """
  @spec iodata(term) :: iodata
  def iodata({:raw, json}), do: json
  def iodata({:object, pairs}), do: object(pairs)
  def iodata(nil), do: "null"
  def iodata(value) when is_boolean(value), do: Atom.to_string(value)
  def iodata(atom) when is_atom(atom), do: string(Atom.to_string(atom))
  def iodata(integer) when is_integer(integer), do: Integer.to_string(integer)
  def iodata(float) when is_float(float), do: :erlang.float_to_binary(float, [:short])
  def iodata(text) when is_binary(text), do: string(text)
  def iodata([]), do: "[]"
  def iodata([first | rest]), do: [?[, iodata(first), Enum.map(rest, &[?,, iodata(&1)]), ?]]
  def iodata(map) when is_map(map), do: object(Map.to_list(map))

  defp object([]), do: "{}"
  defp object([first | rest]), do: [?{, pair(first), Enum.map(rest, &[?,, pair(&1)]), ?}]

  defp pair({key, value}), do: [string(to_string(key)), ?:, iodata(value)]

  defp string(text) do
    text = if String.valid?(text), do: text, else: valid(text, "")
    [?", escaped(text, text, 0, 0, []), ?"]
  end

  # Runs of bytes that need no escape are taken as one part.
  defp escaped(<<byte, rest::binary>>, text, from, length, parts) when byte < 0x20 or byte in [?", ?\\] do
    parts = [parts, binary_part(text, from, length), escape(byte)]
    escaped(rest, text, from + length + 1, 0, parts)
  end

  defp escaped(<<_, rest::binary>>, text, from, length, parts),
    do: escaped(rest, text, from, length + 1, parts)

  defp escaped(<<>>, text, 0, _length, []), do: text
  defp escaped(<<>>, text, from, length, parts), do: [parts, binary_part(text, from, length)]

  defp escape(byte) when byte in [?", ?\\], do: <<?\\, byte>>
  defp escape(byte), do: "\\u" <> Base.encode16(<<byte::16>>)

  defp valid(<<char::utf8, rest::binary>>, read), do: valid(rest, <<read::binary, char::utf8>>)
  defp valid(<<_, rest::binary>>, read), do: valid(rest, <<read::binary, 0xFFFD::utf8>>)
  defp valid(<<>>, read), do: read
end
