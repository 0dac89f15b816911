defmodule BilldogEng.StartTest do
  # A client's start, and what is captured by its name before it has ended: all of it counts, in its order and at
  # its time.
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Client.{Options, Owner}

  @moduletag :tmp_dir
  @moduletag :capture_log

  setup %{tmp_dir: tmp} do
    {:ok, dir: Path.join(tmp, "spool"), name: :"#{__MODULE__}.#{System.unique_integer([:positive])}"}
  end

  defp options(collector, opts) do
    defaults = [
      api_key: "key",
      host: Collector.url(collector),
      flush_at: :infinity,
      flush_interval: 3_600_000,
      max_queue_size: :infinity,
      max_retries: 0
    ]

    Keyword.merge(defaults, opts)
  end

  # Leaves these in the directory.
  defp leave(dir, names) do
    {:ok, client} = Analytics.start_link(api_key: "key", host: nobody(), spool_dir: dir, shutdown_timeout: 0)
    Process.unlink(client)
    for name <- names, do: Analytics.capture(client, "u", name)
    Process.exit(client, :kill)
    drained(client)
  end

  # Another process of the system has the directory: the start takes as long as the test wants.
  defp hold(dir) do
    File.mkdir_p!(dir)
    args = [Path.join(dir, "lock"), "sh", "-c", "echo held; read line"]
    holder = Port.open({:spawn_executable, System.find_executable("flock")}, [:binary, args: args])
    assert_receive {^holder, {:data, "held\n"}}, 5_000
    holder
  end

  defp let_go(holder), do: Port.close(holder)

  # As `Analytics.start_link/1`, but with more patience.
  defp start_link(opts) do
    {:ok, options} = Options.parse(opts)
    Owner.start_link({:ok, put_in(options.native[:spool_patience], 60_000)}, options.name)
  end

  defp start(opts) do
    test = self()
    on_exit(fn -> with pid when is_pid(pid) <- Process.whereis(opts[:name]), do: Process.exit(pid, :kill) end)

    Task.async(fn ->
      {:ok, client} = start_link(opts)
      Process.unlink(client)
      send(test, {:started, client})
      client
    end)
  end

  # A start waits so many ms for its spool. Where the machine has taken longer, the start has ended without it.
  @start 2_000

  defp in_time?(began), do: System.monotonic_time(:millisecond) - began < @start

  defp known(name), do: eventually(fn -> Process.whereis(name) end)

  defp asked(pid, request) do
    eventually(fn ->
      {:messages, messages} = Process.info(pid, :messages)
      Enum.any?(messages, &match?({:"$gen_call", _, ^request}, &1))
    end)
  end

  describe "while a client starts" do
    test "captures by its name are its own: in their order, at their time, by their process", context do
      %{dir: dir, name: name} = context
      leave(dir, for(n <- 1..70, do: "left#{n}"))
      holder = hold(dir)
      collector = start_collector()
      before_send = fn event -> put_in(event, ["properties", "by"], inspect(self())) end
      began = System.monotonic_time(:millisecond)
      starting = start(options(collector, name: name, spool_dir: dir, before_send: before_send))
      pid = known(name)

      from = System.system_time(:millisecond)
      for n <- 1..500, do: Analytics.capture(name, "u", "now#{n}")
      to = System.system_time(:millisecond)
      for n <- 1..500, do: Analytics.capture(name, "u", "then#{n}", %{}, %{}, timestamp: n)
      Analytics.identify(name, "u", %{pid: self()})
      Analytics.set_person_properties(name, "u", set: %{plan: "pro"})

      stats = Task.async(fn -> Analytics.stats(name) end)
      asked(pid, :stats)
      flush = Task.async(fn -> Analytics.flush(name) end)
      asked(pid, :flush)
      started = receive(do: ({:started, _} -> true), after: (0 -> false))
      refute started and in_time?(began)
      let_go(holder)
      assert Task.await(starting, :infinity) == pid

      assert %{captured: captured, dropped: dropped, person_updates: %{captured: 1}} =
               Task.await(stats, :infinity)

      assert captured == 1_071 or not in_time?(began)

      assert dropped == %{}
      assert Task.await(flush, :infinity) == :ok

      expected = for n <- 1..70, do: "left#{n}"
      now = for n <- 1..500, do: "now#{n}"
      given = for n <- 1..500, do: "then#{n}"
      assert names(collector) == expected ++ now ++ given ++ ["$identify"]
      {_, own} = collector |> Collector.events() |> Enum.split(70)
      {now, given} = Enum.split(own, 500)
      assert Enum.all?(now, &(&1["event_timestamp"] in from..to))
      assert for(event <- Enum.take(given, 500), do: event["event_timestamp"]) == Enum.to_list(1..500)
      assert Enum.all?(own, &(&1["properties"]["by"] == inspect(self())))
      assert %{captured: 1_071, delivered: 1_071, queued: 0} = Analytics.stats(name)
    end

    test "they are on disk once it has started, whatever becomes of it", %{dir: dir, name: name} do
      holder = hold(dir)
      collector = start_collector()
      Collector.respond(collector, {:status, 503})
      starting = start(options(collector, name: name, spool_dir: dir, shutdown_timeout: 0))
      pid = known(name)
      for n <- 1..5_000, do: Analytics.capture(name, "u", "e#{n}", %{filler: String.duplicate("x", 300)})
      let_go(holder)
      assert Task.await(starting, :infinity) == pid
      for n <- 5_001..5_100, do: Analytics.capture(name, "u", "e#{n}")
      Process.exit(pid, :kill)
      drained(pid)
      Collector.respond(collector, :ok)
      assert Analytics.flush(start_client(collector, spool_dir: dir)) == :ok
      assert names(collector) == for(n <- 1..5_100, do: "e#{n}")
    end

    test "its process may end: what it was handed is sent", %{dir: dir, name: name} do
      holder = hold(dir)
      collector = start_collector()
      Process.flag(:trap_exit, true)
      opts = options(collector, name: name, spool_dir: dir)
      starter = spawn_link(fn -> start_link(opts) end)
      pid = known(name)
      for n <- 1..100, do: Analytics.capture(name, "u", "e#{n}")
      Process.exit(pid, :kill)
      assert_receive {:EXIT, ^starter, _}, 5_000
      let_go(holder)
      eventually(fn -> Collector.count(collector) == 100 end)
      assert names(collector) == for(n <- 1..100, do: "e#{n}")
    end

    test "only the bound of bytes holds, and what goes for it is counted", %{dir: dir, name: name} do
      holder = hold(dir)
      collector = start_collector()
      opts = [name: name, spool_dir: dir, max_queue_size: 10, max_queue_bytes: 20_000]
      starting = start(options(collector, opts))
      known(name)
      for n <- 1..1_000, do: Analytics.capture(name, "u", "e#{n}")
      let_go(holder)
      client = Task.await(starting, :infinity)
      assert Analytics.flush(client) == :ok
      stats = Analytics.stats(client)
      assert %{captured: 1_000, dropped: %{queue_full: given_up}} = stats
      assert given_up in 700..900 and balanced?(stats)
      assert names(collector) == for(n <- (given_up + 1)..1_000, do: "e#{n}")
    end
  end

  @tag :slow
  test "processes that capture by name without a pause, while it is killed and restarted", context do
    %{dir: dir, name: name} = context
    collector = start_collector()
    opts = options(collector, name: name, spool_dir: dir)
    supervised = [[{Analytics, opts}], [strategy: :one_for_one, max_restarts: 100]]
    start_supervised!(%{id: :supervisor, start: {Supervisor, :start_link, supervised}, type: :supervisor})

    captured = :counters.new(3, [])
    stop = :atomics.new(1, [])

    callers =
      for caller <- 1..3,
          do: Task.async(fn -> capture_until(stop, name, caller, captured, 1, []) end)

    for _ <- 1..5 do
      pid = eventually(fn -> Process.whereis(name) end)
      before = for caller <- 1..3, do: :counters.get(captured, caller)
      further = fn -> for(caller <- 1..3, do: :counters.get(captured, caller)) end

      eventually(fn -> further.() |> Enum.zip(before) |> Enum.all?(fn {now, then} -> now > then + 500 end) end)

      Process.exit(pid, :kill)
      eventually(fn -> Process.whereis(name) not in [nil, pid] end)
    end

    :atomics.put(stop, 1, 1)
    calls = Task.await_many(callers, 60_000)
    assert Analytics.flush(name, timeout: 60_000) == :ok

    # An attempt that a hand-over has broken off may have arrived: such events come twice.
    arrived = collector |> Collector.events() |> Enum.uniq_by(& &1["event_name"])
    by_caller = Enum.group_by(arrived, & &1["user_id"])

    for {calls, caller} <- Enum.with_index(calls, 1) do
      calls = Map.new(calls, fn {n, _, _, _} = call -> {n, call} end)
      events = by_caller["#{caller}"]
      numbers = for event <- events, do: event["properties"]["n"]
      assert numbers == Enum.sort(numbers)
      there = MapSet.new(numbers)
      assert [] == for({n, {_, true, _, _}} <- calls, n not in there, do: n)

      for %{"properties" => %{"n" => n}, "event_timestamp" => time} <- events do
        {^n, _, from, to} = calls[n]
        assert if(rem(n, 7) == 0, do: time == n, else: time in from..to)
      end
    end
  end

  # One call after the other: its number, whether there was a client all the time, and when it was.
  defp capture_until(stop, name, caller, captured, n, calls) do
    if :atomics.get(stop, 1) == 1 do
      calls
    else
      opts = if rem(n, 7) == 0, do: [timestamp: n], else: []
      client = Process.whereis(name)
      from = System.system_time(:millisecond)
      Analytics.capture(name, "#{caller}", "#{caller}-#{n}", %{n: n}, %{}, opts)
      to = System.system_time(:millisecond)
      there = client != nil and client == Process.whereis(name)
      :counters.add(captured, caller, 1)
      capture_until(stop, name, caller, captured, n + 1, [{n, there, from, to} | calls])
    end
  end

  describe "start_link/1 with a name that another client has" do
    test "returns that client", %{name: name} do
      start_supervised!({Registry, keys: :unique, name: __MODULE__.Registry})

      for name <- [name, {:global, name}, {:via, Registry, {__MODULE__.Registry, name}}] do
        client = start_client(nobody(), name: name)
        assert {:error, {:already_started, ^client}} = Analytics.start_link(api_key: "key", name: name)
        assert {:error, %Error{message: message}} = BilldogEng.new("key", name: name)
        assert message =~ "invalid value for :name: expected a free name"
        assert GenServer.whereis(name) == client

        # Of two that start at the same time, the one that comes second to it.
        {:ok, options} = Options.parse(api_key: "key", host: nobody(), name: name)
        assert GenServer.start(Owner, {{:ok, options}, name}) == :ignore
        Analytics.capture(name, "u", "e")
        assert %{captured: 1} = Analytics.stats(client)
      end
    end
  end
end
