defmodule BilldogEng.Client.Options.Docs do
  @moduledoc false
  # The list of all options as Markdown, for `BilldogEng.Analytics.start_link/1` and guides/configuration.md.

  alias BilldogEng.Client.Options.{Schema, Type}

  @guide "guides/configuration.md"
  @first "<!-- options: written by mix run bin/options.exs -->\n\n"
  @last "\n<!-- end of options -->"

  @doc false
  # `heading` is the Markdown before the title of a group.
  def list(heading) do
    Enum.map_join(Schema.groups(), "\n", fn {title, rows} ->
      "#{heading} #{title}\n\n" <> Enum.map_join(rows, &item/1)
    end)
  end

  defp item({name, default, type, doc}) do
    [first | details] = String.split(doc, "\n", trim: true)
    first = "  * `#{inspect(name)}` - #{first} Default: #{value(default, type)}."
    Enum.join([first, accepted(type) | details], "\n    ") <> "\n"
  end

  defp accepted({:lenient, type, effect}) do
    accepted(type) <> "\n    Any other term logs a warning and has the effect of #{quoted(effect)}."
  end

  defp accepted(type), do: "Accepts #{quoted(Type.expected(type))}."

  @mib 1024 * 1024
  @day :timer.hours(24)

  defp value(bytes, {:integer, _, :bytes}) when bytes >= @mib and rem(bytes, @mib) == 0,
    do: "`#{digits(bytes)}` (#{div(bytes, @mib)} MiB)"

  defp value(ms, {:integer, _, :ms}) when ms >= @day and rem(ms, @day) == 0,
    do: "`#{digits(ms)}` (#{div(ms, @day)} days)"

  defp value(value, _type) when is_integer(value), do: "`#{digits(value)}`"
  defp value(value, _type), do: "`#{inspect(value)}`"

  # 1000 as 1_000.
  defp digits(number), do: number |> Integer.to_string() |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, "_")

  # Code within the descriptions, which are plain text in errors.
  defp quoted(text) do
    Regex.replace(~r/:\w+\b(?!\/)|\{[^}]*\}|BilldogEng[\w.]*\/\d|\b(?:true|false|nil)\b|"\w+"/, text, "`\\0`")
  end

  @doc false
  def guide_path, do: @guide

  @doc false
  # Returns the text of the guide with the list between its markers.
  def put_into_guide(text) do
    [before, rest] = String.split(text, @first, parts: 2)
    [_old, rest] = String.split(rest, @last, parts: 2)
    before <> @first <> linked(list("###")) <> @last <> rest
  end

  # Outside of its module a function needs the module's name to become a link.
  defp linked(list), do: Regex.replace(~r/`(\w+\/\d)`/, list, "`BilldogEng.Analytics.\\1`")
end
