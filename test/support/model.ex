defmodule BilldogEng.Model do
  @moduledoc """
  The JSON of a term, in plain Elixir: the table of nearest forms, and nothing of how the
  encoder goes about it. Objects are maps with string keys, null is nil.
  """

  @deepest 100

  @doc "The JSON value of `term`, `depth` containers deep."
  def value(term, depth \\ 0)

  def value(term, _depth) when term in [nil, true, false] or is_number(term), do: term
  def value(term, _depth) when is_atom(term), do: Atom.to_string(term)
  def value(term, _depth) when is_binary(term), do: text(term)

  def value(%module{} = date, _depth) when module in [Date, Time, NaiveDateTime, DateTime],
    do: module.to_iso8601(date)

  def value(%module{} = struct, _depth) when module in [URI, Version], do: to_string(struct)
  def value(%MapSet{} = set, depth), do: set |> MapSet.to_list() |> array(depth)
  def value(%_{} = struct, _depth), do: text(inspect(struct))

  def value(term, depth) when depth >= @deepest and (is_map(term) or is_list(term) or is_tuple(term)), do: "…"

  def value(term, depth) when is_map(term), do: term |> Map.to_list() |> object(depth)
  def value(term, depth) when is_tuple(term), do: term |> Tuple.to_list() |> elements(depth)

  def value(term, depth) when is_list(term) do
    cond do
      List.improper?(term) -> text(inspect(term))
      term != [] and Keyword.keyword?(term) -> object(term, depth)
      true -> elements(term, depth)
    end
  end

  def value(term, _depth), do: text(inspect(term))

  defp array(_list, depth) when depth >= @deepest, do: "…"
  defp array(list, depth), do: elements(list, depth)

  defp object(pairs, depth), do: Map.new(pairs, fn {key, value} -> {key(key), value(value, depth + 1)} end)
  defp elements(list, depth), do: Enum.map(list, &value(&1, depth + 1))

  @doc "A map key as a string."
  def key(nil), do: "nil"
  def key(key) when is_atom(key), do: Atom.to_string(key)
  def key(key) when is_binary(key), do: text(key)

  def key(key) do
    text(to_string(key))
  rescue
    _ -> text(inspect(key))
  end

  @doc "The properties of a capture with groups and without an index."
  def properties(properties, groups) do
    if none?(groups), do: value(properties), else: grouped(properties, groups)
  end

  defp none?(groups), do: groups in [%{}, [], nil]

  defp grouped(properties, groups) do
    base =
      cond do
        properties != %{} and none?(properties) -> %{}
        is_map(properties) and not is_struct(properties) -> value(properties)
        is_list(properties) and Keyword.keyword?(properties) -> value(properties)
        true -> %{"$properties" => value(properties, 1)}
      end

    Map.put(base, "$groups", value(groups, 1))
  end

  # The Unicode standard, chapter 3.9: one U+FFFD for each maximal part of a sequence that isn't whole.
  @doc "A binary as text."
  def text(binary), do: binary |> text([]) |> IO.iodata_to_binary()

  defp text(<<char::utf8, rest::binary>>, done), do: text(rest, [done, <<char::utf8>>])
  defp text("", done), do: done

  defp text(<<lead, rest::binary>>, done) do
    part = part(lead, rest)
    text(binary_part(rest, part, byte_size(rest) - part), [done, "\uFFFD"])
  end

  # How many of the bytes after the lead belong to its broken sequence (table 3-7).
  defp part(lead, rest) do
    {first, more} =
      case lead do
        lead when lead in 0xC2..0xDF -> {0x80..0xBF, 0}
        0xE0 -> {0xA0..0xBF, 1}
        0xED -> {0x80..0x9F, 1}
        lead when lead in 0xE1..0xEF -> {0x80..0xBF, 1}
        0xF0 -> {0x90..0xBF, 2}
        0xF4 -> {0x80..0x8F, 2}
        lead when lead in 0xF1..0xF3 -> {0x80..0xBF, 2}
        _ -> {1..0//1, 0}
      end

    case rest do
      <<byte, rest::binary>> -> if byte in first, do: 1 + continuations(rest, more - 1), else: 0
      "" -> 0
    end
  end

  defp continuations(<<byte, rest::binary>>, left) when left > 0 and byte in 0x80..0xBF,
    do: 1 + continuations(rest, left - 1)

  defp continuations(_rest, _left), do: 0
end
