defmodule BilldogEng.LiveDashboard.Chart do
  @moduledoc false
  # Line charts as SVG, without script and style: pure functions.

  @width 300
  @height 60

  @doc false
  # Returns the rates per second between samples, the oldest first; nil where one of two samples is missing.
  def rates(samples, key) do
    for [from, to] <- Enum.chunk_every(samples, 2, 1, :discard),
        do: if(from && to, do: max(to[key] - from[key], 0))
  end

  @doc false
  # Returns the values of samples.
  def values(samples, key), do: for(sample <- samples, do: sample && sample[key])

  @doc false
  # Returns a chart of so many points as iodata; `points` are the newest of them, nil is a gap.
  def svg(points, count, label) do
    most = points |> Enum.reject(&is_nil/1) |> Enum.max(fn -> 0 end)
    skipped = count - length(points)

    path =
      points
      |> Enum.with_index(skipped)
      |> Enum.map_reduce("M", fn
        {nil, _}, _move -> {"", "M"}
        {value, index}, move -> {[move, point(value, index, count, most)], "L"}
      end)
      |> elem(0)

    [
      ~s(<svg viewBox="0 0 #{@width} #{@height}" width="100%" height="#{@height}" preserveAspectRatio="none" ),
      ~s(role="img" aria-label="#{label}"><path d="M0 #{@height}H#{@width}" stroke="#c8ccd4" fill="none"/>),
      ~s(<path d="),
      path,
      ~s(" stroke="#5a3dc8" stroke-width="2" fill="none" stroke-linejoin="round" vector-effect="non-scaling-stroke"/></svg>)
    ]
  end

  defp point(value, index, count, most) do
    x = Float.round(index * @width / max(count - 1, 1), 1)
    y = Float.round(@height - 2 - value * (@height - 8) / max(most, 1), 1)
    "#{x} #{y}"
  end
end
