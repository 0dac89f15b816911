defmodule BilldogEng.Collector.JSON do
  @moduledoc """
  A small, strict JSON decoder for what the collector receives.

  Objects become maps with string keys (of repeated keys the last wins), `null` becomes `nil`,
  integers are exact whatever their size. Anything that RFC 8259 doesn't allow is an error that
  says where: invalid UTF-8, a lone surrogate, a number such as `01`, a float beyond 64 bits,
  text after the value.
  """

  @doc """
  Decodes one JSON text.

  ## Examples

      iex> BilldogEng.Collector.JSON.decode(~s({"n": 123456789012345678901234567890, "a": [1.5, null]}))
      {:ok, %{"n" => 123456789012345678901234567890, "a" => [1.5, nil]}}

      iex> BilldogEng.Collector.JSON.decode("[1, 2")
      {:error, "the text ends too early"}

      iex> BilldogEng.Collector.JSON.decode("[1, oops]")
      {:error, "unexpected \\"o\\" at byte 4"}

  """
  @spec decode(binary) :: {:ok, term} | {:error, String.t()}
  def decode(text) when is_binary(text) do
    {value, rest} = value(skip(text))

    case skip(rest) do
      "" -> {:ok, value}
      rest -> {:error, unexpected(rest, text)}
    end
  catch
    {:at, ""} -> {:error, "the text ends too early"}
    {:at, rest} -> {:error, unexpected(rest, text)}
    {:said, what, rest} -> {:error, "#{what} at byte #{byte_size(text) - byte_size(rest)}"}
  end

  @doc """
  Writes a string as a JSON string.

  ## Examples

      iex> BilldogEng.Collector.JSON.quote_string(~s(a "b"\\n))
      ~S("a \\"b\\"\\u000A")

  """
  @spec quote_string(String.t()) :: String.t()
  def quote_string(string) do
    escaped =
      for <<byte <- string>>, into: "" do
        cond do
          byte in [?", ?\\] -> <<?\\, byte>>
          byte < 0x20 -> "\\u" <> (byte |> Integer.to_string(16) |> String.pad_leading(4, "0"))
          true -> <<byte>>
        end
      end

    "\"" <> escaped <> "\""
  end

  defp unexpected(<<char::utf8, _::binary>> = rest, text) do
    "unexpected #{inspect(<<char::utf8>>)} at byte #{byte_size(text) - byte_size(rest)}"
  end

  defp unexpected(rest, text), do: "invalid UTF-8 at byte #{byte_size(text) - byte_size(rest)}"

  defp skip(<<space, rest::binary>>) when space in [?\s, ?\t, ?\n, ?\r], do: skip(rest)
  defp skip(rest), do: rest

  defp value(<<?", rest::binary>>), do: string(rest)
  defp value(<<?{, rest::binary>>), do: object(skip(rest))
  defp value(<<?[, rest::binary>>), do: array(skip(rest))
  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value(<<c, _::binary>> = text) when c == ?- or c in ?0..?9, do: number(text)
  defp value(rest), do: throw({:at, rest})

  defp object("}" <> rest), do: {%{}, rest}
  defp object(rest), do: members(rest, [])

  defp members(<<?", rest::binary>>, pairs) do
    {key, rest} = string(rest)

    rest =
      case skip(rest) do
        ":" <> rest -> skip(rest)
        rest -> throw({:at, rest})
      end

    {value, rest} = value(rest)

    case skip(rest) do
      "," <> rest -> members(skip(rest), [{key, value} | pairs])
      "}" <> rest -> {:maps.from_list(:lists.reverse(pairs, [{key, value}])), rest}
      rest -> throw({:at, rest})
    end
  end

  defp members(rest, _pairs), do: throw({:at, rest})

  defp array("]" <> rest), do: {[], rest}
  defp array(rest), do: elements(rest, [])

  defp elements(rest, values) do
    {value, rest} = value(rest)

    case skip(rest) do
      "," <> rest -> elements(skip(rest), [value | values])
      "]" <> rest -> {:lists.reverse(values, [value]), rest}
      rest -> throw({:at, rest})
    end
  end

  # Runs without an escape are copied whole; copying also keeps a kept event from pinning the
  # whole request body.
  defp string(text), do: string(text, text, 0, [])

  defp string(<<?", rest::binary>>, run, length, []),
    do: {:binary.copy(binary_part(run, 0, length)), rest}

  defp string(<<?", rest::binary>>, run, length, parts),
    do: {IO.iodata_to_binary([parts, binary_part(run, 0, length)]), rest}

  defp string(<<?\\, rest::binary>>, run, length, parts) do
    {char, rest} = escape(rest)
    string(rest, rest, 0, [parts, binary_part(run, 0, length), char])
  end

  defp string(<<c, _::binary>> = rest, _run, _length, _parts) when c < 0x20,
    do: throw({:said, "a control character in a string", rest})

  defp string(<<c, rest::binary>>, run, length, parts) when c < 0x80,
    do: string(rest, run, length + 1, parts)

  defp string(<<char::utf8, rest::binary>>, run, length, parts),
    do: string(rest, run, length + byte_size(<<char::utf8>>), parts)

  defp string(rest, _run, _length, _parts), do: throw({:at, rest})

  for {char, meaning} <- [
        {?", "\""},
        {?\\, "\\"},
        {?/, "/"},
        {?b, "\b"},
        {?f, "\f"},
        {?n, "\n"},
        {?r, "\r"},
        {?t, "\t"}
      ] do
    defp escape(<<unquote(char), rest::binary>>), do: {unquote(meaning), rest}
  end

  defp escape(<<?u, hex::binary-size(4), rest::binary>> = here) do
    case {hex(hex, here), rest} do
      {high, <<"\\u", hex::binary-size(4), rest::binary>>} when high in 0xD800..0xDBFF ->
        case hex(hex, here) do
          low when low in 0xDC00..0xDFFF ->
            {<<0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00)::utf8>>, rest}

          _ ->
            throw({:said, "a lone surrogate", here})
        end

      {surrogate, _} when surrogate in 0xD800..0xDFFF ->
        throw({:said, "a lone surrogate", here})

      {char, rest} ->
        {<<char::utf8>>, rest}
    end
  end

  defp escape(""), do: throw({:at, ""})
  defp escape(rest), do: throw({:said, "an unknown escape", rest})

  defp hex(digits, here) do
    if for(<<c <- digits>>, do: c in ?0..?9 or c in ?a..?f or c in ?A..?F) |> Enum.all?(),
      do: String.to_integer(digits, 16),
      else: throw({:said, "an unknown escape", here})
  end

  # The grammar first, the conversion after: String.to_float/1 wants a fraction that JSON doesn't.
  defp number(text) do
    rest = if match?("-" <> _, text), do: binary_part(text, 1, byte_size(text) - 1), else: text

    after_integer =
      case rest do
        "0" <> rest -> rest
        rest -> digits(rest)
      end

    {after_fraction, fraction?} =
      case after_integer do
        "." <> rest -> {digits(rest), true}
        rest -> {rest, false}
      end

    {after_exponent, exponent?} =
      case after_fraction do
        <<e, sign, rest::binary>> when e in [?e, ?E] and sign in [?+, ?-] -> {digits(rest), true}
        <<e, rest::binary>> when e in [?e, ?E] -> {digits(rest), true}
        rest -> {rest, false}
      end

    whole = taken(text, after_exponent)

    cond do
      not fraction? and not exponent? -> {String.to_integer(whole), after_exponent}
      fraction? -> {float(whole, text), after_exponent}
      true -> {float(with_fraction(text, after_integer, after_exponent), text), after_exponent}
    end
  end

  defp with_fraction(text, after_integer, rest),
    do: taken(text, after_integer) <> ".0" <> taken(after_integer, rest)

  defp taken(text, rest), do: binary_part(text, 0, byte_size(text) - byte_size(rest))

  defp digits(<<d, rest::binary>>) when d in ?0..?9, do: more_digits(rest)
  defp digits(rest), do: throw({:at, rest})

  defp more_digits(<<d, rest::binary>>) when d in ?0..?9, do: more_digits(rest)
  defp more_digits(rest), do: rest

  defp float(text, at) do
    String.to_float(text)
  rescue
    ArgumentError -> throw({:said, "a float beyond 64 bits", at})
  end
end
