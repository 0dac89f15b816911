defmodule BilldogEng.Collector.Feed.Text do
  @moduledoc false
  # Cuts what was received to what a line of the page shows. The work is bounded by the result, not by the value.

  @name 200
  @string 60
  @preview 240
  @long_integer Integer.pow(10, 40)

  @doc """
  Returns a name or an ID as text of at most 200 bytes.

      iex> BilldogEng.Collector.Feed.Text.name("signed_up")
      "signed_up"
      iex> BilldogEng.Collector.Feed.Text.name(nil)
      "nil"
      iex> BilldogEng.Collector.Feed.Text.name([1])
      "[…1]"
  """
  @spec name(term) :: String.t()
  def name(text) when is_binary(text), do: cut(text, @name)
  def name(nil), do: "nil"
  def name(other), do: short(other)

  @doc """
  Returns one line of an event's properties: those of the app before those that begin with `$`.

      iex> BilldogEng.Collector.Feed.Text.preview(%{"$lib" => "x", "plan" => "pro", "items" => [1, 2], "n" => 1.5})
      ~s(items: […2]  n: 1.5  plan: "pro"  $lib: "x")
  """
  @spec preview(term) :: String.t()
  def preview(properties) when is_map(properties) do
    {own, others} =
      properties
      |> Enum.take(40)
      |> Enum.split_with(fn {key, _} -> not String.starts_with?(key, "$") end)

    line(own ++ others, "")
  end

  def preview(other), do: short(other)

  defp line([{key, value} | rest], "") when rest != [], do: line(rest, part(key, value))
  defp line([{key, value}], ""), do: part(key, value)
  defp line([], read), do: read
  defp line(_more, read) when byte_size(read) > @preview, do: read <> " …"
  defp line([{key, value} | rest], read), do: line(rest, read <> "  " <> part(key, value))

  defp part(key, value), do: cut(key, @string) <> ": " <> quoted(value)

  defp quoted(text) when is_binary(text), do: ~s("#{cut(text, @string)}")
  defp quoted(other), do: short(other)

  @doc """
  Returns any JSON value as one short text, a string without quotes.

      iex> Enum.map(["a", 1, nil, true, %{"a" => 1}, []], &BilldogEng.Collector.Feed.Text.short/1)
      ["a", "1", "null", "true", "{…1}", "[…0]"]
  """
  @spec short(term) :: String.t()
  def short(text) when is_binary(text), do: cut(text, @string)
  def short(nil), do: "null"
  def short(map) when is_map(map), do: "{…#{map_size(map)}}"
  def short(list) when is_list(list), do: "[…#{length(list)}]"
  def short(float) when is_float(float), do: :erlang.float_to_binary(float, [:short])
  # An integer of JSON can have a million digits, which would take minutes to write.
  def short(integer) when is_integer(integer) and abs(integer) < @long_integer, do: Integer.to_string(integer)
  def short(integer) when is_integer(integer), do: "a long integer"
  def short(atom), do: Atom.to_string(atom)

  @doc """
  Cuts a text to a number of bytes, between two characters, and marks the cut.

      iex> BilldogEng.Collector.Feed.Text.cut("äöü", 3)
      "ä…"
  """
  @spec cut(String.t(), pos_integer) :: String.t()
  def cut(text, most) when byte_size(text) <= most, do: :binary.copy(text)
  def cut(text, most), do: whole(binary_part(text, 0, most), 3) <> "…"

  # At most three bytes of a character can be without its end.
  defp whole(text, tries) do
    if tries == 0 or String.valid?(text),
      do: text,
      else: whole(binary_part(text, 0, byte_size(text) - 1), tries - 1)
  end
end
