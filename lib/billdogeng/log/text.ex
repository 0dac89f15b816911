defmodule BilldogEng.Log.Text do
  @moduledoc false
  # Text from outside (an ingest's message, an event's name, a path) as a log line may show it: in one line, without
  # characters that a terminal or a log viewer acts on, and of bounded length.

  # Characters that are shown.
  @most 300

  # Controls, line and paragraph separators, and the marks that change the direction of text.
  defguardp is_hidden(character)
            when character < 0x20 or character in 0x7F..0x9F or character in 0x2028..0x202E or
                   character in [0x061C, 0x200E, 0x200F, 0xFEFF] or character in 0x2066..0x2069

  @doc false
  # Returns the first `most` characters of `text`, escaped as in Elixir's strings; "…" stands for the rest.
  def shown(text, most \\ @most), do: text |> escaped(most, []) |> IO.iodata_to_binary()

  @doc false
  # Returns `shown/2` in quotes.
  def quoted(text, most \\ 200), do: ~s("#{shown(text, most)}")

  defp escaped("", _left, shown), do: shown
  defp escaped(_rest, 0, shown), do: [shown, "…"]

  defp escaped(<<character::utf8, rest::binary>>, left, shown),
    do: escaped(rest, left - 1, [shown, character(character)])

  defp escaped(<<byte, rest::binary>>, left, shown),
    do: escaped(rest, left - 1, [shown, "\\x", Base.encode16(<<byte>>)])

  defp character(?\n), do: "\\n"
  defp character(?\r), do: "\\r"
  defp character(?\t), do: "\\t"
  defp character(hidden) when is_hidden(hidden), do: ["\\u{", Integer.to_string(hidden, 16), "}"]
  defp character(character), do: <<character::utf8>>

  @doc false
  # Returns a count with its noun: "1 event", "120 events".
  def counted(1, noun), do: "1 #{noun}"
  def counted(count, noun), do: "#{count} #{noun}s"
end
