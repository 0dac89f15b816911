# An app, none of whose terms may be seen at the collector.
defmodule Shop do
  @canary "s3cret-canary"
  def canary, do: @canary
  def state, do: %{secret: @canary, nested: [{:card, @canary}]}

  # Of terms that no compiler knows.
  defp same(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  def fail(:raise, _state), do: raise("boom")
  def fail(:quoting, state), do: raise(ArgumentError, "unexpected #{inspect(state)}")
  def fail(:badmatch, state), do: {:ok, _} = same(state)
  def fail(:key, state), do: Map.fetch!(same(state), :missing)
  def fail(:clause, state), do: only(same(state))
  def fail(:arithmetic, state), do: 1 + same(state)
  def fail(:exit, state), do: exit({:why, state})
  def fail(:error, state), do: :erlang.error({:odd, state})
  def fail(:call, state), do: GenServer.call(:nobody_there, {:request, state})
  def fail(:throw, state), do: throw(same(state))
  def fail(:deep, state), do: deep(50, state)
  def fail(:quietly, state), do: exit({:shutdown, state})
  def fail(answer, state), do: {answer, same(state), same(state)}

  def only(:this), do: :ok

  # Deep enough that the frames of the process's behaviour are cut off.
  defp deep(0, _state), do: raise("boom")
  defp deep(n, state), do: [n | deep(n - 1, state)]

  defmodule Server do
    use GenServer
    def start_link(state), do: GenServer.start_link(__MODULE__, state)

    @impl true
    def init({:fail, how}), do: Shop.fail(how, Shop.state())
    def init(state), do: {:ok, state}

    @impl true
    def handle_info({how, _request}, state), do: Shop.fail(how, state)
    @impl true
    def handle_call({how, _request}, _from, state), do: Shop.fail(how, state)
  end

  defmodule Machine do
    @behaviour :gen_statem
    @impl true
    def callback_mode, do: :handle_event_function
    @impl true
    def init(state), do: {:ok, :open, state}
    @impl true
    def handle_event(:info, {how, _request}, _name, state), do: Shop.fail(how, state)
  end

  defmodule Events do
    @behaviour :gen_event
    @impl true
    def init(state), do: {:ok, state}
    @impl true
    def handle_event({how, _request}, state), do: Shop.fail(how, state)
    @impl true
    def handle_call(_request, state), do: {:ok, :ok, state}
  end

  # Each starts a process of a kind under a real supervisor where there is one, has it fail, and answers its pid.
  def crash(kind, how) when kind in [:server, :machine] do
    start =
      if kind == :server,
        do: {Server, :start_link, [state()]},
        else: {:gen_statem, :start_link, [Machine, state(), []]}

    child = %{id: kind, start: start, restart: :temporary}
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    [{_, pid, _, _}] = Supervisor.which_children(supervisor)
    send(pid, {how, canary()})
    pid
  end

  def crash(:task, how) do
    {:ok, supervisor} = Task.Supervisor.start_link()
    {:ok, pid} = Task.Supervisor.start_child(supervisor, __MODULE__, :run, [how, state()])
    pid
  end

  def crash(:agent, how) do
    {:ok, pid} = Agent.start(__MODULE__, :state, [])
    Agent.cast(pid, __MODULE__, :answered, [how])
    pid
  end

  def crash(:proc_lib, how), do: :proc_lib.spawn(__MODULE__, :run, [how, state()])
  def crash(:spawn, how), do: spawn(__MODULE__, :run, [how, state()])

  # Not their last call, or they are in no stacktrace.
  def run(how, state), do: {:ran, fail(how, state)}
  def answered(state, how), do: {:answered, fail(how, state)}
end

defmodule BilldogEng.LoggerHandlerTest do
  use BilldogEng.ClientCase, async: false

  alias BilldogEng.LoggerHandler

  doctest LoggerHandler

  # How log events reach handlers here: as OTP and Elixir write them (`:raw`, all there is before Elixir 1.15),
  # or as Logger has translated them, with or without the reports of SASL.
  @ways if List.keymember?(:logger.get_primary_config().filters, :logger_translator, 0),
          do: [:translated, :translated_sasl, :raw],
          else: [:raw]

  defp by(:raw) do
    filters = :logger.get_primary_config().filters
    :ok = :logger.update_primary_config(%{filters: List.keydelete(filters, :logger_translator, 0)})
    on_exit(fn -> :logger.update_primary_config(%{filters: filters}) end)
  end

  defp by(:translated), do: :ok

  defp by(:translated_sasl) do
    filters = :logger.get_primary_config().filters
    {id, {translator, %{sasl: false} = config}} = List.keyfind(filters, :logger_translator, 0)
    changed = List.keyreplace(filters, id, 0, {id, {translator, %{config | sasl: true}}})
    :ok = :logger.update_primary_config(%{filters: changed})
    on_exit(fn -> :logger.update_primary_config(%{filters: filters}) end)
  end

  defp sasl?(way), do: way != :translated

  # A client with a handler; the collector, and what gives the exceptions that came since it was last asked.
  defp handled(config \\ %{}, opts \\ []) do
    collector = start_collector()
    client = start_client(collector, opts)
    id = :"test_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, LoggerHandler, %{config: Map.put(config, :client, client)})
    on_exit(fn -> :logger.remove_handler(id) end)
    {id, client, collector}
  end

  # Supervisors that are linked here end with what they supervise, or not at all.
  defp ended(pid) do
    ref = Process.monitor(pid)
    assert_receive {:DOWN, ^ref, :process, _, _}, 5_000
  end

  defp events(client, collector) do
    assert Analytics.flush(client) == :ok
    events = Collector.events(collector)
    bytes = for request <- Collector.requests(collector), do: [request.body, inspect(request.headers)]
    refute IO.iodata_to_binary(bytes) =~ Shop.canary()
    Collector.reset(collector)
    events
  end

  defp summary(event) do
    assert event["event_name"] == "$exception"
    assert %{"$exception_list" => [entry], "$exception_level" => "error"} = event["properties"]
    assert entry["mechanism"]["handled"] == false
    assert %{"type" => "raw", "frames" => _} = entry["stacktrace"]
    assert event["properties"]["$exception_type"] == entry["type"]
    assert event["properties"]["$exception_message"] == entry["value"]
    {entry["type"], entry["value"], entry["mechanism"]["synthetic"]}
  end

  @errors [
    raise: {"RuntimeError", "in Shop.fail/2", false},
    quoting: {"ArgumentError", "in Shop.fail/2", false},
    badmatch: {"MatchError", "no match of right hand side value", false},
    key: {"KeyError", "key :missing not found", false},
    clause: {"FunctionClauseError", "no function clause matching in Shop.only/1", false},
    arithmetic: {"ArithmeticError", "bad argument in arithmetic expression", false},
    deep: {"RuntimeError", "in Shop.deep/2", false}
  ]
  @exits [
    error: {"exit", "{:odd, …}", true},
    exit: {"exit", "{:why, …}", true},
    call: {"exit", "exited in: GenServer.call/3: :noproc", true}
  ]
  @throws [throw: {"throw", "in Shop.fail/2", true}]

  # An Erlang error that is no exception of Elixir's, if it can be distinguished from an exit.
  @raw [error: {"ErlangError", "Erlang error: {:odd, …}", false}]

  @crashes [
    server:
      @errors ++
        @exits ++
        [
          throw: {"exit", "bad return value", true},
          oops: {"exit", "bad return value", true},
          stop: {"exit", "in Shop.Server.init/1", true}
        ],
    machine:
      @errors ++
        @exits ++ [oops: {"exit", "{:bad_return_from_state_function, …}", true}],
    task: @errors ++ @exits,
    agent: @errors ++ @exits,
    proc_lib: @errors ++ Keyword.delete(@exits, :error) ++ @throws ++ @raw,
    spawn: @errors ++ @throws ++ @raw
  ]

  for way <- @ways do
    describe "a crash (#{way})" do
      setup do
        by(unquote(way))
      end

      for {kind, crashes} <- @crashes do
        test "of a process of the kind #{kind} is one event, without a value in it" do
          # Within ten a second.
          for some <- Enum.chunk_every(unquote(Macro.escape(crashes)), 5) do
            {id, client, collector} = handled()

            for {{how, expected}, nth} <- Enum.with_index(some, 1) do
              ended(Shop.crash(unquote(kind), how))
              # The emulator reports it at any time; a second report would be among those of the next crash.
              if unquote(kind) == :spawn, do: eventually(fn -> LoggerHandler.stats(id).captured == nth end)
              expected = if unquote(kind) == :proc_lib and not sasl?(unquote(way)), do: [], else: [expected]
              assert {how, Enum.map(events(client, collector), &summary/1)} == {how, expected}
            end
          end
        end
      end

      test "that is called for is one event of the callee, and one of the caller where it fails by that" do
        {_, client, collector} = handled()
        {:ok, server} = GenServer.start(Shop.Server, Shop.state())
        {:ok, task} = Task.start(fn -> {:ok, GenServer.call(server, {:badmatch, Shop.canary()})} end)
        ended(task)
        ended(server)

        assert client |> events(collector) |> Enum.map(&summary/1) |> Enum.sort() == [
                 {"MatchError", "no match of right hand side value", false},
                 {"exit", "exited in: GenServer.call/3: {:badmatch, …}", true}
               ]
      end

      test "in init/1 is one event, where SASL's reports are let through" do
        {_, client, collector} = handled()
        assert {:error, _} = GenServer.start(Shop.Server, {:fail, :badmatch})

        expected =
          if sasl?(unquote(way)), do: [{"MatchError", "no match of right hand side value", false}], else: []

        assert Enum.map(events(client, collector), &summary/1) == expected
      end

      test "of an event handler is one event, and so is the next in the same manager" do
        {_, client, collector} = handled()
        {:ok, manager} = :gen_event.start()

        for _ <- 1..2 do
          :ok = :gen_event.add_handler(manager, Shop.Events, Shop.state())
          :ok = :gen_event.sync_notify(manager, {:badmatch, Shop.canary()})

          assert [{"MatchError", "no match of right hand side value", false}] =
                   Enum.map(events(client, collector), &summary/1)
        end

        # By itself, a manager logs as a process of `:proc_lib` does.
        :ok = :gen_event.stop(manager, :bad, 5_000)
        expected = if sasl?(unquote(way)), do: [{"exit", ":bad", true}], else: []
        assert Enum.map(events(client, collector), &summary/1) == expected
      end

      test "by a shutdown is none" do
        {_, client, collector} = handled()
        for kind <- [:server, :machine, :task, :proc_lib, :spawn], do: ended(Shop.crash(kind, :quietly))
        assert events(client, collector) == []
      end

      test "has its frames, outermost first, with arities" do
        {_, client, collector} = handled()
        ended(Shop.crash(:server, :clause))
        assert [%{"properties" => %{"$exception_list" => [entry]}}] = events(client, collector)
        frames = entry["stacktrace"]["frames"]
        assert %{"function" => ":proc_lib.init_p_do_apply/3", "in_app" => false} = hd(frames)

        assert %{
                 "function" => "Shop.only/1",
                 "in_app" => true,
                 "module" => "Shop",
                 "filename" => "test/logger_handler_test.exs",
                 "lineno" => line
               } = List.last(frames)

        assert is_integer(line)
      end
    end
  end

  test "a supervisor that starts the crashed process again adds nothing" do
    {_, client, collector} = handled()
    {:ok, supervisor} = Supervisor.start_link([{Shop.Server, Shop.state()}], strategy: :one_for_one)

    for _ <- 1..2 do
      [{_, pid, _, _}] = Supervisor.which_children(supervisor)
      send(pid, {:raise, Shop.canary()})
      ended(pid)
      Supervisor.which_children(supervisor)
      assert [{"RuntimeError", _, false}] = Enum.map(events(client, collector), &summary/1)
    end
  end

  test "what an app logs with crash_reason is an event, what it logs without is none" do
    {_, client, collector} = handled()
    require Logger
    Logger.error("plain", user: Shop.canary())

    try do
      Shop.fail(:key, Shop.state())
    rescue
      error ->
        Logger.error("counts #{Shop.canary()}", crash_reason: {error, __STACKTRACE__}, other: Shop.canary())
    end

    assert [{"KeyError", "key :missing not found", false}] = Enum.map(events(client, collector), &summary/1)
  end

  test "messages: :all sends the exception's own, and still no arguments" do
    {_, client, collector} = handled(%{messages: :all})
    ended(Shop.crash(:server, :raise))
    assert [{"RuntimeError", "boom", false}] = Enum.map(events(client, collector), &summary/1)
    ended(Shop.crash(:task, :call))

    assert [{"exit", "exited in: GenServer.call/3: :noproc", true}] =
             Enum.map(events(client, collector), &summary/1)

    ended(Shop.crash(:server, :clause))
    assert [{"FunctionClauseError", _, false}] = Enum.map(events(client, collector), &summary/1)
    {:ok, pid} = Task.start(fn -> exit({:why, 7}) end)
    ended(pid)
    assert [{"exit", "{:why, 7}", true}] = Enum.map(events(client, collector), &summary/1)
  end

  test "in_app names the applications whose frames are the app's own" do
    {_, client, collector} = handled(%{in_app: [:stdlib]})
    ended(Shop.crash(:server, :raise))
    assert [%{"properties" => %{"$exception_list" => [entry]}}] = events(client, collector)

    assert %{"function" => ":proc_lib.init_p_do_apply/3", "in_app" => true} =
             hd(entry["stacktrace"]["frames"])
  end

  describe "distinct_id" do
    test "of a function that fails is warned of once, without what it was given" do
      key = {BilldogEng.Log.Writer, :logger_distinct_id}
      :persistent_term.erase(key)
      on_exit(fn -> :persistent_term.erase(key) end)
      {_, client, collector} = handled(%{distinct_id: &:erlang.error({:badkey, &1, "s3cret"})})

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          for _ <- 1..3, do: ended(spawn(fn -> raise "no" end))
          eventually(fn -> length(events(client, collector)) > 0 end)
        end)

      assert [_] = Regex.scan(~r/:distinct_id of BilldogEng.LoggerHandler raised KeyError in/, log)
      refute log =~ "s3cret"
    end

    def of(metadata, key), do: metadata[key]

    test "where there is none is a UUID of the event's own, and makes no person" do
      for option <- [
            nil,
            & &1[:user_id],
            fn _ -> raise "no" end,
            {__MODULE__, :of, [:user_id]},
            {Shop, :none, []}
          ] do
        {_, client, collector} = handled(%{distinct_id: option})
        for _ <- 1..2, do: ended(Shop.crash(:task, :raise))
        assert [first, second] = events(client, collector)

        for event <- [first, second] do
          assert event["user_id"] =~ ~r/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
          assert event["properties"]["$process_person_profile"] == false
        end

        assert first["user_id"] != second["user_id"]
      end
    end

    test "is that of the process's context by default" do
      {_, client, collector} = handled(%{distinct_id: nil})

      {:ok, pid} =
        Task.start(fn ->
          BilldogEng.Context.put(%{distinct_id: "user-9", properties: %{}})
          {:ran, Shop.fail(:raise, 1)}
        end)

      ended(pid)
      assert [%{"user_id" => "user-9", "properties" => properties}] = events(client, collector)
      refute Map.has_key?(properties, "$process_person_profile")
    end

    test "may be an id, or a function of the metadata, of which nothing else is sent" do
      for option <- ["user-7", & &1[:user_id], {__MODULE__, :of, [:user_id]}] do
        {_, client, collector} = handled(%{distinct_id: option})

        {:ok, pid} =
          Task.start(fn ->
            :logger.set_process_metadata(%{user_id: "user-7", token: Shop.canary()})
            {:ran, Shop.fail(:raise, 1)}
          end)

        ended(pid)
        assert [%{"user_id" => "user-7", "properties" => properties}] = events(client, collector)
        refute Map.has_key?(properties, "$process_person_profile")
      end
    end
  end

  describe "bounds" do
    test "at most ten go out in any second; the next event has the number of the others" do
      {id, client, collector} = handled()
      started = System.monotonic_time(:millisecond)
      pids = for _ <- 1..200, do: Shop.crash(:task, :raise)
      Enum.each(pids, &ended/1)
      %{captured: captured, suppressed: suppressed, failed: 0} = LoggerHandler.stats(id)
      windows = 1 + div(System.monotonic_time(:millisecond) - started, 1_000)
      assert captured in 10..(10 * windows)
      assert captured + suppressed == 200

      # Once a second has passed since the first of them.
      eventually(fn ->
        ended(Shop.crash(:task, :raise))
        LoggerHandler.stats(id).captured > captured
      end)

      events = events(client, collector)
      counts = for event <- events, do: event["properties"]["$exception_suppressed"] || 0
      stats = LoggerHandler.stats(id)
      assert length(events) == stats.captured
      assert Enum.sum(counts) == stats.suppressed
      assert List.last(counts) > 0
    end

    test "a crash that can't be made an event is counted, and the handler stays" do
      {id, client, collector} = handled()
      :ok = :logger.update_handler_config(id, :config, %{client: client, in_app: [:shop]})
      {:ok, %{config: config}} = :logger.get_handler_config(id)
      event = %{level: :error, meta: %{crash_reason: {%RuntimeError{message: "x"}, []}}, msg: {:string, ""}}
      # No pid, as no event of :logger is.
      assert LoggerHandler.log(event, %{id: id, config: config}) == :ok
      assert LoggerHandler.stats(id).failed == 1
      ended(Shop.crash(:task, :raise))
      assert [_] = events(client, collector)
    end

    test "events of odd shapes are none, and harm nothing" do
      {id, client, collector} = handled()
      {:ok, handler} = :logger.get_handler_config(id)

      for {meta, msg} <- [
            {%{crash_reason: {:x, :y}}, {:string, ""}},
            {%{crash_reason: :x}, {:string, ""}},
            {%{crash_reason: {:normal, []}}, {:string, ""}},
            {%{crash_reason: {{:shutdown, :x}, []}}, {:string, ""}},
            {%{}, {:report, %{label: {:proc_lib, :crash}, report: [[], []]}}},
            {%{}, {:report, %{label: {:proc_lib, :crash}, report: :x}}},
            {%{}, {:report, label: {:proc_lib, :crash}}},
            {%{error_logger: %{emulator: true}}, {~c"~p", [1]}},
            {%{error_logger: %{emulator: true}}, {~c"~p", []}},
            {%{error_logger: %{emulator: true}}, {:string, "x"}},
            {%{}, {:string, "text"}}
          ] do
        event = %{level: :error, meta: Map.merge(%{pid: self(), time: 0, gl: self()}, meta), msg: msg}
        assert LoggerHandler.log(event, handler) == :ok
      end

      # A stacktrace that is none costs the frames.
      event = %{
        level: :error,
        meta: %{pid: self(), crash_reason: {%RuntimeError{message: "x"}, [1 | 2]}},
        msg: {:string, ""}
      }

      assert LoggerHandler.log(event, handler) == :ok
      assert LoggerHandler.stats(id) == %{captured: 1, suppressed: 0, failed: 0}
      assert [{"RuntimeError", "", false}] = Enum.map(events(client, collector), &summary/1)
    end
  end

  describe "the library's own" do
    test "crashes are left out: the client's process, the collector's" do
      {id, _client, _collector} = handled()
      other = start_client(nobody())
      Process.flag(:trap_exit, true)
      # A state that no client has fails at the next message.
      :sys.replace_state(other, fn _ -> %{} end)
      ref = Process.monitor(other)
      send(other, {:before_send_failed, "x"})
      GenServer.cast(other, :anything)
      send(other, {:drop_summary, {:event, :queue_full}})
      assert_receive {:DOWN, ^ref, :process, _, {_, [_ | _]}}, 5_000
      assert LoggerHandler.stats(id) == %{captured: 0, suppressed: 0, failed: 0}
    end

    test "domain is left out" do
      {id, _client, _collector} = handled()
      error = {%RuntimeError{message: "x"}, [{Shop, :run, 2, []}]}
      :logger.error(~c"x", %{crash_reason: error, domain: [:billdogeng, :any]})
      assert LoggerHandler.stats(id).captured == 0
      :logger.error(~c"x", %{crash_reason: error, domain: [:shop]})
      assert LoggerHandler.stats(id).captured == 1
    end

    test "capturing is left out: a :before_send that logs a crash meets no end of itself" do
      before_send = fn event ->
        :logger.error(~c"x", %{crash_reason: {%RuntimeError{message: "inner"}, []}})
        event
      end

      {id, client, collector} = handled(%{}, before_send: before_send)
      for _ <- 1..2, do: :logger.error(~c"x", %{crash_reason: {%KeyError{key: :k}, []}})
      assert [{"KeyError", _, _}, {"KeyError", _, _}] = Enum.map(events(client, collector), &summary/1)
      assert LoggerHandler.stats(id).captured == 2
    end

    test "client may be gone" do
      {id, client, _collector} = handled()
      GenServer.stop(client)
      ended(Shop.crash(:task, :raise))
      assert LoggerHandler.stats(id).failed == 0
      assert id in :logger.get_handler_ids()
    end
  end

  describe "configuration" do
    defp add(config), do: :logger.add_handler(:checked, LoggerHandler, %{config: config})

    test "that is wrong is refused by name" do
      for {config, name} <- [
            {%{}, ":client"},
            {%{client: nil}, ":client"},
            {[client: :a], ":client"},
            {%{client: :a, messages: true}, ":messages"},
            {%{client: :a, in_app: :shop}, ":in_app"},
            {%{client: :a, in_app: [:shop | :x]}, ":in_app"},
            {%{client: :a, distinct_id: fn -> 1 end}, ":distinct_id"},
            {%{client: :a, mesages: :all}, ":mesages"}
          ] do
        assert {:error, {:handler_not_added, message}} = add(config)
        assert message =~ name
      end

      assert_raise ArgumentError, fn -> LoggerHandler.stats(:checked) end
    end

    test "never holds the key, and may be changed without losing its counts" do
      {:ok, client} = BilldogEng.new(Shop.canary(), host: nobody(), shutdown_timeout: 0)
      assert add(%{client: client}) == :ok
      on_exit(fn -> :logger.remove_handler(:checked) end)
      {:ok, handler} = :logger.get_handler_config(:checked)
      refute inspect(handler, structs: false, limit: :infinity) =~ Shop.canary()
      assert handler.level == :error

      ended(Shop.crash(:task, :raise))
      assert :logger.update_handler_config(:checked, :config, %{client: client, messages: :all}) == :ok
      assert {:error, _} = :logger.update_handler_config(:checked, :config, %{client: client, messages: 1})
      assert :logger.set_handler_config(:checked, :level, :critical) == :ok
      assert LoggerHandler.stats(:checked).captured == 1
    end
  end
end
