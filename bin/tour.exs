# See bin/tour.

# The chart's library is a Hex package, which only Livebook installs. This one draws in text.
defmodule VegaLite do
  def new(opts), do: %{title: Keyword.fetch!(opts, :title), fields: []}
  def data_from_values(chart, [_ | _] = values), do: Map.put(chart, :values, values)
  def mark(chart, :line), do: chart

  def encode_field(chart, axis, field, type: :quantitative) when axis in [:x, :y] do
    for value <- chart.values, do: true = is_number(Map.fetch!(value, field))
    fields = chart.fields ++ [field]
    if axis == :y, do: draw(chart.title, chart.values, fields)
    %{chart | fields: fields}
  end

  defp draw(title, values, [x, y]) do
    most = values |> Enum.map(& &1[y]) |> Enum.max() |> max(1)
    IO.puts(title)

    for value <- values do
      bar = String.duplicate("#", round(50 * value[y] / most))
      IO.puts("#{String.pad_leading(:erlang.float_to_binary(value[x], decimals: 1), 5)} s #{bar} #{value[y]}")
    end
  end
end

defmodule Tour do
  @path "guides/tour.livemd"

  def main do
    Logger.configure(level: :error)
    [install | cells] = cells(File.read!(@path))
    true = elem(install, 1) =~ "Mix.install"

    # One script, in which each line has the number that it has in the file.
    {script, _} =
      Enum.reduce(cells, {"", 1}, fn {line, cell}, {script, at} ->
        {script <> String.duplicate("\n", line - at) <> cell, line + length(String.split(cell, "\n")) - 1}
      end)

    {_, bindings} = Code.eval_string(script, [], file: @path)
    IO.puts("#{length(cells)} cells have run")
    verify(Map.new(bindings))
  end

  # Returns `{line, code}` of each cell.
  defp cells(text) do
    for [{at, _}, {code, length}] <- Regex.scan(~r/^```elixir\n(.*?)^```$/ms, text, return: :index) do
      before = binary_part(text, 0, at)
      {length(String.split(before, "\n")) + 1, binary_part(text, code, length)}
    end
  end

  defp verify(%{client: client, collector: collector, down: down, recovered: recovered, refusal: refusal}) do
    true = List.last(down)["queued"] == 2_000
    true = List.last(recovered)["queued"] < 200
    400 = refusal.status
    stats = BilldogEng.Analytics.stats(client)
    %{rejected: 1} = stats.dropped
    true = stats.captured == stats.delivered + 1
    true = BilldogEng.Collector.count(collector) == stats.delivered
    true = BilldogEng.Collector.page_url(collector) =~ "http://127.0.0.1:"
    IO.puts("the counters are equal: #{stats.captured} captured, #{stats.delivered} delivered, 1 rejected")
  end
end

Tour.main()
