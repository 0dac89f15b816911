defmodule BilldogEng.ContextTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Context
  alias BilldogEng.Context.Table

  doctest BilldogEng.Context

  defp context(id), do: %{distinct_id: id, properties: %{}}

  # A process that runs functions and keeps its dictionary, like one that reads the requests of a connection.
  defp server do
    start_supervised!({Agent, fn -> nil end}, id: make_ref())
  end

  defp on(server, fun), do: Agent.get(server, fn _ -> fun.() end)

  # A task that looks for a context only on request.
  defp late_task do
    Task.async(fn ->
      receive do
        :look -> Context.get()
        {:look, test} -> send(test, {:found, Context.get()})
      end
    end)
  end

  defp look(task) do
    send(task.pid, :look)
    Task.await(task)
  end

  defp look_by(task) do
    ref = Process.monitor(task.pid)
    send(task.pid, {:look, self()})
    assert_receive {:found, context}
    assert_receive {:DOWN, ^ref, _, _, _}
    context
  end

  describe "a context" do
    test "is replaced by the next, and nothing of it is kept" do
      Context.put(distinct_id: "a", properties: [plan: "pro"])
      Context.put(%{properties: %{"step" => 1}})
      assert Context.get() == %{distinct_id: nil, properties: %{"step" => 1}}
      Context.put(Context.get())
      assert Context.get() == %{distinct_id: nil, properties: %{"step" => 1}}
      Context.put(nil)
      assert Context.get() == nil
    end

    test "of another shape is refused without a word of what is in it" do
      for context <- [%{user: "s3cret"}, [properties: "s3cret"], "s3cret", %URI{host: "s3cret"}] do
        error = assert_raise ArgumentError, fn -> Context.put(context) end
        refute error.message =~ "s3cret"
      end
    end

    test "is no other process's" do
      Context.put(distinct_id: "a")
      assert on(server(), &Context.get/0) == nil
    end
  end

  describe "a task" do
    test "has the context of the process that started it, and so have its own tasks" do
      Context.put(distinct_id: "a", properties: %{n: 1})
      inner = fn -> Task.await(Task.async(fn -> {Context.get(), Context.distinct_id()} end)) end
      assert Task.await(Task.async(inner)) == {%{distinct_id: "a", properties: %{n: 1}}, "a"}
    end

    test "has its own where it puts one, and none where it takes it out" do
      Context.put(distinct_id: "a")

      own = fn ->
        Context.put(distinct_id: "b")
        inner = Task.await(Task.async(&Context.get/0))
        Context.clear()
        {inner, Context.get(), Task.await(Task.async(&Context.get/0))}
      end

      assert Task.await(Task.async(own)) == {context("b"), nil, nil}
      assert Context.get() == context("a")
    end

    test "keeps what it has found once" do
      server = server()
      test = self()

      on(server, fn ->
        Context.put(distinct_id: "a")

        Task.start(fn ->
          send(test, {self(), Context.get()})
          receive do: (:again -> send(test, {self(), Context.get()}))
        end)
      end)

      assert_receive {task, %{distinct_id: "a"}}
      on(server, &Context.clear/0)
      send(task, :again)
      assert_receive {^task, %{distinct_id: "a"}}
    end

    test "that comes late finds nothing of what was taken out" do
      Context.put(distinct_id: "a")
      task = late_task()
      Context.clear()
      assert look(task) == nil
    end

    test "that comes late never finds another user" do
      Context.put(distinct_id: "a")
      task = late_task()
      Context.clear()
      Context.put(distinct_id: "b")
      assert look(task) == nil
      assert look(late_task()) == context("b")
      assert Context.get() == context("b")
    end

    test "of a process that serves several users finds the one that it was started for" do
      server = server()
      test = self()

      ask = fn user ->
        on(server, fn ->
          Context.put(distinct_id: user)
          task = late_task()
          Context.leave()
          # As a request without the plug.
          other = late_task()
          send(test, {user, task, other})
        end)

        assert_receive {^user, task, other}
        # Only the process that started a task can await it.
        {look_by(task), look_by(other)}
      end

      assert ask.("a") == {context("a"), nil}
      assert ask.("b") == {context("b"), nil}
      assert ask.(nil) == {context(nil), nil}
      assert ask.("a") == {context("a"), nil}
    end

    test "that asks late finds its own anonymous context" do
      Context.put(properties: %{n: 1})
      first = late_task()
      Context.leave()
      Context.put(properties: %{n: 2})
      assert look(first) == %{distinct_id: nil, properties: %{n: 1}}
      assert look(late_task()) == %{distinct_id: nil, properties: %{n: 2}}
    end

    test "has pids alone among its callers, the process that started it first" do
      me = self()

      for id <- ["a", "b", nil] do
        Context.put(distinct_id: id)
        assert [^me, marker, marker] = Task.await(Task.async(fn -> Process.get(:"$callers") end))
        assert is_pid(marker)
      end

      Context.leave()
      assert Process.get(:"$callers") == nil
    end

    test "finds the same user's next context" do
      Context.put(distinct_id: "a", properties: %{n: 1})
      Context.clear()
      Context.put(distinct_id: "a", properties: %{n: 2})
      assert look(late_task()) == %{distinct_id: "a", properties: %{n: 2}}
    end
  end

  test "the table forgets a process a while after its end" do
    server = server()

    on(server, fn ->
      Context.put(distinct_id: "a")
      Context.put(distinct_id: "b")
    end)

    assert [{_, marker}] = :ets.lookup(Table, {:process, server})
    assert [{^marker, %{distinct_id: "b"}}] = :ets.lookup(Table, marker)
    Agent.stop(server)
    assert Table.of(server) == context("b")
    # It has seen the end; then as after five seconds.
    :sys.get_state(Table)
    for key <- [marker, {:process, server}], do: send(Table, {:forget, key})
    :sys.get_state(Table)
    assert :ets.lookup(Table, {:process, server}) ++ :ets.lookup(Table, marker) == []
  end

  test "a task finds the context of its request after the request's process has ended" do
    server = server()
    on(server, fn -> Context.put(distinct_id: "a") end)
    task = on(server, fn -> late_task().pid end)
    Process.unlink(task)
    Agent.stop(server)
    assert look_by(%{pid: task}) == context("a")
  end

  test "where the library's application isn't running a process has its own, and its tasks none" do
    script = """
    BilldogEng.Context.put(distinct_id: "a")
    "a" = BilldogEng.Context.distinct_id()
    nil = Task.await(Task.async(&BilldogEng.Context.get/0))
    BilldogEng.Context.clear()
    nil = BilldogEng.Context.get()
    """

    args = ["-pa", Application.app_dir(:billdogeng, "ebin"), "-e", script]
    assert System.cmd("elixir", args, stderr_to_stdout: true) == {"", 0}
  end

  describe "a client with context: true" do
    test "has its properties in each capture, beneath the capture's own and above the global ones" do
      collector = start_collector()
      client = start_client(collector, context: true, global_properties: %{app: "shop", route: "none", n: 0})
      Context.put(distinct_id: "a", properties: %{"route" => "/users/:id", n: 1})
      Analytics.capture(client, "u", "own", %{n: 2})
      Analytics.capture(client, "u", "list", n: 2)
      Task.await(Task.async(fn -> Analytics.capture(client, "u", "task") end))
      Analytics.identify(client, "u", %{plan: "pro"})
      Context.clear()
      Analytics.capture(client, "u", "none")
      assert Analytics.flush(client) == :ok

      assert for(event <- Collector.events(collector), do: {event["event_name"], event["properties"]}) == [
               {"own", %{"app" => "shop", "route" => "/users/:id", "n" => 2}},
               {"list", %{"app" => "shop", "route" => "/users/:id", "n" => 2}},
               {"task", %{"app" => "shop", "route" => "/users/:id", "n" => 1}},
               {"$identify", %{"plan" => "pro", "$set" => %{"plan" => "pro"}}},
               {"none", %{"app" => "shop", "route" => "none", "n" => 0}}
             ]
    end

    test "is the only one that has them" do
      collector = start_collector()
      Context.put(distinct_id: "a", properties: %{n: 1})
      client = start_client(collector)
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
      assert [%{"properties" => properties}] = Collector.events(collector)
      assert properties == %{}
    end
  end
end
