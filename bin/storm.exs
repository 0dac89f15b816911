# See bin/storm.
#
#     writers ──capture──▶ client ──HTTP──▶ collector, that fails at random ──▶ which events have arrived
#     flushers ──flush───▶   │  ▲                                                         │
#     purger ───purge────▶   │  └── killed, and started anew                              ▼
#                            └── the accounts of each client that has ended ──▶ the storm's verdict
#
# One storm in memory, then one with a spool. Writers pause while an owner is killed, so that each capture reaches a
# client that counts it, and the sums below can be exact.
defmodule Storm do
  alias BilldogEng.{Analytics, Collector}
  alias BilldogEng.Client.Native

  @writers 8
  @flushers 50
  # One event in so many is refused, while the ingest refuses any.
  @bad 40
  @faults_per_mille 120

  def main(args) do
    {opts, [], []} = OptionParser.parse(args, strict: [seed: :integer, seconds: :integer, without: :string])
    seconds = opts[:seconds] || 60
    seed = opts[:seed] || :erlang.phash2(make_ref())
    faults? = opts[:without] != "disk"
    IO.puts("storm: #{seconds} s, seed #{seed}#{if faults?, do: ", on a disk that fails"}")
    Logger.configure(level: :none)

    # The accounts of clients that have ended come to this process.
    Native.report_to_me()
    disk = if faults?, do: spawn_link(fn -> fail_disk(random(seed, 0)) end)
    memory = storm(:memory, random(seed, 1), seconds * 500, nil)
    wrong = memory ++ storm(:spool, random(seed, 2), seconds * 500, disk)
    if faults?, do: IO.puts("the disk failed: #{disk_failures()}")
    for line <- wrong, do: IO.puts("WRONG: #{line}")
    IO.puts(if wrong == [], do: "The accounts are exact.", else: "Again with: bin/storm --seed #{seed}")
    System.halt(if wrong == [], do: 0, else: 1)
  end

  # ── one storm ──

  defp storm(kind, random, ms, disk) do
    {:ok, collector} = Collector.start_link(keep: false)
    table = :ets.new(:arrived, [:public, :set])
    counter = spawn_link(fn -> count(table, 0) end)
    Collector.subscribe(collector, counter)

    arena = %{
      kind: kind,
      collector: collector,
      box: :ets.new(:client, [:public, :set])
    }

    start(arena)
    weather = spawn_link(fn -> weather(collector, random) end)
    writers = for n <- 0..(@writers - 1), do: spawn_link(fn -> write(arena, n, 0) end)
    flushers = for n <- 1..@flushers, do: spawn_link(fn -> flush(arena, :rand.seed_s(:exsss, n)) end)
    {lives, purges} = live(arena, writers, random, now() + ms, 1, %{ok: 0, error: 0})

    # The end: all is well again, and everything is sent.
    captured = writers |> Enum.map(&ask(&1, :stop)) |> Enum.sum()
    for pid <- [weather | flushers], do: unlink_and_kill(pid)
    Collector.respond(collector, :ok)
    if disk, do: ask(disk, :stop)
    ended = for _ <- 2..lives//1, do: ended()
    last = drain(arena, 120)
    arrivals = ask(counter, :stop)
    verdict(arena, captured, ended, last, table, arrivals, lives, purges)
  end

  # Kills and purges, in turns.
  defp live(arena, writers, random, until, lives, purges) do
    {pause, random} = :rand.uniform_s(1_500, random)
    {what, random} = :rand.uniform_s(3, random)
    Process.sleep(200 + pause)

    cond do
      now() >= until ->
        {lives, purges}

      what == 1 ->
        result = if purge(arena) == :ok, do: :ok, else: :error
        live(arena, writers, random, until, lives, Map.update!(purges, result, &(&1 + 1)))

      true ->
        for writer <- writers, do: ask(writer, :pause)
        Process.exit(client(arena), :kill)
        start(arena)
        for writer <- writers, do: send(writer, :go)
        live(arena, writers, random, until, lives + 1, purges)
    end
  end

  defp start(arena) do
    spool =
      if arena.kind == :spool,
        do: [spool_dir: Path.join(System.fetch_env!("STORM_DIR"), "spool"), max_spool_bytes: 4_000_000],
        else: []

    {:ok, client} =
      Analytics.start_link(
        [
          api_key: "key",
          host: Collector.url(arena.collector),
          flush_at: 50,
          flush_interval: 500,
          max_queue_size: 5_000,
          max_batch_size: 200,
          max_retries: 1,
          request_timeout: 1_000,
          shutdown_timeout: 300
        ] ++ spool
      )

    Process.unlink(client)
    :ets.insert(arena.box, {:client, client})
    client
  end

  defp client(arena), do: :ets.lookup_element(arena.box, :client, 2)

  # ── those in the storm ──

  defp write(arena, writer, count) do
    receive do
      {:pause, from} ->
        send(from, {self(), :paused})
        receive do: (:go -> :ok)
        write(arena, writer, count)

      {:stop, from} ->
        send(from, {self(), count})
    after
      2 ->
        client = client(arena)

        for n <- count..(count + 2) do
          Analytics.capture(client, "u", "e", %{n: n * @writers + writer, bad: rem(n, @bad) == 0})
        end

        write(arena, writer, count + 3)
    end
  end

  defp flush(arena, random) do
    {ms, random} = :rand.uniform_s(1_000, random)
    Process.sleep(ms)

    try do
      Analytics.flush(client(arena), timeout: 2_000)
    catch
      :exit, _ -> :ok
    end

    flush(arena, random)
  end

  defp purge(arena) do
    Analytics.purge(client(arena))
  catch
    :exit, _ -> :ok
  end

  # ── the ingest ──

  defp weather(collector, random) do
    {n, random} = :rand.uniform_s(length(modes()), random)
    Collector.respond(collector, Enum.at(modes(), n - 1))
    {ms, random} = :rand.uniform_s(900, random)
    Process.sleep(100 + ms)
    Collector.respond(collector, :ok)
    {ms, random} = :rand.uniform_s(900, random)
    Process.sleep(100 + ms)
    weather(collector, random)
  end

  defp modes do
    gzip = [{"content-encoding", "gzip"}]
    busy = :zlib.gzip(~s({"success":false,"error":{"code":"BUSY","message":"busy"}}))
    quota = :zlib.gzip(~s({"success":true,"quota_limited":["events"]}))

    often = [
      &if(&1.body =~ ~s("bad":true), do: {:status, 400}, else: :ok),
      {:status, 401},
      {:status, 500},
      {:status, 503},
      {:status, 503, gzip, busy},
      # Nothing of the batch is stored: only the compressed body shows it.
      {:status, 200, gzip, busy},
      {:status, 429, [{"retry-after", "1"}]},
      :hang,
      :reset,
      :refuse,
      {:delay, 300},
      # Later than the client waits: what was accepted arrives once more.
      {:delay, 1_500}
    ]

    # The next client is the first that takes events again, so this is to be seldom.
    Enum.concat(List.duplicate(often, 4)) ++ [{:status, 200, gzip, quota}]
  end

  defp count(table, arrivals) do
    receive do
      {:collector, events} ->
        for event <- events, do: :ets.insert(table, {event["properties"]["n"]})
        count(table, arrivals + length(events))

      {:stop, from} ->
        send(from, {self(), arrivals})
    end
  end

  # ── the disk ──

  # Each half second other calls fail, or none.
  defp fail_disk(random) do
    {rates, random} =
      Enum.map_reduce(1..5, random, fn _, random ->
        {on, random} = :rand.uniform_s(3, random)
        {rate, random} = :rand.uniform_s(@faults_per_mille, random)
        {if(on == 1, do: rate, else: 0), random}
      end)

    {seed, random} = :rand.uniform_s(0xFFFFFFFF, random)
    control(0, rates)
    control(40, [seed])

    receive do
      {:stop, from} -> send(from, {self(), control(0, [0, 0, 0, 0, 0])})
    after
      500 -> fail_disk(random)
    end
  end

  defp control(at, numbers) do
    {:ok, file} = :file.open(System.fetch_env!("DISK_FAULTS"), [:read, :write, :binary, :raw])
    :ok = :file.pwrite(file, at, for(n <- numbers, into: <<>>, do: <<n::32-native>>))
    :file.close(file)
  end

  defp disk_failures do
    <<_::160, counts::binary-size(20), _::binary>> = File.read!(System.fetch_env!("DISK_FAULTS"))
    counts = for <<n::32-native <- counts>>, do: n

    Enum.map_join(Enum.zip(~w(open read write fsync unlink), counts), ", ", fn {kind, n} -> "#{n} #{kind}" end)
  end

  # ── the end ──

  # Answers the accounts of the last client once it has nothing left, not on disk either.
  defp drain(_arena, 0), do: nil

  defp drain(arena, left) do
    try do
      Analytics.flush(client(arena), timeout: 5_000)
    catch
      :exit, _ -> :ok
    end

    case Analytics.stats(client(arena)) do
      %{queued: 0, in_flight: 0} = stats -> if left_on_disk(arena) == [], do: stats, else: again(arena, left)
      _ -> again(arena, left)
    end
  end

  defp again(arena, left) do
    Process.sleep(500)
    drain(arena, left - 1)
  end

  defp left_on_disk(%{kind: :memory}), do: []

  defp left_on_disk(_arena),
    do: Path.wildcard(Path.join([System.fetch_env!("STORM_DIR"), "spool", "*.spool"]))

  defp verdict(arena, captured, _ended, nil, _table, _arrivals, _lives, _purges) do
    left =
      arena |> left_on_disk() |> Enum.map_join(", ", &"#{Path.basename(&1)} (#{File.stat!(&1).size} bytes)")

    [
      "#{arena.kind}: of #{captured} events some are still queued: #{inspect(Analytics.stats(client(arena)))}, " <>
        "#{inspect(Analytics.debug(client(arena)))}, files: #{left}"
    ]
  end

  defp verdict(arena, captured, ended, last, table, arrivals, lives, purges) do
    all = [last | ended]
    sum = fn key -> all |> Enum.map(&Map.fetch!(&1, key)) |> Enum.sum() end

    dropped =
      Enum.reduce(all, %{}, fn stats, sums -> Map.merge(sums, stats.dropped, fn _, a, b -> a + b end) end)

    gone = dropped |> Map.values() |> Enum.sum()
    # Left on disk by one, and captured by a later one.
    left = ended |> Enum.map(& &1.queued) |> Enum.sum()
    distinct = :ets.info(table, :size)
    missing = captured - distinct

    IO.puts(
      "#{arena.kind}: #{captured} captured, #{sum.(:delivered)} delivered, #{left} left to a later start, " <>
        "dropped #{inspect(dropped)}; #{distinct} arrived, in #{arrivals} deliveries; " <>
        "#{lives} lives, #{purges.ok + purges.error} purges, #{purges.error} with an error"
    )

    [
      {Enum.all?(all, &balanced?/1), "captured isn't delivered + dropped + queued in one of #{inspect(all)}"},
      {sum.(:captured) == captured + left,
       "#{captured} were captured and #{left} left on disk, and #{sum.(:captured)} are counted"},
      {sum.(:delivered) + gone == captured,
       "#{captured} captured, #{sum.(:delivered)} delivered and #{gone} dropped"},
      {sum.(:delivered) <= arrivals, "#{sum.(:delivered)} delivered, and #{arrivals} have arrived"},
      {missing <= gone, "#{missing} are missing, and #{gone} are dropped"},
      {distinct <= captured, "#{distinct} have arrived of #{captured}"}
    ]
    |> Enum.reject(&elem(&1, 0))
    |> Enum.map(fn {_, wrong} -> "#{arena.kind}: #{wrong}" end)
  end

  defp balanced?(stats),
    do: stats.captured == stats.delivered + stats.queued + Enum.sum(Map.values(stats.dropped))

  # ── help ──

  defp ended do
    receive do
      {:billdogeng_ended, _owner, :event, _stopped, stats, _unlogged} -> stats
    after
      30_000 -> raise "a client has not ended"
    end
  end

  defp ask(pid, what) do
    send(pid, {what, self()})
    receive do: ({^pid, answer} -> answer)
  end

  defp unlink_and_kill(pid) do
    Process.unlink(pid)
    Process.exit(pid, :kill)
  end

  defp random(seed, n), do: :rand.seed_s(:exsss, {seed, n, 0})
  defp now, do: System.monotonic_time(:millisecond)
end

Storm.main(System.argv())
