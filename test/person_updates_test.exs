defmodule BilldogEng.PersonUpdatesTest do
  # Alone: it reads the log.
  use BilldogEng.ClientCase

  import ExUnit.CaptureLog

  alias BilldogEng.Client.Native

  # Bodies of the updates that arrived, in their order.
  defp updates(collector) do
    for %{path: "/user-properties", body: body} <- Collector.requests(collector) do
      {:ok, update} = Native.json_decode(body)
      update
    end
  end

  defp keys(collector), do: for(%{"operations" => [%{"key" => key} | _]} <- updates(collector), do: key)

  defp set(client, key, value \\ 1), do: Analytics.set_person_properties(client, "u", set: [{key, value}])

  defp only(path, mode), do: fn request -> if request.path == path, do: mode, else: :ok end

  defp accounts(client) do
    stats = Analytics.stats(client)
    assert balanced?(stats)
    assert balanced?(stats.person_updates)
    stats.person_updates
  end

  describe "on the wire" do
    setup do
      collector = start_collector()
      %{collector: collector, client: start_client(collector)}
    end

    test "an update is a request of its own, its operations in their order", %{
      collector: collector,
      client: client
    } do
      ops = %{
        unset: [:trial, "old"],
        append: [tags: "x"],
        add: %{logins: 1},
        set_once: [first: 1],
        set: [z: 1, a: 2]
      }

      assert Analytics.set_person_properties(client, "user-1", ops) == :ok
      assert Analytics.flush(client) == :ok
      assert [request] = Collector.requests(collector)

      assert request.body ==
               ~s({"api_key":"key","distinct_id":"user-1","operations":[) <>
                 ~s({"operation":"$set","key":"z","value":1},{"operation":"$set","key":"a","value":2},) <>
                 ~s({"operation":"$set_once","key":"first","value":1},{"operation":"$add","key":"logins","value":1},) <>
                 ~s({"operation":"$append","key":"tags","value":"x"},) <>
                 ~s({"operation":"$unset","key":"trial","value":null},{"operation":"$unset","key":"old","value":null}]})

      assert %{method: "POST", path: "/user-properties"} = request
      headers = Map.new(request.headers)
      assert %{"x-api-key" => "key", "x-billdog-api-key" => "key"} = headers
      refute Map.has_key?(headers, "content-encoding")
    end

    test "a key that can't be written as text costs itself alone", %{collector: collector, client: client} do
      keys = [%BilldogEng.Throwing{}, {:a, self()}, 1.5, nil]
      for key <- keys, do: assert(set(client, key) == :ok)
      assert %{captured: 4} = accounts(client)
      assert Analytics.flush(client) == :ok
      assert [_, "{:a, #PID<" <> _, "1.5", "nil"] = keys(collector)
    end

    test "a large update isn't compressed either", %{collector: collector, client: client} do
      set(client, "a", String.duplicate("a", 100_000))
      assert Analytics.flush(client) == :ok
      assert [%{body: body, headers: headers}] = Collector.requests(collector)
      assert byte_size(body) > 100_000
      refute List.keymember?(headers, "content-encoding", 0)
    end

    test "values that JSON has no word for are written as in events, and counted", %{
      collector: collector,
      client: client
    } do
      log =
        capture_log(fn ->
          set(client, :a, {:error, %{at: ~D[2026-01-01], pid: self()}})
          set(client, "large", for(n <- 1..50_000, do: n))
          assert Analytics.flush(client) == :ok
          eventually(fn -> accounts(client).replaced == 2 end)
        end)

      assert [
               %{"operations" => [%{"value" => ["error", %{"at" => "2026-01-01", "pid" => "#PID<" <> _}]}]},
               large
             ] = updates(collector)

      assert [%{"value" => value}] = large["operations"]
      assert value == Enum.to_list(1..50_000)
      assert log =~ "a person update has a value without a JSON form at operations.0.value"
    end

    test "an update over max_event_bytes is dropped", %{collector: collector} do
      client = start_client(collector, max_event_bytes: 1_000)

      assert capture_log(fn ->
               set(client, "a", String.duplicate("a", 2_000))
               set(client, "b", for(n <- 1..2_000, do: {n, self()}))
               assert Analytics.flush(client) == :ok
             end) =~ "a person update is larger than max_event_bytes (1000)"

      assert %{captured: 2, dropped: %{too_large: 2}} = accounts(client)
    end

    test "what is no operation is left out and named, without its value", %{
      collector: collector,
      client: client
    } do
      log =
        capture_log(fn ->
          for ops <- [
                nil,
                "s3cret",
                [:s3cret | :s3cret],
                %{sett: %{a: "s3cret"}},
                [set: "s3cret", add: [logins: 1]],
                %{unset: %{a: 1}},
                %{unset: [a: 1]},
                [set: %{}, unset: []],
                %{"set" => %{a: 1}}
              ] do
            assert Analytics.set_person_properties(client, "u", ops) == :ok
          end

          for nobody <- [nil, ""],
              do: assert(Analytics.set_person_properties(client, nobody, set: %{a: 1}) == :ok)

          assert Analytics.flush(client) == :ok
        end)

      assert [%{"operations" => [%{"operation" => "$add", "key" => "logins", "value" => 1}]}] =
               updates(collector)

      assert log =~ "left out an unknown operation on person properties: "
      assert log =~ "got: :sett"
      assert log =~ "left out :unset of person properties"
      assert log =~ "got: another term"
      assert log =~ "left out person properties without a distinct ID"
      refute log =~ "s3cret"
    end
  end

  describe "its own lane" do
    test "holds up no event while it hangs, nor do events hold it up" do
      for {path, others} <- [{"/user-properties", "/ingest-events"}, {"/ingest-events", "/user-properties"}] do
        collector = start_collector()
        client = start_client(collector, flush_at: 1)
        Collector.respond(collector, only(path, {:gate, self()}))
        set(client, "a")
        Analytics.capture(client, "u", "e")
        {handle, %{path: ^path}} = at_gate()
        eventually(fn -> Enum.any?(Collector.requests(collector), &(&1.path == others)) end)
        set(client, "b")
        Analytics.capture(client, "u", "e")
        if others == "/user-properties", do: eventually(fn -> keys(collector) == ["a", "b"] end)
        if others == "/ingest-events", do: eventually(fn -> names(collector) == ["e", "e"] end)
        Collector.respond(collector, :ok)
        Collector.release(handle, :ok)
        assert Analytics.flush(client) == :ok
        assert keys(collector) == ["a", "b"]
        assert %{captured: 2, delivered: 2} = accounts(client)
      end
    end

    test "leaves in order, and is tried again as events are" do
      collector = start_collector()
      client = start_client(collector, max_retries: 3)
      Collector.respond(collector, {:sequence, [{:status, 503}, :ok]})
      for key <- ["first", "second", "third"], do: set(client, key)
      assert Analytics.flush(client) == :ok
      assert keys(collector) == ["first", "first", "second", "third"]
      assert %{captured: 3, delivered: 3, queued: 0, retries: 1} = accounts(client)
    end

    test "a refused update is dropped alone, and flush/2 returns its error" do
      collector = start_collector()
      client = start_client(collector)
      Collector.respond(collector, &if(&1.body =~ "bad", do: {:status, 422}, else: :ok))

      log =
        capture_log(fn ->
          for key <- ["a", "bad", "b"], do: set(client, key)
          assert {:error, %Error{status: 422}} = Analytics.flush(client)
        end)

      assert Analytics.flush(client) == :ok
      assert keys(collector) == ["a", "bad", "b"]
      assert %{captured: 3, delivered: 2, dropped: %{rejected: 1}} = accounts(client)
      assert log =~ "dropped 1 person update (rejected)"
    end

    test "keeps what an ingest does not take for now, within its bounds" do
      collector = start_collector()
      client = start_client(collector)
      Collector.respond(collector, only("/user-properties", {:status, 500}))
      for n <- 1..1_010, do: set(client, "k#{n}")
      assert {:error, %Error{status: 500}} = Analytics.flush(client)
      %{queued: queued, dropped: %{queue_full: dropped}} = accounts(client)
      assert queued + dropped == 1_010
      assert queued in 1_000..1_001
      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert List.last(keys(collector)) == "k1010"
      assert Analytics.purge(client) == :ok
    end

    test "purge/1 empties it" do
      collector = start_collector()
      client = start_client(collector)
      gate(collector)
      for key <- ["a", "b"], do: set(client, key)
      at_gate()
      assert Analytics.purge(client) == :ok
      assert %{captured: 2, queued: 0, dropped: %{purged: 2}} = accounts(client)
    end

    test "costs nothing where it isn't used" do
      client = start_client(start_collector())
      # The flush thread has its name once it replies.
      assert Analytics.flush(client) == :ok
      before = threads()
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
      assert threads() == before
      set(client, "a")
      assert Analytics.flush(client) == :ok
      if before, do: assert(threads() == before + 1)
    end
  end

  describe "the end" do
    test "what is left is sent after the process's end" do
      collector = start_collector()
      client = unlinked(Collector.url(collector), [])
      gate(collector)
      set(client, "a")
      {handle, _} = at_gate()
      for key <- ["b", "c"], do: set(client, key)
      Process.exit(client, :kill)
      Collector.respond(collector, :ok)
      Collector.release(handle, :ok)
      drained(client)
      assert keys(collector) == ["a", "b", "c"]
    end

    test "updates that could not be sent in time are counted and logged" do
      collector = start_collector()
      Collector.respond(collector, :hang)
      client = unlinked(Collector.url(collector), shutdown_timeout: 100)
      for key <- ["a", "b"], do: set(client, key)

      assert capture_log(fn ->
               GenServer.stop(client)
               drained(client)
             end) =~
               "dropped 2 person updates (stopped) after the client's process had ended: captured 2, delivered 0"
    end

    test "an update that comes before the client is up, by message, is sent" do
      collector = start_collector()
      client = start_client(collector)
      GenServer.cast(client, {:set_person_properties, "u", [[operation: "$set", key: "a", value: 1]]})
      assert Analytics.flush(client) == :ok
      assert keys(collector) == ["a"]
    end
  end

  describe "clients that send nothing" do
    test "count the update where they are disabled" do
      {:ok, client} = Analytics.start_link(mode: :disabled)
      set(client, "a")
      assert %{captured: 1, dropped: %{disabled: 1}} = accounts(client)
      assert Analytics.flush(client) == :ok
    end

    test "give it to the test as an event of a name of its own" do
      BilldogEng.Test.own()
      {:ok, client} = Analytics.start_link(mode: :test)
      set(client, "a", {1, 2})

      assert [%{"event_name" => "$set_person_properties", "user_id" => "u", "properties" => properties}] =
               BilldogEng.Test.captured(client)

      assert properties == %{"operations" => [%{"operation" => "$set", "key" => "a", "value" => [1, 2]}]}
      assert %{captured: 1, delivered: 1} = accounts(client)
    end
  end

  defp unlinked(url, opts) do
    {:ok, client} = Analytics.start_link([api_key: "key", host: url] ++ opts)
    Process.unlink(client)
    client
  end

  defp threads do
    if File.dir?("/proc/self/task") do
      Enum.count(File.ls!("/proc/self/task"), fn task ->
        match?({:ok, "billdogeng-flus" <> _}, File.read("/proc/self/task/#{task}/comm"))
      end)
    end
  end

  describe "events" do
    test "identify/4 has what is set once beside what is set" do
      collector = start_collector()
      client = start_client(collector)
      assert Analytics.identify(client, "u", %{plan: "pro"}, set_once: %{first: 1}) == :ok
      assert Analytics.identify(client, "u", [], set_once: [first: 1]) == :ok
      assert Analytics.identify(client, "u", "text", set_once: nil) == :ok
      log = capture_log(fn -> assert Analytics.identify(client, "u", %{a: 1}, sett_once: 1) == :ok end)
      assert log =~ "left out options of identify/4: expected :set_once"
      assert Analytics.identify(client, "u", %{a: 1}, [:x | :y]) == :ok
      assert Analytics.flush(client) == :ok

      assert [
               %{"plan" => "pro", "$set" => %{"plan" => "pro"}, "$set_once" => %{"first" => 1}},
               %{"$set_once" => %{"first" => 1}},
               %{"$set" => "text", "$set_once" => nil},
               %{"a" => 1, "$set" => %{"a" => 1}},
               %{"a" => 1, "$set" => %{"a" => 1}}
             ] = for(event <- Collector.events(collector), do: event["properties"])
    end

    test "have $process_person_profile according to :person_profiles" do
      for {profiles, expected} <- [
            {nil, [nil, nil, nil, nil, nil]},
            {:always, [true, true, true, true, "own"]},
            {:never, [false, false, false, false, "own"]},
            {:identified_only, [false, true, true, true, "own"]}
          ] do
        collector = start_collector()
        client = start_client(collector, person_profiles: profiles, insert_ids: profiles == :never)
        Analytics.capture(client, "u", "e")
        Analytics.capture(client, "u", "e", %{"$set": %{a: 1}})
        Analytics.capture(client, "u", "e", %{a: 1}, %{team: "t"})
        Analytics.identify(client, "u")
        Analytics.capture(client, "u", "e", %{"$process_person_profile" => "own"})
        assert Analytics.flush(client) == :ok

        reported =
          for event <- Collector.events(collector), do: event["properties"]["$process_person_profile"]

        assert reported == List.replace_at(expected, 4, "own")
      end
    end

    test "and updates have the header of :geoip_resolution_level" do
      collector = start_collector()
      client = start_client(collector, geoip_resolution_level: "none")
      Analytics.capture(client, "u", "e")
      set(client, "a")
      assert Analytics.flush(client) == :ok
      assert [_, _] = requests = Collector.requests(collector)
      for %{headers: headers} <- requests, do: assert({"x-geoip-resolution-level", "none"} in headers)
    end

    test "options that are wrong are named with what they take" do
      for {opts, accepted} <- [
            {[person_profiles: :sometimes], ":always, :never, :identified_only or nil"},
            {[geoip_resolution_level: "none\r\nx: y"], ~s(a word such as "none", or nil)},
            {[geoip_resolution_level: 7], ~s(a word such as "none", or nil)}
          ] do
        assert_raise ArgumentError, ~r/#{Regex.escape(accepted)}/, fn ->
          Analytics.start_link([api_key: "key"] ++ opts)
        end
      end
    end
  end
end
