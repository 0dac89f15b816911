# See bin/crash. This VM is the ingest; those that are killed are started from here, one after the other, all with
# the same spool. Each prints its progress on its standard output, which outlives it.

defmodule Crash do
  alias BilldogEng.{Analytics, Collector}

  @batch 200
  @promised_ms 100

  # Captures in bursts of ten, as fast as a thousand or two a second.
  @victim """
  alias BilldogEng.Analytics
  [host, dir, run] = System.argv()

  {:ok, client} =
    Analytics.start_link(api_key: "key", host: host, spool_dir: dir, flush_at: 50, max_batch_size: #{@batch})

  burst = fn burst, first ->
    for n <- first..(first + 9), do: Analytics.capture(client, run, Integer.to_string(n), %{n: n, filler: "some of it"})
    IO.puts("\#{first + 9} \#{System.system_time(:millisecond)}")
    Process.sleep(:rand.uniform(8))
    burst.(burst, first + 10)
  end

  burst.(burst, 1)
  """

  def main(args) do
    {opts, [], []} = OptionParser.parse(args, strict: [runs: :integer, seed: :integer])
    runs = opts[:runs] || 20
    seed = opts[:seed] || :erlang.phash2(make_ref())
    :rand.seed(:exsss, {seed, 0, 0})
    IO.puts("#{runs} kills, seed #{seed}")
    dir = Path.join(System.tmp_dir!(), "billdogeng-crash-#{System.pid()}")
    {:ok, collector} = Collector.start_link()

    try do
      promised = for run <- 1..runs, do: {run, kill(run, collector, dir)}
      Collector.respond(collector, :ok)
      deliver_rest(collector, dir)
      judge(promised, Collector.events(collector))
    after
      File.rm_rf!(dir)
    end
  end

  # Answers the number of the last event that must arrive.
  defp kill(run, collector, dir) do
    Collector.respond(collector, Enum.random([:ok, :ok, {:delay, 30}, {:status, 503}, :hang]))
    paths = ["-pa", Application.app_dir(:billdogeng, "ebin")]
    args = paths ++ ["-e", @victim, "--", Collector.url(collector), dir, "run-#{run}"]

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        {:line, 200},
        args: args
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    first = next_line(port)
    until = System.monotonic_time(:millisecond) + :rand.uniform(900)
    lines = lines(port, until, [first])
    killed_at = System.system_time(:millisecond)
    {_, 0} = System.cmd("kill", ["-9", Integer.to_string(pid)])
    lines = rest(port, lines)

    Enum.find_value(lines, 0, fn {n, ms} -> if ms <= killed_at - @promised_ms, do: n end)
  end

  defp next_line(port) do
    receive do
      {^port, {:data, {:eol, line}}} -> parse(line)
      {^port, {:exit_status, status}} -> raise "a victim ended by itself, with status #{status}"
    after
      30_000 -> raise "a victim printed nothing for 30 s"
    end
  end

  # Newest first.
  defp lines(port, until, lines) do
    receive do
      {^port, {:data, {:eol, line}}} -> lines(port, until, [parse(line) | lines])
    after
      max(until - System.monotonic_time(:millisecond), 0) -> lines
    end
  end

  defp rest(port, lines) do
    receive do
      {^port, {:data, {:eol, line}}} -> rest(port, [parse(line) | lines])
      {^port, {:data, {:noeol, _}}} -> rest(port, lines)
      {^port, {:exit_status, _}} -> lines
    end
  end

  defp parse(line) do
    [n, ms] = String.split(line)
    {String.to_integer(n), String.to_integer(ms)}
  end

  defp deliver_rest(collector, dir) do
    {:ok, client} =
      Analytics.start_link(
        api_key: "key",
        host: Collector.url(collector),
        spool_dir: dir,
        max_batch_size: @batch
      )

    :ok = Analytics.flush(client)
    %{queued: 0, captured: n, delivered: n, dropped: dropped} = Analytics.stats(client)
    true = dropped == %{}
  end

  defp judge(promised, events) do
    arrived = Enum.group_by(events, & &1["user_id"], &String.to_integer(&1["event_name"]))

    findings =
      for {run, last} <- promised,
          finding <- findings(Map.get(arrived, "run-#{run}", []), last),
          do: {run, finding}

    repeats = length(events) - (events |> Enum.uniq_by(&{&1["user_id"], &1["event_name"]}) |> length())

    IO.puts(
      "#{length(events)} events arrived, #{repeats} of them twice; promised were #{promised |> Enum.map(&elem(&1, 1)) |> Enum.sum()}"
    )

    for {run, {_, text}} <- findings, do: IO.puts("run #{run}: #{text}")
    late = Enum.count(findings, &match?({_, {:late, _}}, &1))
    faults = length(findings) - late
    if faults > 0 or late > div(length(promised), 2), do: System.halt(1)

    IO.puts(
      "#{length(promised)} kills: no event missing among those that arrived, #{late} kills lost more than 100 ms"
    )
  end

  # A busy machine may keep the thread that writes from running for 100 ms: then the end of a run is missing, not its middle.
  defp findings(arrived, last) do
    once = Enum.uniq(arrived)
    missing = Enum.to_list(1..last//1) -- once
    tail? = missing != [] and hd(missing) > Enum.max(once, fn -> 0 end)
    text = "#{length(missing)} of #{last} are missing, the first is #{List.first(missing)}"

    [
      missing != [] && {if(tail?, do: :late, else: :missing), text},
      once != Enum.sort(once) && {:order, "out of order"},
      length(arrived) - length(once) > @batch && {:repeats, "#{length(arrived) - length(once)} arrived twice"}
    ]
    |> Enum.filter(& &1)
  end
end

Crash.main(System.argv())
