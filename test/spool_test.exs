defmodule BilldogEng.SpoolTest do
  # Events on disk: what they outlive, what they cost, what happens to a disk.
  use BilldogEng.ClientCase, async: true

  import Bitwise
  import ExUnit.CaptureLog

  @moduletag :tmp_dir
  @moduletag :capture_log

  setup %{tmp_dir: tmp}, do: {:ok, dir: Path.join(tmp, "spool")}

  defp capture_all(client, numbers), do: for(n <- numbers, do: Analytics.capture(client, "u", "e#{n}"))
  defp expected(numbers), do: for(n <- numbers, do: "e#{n}")
  defp segments(dir), do: dir |> Path.join("*.spool") |> Path.wildcard()

  # A segment may be deleted between the listing and the look.
  defp sized(dir), do: Enum.sum(for path <- segments(dir), {:ok, stat} <- [File.stat(path)], do: stat.size)

  # On disk, since nothing is left that could bring it there later.
  defp stop(client) do
    ref = Process.monitor(client)
    Process.exit(client, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}
  end

  # A client without a supervisor, so that its end starts no new one.
  defp lone_client(to, dir, opts \\ []) do
    host = if is_pid(to), do: Collector.url(to), else: to

    opts =
      ([api_key: "key", host: host, flush_at: :infinity, flush_interval: 3_600_000, max_retries: 0] ++
         [shutdown_timeout: 0, spool_dir: dir])
      |> Keyword.merge(opts)

    {:ok, client} = Analytics.start_link(opts)
    Process.unlink(client)
    client
  end

  # A VM of its own, which ends by kill -9.
  defp run(script, dir, host) do
    paths = for app <- [:billdogeng], arg <- ["-pa", Application.app_dir(app, "ebin")], do: arg

    script = """
    alias BilldogEng.Analytics

    {:ok, client} =
      Analytics.start_link(
        api_key: "key",
        host: System.fetch_env!("HOST"),
        spool_dir: System.fetch_env!("DIR"),
        spool_sync: :always,
        max_retries: 0,
        flush_at: :infinity
      )

    #{script}
    System.cmd("kill", ["-9", System.pid()])
    """

    {_, 137} = System.cmd("elixir", paths ++ ["-e", script], env: [{"HOST", host}, {"DIR", dir}])
  end

  describe "what is on disk outlives" do
    test "kill -9, with its order and its time", %{dir: dir} do
      # Not by its output, of which a kill may lose the last lines.
      time = dir <> ".time"

      run(
        """
        for n <- 1..500, do: Analytics.capture(client, "u", "e\#{n}", %{n: n})
        File.write!(#{inspect(time)}, Integer.to_string(System.system_time(:millisecond)))
        {:error, _} = Analytics.flush(client)
        """,
        dir,
        nobody()
      )

      collector = start_collector()
      client = start_client(collector, spool_dir: dir)
      assert Analytics.flush(client) == :ok
      assert names(collector) == expected(1..500)
      before = time |> File.read!() |> String.to_integer()
      assert Enum.all?(Collector.events(collector), &(&1["event_timestamp"] <= before))
      stats = Analytics.stats(client)
      assert %{captured: 500, delivered: 500, queued: 0, dropped: dropped} = stats
      assert dropped == %{}
      eventually(fn -> segments(dir) == [] end)
    end

    test "kill -9 once more, with what was delivered since left out", %{dir: dir} do
      collector = start_collector()
      script = "for n <- 1..300, do: Analytics.capture(client, \"u\", \"a\#{n}\"); Analytics.flush(client)"
      run(script, dir, nobody())

      run(
        "for n <- 1..20, do: Analytics.capture(client, \"u\", \"b\#{n}\"); Analytics.flush(client)",
        dir,
        Collector.url(collector)
      )

      assert Collector.count(collector) == 320
      client = start_client(collector, spool_dir: dir)
      assert %{captured: 0, queued: 0} = Analytics.stats(client)
    end

    test "its owner, whose successor takes over within the VM while an attempt hangs", %{dir: dir} do
      collector = start_collector()
      gate(collector)

      options = [
        api_key: "key",
        host: Collector.url(collector),
        spool_dir: dir,
        flush_at: 50,
        name: :handed_over
      ]

      supervisor = start_supervised!(supervisor([{Analytics, options}]))
      capture_all(:handed_over, 1..120)
      {_handle, request} = at_gate()
      assert request.events > 0
      first = Process.whereis(:handed_over)
      Process.exit(first, :kill)
      Collector.respond(collector, :ok)

      second = eventually(fn -> Enum.find([Process.whereis(:handed_over)], &(&1 not in [nil, first])) end)

      assert Analytics.flush(second) == :ok
      assert Enum.uniq(names(collector)) == expected(1..120)
      assert %{captured: 120, delivered: 120, queued: 0, dropped: dropped} = Analytics.stats(second)
      assert dropped == %{}
      assert Supervisor.count_children(supervisor).active == 1
    end

    test "its owner, whose batch in flight is not repeated where the ingest answers", %{dir: dir} do
      collector = start_collector()
      Collector.respond(collector, {:delay, 100})

      options = [
        api_key: "key",
        host: Collector.url(collector),
        spool_dir: dir,
        flush_at: 10,
        name: :in_flight
      ]

      start_supervised!(supervisor([{Analytics, options}]))
      capture_all(:in_flight, 1..10)
      eventually(fn -> Collector.request_count(collector) == 1 end)
      first = Process.whereis(:in_flight)
      # Once its request is read, it is answered in 100 ms.
      Process.exit(first, :kill)
      second = eventually(fn -> Enum.find([Process.whereis(:in_flight)], &(&1 not in [nil, first])) end)
      assert %{captured: 0} = Analytics.stats(second)
      assert names(collector) == expected(1..10)
    end

    test "its owner's end, within the shutdown time-out or without it", %{dir: dir} do
      client = lone_client(nobody(), dir)
      capture_all(client, 1..70)

      log =
        capture_log(fn ->
          stop(client)
          drained(client)
        end)

      # Other tests' clients may end at the same time, and log their drops.
      assert log =~ "left 70 events in the spool"
      refute log =~ "captured 70,"
      collector = start_collector()
      assert Analytics.flush(start_client(collector, spool_dir: dir)) == :ok
      assert names(collector) == expected(1..70)
    end
  end

  defp supervisor(children) do
    %{id: :supervisor, start: {Supervisor, :start_link, [children, [strategy: :one_for_one]]}}
  end

  describe "the bounds" do
    @tag :slow
    test "of memory cost nothing that is on disk", %{dir: dir} do
      collector = start_collector()
      Collector.respond(collector, {:status, 503})
      client = start_client(collector, spool_dir: dir, max_queue_size: 100, max_batch_size: 70)
      capture_all(client, 1..50)
      assert {:error, _} = Analytics.flush(client)
      capture_all(client, 51..5_000)
      eventually(fn -> sized(dir) > 5_000 * 50 end)
      # The next look at the bounds comes with the next event.
      capture_all(client, 5_001..5_001)

      stats =
        eventually(fn ->
          with %{queued_bytes: few} = stats when few < 101 * 120 <- Analytics.stats(client),
               do: stats,
               else:
                 (_ ->
                    capture_all(client, [])
                    nil)
        end)

      assert %{captured: 5_001, queued: 5_001, dropped: dropped} = stats
      assert dropped == %{}
      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == expected(1..5_001)
      stats = Analytics.stats(client)
      assert stats.delivered == 5_001 and balanced?(stats)
    end

    test "of the disk drop the oldest (spool_full)", %{dir: dir} do
      collector = start_collector()
      Collector.respond(collector, {:status, 503})

      log =
        capture_log(fn ->
          client =
            start_client(collector,
              spool_dir: dir,
              max_spool_bytes: 200_000,
              spool_sync: :always,
              max_batch_size: 10
            )

          for n <- 1..3_000,
              do: Analytics.capture(client, "u", "e#{n}", %{filler: String.duplicate("x", 200)})

          # A batch in flight would keep the oldest, so all is on disk before the first.
          eventually(fn -> match?(%{dropped: %{spool_full: n}} when n > 2_200, Analytics.stats(client)) end)
          assert {:error, _} = Analytics.flush(client)
          Collector.respond(collector, :ok)
          assert Analytics.flush(client) == :ok
          stats = Analytics.stats(client)
          given_up = stats.dropped.spool_full
          arrived = names(collector)
          assert length(arrived) == 3_000 - given_up

          # A slow disk may have gone over its bound only during the first flush: its batch was in flight, and stayed.
          assert Enum.drop(arrived, 10) == expected((given_up + 11)..3_000)
          assert balanced?(stats) and stats.queued == 0
          eventually(fn -> sized(dir) <= 200_000 end)
        end)

      assert log =~ "(spool_full): the spool is at max_spool_bytes (200000)"
    end

    test "of age drop events that are too old (expired)", %{dir: dir} do
      client = start_client(nobody(), spool_dir: dir, max_spool_age: 300)
      capture_all(client, 1..10)

      stats =
        eventually(fn ->
          with %{dropped: %{expired: 10}} = stats <- Analytics.stats(client), do: stats, else: (_ -> nil)
        end)

      assert balanced?(stats) and stats.queued == 0
    end
  end

  describe "purge/1" do
    test "leaves nothing, in memory or on disk, and a later event is as any other", %{dir: dir} do
      collector = start_collector()
      Collector.respond(collector, {:status, 503})
      client = start_client(collector, spool_dir: dir)
      capture_all(client, 1..100)
      assert {:error, _} = Analytics.flush(client)
      eventually(fn -> segments(dir) != [] end)
      assert Analytics.purge(client) == :ok
      assert segments(dir) == []
      assert %{captured: 100, queued: 0, dropped: %{purged: 100}} = Analytics.stats(client)
      Collector.respond(collector, :ok)
      capture_all(client, 101..101)
      assert Analytics.flush(client) == :ok
      assert names(collector) == expected(101..101)
    end

    test "takes what is in flight along, and answers who waits for it" do
      collector = start_collector()
      gate(collector)
      client = start_client(collector)
      capture_all(client, 1..5)
      flush = Task.async(fn -> Analytics.flush(client) end)
      {_handle, _request} = at_gate()
      assert Analytics.purge(client) == :ok
      assert Task.await(flush, :infinity) == :ok
      assert %{captured: 5, queued: 0, in_flight: 0, dropped: %{purged: 5}} = Analytics.stats(client)
    end
  end

  describe "the directory" do
    test "is its owner's alone", %{dir: dir} do
      client = start_client(nobody(), spool_dir: dir)
      capture_all(client, 1..3)
      [segment] = eventually(fn -> with [] <- segments(dir), do: nil end)
      assert (File.stat!(dir).mode &&& 0o777) == 0o700
      assert (File.stat!(segment).mode &&& 0o777) == 0o600
      assert (File.stat!(Path.join(dir, "lock")).mode &&& 0o777) == 0o600
    end

    test "that can't be one costs an error line, and nothing else", %{tmp_dir: tmp} do
      file = Path.join(tmp, "file")
      File.write!(file, "")

      assert in_memory(Path.join(file, "spool")) =~
               ":spool_dir can't be opened, events are kept in memory only: can't make #{file}/spool"

      assert File.read!(file) == ""
    end

    @tag :slow
    test "that another client of this VM holds is left to it", %{dir: dir} do
      client = start_client(nobody(), spool_dir: dir)
      capture_all(client, 1..3)
      assert in_memory(dir) =~ "#{dir} is held by another client"
      assert %{queued: 3} = Analytics.stats(client)
    end

    @tag :slow
    test "that another process of the system holds is left to it", %{dir: dir} do
      client = lone_client(nobody(), dir)
      stop(client)
      drained(client)

      port =
        Port.open({:spawn_executable, System.find_executable("flock")}, [
          :binary,
          args: [Path.join(dir, "lock"), "sh", "-c", "echo held; read line"]
        ])

      assert_receive {^port, {:data, "held\n"}}, 5_000
      assert in_memory(dir) =~ "#{dir} is held by another process"
      Port.close(port)
    end

    test "that is removed under way costs an error line, and what was only there", %{dir: dir} do
      collector = start_collector()
      Collector.respond(collector, {:status, 503})

      client = start_client(collector, spool_dir: dir)
      capture_all(client, 1..10)
      assert {:error, _} = Analytics.flush(client)
      eventually(fn -> segments(dir) != [] end)

      # The line is logged after the write that fails.
      awaiting_line(client, "can't write, events are in memory alone", fn ->
        File.rm_rf!(dir)
        capture_all(client, 11..20)
      end)

      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == expected(1..20)
      assert balanced?(Analytics.stats(client))
    end

    test "with a torn end loses that end, logged once", %{dir: dir} do
      client = lone_client(nobody(), dir, spool_sync: :always)
      capture_all(client, 1..20)
      assert {:error, _} = Analytics.flush(client)
      capture_all(client, 21..40)
      assert {:error, _} = Analytics.flush(client)
      stop(client)
      drained(client)
      segment = dir |> segments() |> List.last()
      whole = File.read!(segment)
      File.write!(segment, binary_part(whole, 0, byte_size(whole) - 3))

      started = fn ->
        client = lone_client(nobody(), dir)
        assert %{captured: 20, queued: 20} = Analytics.stats(client)
        # Its log lines come before this reply.
        assert {:error, _} = Analytics.flush(client)
        stop(client)
        drained(client)
      end

      assert capture_log(started) =~ "#{segment} was corrupted"
      refute capture_log(started) =~ "#{segment} was corrupted"
      collector = start_collector()
      assert Analytics.flush(start_client(collector, spool_dir: dir)) == :ok
      assert names(collector) == expected(1..20)
    end

    test "with a flipped bit costs what was written with it", %{dir: dir} do
      client = lone_client(nobody(), dir, max_queue_size: :infinity)
      for n <- 1..5_000, do: Analytics.capture(client, "u", "e#{n}", %{filler: String.duplicate("x", 200)})
      stop(client)
      drained(client)
      [segment | _] = segments(dir)
      <<front::binary-size(500), byte, rest::binary>> = File.read!(segment)
      File.write!(segment, [front, bxor(byte, 1), rest])
      collector = start_collector()

      log =
        capture_log(fn ->
          client = start_client(collector, spool_dir: dir)
          assert Analytics.flush(client) == :ok
        end)

      [lost] = Regex.run(~r/spool: (\d+) event\S* are lost/, log, capture: :all_but_first)
      lost = String.to_integer(lost)
      assert lost in 1..500
      assert names(collector) == expected((lost + 1)..5_000)
      assert log =~ "#{segment} was corrupted"
    end

    test "that is removed is not reported to contain events", %{dir: dir} do
      client = lone_client(nobody(), dir, spool_sync: :always)
      capture_all(client, 1..45)
      assert {:error, _} = Analytics.flush(client)
      File.rm_rf!(dir)

      log =
        capture_log(fn ->
          stop(client)
          drained(client)
        end)

      assert log =~ "dropped 45 events (stopped)"
      refute log =~ "left 45 events"
    end

    test "in which something else has the name of a file", %{dir: dir, tmp_dir: tmp} do
      File.mkdir!(dir)
      victim = Path.join(tmp, "victim")
      File.write!(victim, "precious")
      link = Path.join(dir, "00000000000000ff.spool")
      File.ln_s!(victim, link)
      {_, 0} = System.cmd("mkfifo", [Path.join(dir, "0000000000000001.spool")])
      File.mkdir!(Path.join(dir, "0000000000000002.spool"))

      log =
        capture_log(fn ->
          client = lone_client(nobody(), dir)
          capture_all(client, 1..3)
          # Its log lines come before this reply.
          assert {:error, _} = Analytics.flush(client)
          stop(client)
          drained(client)
        end)

      for name <- ~w(0000000000000001 0000000000000002 00000000000000ff),
          do: assert(log =~ "#{dir}/#{name}.spool is not a regular file, it is left alone")

      assert File.read!(victim) == "precious"
      File.rm!(Path.join(dir, "lock"))
      {_, 0} = System.cmd("mkfifo", [Path.join(dir, "lock")])
      assert in_memory(dir) =~ "can't lock #{dir}/lock: it is not a regular file"
    end

    test "of another user costs an error line", %{dir: dir} do
      File.mkdir!(dir)

      case File.chown(dir, 65_534) do
        :ok ->
          assert in_memory(dir) =~ "#{dir} belongs to user 65534; it must be this VM's user's (0) or root's"

        {:error, _} ->
          IO.puts("skipped the test of another user's directory (not root?)")
      end
    end

    test "on a disk that is full costs an error line, and nothing else", %{tmp_dir: tmp} do
      on_small_disk(tmp, &on_full_disk/1)
    end

    test "on a disk that stays full sends nothing twice, and nothing that was counted as dropped", context do
      on_small_disk(context.tmp_dir, &repeats_on_full_disk/1)
    end
  end

  describe "a directory that can't be had for now" do
    @tag :slow
    test "is taken once it can be, with what was captured meanwhile", %{dir: dir} do
      first = lone_client(nobody(), dir, spool_sync: :always)
      capture_all(first, 1..3)
      assert {:error, _} = Analytics.flush(first)
      stop(first)
      drained(first)

      port =
        Port.open({:spawn_executable, System.find_executable("flock")}, [
          :binary,
          args: [Path.join(dir, "lock"), "sh", "-c", "echo held; read line"]
        ])

      assert_receive {^port, {:data, "held\n"}}, 5_000

      log =
        capture_log(fn ->
          client = lone_client(nobody(), dir, spool_sync: :always)
          assert %{captured: 0} = Analytics.stats(client)
          capture_all(client, 4..6)

          # The files that it can't get at now are deleted later.
          assert {:error, %Error{code: "SPOOL_ERROR", message: message}} = Analytics.purge(client)
          assert message =~ "#{dir} is held by another process"
          capture_all(client, 7..9)
          Port.close(port)
          eventually(fn -> match?(%{captured: 9, queued: 3}, Analytics.stats(client)) end)
          assert %{dropped: %{purged: 6}} = Analytics.stats(client)
          assert {:error, _} = Analytics.flush(client)
          stop(client)
          drained(client)
        end)

      assert [_] =
               Regex.scan(
                 ~r/:spool_dir can't be opened, events are kept in memory only: #{Regex.escape(dir)}/,
                 log
               )

      assert log =~ "spool: open, with"
      collector = start_collector()
      assert Analytics.flush(start_client(collector, spool_dir: dir)) == :ok
      assert names(collector) == expected(7..9)
    end

    @tag :slow
    test "lets flushes go on in memory, and its events are sent once it is open", %{dir: dir} do
      first = lone_client(nobody(), dir, spool_sync: :always)
      capture_all(first, 1..3)
      assert {:error, _} = Analytics.flush(first)
      collector = start_collector()
      client = start_client(collector, spool_dir: dir)
      capture_all(client, 4..6)
      assert Analytics.flush(client) == :ok
      assert names(collector) == expected(4..6)
      stop(first)
      # Counted as soon as the spool is open: only a flush after that carries them.
      eventually(fn -> Analytics.stats(client).captured == 6 and Analytics.flush(client) == :ok end, 3_000)
      assert Enum.sort(names(collector)) == expected(1..6)
      assert %{captured: 6, delivered: 6, queued: 0} = Analytics.stats(client)
    end
  end

  test "events that were captured for another key or host are named in one line", %{dir: dir} do
    collector = start_collector()

    run = fn to, opts ->
      capture_log(fn ->
        client = lone_client(to, dir, [spool_sync: :always] ++ opts)
        capture_all(client, 1..3)
        Analytics.flush(client)
        stop(client)
        drained(client)
      end)
    end

    host = nobody()
    refute run.(host, []) =~ "another key or host"
    refute run.(host, []) =~ "another key or host"
    assert run.(host, api_key: "another-key") =~ "6 events captured for another api_key or host"
    log = run.(collector, api_key: "another-key")
    assert log =~ "9 events captured for another api_key or host"
    assert Collector.count(collector) == 12
    # Nothing lies there any more.
    refute run.(nobody(), []) =~ "another key or host"
    refute File.read!(Path.join(dir, "client")) =~ "another-key"
    assert (File.stat!(Path.join(dir, "client")).mode &&& 0o777) == 0o600
  end

  test ":max_spool_bytes holds while a batch is in flight", %{dir: dir} do
    collector = start_collector()
    gate(collector)
    bound = 1_000_000

    client =
      start_client(collector,
        spool_dir: dir,
        max_spool_bytes: bound,
        max_queue_size: :infinity,
        max_batch_size: 100,
        flush_at: 100,
        request_timeout: 600_000
      )

    filler = %{filler: String.duplicate("x", 900)}
    for n <- 1..100, do: Analytics.capture(client, "u", "e#{n}", filler)
    {handle, _request} = at_gate()

    most =
      for round <- 0..99, reduce: 0 do
        most ->
          for n <- 1..100, do: Analytics.capture(client, "u", "e#{101 + 100 * round + n}", filler)
          max(most, sized(dir))
      end

    # 10 MB were captured: with all on disk, what is over the bound is dropped.
    eventually(fn -> match?(%{dropped: %{spool_full: n}} when n > 8_000, Analytics.stats(client)) end)
    segment = div(bound, 16) + 64 * 1024
    batch = 100 * 1_100
    assert max(most, sized(dir)) <= bound + segment + batch
    Collector.respond(collector, :ok)
    Collector.release(handle)
    assert Analytics.flush(client) == :ok
    stats = Analytics.stats(client)
    assert balanced?(stats) and stats.queued == 0
    assert hd(names(collector)) == "e1"
  end

  defp on_small_disk(tmp, test) do
    disk = Path.join(tmp, "disk")
    File.mkdir!(disk)

    case System.cmd("mount", ["-t", "tmpfs", "-o", "size=256k", "none", disk], stderr_to_stdout: true) do
      {_, 0} ->
        on_exit(fn -> System.cmd("umount", ["-l", disk]) end)
        test.(Path.join(disk, "spool"))

      {reason, _} ->
        IO.puts("skipped a test of a full disk: #{String.trim(reason)}")
    end
  end

  defp repeats_on_full_disk(dir) do
    collector = start_collector()
    Collector.respond(collector, {:status, 503})
    client = lone_client(collector, dir, max_queue_size: :infinity, max_batch_size: 100, spool_sync: :always)
    for n <- 1..3_000, do: Analytics.capture(client, "u", "e#{n}", %{filler: String.duplicate("x", 200)})
    assert {:error, _} = Analytics.flush(client)
    Collector.respond(collector, [:ok, :ok, :ok, {:status, 503}])
    assert {:error, _} = Analytics.flush(client)
    assert names(collector) == expected(1..300)
    Collector.respond(collector, {:status, 503})

    log =
      capture_log(fn ->
        stop(client)
        drained(client)
      end)

    [left] = Regex.run(~r/left (\d+) events in the spool/, log, capture: :all_but_first)

    [stopped] =
      Regex.run(~r/dropped (\d+) events \(stopped\) after the client's process had ended: captured 3000/, log,
        capture: :all_but_first
      )

    [left, stopped] = Enum.map([left, stopped], &String.to_integer/1)
    assert left > 0 and 300 + left + stopped == 3_000
    Collector.respond(collector, :ok)
    assert Analytics.flush(start_client(collector, spool_dir: dir)) == :ok
    assert names(collector) == expected(1..(300 + left))
  end

  defp on_full_disk(dir) do
    collector = start_collector()
    Collector.respond(collector, {:status, 503})
    filler = %{filler: String.duplicate("x", 200)}

    client = start_client(collector, spool_dir: dir, max_queue_size: :infinity)

    awaiting_line(client, "can't write, events are in memory alone: No space left on device", fn ->
      for n <- 1..3_000, do: Analytics.capture(client, "u", "e#{n}", filler)
      eventually(fn -> sized(dir) > 100_000 end)
      assert {:error, _} = Analytics.flush(client)
    end)

    Collector.respond(collector, :ok)
    assert Analytics.flush(client) == :ok
    assert names(collector) == expected(1..3_000)
    assert %{delivered: 3_000, queued: 0, dropped: dropped} = Analytics.stats(client)
    assert dropped == %{}
  end

  # Returns the log of a client whose directory can't be used; its events arrive all the same.
  defp in_memory(dir) do
    collector = start_collector()

    capture_log(fn ->
      client = start_client(collector, spool_dir: dir)
      capture_all(client, 1..5)
      assert Analytics.flush(client) == :ok
      assert names(collector) == expected(1..5)
    end)
  end
end
