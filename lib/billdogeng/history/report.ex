defmodule BilldogEng.History.Report do
  @moduledoc false
  # The output of `mix billdogeng.send`: a bar while it runs, and the summary.

  @bar 24
  @redraw_ms 200

  # Returns the function that draws the bar of a run, for `:progress`. Without a terminal it draws nothing.
  def bar(label) do
    if IO.ANSI.enabled?() do
      began = now()
      last = :counters.new(1, [])

      fn progress ->
        elapsed = now() - began

        if elapsed - :counters.get(last, 1) >= @redraw_ms do
          :counters.put(last, 1, elapsed)
          # Cleared behind the text, not as a whole: that would flicker.
          IO.write(:stderr, ["\r", line(label, progress, elapsed), "\e[K"])
        end
      end
    else
      fn _progress -> :ok end
    end
  end

  def clear do
    if IO.ANSI.enabled?(), do: IO.write(:stderr, ["\r", IO.ANSI.clear_line()])
  end

  # Returns the line of a run after so many ms.
  def line(label, progress, elapsed) do
    rate = if elapsed > 0, do: div((progress.read - progress.resumed) * 1_000, elapsed), else: 0
    done = if progress.total, do: min(progress.bytes / max(progress.total, 1), 1.0)

    parts = [
      bar_of(done),
      "#{grouped(progress.delivered)} delivered",
      "#{grouped(rate)}/s",
      eta(done, elapsed)
    ]

    parts = parts ++ [rejected(progress.rejected), failure(progress.failure)]
    "#{label}  #{parts |> Enum.reject(&is_nil/1) |> Enum.join("  ")}"
  end

  defp bar_of(nil), do: nil

  defp bar_of(done) do
    full = round(done * @bar)
    percent = String.pad_leading("#{trunc(done * 100)}", 3)
    "[#{String.duplicate("=", full)}#{String.duplicate(" ", @bar - full)}] #{percent} %"
  end

  defp eta(done, elapsed) when is_float(done) and done > 0.01,
    do: "#{duration(round(elapsed / done - elapsed))} left"

  defp eta(_, _), do: nil

  defp rejected(0), do: nil
  defp rejected(count), do: "#{grouped(count)} rejected"

  defp failure(nil), do: nil
  defp failure(error), do: "retrying: #{String.slice(error.message, 0, 60)}"

  # Returns the lines of the summary.
  def summary(summary, dry_run?) do
    counts =
      if dry_run?,
        do: [
          {"read", summary.read},
          {"good", summary.read - summary.rejected},
          {"malformed", summary.rejected}
        ],
        else: Enum.map([:read, :sent, :delivered, :rejected], &{Atom.to_string(&1), summary[&1]})

    rows = Enum.map(counts, fn {label, count} -> {label, grouped(count)} end)

    rows =
      rows ++ if(summary.resumed > 0, do: [{"resumed", "after #{grouped(summary.resumed)} lines"}], else: [])

    rows = rows ++ [{"seconds", :erlang.float_to_binary(summary.seconds * 1.0, decimals: 1)}]
    for {label, text} <- rows, do: "#{String.pad_trailing(label, 10)} #{text}"
  end

  defp duration(ms) when ms < 60_000, do: "#{div(ms + 999, 1_000)} s"
  defp duration(ms) when ms < 3_600_000, do: "#{div(ms, 60_000)} min #{div(rem(ms, 60_000), 1_000)} s"
  defp duration(ms), do: "#{div(ms, 3_600_000)} h #{div(rem(ms, 3_600_000), 60_000)} min"

  # 1234567 becomes 1,234,567.
  defp grouped(number) do
    number
    |> Integer.to_string()
    |> String.reverse()
    |> String.replace(~r/\d{3}(?=\d)/, "\\0,")
    |> String.reverse()
  end

  defp now, do: System.monotonic_time(:millisecond)
end
