# The cost of idle clients: memory, threads, and how often their threads wake.
#
#     bin/bench --only idle
#     bin/bench --only idle --clients 1000 --seconds 300
#
# First as they were started, then after each has delivered an event and its connection is open. Linux only:
# it reads /proc. A run fails where a client takes more than 1 MB or one thread, or wakes once a minute.
Code.require_file("support.ex", __DIR__)

defmodule Bench.Idle do
  alias BilldogEng.Analytics
  alias Bench.{Collector, Numbers}

  # hyper looks for a connection to close every 30 s while it keeps one; after that it sleeps.
  @pool_idle 65

  def main(argv) do
    {opts, []} = OptionParser.parse!(argv, strict: [clients: :integer, seconds: :integer])
    {clients, seconds} = {opts[:clients] || 200, opts[:seconds] || 60}
    url = Collector.start()

    # The first client of a VM loads what later ones share: it is not counted.
    warm = start(url)
    :ok = Analytics.capture(warm, "user", "event")
    :ok = Analytics.flush(warm)
    before = measure()
    pids = for _ <- 1..clients, do: start(url)
    fresh = row("started", before, clients, seconds)

    got = Collector.count(url).events
    for pid <- pids, do: :ok = Analytics.capture(pid, "user", "event")
    for pid <- pids, do: :ok = Analytics.flush(pid)
    ^clients = Collector.count(url).events - got
    IO.puts(:stderr, "idle: #{@pool_idle} s until the connections are closed")
    Process.sleep(@pool_idle * 1_000)
    used = row("each has delivered an event", before, clients, seconds)

    header = [
      "#{clients} idle clients",
      "KiB a client",
      "threads a client",
      "context switches a minute, a client"
    ]

    rows = [fresh, used]

    IO.puts(
      "\n" <>
        Numbers.table([header | for(row <- rows, do: [hd(row) | Enum.map(tl(row), &Numbers.show/1)])]) <> "\n"
    )

    if Enum.any?(rows, fn [_, kib, threads, wakes] -> kib > 1_000 or threads > 1 or wakes >= 1 end),
      do: System.halt(1)
  end

  defp start(url) do
    {:ok, pid} = Analytics.start_link(api_key: "key", host: url)
    pid
  end

  defp row(what, before, clients, seconds) do
    Process.sleep(1_000)
    now = measure()
    IO.puts(:stderr, "idle: #{what}, #{seconds} s")
    woken = switches()
    Process.sleep(seconds * 1_000)
    per_minute = (switches() - woken) * 60 / seconds / (clients + 1)
    [what, (now.kib - before.kib) / clients, (now.threads - before.threads) / clients, per_minute]
  end

  defp measure do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    status = File.read!("/proc/self/status")
    %{kib: field(status, "VmRSS"), threads: field(status, "Threads")}
  end

  # Of all flush threads. The kernel keeps 15 bytes of a thread's name.
  defp switches do
    for task <- Path.wildcard("/proc/self/task/*"),
        {:ok, "billdogeng-flus" <> _} <- [File.read(task <> "/comm")],
        {:ok, status} <- [File.read(task <> "/status")],
        reduce: 0 do
      sum -> sum + field(status, "voluntary_ctxt_switches") + field(status, "nonvoluntary_ctxt_switches")
    end
  end

  defp field(status, name) do
    [_, number] = Regex.run(~r/^#{name}:\s+(\d+)/m, status)
    String.to_integer(number)
  end
end

Bench.Idle.main(System.argv())
