defmodule BilldogEng.OwnerTest do
  # Alone: it counts this VM's threads and clients.
  use BilldogEng.ClientCase

  import ExUnit.CaptureLog

  alias BilldogEng.Client.Native

  defp spawn_client(to, opts) do
    opts =
      Keyword.merge(
        [api_key: "key", host: to, flush_at: :infinity, max_queue_size: :infinity, max_retries: 0],
        opts
      )

    test = self()

    starter =
      spawn(fn ->
        {:ok, client} = Analytics.start_link(opts)
        send(test, {:client, client})
        receive do: (reason -> exit(reason))
      end)

    receive do: ({:client, client} -> {starter, client})
  end

  defp flush_threads do
    for task <- File.ls!("/proc/self/task"),
        {:ok, "billdogeng-flus" <> _} <- [File.read("/proc/self/task/#{task}/comm")],
        do: task
  end

  # Of all clients, whatever they are.
  defp drained do
    eventually(fn -> Native.draining() == 0 end)
    if File.dir?("/proc/self/task"), do: eventually(fn -> flush_threads() == [] end)
  end

  describe "what was captured is sent" do
    setup do
      drained()
      %{collector: start_collector()}
    end

    endings = [
      killed: quote(do: fn _, client -> Process.exit(client, :kill) end),
      stopped: quote(do: fn _, client -> GenServer.stop(client) end),
      "asked to exit": quote(do: fn _, client -> Process.exit(client, :shutdown) end),
      "crashed with its starter": quote(do: fn starter, _ -> send(starter, :boom) end)
    ]

    for {how, ending} <- endings do
      test "when the process is #{how}", %{collector: collector} do
        {starter, client} = spawn_client(Collector.url(collector), [])
        Process.unlink(client)
        ref = Process.monitor(client)
        for n <- 1..2_500, do: Analytics.capture(client, "u", "e#{n}")
        unquote(ending).(starter, client)
        assert_receive {:DOWN, ^ref, _, _, _}, 5_000
        drained()
        assert names(collector) == for(n <- 1..2_500, do: "e#{n}")
      end
    end

    test "when its supervisor shuts down, and the next process starts clean", %{collector: collector} do
      children = [{Analytics, api_key: "key", host: Collector.url(collector), name: __MODULE__.Supervised}]
      {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
      Analytics.capture(__MODULE__.Supervised, "u", "first")
      pid = Process.whereis(__MODULE__.Supervised)
      Process.exit(pid, :kill)
      eventually(fn -> Process.whereis(__MODULE__.Supervised) not in [nil, pid] end)
      assert %{captured: 0, queued: 0} = Analytics.stats(__MODULE__.Supervised)
      Analytics.capture(__MODULE__.Supervised, "u", "second")
      Supervisor.stop(supervisor)
      drained()
      assert Enum.sort(names(collector)) == ["first", "second"]
    end

    test "after the attempt that is in flight, retries included", %{collector: collector} do
      gate(collector)
      {_, client} = spawn_client(Collector.url(collector), flush_at: 1, sleep_fn: fn _ -> :ok end)
      Analytics.capture(client, "u", "e1")
      {handle, _} = at_gate()
      Analytics.capture(client, "u", "e2")
      Process.exit(client, :kill)
      Collector.respond(collector, :ok)
      Collector.release(handle, {:status, 503})
      drained()
      assert names(collector) == ["e1", "e2"]
    end
  end

  describe "a client whose process has ended drops its queue" do
    test "after shutdown_timeout, in one log line" do
      collector = start_collector()
      Collector.respond(collector, :hang)
      {_, client} = spawn_client(Collector.url(collector), shutdown_timeout: 100)
      for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")

      log =
        capture_log(fn ->
          Process.exit(client, :kill)
          drained(client)
        end)

      assert [line] = Regex.scan(~r/.*\[warning\].*/, log)
      assert to_string(line) =~ "dropped 3 events (stopped)"
      assert Collector.request_count(collector) == 1
    end

    test "its name, and all reasons, are in that line" do
      name = :"#{__MODULE__}.named"
      {_, client} = spawn_client(nobody(), name: name, max_queue_size: 2, shutdown_timeout: 0)

      log =
        capture_log(fn ->
          for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
          eventually(fn -> match?(%{dropped: %{queue_full: 1}}, Analytics.stats(client)) end)
          Process.exit(client, :kill)
          drained(client)
        end)

      assert log =~
               "[warning] [BilldogEng:analytics] #{inspect(name)}: dropped 2 events (stopped) after the client's " <>
                 "process had ended: captured 3, delivered 0, dropped 1 (queue_full), 2 (stopped); raise"
    end

    test "nothing where its drops were logged before, and nothing is left" do
      {_, client} = spawn_client(nobody(), max_event_bytes: 100)

      log =
        capture_log(fn ->
          Analytics.capture(client, "u", "e", %{text: String.duplicate("x", 200)})
          eventually(fn -> :sys.get_state(client).notices.drops != %{} end)
          Process.exit(client, :kill)
          drained(client)
        end)

      assert log =~ "dropped 1 event (too_large)"
      refute log =~ "after the client's process had ended"
    end

    test "at once where the connection is refused or the name unknown" do
      for host <- [nobody(), "http://#{String.duplicate("a", 64)}.invalid"] do
        {_, client} = spawn_client(host, shutdown_timeout: 60_000)
        Analytics.capture(client, "u", "e")
        Process.exit(client, :kill)
        drained(client)
      end
    end

    test "at once with shutdown_timeout: 0" do
      collector = start_collector()
      {_, client} = spawn_client(Collector.url(collector), shutdown_timeout: 0)
      Analytics.capture(client, "u", "e")
      Process.exit(client, :kill)
      drained(client)
      assert Collector.request_count(collector) == 0
    end
  end

  test "a starter that ends with :normal leaves its client running" do
    {starter, client} = spawn_client(nobody(), shutdown_timeout: 0)
    ref = Process.monitor(starter)
    send(starter, :normal)
    assert_receive {:DOWN, ^ref, _, _, :normal}
    assert Analytics.queue_length(client) == 0
    Process.exit(client, :kill)
    drained(client)
  end

  @tag :resident
  @tag :slow
  test "ten thousand starts and kills leave no thread, memory or term behind" do
    drained()
    opts = [api_key: "key", host: nobody(), shutdown_timeout: 0]

    start_and_kill = fn count ->
      for _ <- 1..count do
        {:ok, client} = Analytics.start_link(opts)
        Process.unlink(client)
        Analytics.capture(client, "u", "e")
        Process.exit(client, :kill)
      end

      drained()
    end

    measure = fn ->
      :erlang.garbage_collect()
      terms = :persistent_term.info().count
      {terms, :erlang.system_info(:atom_count), length(Process.list()), resident_kib()}
    end

    start_and_kill.(2_000)
    {terms, atoms, processes, resident} = measure.()
    start_and_kill.(10_000)
    {terms_after, atoms_after, processes_after, resident_after} = measure.()

    assert terms_after == terms
    # An atom a client would be 10,000; a module that is loaded meanwhile brings a few.
    assert atoms_after - atoms < 1_000
    assert processes_after <= processes + 2
    # A leak of 1 KiB a client would be 10 MiB.
    assert resident_after - resident < 10 * 1024
  end

  defp resident_kib do
    case File.read("/proc/self/status") do
      {:ok, status} -> ~r/VmRSS:\s+(\d+)/ |> Regex.run(status) |> List.last() |> String.to_integer()
      _ -> 0
    end
  end

  test "idle clients never wake, whatever their flush_interval" do
    if File.dir?("/proc/self/task") do
      drained()
      opts = [api_key: "key", host: nobody(), flush_interval: 1]
      clients = for _ <- 1..50, {:ok, client} <- [Analytics.start_link(opts)], do: client
      for client <- clients, do: assert(Analytics.flush(client) == :ok)
      eventually(fn -> length(flush_threads()) == 50 end)
      before = wakes()
      Process.sleep(500)
      assert wakes() == before
      for client <- clients, do: GenServer.stop(client)
      drained()
    end
  end

  defp wakes do
    for task <- flush_threads(), {:ok, status} <- [File.read("/proc/self/task/#{task}/status")] do
      [count] = Regex.run(~r/^voluntary_ctxt_switches:\s+(\d+)/m, status, capture: :all_but_first)
      {task, count}
    end
  end

  @tag :slow
  test "the stub module deleted, purged and loaded again, a hundred times with clients draining" do
    collector = start_collector()
    {_, living} = spawn_client(Collector.url(collector), [])

    for n <- 1..100 do
      {_, client} = spawn_client(Collector.url(collector), [])
      Analytics.capture(client, "u", "e#{n}")
      Process.exit(client, :kill)
      :code.delete(Native)
      :code.purge(Native)

      # Not `load_file/1`: the collector decodes by this module, and OTP 25's code server never replies to a load of one
      # whose `@on_load` runs for another process.
      assert {:module, Native} = :code.ensure_loaded(Native)
      assert Native.load_error() == nil
      Analytics.capture(living, "u", "living#{n}")
    end

    assert Analytics.flush(living) == :ok
    GenServer.stop(living)
    drained()
    # A purge kills a connection of the collector that decodes just then, whose request then comes twice.
    names = collector |> names() |> Enum.uniq()
    assert for("living" <> n <- names, do: String.to_integer(n)) == Enum.to_list(1..100)
    assert length(names) == 200
  end

  test "a load of the stub module over the one that runs takes nothing away" do
    collector = start_collector()
    {_, client} = spawn_client(Collector.url(collector), [])

    ExUnit.CaptureLog.capture_log(fn ->
      for n <- 1..3 do
        Analytics.capture(client, "u", "e#{n}")
        assert {:error, :on_load_failure} = :code.load_file(Native)
        :code.purge(Native)
      end
    end)

    {_, another} = spawn_client(Collector.url(collector), [])
    Analytics.capture(another, "u", "e4")
    for client <- [client, another], do: assert(Analytics.flush(client) == :ok)
    assert names(collector) == ["e1", "e2", "e3", "e4"]
    for client <- [client, another], do: GenServer.stop(client)
  end

  test "captures while the stub module is away answer :ok and raise nothing" do
    {_, client} = spawn_client(nobody(), shutdown_timeout: 0)
    :code.delete(Native)
    :code.purge(Native)
    assert Analytics.capture(client, "u", "e") == :ok
    assert {:module, Native} = Code.ensure_loaded(Native)
    Process.exit(client, :kill)
    drained(client)
  end
end
