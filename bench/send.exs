# Sending a file: events per second and memory, and the count after two kills.
#
#     bin/bench --only send
#     bin/bench --only send --lines 1000000 --rounds 5
#
# The files are made first: a thousand lines, and as many as asked for, of eight properties each. A run that is killed and
# resumed is a process of its own. The bench fails if the ingest did not count every line, or more than a batch per kill twice.
# Memory is read from /proc, on Linux only.
Code.require_file("support.ex", __DIR__)

defmodule Bench.Send do
  alias Bench.{Collector, Numbers}

  @few 1_000
  @batch 1_000

  @sender """
  [path, host] = System.argv()
  {:ok, %{error: nil}} = BilldogEng.send_file(path, api_key: "key", host: host, resume: true)
  """

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [lines: :integer, rounds: :integer, ms: :integer])
    {lines, rounds} = {opts[:lines] || 1_000_000, opts[:rounds] || 5}
    dir = Path.join(System.tmp_dir!(), "billdogeng-bench-send-#{System.pid()}")
    File.mkdir_p!(dir)

    try do
      url = Collector.start()
      few = file(dir, @few)
      many = file(dir, lines)
      send!(few, url, @few)
      before = peak()
      rates = for _ <- 1..rounds, do: lines / send!(many, url, lines)

      rows = [
        [
          "lines",
          "bytes",
          "events/s",
          "fewest",
          "most",
          "peak memory (MB)",
          "with #{Numbers.show(@few)} lines"
        ]
      ]

      [few_mb, many_mb] = for kb <- [before, peak()], do: Float.round(kb / 1_000, 1)
      numbers = [Numbers.median(rates), Enum.min(rates), Enum.max(rates)]
      numbers = [lines, File.stat!(many).size | numbers]
      row = Enum.map(numbers, &Numbers.show(round(&1))) ++ ["#{many_mb}", "#{few_mb}"]
      IO.puts("\n" <> Numbers.table(rows ++ [row]) <> "\n")
      killed(many, url, lines)
    after
      File.rm_rf!(dir)
    end
  end

  defp file(dir, lines) do
    path = Path.join(dir, "#{lines}.ndjson")

    1..lines
    |> Stream.map(fn n ->
      ~s({"event":"order_completed","distinct_id":"user-#{rem(n, 5_000)}","timestamp":#{1_700_000_000_000 + n},) <>
        ~s("properties":{"n":#{n},"plan":"pro","path":"/orders/:id","revenue":#{n / 100},"items":[1,2,3],) <>
        ~s("browser":"Firefox","os":"Linux","referrer":"https://example.com/a/b"}}\n)
    end)
    |> Stream.chunk_every(1_000)
    |> Enum.into(File.stream!(path))

    path
  end

  # Returns the seconds that it took.
  defp send!(path, url, lines) do
    before = Collector.count(url)
    {:ok, %{delivered: ^lines, error: nil} = summary} = BilldogEng.send_file(path, api_key: "key", host: url)
    %{events: ^lines, refused: 0} = Collector.since(url, before)
    summary.seconds
  end

  # Killed after a third and two thirds, and resumed to the end.
  defp killed(path, url, lines) do
    before = Collector.count(url)
    args = ["-pa", Application.app_dir(:billdogeng, "ebin"), "-e", @sender, "--", path, url]

    for third <- 1..2 do
      port = start(args)
      {:os_pid, pid} = Port.info(port, :os_pid)
      reach(url, before, div(third * lines, 3))
      System.cmd("kill", ["-9", Integer.to_string(pid)])
      receive do: ({^port, {:exit_status, _}} -> :ok)
    end

    port = start(args)
    receive do: ({^port, {:exit_status, 0}} -> :ok)
    twice = Collector.since(url, before).events - lines
    IO.puts("killed twice and resumed: #{lines} lines, #{twice} of them twice")
    if twice < 0 or twice > 2 * @batch, do: System.halt(1)
  end

  defp start(args),
    do: Port.open({:spawn_executable, System.find_executable("elixir")}, [:binary, :exit_status, args: args])

  defp reach(url, before, events) do
    if Collector.since(url, before).events < events do
      Process.sleep(5)
      reach(url, before, events)
    end
  end

  # The most memory that this process has had, in kB.
  defp peak do
    with {:ok, status} <- File.read("/proc/self/status"),
         [_, kb] <- Regex.run(~r/VmHWM:\s+(\d+) kB/, status) do
      String.to_integer(kb)
    else
      _ -> 0
    end
  end
end

Bench.Send.main(System.argv())
