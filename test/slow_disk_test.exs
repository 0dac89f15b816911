defmodule BilldogEng.SlowDiskTest do
  # A VM of its own starts and stops on a disk whose reads wait until the test releases them: bench/disk_faults.c is
  # loaded before the system's own library.
  use BilldogEng.ClientCase, async: true

  @moduletag :slow

  alias BilldogEng.VM

  @moduletag :tmp_dir

  # Where the shim's numbers are in its file.
  @hold 13 * 4
  @held 14 * 4

  defp control(file, at, number) do
    {:ok, file} = :file.open(file, [:read, :write, :binary, :raw])
    :ok = :file.pwrite(file, at, <<number::32-native>>)
    :ok = :file.close(file)
  end

  defp held?(file), do: :binary.part(File.read!(file), @held, 4) != <<0::32>>

  if match?({:unix, :linux}, :os.type()) and System.find_executable("cc") != nil do
    setup %{tmp_dir: tmp} do
      shim = Path.join(tmp, "disk_faults.so")
      faults = Path.join(tmp, "faults")
      dir = Path.join(tmp, "events")
      File.write!(faults, <<0::size(4096)-unit(8)>>)
      args = ["-shared", "-fPIC", "-o", shim, "bench/disk_faults.c", "-ldl"]
      assert {_, 0} = System.cmd("cc", args, stderr_to_stdout: true)
      # A VM of a test that has failed ends.
      on_exit(fn -> control(faults, @hold, 0) end)
      {:ok, dir: dir, faults: faults, env: [LD_PRELOAD: shim, DISK_FAULTS: faults, DISK_FAULTS_DIR: dir]}
    end

    # 50 events that only the disk has.
    defp fill(dir) do
      {:ok, client} =
        Analytics.start_link(
          api_key: "key",
          host: nobody(),
          spool_dir: dir,
          spool_sync: :always,
          max_retries: 0,
          shutdown_timeout: 0
        )

      for n <- 1..50, do: Analytics.capture(client, "u", "e#{n}")
      assert {:error, _} = Analytics.flush(client)
      GenServer.stop(client)
      drained(client)
    end

    defp script(host, dir, body) do
      """
      alias BilldogEng.Analytics
      {:ok, _} = Application.ensure_all_started(:billdogeng)

      {:ok, client} =
        Analytics.start_link(
          api_key: "key",
          host: "#{host}",
          spool_dir: #{inspect(dir)},
          flush_at: :infinity,
          flush_interval: 3_600_000,
          max_batch_size: 10,
          max_retries: 0,
          shutdown_timeout: 100
        )

      #{body}
      System.stop(0)
      Process.sleep(:infinity)
      """
    end

    test "a client whose spool is still being read starts, takes events, and ends with the VM", context do
      %{dir: dir, faults: faults} = context
      fill(dir)
      control(faults, @hold, 1)

      script =
        script(nobody(), dir, """
        IO.puts("started")
        IO.gets("")
        for n <- 1..3, do: :ok = Analytics.capture(client, "u", "late\#{n}")
        %{captured: 3, queued: 3} = Analytics.stats(client)
        IO.puts("captured")
        IO.gets("")
        """)

      vm = VM.start(script: script, env: context.env)
      VM.await(vm, "started")
      eventually(fn -> held?(faults) end)
      VM.go(vm)
      VM.await(vm, "captured")
      VM.go(vm)
      # Nothing has released a read by then.
      assert {output, 0} = VM.ended(vm)

      assert output =~
               ~r/dropped 3 events \(stopped\) after the client's process had ended: captured 3, delivered 0/

      collector = start_collector()
      client = start_client(collector, spool_dir: dir)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..50, do: "e#{n}")
    end

    test "a client whose flush waits for a read ends with the VM, and its events stay on the disk", context do
      %{dir: dir, faults: faults} = context
      fill(dir)

      collector = start_collector()
      gate(collector)
      vm = VM.start(script: script(Collector.url(collector), dir, ~s|IO.gets("")|), env: context.env)
      # The first batch is read, and the second is not.
      {first, _} = at_gate()
      control(faults, @hold, 1)
      Collector.release(first, :ok)
      eventually(fn -> held?(faults) end)
      VM.go(vm)
      assert {output, 0} = VM.ended(vm)
      assert output =~ "left 40 events in the spool"

      Collector.respond(collector, :ok)
      client = start_client(collector, spool_dir: dir)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..50, do: "e#{n}")
    end
  end
end
