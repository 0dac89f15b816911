defmodule BilldogEng.HooksTest do
  use BilldogEng.ClientCase, async: true

  import ExUnit.CaptureLog
  alias BilldogEng.Client.{Hooks, Native}

  def tag(event, tag), do: put_in(event["properties"]["tag"], tag)
  def globals(app), do: %{app: app}

  defp sent(client, collector) do
    assert Analytics.flush(client) == :ok
    for event <- Collector.events(collector), do: event["properties"]
  end

  describe "before_send" do
    test "is given the wire's four keys, in the caller, and what it answers is sent" do
      collector = start_collector()
      test = self()

      before_send = fn event ->
        send(test, {:event, self(), event})
        %{event | "event_name" => "renamed", "user_id" => 5, "event_timestamp" => 7}
      end

      client = start_client(collector, before_send: before_send, group_type_index: %{"company" => 2})
      Analytics.capture(client, "u", "e", %{a: 1}, %{company: "acme"}, timestamp: 1_000)

      assert_received {:event, ^test, event}

      assert event == %{
               "event_name" => "e",
               "event_timestamp" => 1_000,
               "properties" => %{:a => 1, "$groups" => %{company: "acme"}, "$group_2" => "acme"},
               "user_id" => "u"
             }

      assert Analytics.flush(client) == :ok
      assert [sent] = Collector.events(collector)
      assert %{"event_name" => "renamed", "user_id" => 5, "event_timestamp" => 7} = sent
      assert sent["properties"] == %{"a" => 1, "$groups" => %{"company" => "acme"}, "$group_2" => "acme"}
    end

    test "sees every kind of event, and the time of its capture" do
      collector = start_collector()
      test = self()
      client = start_client(collector, before_send: &(send(test, &1) && &1))
      before = System.system_time(:millisecond)
      Analytics.identify(client, "u", %{a: 1})
      Analytics.group_identify(client, "t", "k")
      Analytics.alias(client, "u", "v")
      GenServer.cast(client, {:enqueue, "u", "cast", {:with_groups, %{}, %{}}})
      assert Analytics.flush(client) == :ok
      assert names(collector) == ["$identify", "$groupidentify", "$create_alias", "cast"]

      for name <- names(collector),
          do: assert_received(%{"event_name" => ^name, "event_timestamp" => ms} when ms >= before)
    end

    test "may be {module, function, args}" do
      collector = start_collector()
      client = start_client(collector, before_send: {__MODULE__, :tag, ["x"]})
      Analytics.capture(client, "u", "e", %{a: {1, self()}})
      assert [%{"a" => [1, "#PID" <> _], "tag" => "x"}] = sent(client, collector)
    end

    test "that returns nil drops the event, and counts it" do
      collector = start_collector()
      client = start_client(collector, before_send: &if(&1["user_id"] != "nobody", do: &1))
      assert Analytics.capture(client, "nobody", "e") == :ok
      assert Analytics.capture(client, "u", "kept") == :ok
      assert Analytics.flush(client) == :ok
      assert names(collector) == ["kept"]
      assert %{captured: 2, delivered: 1, dropped: %{before_send: 1}} = stats = Analytics.stats(client)
      assert balanced?(stats)
    end

    test "that fails, or returns another shape, drops its event, which is logged once without the event's contents" do
      shapes = [
        %{},
        :ok,
        "x",
        {:ok, 1},
        %{"event_name" => 1, "event_timestamp" => "x", "properties" => 1, "user_id" => 1}
      ]

      failures = [
        fn _ -> raise "s3cret" end,
        fn _ -> throw(:s3cret) end,
        fn _ -> exit(:s3cret) end,
        &Map.fetch!(&1, :s3cret)
      ]

      for before_send <- failures ++ Enum.map(shapes, fn shape -> fn _ -> shape end end) do
        client = start_client(nobody(), before_send: before_send)

        log =
          log_of(client, fn ->
            for _ <- 1..3, do: assert(Analytics.capture(client, "u", "e", %{token: "s3cret"}) == :ok)
            Analytics.queue_length(client)
          end)

        assert [_] = Regex.scan(~r/:before_send (raised|ended|returned neither)/, log)
        refute log =~ "s3cret\""
        assert %{captured: 3, queued: 0, dropped: %{before_send: 3}} = Analytics.stats(client)
      end
    end
  end

  describe "global_properties" do
    test "are overridden by a capture's own, for every kind of key" do
      collector = start_collector()
      client = start_client(collector, global_properties: %{:app => "shop", "env" => "prod", :n => 1})
      Analytics.capture(client, "u", "e", %{"app" => "own", env: "own"})
      Analytics.capture(client, "u", "e", n: 2)
      Analytics.capture(client, "u", "e", %{}, %{team: 1})
      Analytics.identify(client, "u", %{a: 1})

      assert sent(client, collector) == [
               %{"app" => "own", "env" => "own", "n" => 1},
               %{"app" => "shop", "env" => "prod", "n" => 2},
               %{"app" => "shop", "env" => "prod", "n" => 1, "$groups" => %{"team" => 1}},
               %{"$set" => %{"a" => 1}, "a" => 1}
             ]
    end

    test "may be a function or {module, function, args}, whose failure costs them alone" do
      for {globals, expected} <- [
            {fn -> %{app: "f"} end, %{"app" => "f"}},
            {{__MODULE__, :globals, ["mfa"]}, %{"app" => "mfa"}},
            {fn -> raise "no" end, %{}},
            {fn -> :nothing end, %{}}
          ] do
        collector = start_collector()
        client = start_client(collector, global_properties: globals)
        Analytics.capture(client, "u", "e")
        assert sent(client, collector) == [expected]
      end
    end
  end

  describe "insert_ids" do
    test "are UUIDv7, one an event, the same in every attempt; a caller's own stands" do
      collector = start_collector()
      client = start_client(collector, insert_ids: true)
      Analytics.capture(client, "u", "e")
      Analytics.capture(client, "u", "e", %{a: %{"$insert_id" => "inner"}})
      Analytics.capture(client, "u", "e", %{"$insert_id" => "own"})
      Analytics.identify(client, "u", %{a: 1})
      Collector.respond(collector, [{:status, 503}, :ok])
      assert {:error, _} = Analytics.flush(client)

      properties = sent(client, collector)
      assert [one, two, "own", four] = ids = for(property <- properties, do: property["$insert_id"])

      for id <- [one, two, four],
          do: assert(id =~ ~r/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)

      assert ids == Enum.uniq(ids)
      assert [first, second] = Collector.requests(collector)
      assert first.body == second.body
    end
  end

  describe "the log" do
    test "reports the event and the path of the first replaced value, never the value" do
      client = start_client(nobody())

      log =
        capture_log(fn ->
          Analytics.capture(client, "u", "order", %{user: %{list: [1, %{token: {:s3cret, self()}}]}})
          Analytics.capture(client, "u", "again", %{a: {1}})
          eventually(fn -> Analytics.queue_length(client) == 2 end)
          :sys.get_state(client)
        end)

      assert log =~
               ~s(the event "order" has a value without a JSON form at properties.user.list.1.token)

      refute log =~ ~s(the event "again")
      refute log =~ "s3cret"
      assert Analytics.stats(client).replaced == 3
    end

    test "reports the place at which the first event became too large" do
      client = start_client(nobody(), max_event_bytes: 500)

      log =
        capture_log(fn ->
          Analytics.capture(client, "u", "order", %{a: 1, text: String.duplicate("x", 1_000)})
          Analytics.queue_length(client)
          :sys.get_state(client)
        end)

      assert log =~
               ~s[the event "order" is larger than max_event_bytes (500), which was reached at properties.text]
    end
  end

  test "an event whose groups are no list of pairs is accounted for all the same" do
    collector = start_collector()
    client = start_client(collector, before_send: & &1, group_type_index: %{company: 0})
    Analytics.capture(client, "u", "e", %{}, [{:company, "a"} | :x])
    assert balanced?(Analytics.stats(client))
    assert Analytics.stats(client).captured == 1
  end

  test "what a client has done to its events is kept by its pid, and forgotten with it" do
    client = start_client(start_collector(), global_properties: %{app: "shop"})
    assert :ets.lookup(Hooks, client) == []
    Analytics.capture(client, "u", "e")
    assert [{^client, %Hooks{global_properties: %{app: "shop"}} = hooks}] = :ets.lookup(Hooks, client)
    assert hooks == Native.hooks(client)
    GenServer.stop(client)
    eventually(fn -> :ets.lookup(Hooks, client) == [] end)
    # One that is late finds none, and leaves none behind.
    assert Hooks.Shared.of(client) == nil
    assert Analytics.capture(client, "u", "e") == :ok
    assert :ets.lookup(Hooks, client) == []
  end

  test "hooks that close over much are read without a copy, one term for clients with the same ones" do
    ids = Enum.to_list(1..10_000)
    opts = [before_send: fn event -> if length(ids) > 0, do: event end]
    [one, two] = clients = for _ <- 1..2, do: start_client(nobody(), opts)

    keys =
      for client <- clients do
        assert Analytics.capture(client, "u", "e") == :ok
        eventually(fn -> match?([{_, {:shared, _}}], :ets.lookup(Hooks, client)) end)
        assert :erts_debug.same(Hooks.Shared.of(client), Hooks.Shared.of(client))
        assert Hooks.Shared.of(client) == Native.hooks(client)
        assert Analytics.capture(client, "u", "e") == :ok
        assert Analytics.stats(client).queued == 2
        [{_, {:shared, key}}] = :ets.lookup(Hooks, client)
        key
      end

    assert [key, key] = keys
    assert :erts_debug.same(Hooks.Shared.of(one), Hooks.Shared.of(two))

    # A sweep, as there is one a minute, erases what no client uses.
    GenServer.stop(one)
    eventually(fn -> :ets.lookup(Hooks, one) == [] end)
    sweep()
    assert :persistent_term.get(key, nil) == Hooks.Shared.of(two)
    GenServer.stop(two)
    eventually(fn -> :ets.lookup(Hooks, two) == [] end)
    assert :persistent_term.get(key, nil) != nil
    eventually(fn -> sweep() && :persistent_term.get(key, nil) == nil end)
  end

  defp sweep do
    send(Hooks.Shared, :sweep)
    :sys.get_state(Hooks.Shared)
  end
end
