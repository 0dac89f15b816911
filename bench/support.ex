# Since Elixir 1.15 Mix hides applications that a project does not list; httpc takes both.
for app <- [:inets, :ssl] do
  if function_exported?(Mix, :ensure_application!, 1), do: apply(Mix, :ensure_application!, [app])
  {:ok, _} = Application.ensure_all_started(app)
end

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

defmodule Bench.Clock do
  @moduledoc false

  # In ns.
  def now, do: System.monotonic_time(:nanosecond)

  def time(fun) do
    start = now()
    fun.()
    now() - start
  end
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

defmodule Bench.Events do
  @moduledoc false

  # So many events of 8 properties that differ, made before: a capture's cost is not that of making its terms.
  def eight(count) do
    for n <- 1..count do
      properties = %{
        path: "/products/#{n}/reviews",
        referrer: "https://www.example.com/search?q=item+#{n}",
        plan: Enum.at(["free", "pro", "enterprise"], rem(n, 3)),
        title: "Reviews of product #{n}: by our customers",
        price: n * 1.37,
        quantity: rem(n, 9) + 1,
        duration_ms: n * 317,
        returning: rem(n, 2) == 0
      }

      {"user-#{n * 7919}", Enum.at(["$pageview", "product_viewed", "order_completed"], rem(n, 3)), properties}
    end
  end
end

defmodule Bench.Paced do
  @moduledoc false
  # As a busy app captures: 40 at a time, and a sleep of 1 ms.

  import Bench.Clock

  @burst 40

  # Returns the ns of each of these captures, sorted.
  def samples(ms, capture), do: ms |> in_order(capture) |> Enum.sort()

  # Returns the ns of each of these captures.
  def in_order(ms, capture) do
    samples = :atomics.new(ms * @burst + @burst, signed: false)
    count = load(capture, Bench.Events.eight(@burst), samples, 0, now() + ms * 1_000_000)
    for n <- 1..count, do: :atomics.get(samples, n)
  end

  # Returns the ns of those that came after a sleep.
  def after_sleep(in_order), do: Enum.take_every(in_order, @burst)

  def percentiles(sorted) do
    count = length(sorted)
    of = &Enum.at(sorted, trunc(count * &1))

    %{
      p50: of.(0.5),
      p99: of.(0.99),
      p999: of.(0.999),
      p9999: of.(0.9999),
      max: List.last(sorted),
      count: count
    }
  end

  # Kept where no garbage collection of the caller's sees them.
  defp load(capture, events, samples, count, until) do
    if now() >= until or count + @burst > :atomics.info(samples).size do
      count
    else
      for {{id, name, properties}, n} <- Enum.with_index(events, 1) do
        start = now()
        capture.(id, name, properties)
        :atomics.put(samples, count + n, now() - start)
      end

      Process.sleep(1)
      load(capture, events, samples, count + @burst, until)
    end
  end
end

defmodule Bench.Report do
  @moduledoc false
  # The input of bench_plots: a file for each part of bin/bench in _build/bench/results.

  @folder "_build/bench/results"

  # `tables`: lists of rows, the first one the header. `charts`: maps as bench/plots/src/chart.rs reads them.
  def write(part, title, command, notes, tables, charts) do
    File.mkdir_p!(@folder)

    part_of_report = %{
      title: title,
      command: command,
      machine: machine(),
      notes: notes,
      tables: tables,
      charts: charts
    }

    File.write!(Path.join(@folder, part <> ".json"), Bench.JSON.encoder().(part_of_report))
    for table <- tables, do: IO.puts("\n" <> Bench.Numbers.table(table))
    IO.puts("\n#{notes} #{machine()}\n")
  end

  def line(file, title, x, y, series), do: plot(file, title, "line", x, y, series)
  def steps(file, title, x, y, series), do: plot(file, title, "steps", x, y, series)
  def bars(file, title, panels), do: %{file: file, title: title, kind: "bars", panels: panels}

  # `bars`: `[[name, number]]`.
  def panel(title, bars), do: %{title: title, bars: bars}

  defp plot(file, title, kind, x, y, series) do
    %{file: file, title: title, kind: kind, plot: %{x: axis(x), y: axis(y), series: series}}
  end

  # `points`: `[{x, y}]`.
  def series(name, points), do: %{name: name, points: for({x, y} <- points, do: [x, y])}

  defp axis({label, :log}), do: %{label: label, log: true}
  defp axis(label), do: %{label: label, log: false}

  defp machine do
    "#{processor()}, #{System.schedulers_online()} schedulers, OTP #{System.otp_release()}, Elixir #{System.version()}."
  end

  defp processor do
    with {:ok, text} <- File.read("/proc/cpuinfo"),
         [_, name] <- Regex.run(~r/^model name\s*: (.+)$/m, text) do
      name
    else
      _ -> to_string(:erlang.system_info(:system_architecture))
    end
  end
end

defmodule Bench.Faulty do
  @moduledoc false
  # The ingests of bench/faults.exs, in a VM of their own, which ends with this one.

  # %{hang: url, …}
  def start do
    script = Path.join(__DIR__, "faults.exs")

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [:binary, line: 200, args: [script]])

    Map.merge(listening(port, %{}), %{
      refuse: "http://127.0.0.1:#{unused_port()}",
      unknown: "http://#{String.duplicate("a", 64)}.invalid"
    })
  end

  defp listening(port, urls) do
    receive do
      {^port, {:data, {:eol, "all of them"}}} ->
        urls

      {^port, {:data, {:eol, line}}} ->
        [name, url] = String.split(line)
        listening(port, Map.put(urls, String.to_atom(name), url))
    after
      30_000 -> raise "the faulty ingests did not start"
    end
  end

  defp unused_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    port
  end
end
