defmodule Bench.JSON do
  @moduledoc false
  # The encoder of the baseline. Asked for at run time: the project depends on none of them.
  #
  # BENCH_JASON names a folder of Jason's compiled modules, such as `_build/prod/lib/jason/ebin` of an app.

  def name do
    cond do
      jason?() -> "Jason #{version("jason")}"
      jiffy?() -> "jiffy #{version("jiffy")}"
      true -> "Elixir's JSON #{System.version()}"
    end
  end

  def encoder do
    cond do
      jason?() -> &apply(Jason, :encode!, [&1])
      jiffy?() -> &IO.iodata_to_binary(apply(:jiffy, :encode, [&1]))
      Code.ensure_loaded?(JSON) -> &apply(JSON, :encode!, [&1])
      true -> raise "the baseline has no JSON encoder: set BENCH_JASON, or apt-get install erlang-jiffy"
    end
  end

  defp jason? do
    case System.get_env("BENCH_JASON", "") do
      "" -> false
      ebin -> Code.prepend_path(ebin) && (Code.ensure_loaded?(Jason) or raise("no Jason in #{ebin}"))
    end
  end

  defp jiffy?, do: Code.ensure_loaded?(:jiffy)

  defp version(app) do
    Application.load(String.to_atom(app))
    Application.spec(String.to_atom(app), :vsn) || "of its source"
  end
end

defmodule Bench.Collector do
  @moduledoc false
  # The counting ingest of bench/collector, in a process of its own; it ends with this VM.

  def start do
    port = Port.open({:spawn_executable, System.fetch_env!("BENCH_COLLECTOR")}, [:binary, line: 100])

    receive do
      {^port, {:data, {:eol, "listening on " <> address}}} -> "http://" <> address
    after
      5_000 -> raise "the collector did not start"
    end
  end

  # %{events: n, requests: n, bytes: n, json_bytes: n, refused: n}
  def count(url) do
    {:ok, {{_, 200, _}, _, body}} = :httpc.request(String.to_charlist(url <> "/count"))

    for [_, name, count] <- Regex.scan(~r/"(\w+)":(\d+)/, to_string(body)), into: %{} do
      {String.to_atom(name), String.to_integer(count)}
    end
  end

  def since(url, before), do: Map.new(count(url), fn {name, count} -> {name, count - before[name]} end)
end

defmodule Bench.Numbers do
  @moduledoc false

  def median(numbers) do
    sorted = Enum.sort(numbers)
    middle = div(length(sorted), 2)

    if rem(length(sorted), 2) == 1,
      do: Enum.at(sorted, middle),
      else: (Enum.at(sorted, middle - 1) + Enum.at(sorted, middle)) / 2
  end

  # 4 digits at the most, thousands apart.
  def show(number) when number >= 1_000 do
    round(number)
    |> Integer.to_charlist()
    |> Enum.reverse()
    |> Enum.chunk_every(3)
    |> Enum.map_join(",", &to_string/1)
    |> String.reverse()
  end

  def show(number) when number >= 100, do: Integer.to_string(round(number))
  def show(number), do: :erlang.float_to_binary(number * 1.0, decimals: if(number >= 10, do: 1, else: 2))

  def table([header | rows]) do
    lines = [header, List.duplicate("---", length(header)) | rows]
    Enum.map_join(lines, "\n", &"| #{Enum.join(&1, " | ")} |")
  end
end
