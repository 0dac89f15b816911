defmodule BilldogEng.Installer.Diff do
  @moduledoc false
  # The difference of two texts, as `diff -u` shows it.

  @around 3

  # Returns the lines of the difference, with their colours for a shell of Mix. `before` is nil for a new file.
  def lines(path, before, now) do
    changes =
      for {kind, lines} <- List.myers_difference(split(before), split(now)),
          line <- lines,
          do: {kind, line}

    from = if before, do: path, else: "/dev/null"
    ["--- " <> from, "+++ " <> path | changes |> hunks() |> Enum.map(&shown/1)]
  end

  defp split(nil), do: []
  defp split(text), do: text |> String.trim_trailing("\n") |> String.split("\n")

  # Leaves out the lines that are not near a change.
  defp hunks(changes) do
    changes = Enum.with_index(changes)

    near =
      for {{kind, _}, index} when kind != :eq <- changes,
          at <- (index - @around)..(index + @around),
          into: MapSet.new(),
          do: at

    changes
    |> Enum.chunk_by(fn {_, index} -> index in near end)
    |> Enum.filter(fn [{_, index} | _] -> index in near end)
    |> Enum.flat_map(fn hunk -> [:hunk | Enum.map(hunk, &elem(&1, 0))] end)
  end

  defp shown(:hunk), do: "@@"
  defp shown({:eq, line}), do: " " <> line
  defp shown({:ins, line}), do: [:green, "+" <> line]
  defp shown({:del, line}), do: [:red, "-" <> line]
end
