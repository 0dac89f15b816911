defmodule BilldogEng.TestModeTest do
  @moduledoc """
  What a client with `mode: :test` makes of its events, and what an app's tests ask of them.
  """

  use BilldogEng.ClientCase, async: true
  use BilldogEng.Test

  alias BilldogEng.{Encoded, Terms}
  alias BilldogEng.Test.Store

  doctest BilldogEng.Test

  defmodule Shop do
    use BilldogEng, otp_app: :billdogeng_test_mode
  end

  # A server of the app's: of no test.
  defmodule Server do
    use GenServer
    def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, nil, opts)
    def capture(server, client, event), do: GenServer.call(server, {:capture, client, event})
    def init(nil), do: {:ok, nil}

    def handle_call({:capture, client, event}, _from, nil),
      do: {:reply, BilldogEng.Analytics.capture(client, "u", event), nil}
  end

  defp client(opts \\ []), do: start_supervised!({Analytics, [mode: :test] ++ opts}, id: make_ref())

  # By a process that has nothing to do with the test.
  defp stray(module \\ Server, opts \\ []) do
    test = self()

    spawn(fn ->
      {:ok, pid} = module.start_link(opts)
      Process.unlink(pid)
      send(test, {:stray, pid})
    end)

    assert_receive {:stray, pid}, 5_000
    on_exit(fn -> Process.exit(pid, :kill) end)
    pid
  end

  # Runs `fun` in a process whose parent has ended, and returns what it ended with.
  defp orphan(fun) do
    test = self()

    {parent, ref} =
      spawn_monitor(fn ->
        send(test, {:orphan, spawn(fn -> receive(do: (:go -> fun.())) end)})
      end)

    assert_receive {:orphan, pid}, 5_000
    assert_receive {:DOWN, ^ref, :process, ^parent, :normal}, 5_000
    ref = Process.monitor(pid)
    send(pid, :go)
    assert_receive {:DOWN, ^ref, :process, ^pid, reason}, 5_000
    reason
  end

  defp captured_names(client), do: for(event <- captured(client), do: event["event_name"])

  # A process in the place of another test: it owns events, and runs functions.
  defp another_test do
    parent = self()

    {pid, _ref} =
      spawn_monitor(fn ->
        BilldogEng.Test.own()
        send(parent, {:owns, self()})
        loop()
      end)

    assert_receive {:owns, ^pid}, 5_000
    pid
  end

  defp loop do
    receive do
      {:do, from, fun} ->
        send(from, {:done, self(), fun.()})
        loop()

      :stop ->
        :ok
    end
  end

  defp run_in(pid, fun) do
    send(pid, {:do, self(), fun})
    assert_receive {:done, ^pid, answer}, 5_000
    answer
  end

  defp waiting?(pid), do: Process.info(pid, :current_function) == {:current_function, {Store, :look, 3}}

  describe "an event" do
    test "is what an ingest would read, whatever the terms are" do
      collector = start_collector()
      live = start_client(collector, insert_ids: false, group_type_index: %{company: 1})
      test = client(group_type_index: %{company: 1})
      seed = :rand.seed(:exsss)

      terms =
        for(_ <- 1..300, do: Terms.term(30)) ++
          [
            1,
            1.0,
            -0.0,
            2 ** 63,
            -(10 ** 40),
            1.0e21,
            "a\xFFb",
            %{:a => 1, "a" => 2},
            String.duplicate("x", 100_000),
            Enum.to_list(1..20_000),
            %Encoded{as: {:json, ~s({"b": 1.0, "a": [1e2, 12345678901234567890]})}}
          ]

      for term <- terms, server <- [live, test] do
        Analytics.capture(server, term, term, %{term: term}, %{company: term}, timestamp: 1_000)
        Analytics.identify(server, "u", term)
      end

      assert Analytics.flush(live) == :ok
      # Times of identify are those of the call.
      sent = Enum.map(Collector.events(collector), &Map.delete(&1, "event_timestamp"))
      kept = Enum.map(captured(test), &Map.delete(&1, "event_timestamp"))
      assert length(kept) == 2 * length(terms)

      for {sent, kept} <- Enum.zip(sent, kept),
          do: assert(sent === kept, "with #{inspect(seed)}: #{inspect({sent, kept}, limit: 20)}")

      assert Analytics.stats(live).replaced == Analytics.stats(test).replaced
    end

    test "that nests to the bound in an app's own encoder is whole; beyond it that is left out" do
      # Within the properties, and 95 lists in them.
      for {levels, innermost} <- [{4, 7}, {5, "…"}] do
        json = String.duplicate("[", levels) <> "7" <> String.duplicate("]", levels)
        term = Enum.reduce(1..95, %Encoded{as: {:json, json}}, fn _, inner -> [inner] end)
        test = client()
        Analytics.capture(test, "u", "normal", %{at: term})
        Analytics.capture(test, "u", "dirty", %{at: term, more: String.duplicate("x", 100_000)})

        for name <- ["normal", "dirty"] do
          event = assert_captured(name, %{"properties" => %{}}, client: test)
          assert List.flatten(event["properties"]["at"]) == [innermost]
        end
      end
    end

    test "passes through the app's hooks, and bears its options" do
      before_send = fn event ->
        if event["event_name"] != "secret", do: put_in(event["properties"][:seen], true)
      end

      test = client(before_send: before_send, global_properties: %{app: "shop"}, insert_ids: true)
      Analytics.capture(test, "u", "secret")
      Analytics.capture(test, "u", "e", %{a: 1})
      assert [event] = captured(test)
      assert %{"a" => 1, "app" => "shop", "seen" => true, "$insert_id" => _} = event["properties"]
      assert Analytics.stats(test).dropped == %{before_send: 1}
    end

    test "that is too large is dropped, as it would be" do
      test = client(max_event_bytes: 100)
      Analytics.capture(test, "u", "e", %{a: String.duplicate("x", 1_000)})
      assert captured(test) == []
      assert Analytics.stats(test).dropped == %{too_large: 1}
    end
  end

  test "every function works: what is captured is delivered, to the test" do
    test = client(flush_at: 1, flush_interval: 1)
    for _ <- 1..3, do: Analytics.capture(test, "u", "e", %{pid: self()})
    Analytics.group_identify(test, "company", "acme")
    Analytics.alias(test, "u", "v")
    GenServer.cast(test, {:enqueue, "u", "cast", {:raw, %{}}})
    assert Analytics.queue_length(test) == 0
    assert Analytics.flush(test) == :ok
    assert Analytics.flush(test, timeout: 5_000) == :ok

    assert %{mode: :test, captured: 6, delivered: 6, queued: 0, replaced: 3, dropped: %{}} =
             stats = Analytics.stats(test)

    assert balanced?(stats)
    assert Analytics.purge(test) == :ok
    assert Analytics.shutdown(test) == :ok
    assert captured_names(test) == ~w(e e e $groupidentify $create_alias cast)
    {:ok, struct} = BilldogEng.new("key", mode: :test)
    BilldogEng.capture(struct, "u", "of the struct")
    assert captured_names(struct) == ["of the struct"]
  end

  test "no thread is started" do
    code = """
    {:ok, first} = BilldogEng.Analytics.start_link(mode: :test)
    BilldogEng.Analytics.capture(first, "u", "e")
    :ok = BilldogEng.Analytics.flush(first)
    names = for path <- Path.wildcard("/proc/self/task/*/comm"), {:ok, name} <- [File.read(path)], do: name
    IO.inspect(Enum.filter(names, &String.starts_with?(&1, "billdogeng")))
    """

    ebin = Application.app_dir(:billdogeng, "ebin")
    assert System.cmd("elixir", ["-pa", ebin, "-e", code], stderr_to_stdout: true) == {"[]\n", 0}
  end

  describe "assert_captured" do
    test "answers the first event of the name that matches, and binds the pattern's variables" do
      test = client()
      id = "u2"

      for {id, n} <- [{"u1", 1}, {"u2", 2}, {"u2", 3}],
          do: Analytics.capture(test, id, "e", %{n: n, more: [n]})

      assert %{"user_id" => "u1"} = assert_captured("e")
      assert %{"properties" => %{"n" => 2}} = assert_captured("e", %{"user_id" => ^id})
      event = assert_captured "e", %{"user_id" => user, "properties" => %{"n" => n} = properties} when n > 2
      assert {user, n, properties} == {"u2", 3, event["properties"]}
      assert_captured "e", %{"properties" => %{"more" => [unused]}}
      assert_captured :e, _, client: test
      assert %{"event_name" => "e"} = assert_captured("e", anything)
      assert anything["user_id"] == "u1"
      # Nothing is taken out by being looked at.
      assert length(captured()) == 3
    end

    test "waits until the event comes" do
      test = client()
      waiting = self()

      task =
        Task.async(fn ->
          Analytics.capture(test, "u", "another")
          eventually(fn -> waiting?(waiting) end)
          Analytics.capture(test, "u", "e", %{n: 1})
          Analytics.capture(test, "u", "e", %{n: 2})
        end)

      assert_captured "e", %{"properties" => %{"n" => 2}}, timeout: 60_000
      Task.await(task)
      refute_received _
    end

    test "prints the events of the test where it fails, and for how long it has waited" do
      [test, other] = [client(), client()]
      Analytics.capture(test, "u", "e", %{plan: "free", numbers: Enum.to_list(1..200)})
      Analytics.capture(other, "u", "of another client")
      plan = "pro"

      error =
        assert_raise ExUnit.AssertionError, fn ->
          assert_captured "e", %{"properties" => %{"plan" => ^plan}}, client: test
        end

      ms = Application.fetch_env!(:ex_unit, :assert_receive_timeout)

      assert error.message =~
               ~s|no event "e" that matches %{"properties" => %{"plan" => ^plan}} (plan = "pro") was captured|

      assert error.message =~ "within #{ms} ms"
      assert error.message =~ ~s("plan" => "free")
      assert error.message =~ ~r/\b199,\s+200\b/
      refute error.message =~ "of another client"

      error = assert_raise ExUnit.AssertionError, fn -> assert_captured "none", _, timeout: 0 end
      assert error.message =~ "of another client"
      assert error.message =~ "within 0 ms"
    end
  end

  describe "refute_captured" do
    test "is of the name, the pattern and the client" do
      [test, other] = [client(), client()]
      Analytics.capture(test, "u", "e", %{n: 1})
      assert refute_captured("none", _, timeout: 0) == :ok
      refute_captured "e", %{"properties" => %{"n" => n}} when n > 1, timeout: 0
      refute_captured "e", _, client: other, timeout: 0
      ms = Application.fetch_env!(:ex_unit, :refute_receive_timeout)
      assert ms > 0
      refute_captured "none"

      error =
        assert_raise ExUnit.AssertionError, fn -> refute_captured "e", %{"properties" => %{"n" => 1}} end

      assert error.message =~ ~s(an event "e" that matches %{"properties" => %{"n" => 1}} was captured)
      assert error.message =~ ~s("event_name" => "e")
    end

    test "fails once such an event comes" do
      test = client()
      waiting = self()

      task =
        Task.async(fn ->
          eventually(fn -> waiting?(waiting) end)
          Analytics.capture(test, "u", "e")
        end)

      assert_raise ExUnit.AssertionError, fn -> refute_captured "e", _, timeout: 60_000 end
      Task.await(task)
    end
  end

  describe "a test has the events" do
    test "of its tasks and of the processes that it starts, at any depth" do
      test = client()

      Task.await(Task.async(fn -> Task.await(Task.async(fn -> Analytics.capture(test, "u", "task") end)) end))
      # One of the app's, which the test is no ancestor of.
      supervisor = stray(Task.Supervisor)

      Task.await(
        Task.Supervisor.async_nolink(supervisor, fn -> Analytics.capture(test, "u", "supervised") end)
      )

      Server.capture(start_supervised!({Server, []}), test, "started")
      {:ok, linked} = Server.start_link([])
      Server.capture(linked, test, "linked")
      assert captured_names(test) == ~w(task supervised started linked)

      # They see what the test sees.
      Task.await(Task.async(fn -> assert length(captured(test)) == 4 end))
      Task.await(Task.async(fn -> assert_captured "linked", _, client: test, timeout: 0 end))
    end

    test "of processes that it spawns, as long as their parents live" do
      test = client()
      me = self()

      {pid, ref} =
        spawn_monitor(fn ->
          Analytics.capture(test, "u", "spawned")
          {pid, ref} = spawn_monitor(fn -> Analytics.capture(test, "u", "within") end)
          receive(do: ({:DOWN, ^ref, _, ^pid, :normal} -> send(me, :done)))
        end)

      assert_receive :done, 5_000
      assert_receive {:DOWN, ^ref, :process, ^pid, :normal}, 5_000
      assert captured_names(test) == ~w(spawned within)
    end

    test "of the processes that it is given, by that client" do
      [test, other] = [client(), client()]
      name = :"server_#{System.unique_integer([:positive])}"
      [by_pid, by_fun, late] = for _ <- 1..3, do: stray()
      named = stray(Server, name: name)
      box = start_supervised!({Agent, fn -> nil end})

      assert BilldogEng.Test.allow(test, self(), by_pid) == :ok
      assert BilldogEng.Test.allow(test, self(), by_pid) == :ok
      BilldogEng.Test.allow(test, self(), name)
      BilldogEng.Test.allow(test, self(), fn -> [nil, by_fun] end)
      BilldogEng.Test.allow(test, self(), fn -> Agent.get(box, & &1) end)
      BilldogEng.Test.allow(test, self(), fn -> raise "no" end)

      Server.capture(late, test, "too early")
      Agent.update(box, fn _ -> late end)

      for server <- [by_pid, named, by_fun, late],
          client <- [test, other],
          do: Server.capture(server, client, "e")

      assert captured_names(test) == ~w(e e e e)
      assert captured(other) == []
      assert Analytics.stats(test).dropped == %{unowned: 1}
      assert Analytics.stats(other).dropped == %{unowned: 4}
    end

    test "of a process that a given one answers for" do
      test = client()
      [given, further] = [stray(), stray()]
      BilldogEng.Test.allow(test, self(), given)
      BilldogEng.Test.allow(test, given, further)
      Server.capture(further, test, "e")
      assert captured_names(test) == ["e"]
    end

    test "and no other's" do
      test = client()
      other = another_test()
      Analytics.capture(test, "u", "mine")
      run_in(other, fn -> Analytics.capture(test, "u", "theirs") end)
      assert captured_names(test) == ["mine"]
      assert for(event <- run_in(other, fn -> captured(test) end), do: event["event_name"]) == ["theirs"]
      refute_captured "theirs", _, timeout: 0

      server = stray()
      BilldogEng.Test.allow(test, self(), server)

      for {process, owner} <- [{server, other}, {other, self()}] do
        assert_raise ArgumentError, ~r/already/, fn -> BilldogEng.Test.allow(test, owner, process) end
      end

      Server.capture(server, test, "mine too")
      assert captured_names(test) == ["mine", "mine too"]
    end

    test "until it ends; later events of its processes are unowned" do
      test = client()
      other = another_test()
      server = stray()
      run_in(other, fn -> BilldogEng.Test.allow(test, other, server) end)
      run_in(other, fn -> BilldogEng.Test.set_shared(test) end)
      Server.capture(server, test, "e")
      Server.capture(stray(), test, "shared")
      assert length(run_in(other, fn -> captured(test) end)) == 2

      send(other, :stop)
      assert_receive {:DOWN, _, :process, ^other, :normal}, 5_000
      eventually(fn -> :ets.match(Store.Relations, {:"$1", other}) == [] end)
      Server.capture(server, test, "late")
      Server.capture(stray(), test, "late")
      assert :ets.match(Store.Events, {{other, :_}, :_, :"$1"}) == []
      assert %{captured: 4, delivered: 2, dropped: %{unowned: 2}} = Analytics.stats(test)
      # The process is free for another test.
      assert BilldogEng.Test.allow(test, self(), server) == :ok
    end
  end

  describe "an event without an owner" do
    test "is counted, and kept nowhere" do
      test = client()
      Server.capture(stray(), test, "e")
      assert orphan(fn -> Analytics.capture(test, "u", "e") end) == :normal
      assert captured() == []
      assert %{captured: 2, delivered: 0, dropped: %{unowned: 2}} = stats = Analytics.stats(test)
      assert balanced?(stats)
      error = assert_raise ExUnit.AssertionError, fn -> assert_captured "e", _, timeout: 0 end
      assert error.message =~ "This test has captured no event."
      assert error.message =~ ~r/\d+ event\(s\) were of no test/
    end

    test "is the sharing test's" do
      test = client()
      BilldogEng.Test.set_shared(test)
      other = another_test()
      Server.capture(stray(), test, "e")
      run_in(other, fn -> Analytics.capture(test, "u", "theirs") end)
      assert captured_names(test) == ["e"]
      assert_raise ArgumentError, ~r/async: false/, fn -> BilldogEng.Test.set_shared(%{async: true}) end
    end
  end

  test "a process that owns nothing gets an error that names the remedy" do
    for ask <- [fn -> captured() end, fn -> assert_captured "e" end, fn -> refute_captured "e" end] do
      assert orphan(fn -> exit(assert_raise(ArgumentError, ask).message) end) =~ "use BilldogEng.Test"
    end
  end

  test "a client that is none, or that sends, can't give its events away" do
    live = start_client(nobody())

    assert_raise ArgumentError, ~r/mode: :live, not :test/, fn ->
      BilldogEng.Test.allow(live, self(), self())
    end

    assert_raise ArgumentError, ~r/there is no process Nobody/, fn -> captured(Nobody) end
    assert_raise ArgumentError, ~r/no client/, fn -> BilldogEng.Test.allow(self(), self(), self()) end
    assert_raise ArgumentError, ~r/\[:times\]/, fn -> assert_captured "e", _, times: 1 end
  end

  test "a module that uses BilldogEng is a client as any" do
    start_supervised!({Shop, mode: :test})
    Shop.capture("u", "e")
    assert_captured "e", %{"user_id" => "u"}, client: Shop
    assert [_] = captured(Shop)
    # Its events outlive it.
    pid = Process.whereis(Shop)
    stop_supervised!(Shop)
    assert [_] = captured(pid)
  end

  test "an app's formatter leaves the asserts their look" do
    {opts, _} = Code.eval_file(".formatter.exs")
    locals = opts[:export][:locals_without_parens]

    for code <- [
          ~s(assert_captured "e", %{"user_id" => ^id}, client: Shop),
          ~s(refute_captured "e"),
          ~s(event = assert_captured "e", %{"properties" => %{"n" => n}} when n > 0)
        ] do
      assert code |> Code.format_string!(locals_without_parens: locals) |> IO.iodata_to_binary() == code
    end
  end
end
