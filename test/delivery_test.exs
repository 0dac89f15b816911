defmodule BilldogEng.DeliveryTest do
  use BilldogEng.ClientCase, async: true

  describe "a flush" do
    test "is made when flush_at events are queued" do
      collector = start_collector()
      client = start_client(collector, flush_at: 3)
      Collector.subscribe(collector)
      for n <- 1..2, do: Analytics.capture(client, "u", "e#{n}")
      refute_receive {:collector, _}, 50
      Analytics.capture(client, "u", "e3")
      assert_receive {:collector, events}, 5_000
      assert for(event <- events, do: event["event_name"]) == ["e1", "e2", "e3"]
    end

    test "is made after flush_interval" do
      collector = start_collector()
      client = start_client(collector, flush_interval: 20)
      Collector.subscribe(collector)

      for n <- 1..3 do
        Analytics.capture(client, "u", "e#{n}")
        assert_receive {:collector, [%{"event_name" => name}]}, 5_000
        assert name == "e#{n}"
      end
    end

    test "is made by flush/1, and with nothing queued sends nothing" do
      collector = start_collector()
      client = start_client(collector)
      assert Analytics.flush(client) == :ok
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
      assert Analytics.flush(client) == :ok
      assert Collector.request_count(collector) == 1
    end

    test "is made by shutdown/1, which also stops the timer and leaves the client up" do
      collector = start_collector()
      client = start_client(collector, flush_interval: 20, flush_at: 3)
      Collector.subscribe(collector)
      Analytics.capture(client, "u", "e1")
      assert Analytics.shutdown(client) == :ok
      assert Analytics.shutdown(client) == :ok
      assert_receive {:collector, _}, 5_000

      Analytics.capture(client, "u", "e2")
      refute_receive {:collector, _}, 100
      assert Analytics.flush(client) == :ok
      assert_receive {:collector, _}, 5_000

      for n <- 3..5, do: Analytics.capture(client, "u", "e#{n}")
      assert_receive {:collector, events}, 5_000
      assert for(event <- events, do: event["event_name"]) == ["e3", "e4", "e5"]
    end

    test "leaves callers alone: captures and stats go on while it waits for its answer" do
      collector = start_collector()
      client = start_client(collector, flush_at: 1)
      gate(collector)
      Analytics.capture(client, "u", "e1")
      {handle, _} = at_gate()
      for n <- 2..1_000, do: Analytics.capture(client, "u", "e#{n}")
      assert %{captured: 1_000, in_flight: 1, queued: 1_000, delivered: 0} = Analytics.stats(client)
      Collector.respond(collector, :ok)
      Collector.release(handle)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..1_000, do: "e#{n}")
    end

    test "is one POST up to max_batch_size and max_batch_bytes, more go in further ones" do
      collector = start_collector()
      client = start_client(collector, max_batch_size: 10)
      for n <- 1..25, do: Analytics.capture(client, "u", "e#{n}")
      assert Analytics.flush(client) == :ok
      assert for(request <- Collector.requests(collector), do: request.events) == [10, 10, 5]

      Collector.reset(collector)
      client = start_client(collector, max_batch_bytes: 1_000)
      for n <- 1..10, do: Analytics.capture(client, "u", "e#{n}", %{text: String.duplicate("x", 300)})
      Analytics.capture(client, "u", "e11", %{text: String.duplicate("x", 3_000)})
      Analytics.capture(client, "u", "e12")
      assert Analytics.flush(client) == :ok
      assert for(request <- Collector.requests(collector), do: request.events) == [2, 2, 2, 2, 2, 1, 1]
      assert names(collector) == for(n <- 1..12, do: "e#{n}")
    end

    test "keeps the order of each process, of many at once" do
      collector = start_collector()
      client = start_client(collector, flush_at: 50)

      1..20
      |> Enum.map(fn writer ->
        Task.async(fn -> for n <- 1..500, do: Analytics.capture(client, "w#{writer}", "e", %{n: n}) end)
      end)
      |> Task.await_many()

      assert Analytics.flush(client) == :ok
      events = Collector.events(collector)
      assert length(events) == 10_000

      for {_writer, events} <- Enum.group_by(events, & &1["user_id"]) do
        assert for(event <- events, do: event["properties"]["n"]) == Enum.to_list(1..500)
      end
    end
  end

  describe "a failure" do
    test "is tried max_retries more times on 408, 429, 5xx and no answer, after 1, 2, 4 s" do
      test = self()

      for answer <- [{:status, 408}, {:status, 429}, {:status, 500}, {:status, 503}, :reset] do
        collector = start_collector()
        client = start_client(collector, max_retries: 3, sleep_fn: &send(test, {:slept, &1}))
        Collector.respond(collector, [answer, answer, answer, :ok])
        Analytics.capture(client, "u", "e")
        assert Analytics.flush(client) == :ok
        for ms <- [1_000, 2_000, 4_000], do: assert_received({:slept, ^ms})
        assert Collector.request_count(collector) == 4
        assert Analytics.stats(client).retries == 3
      end
    end

    test "of another kind ends the flush with one request" do
      for status <- [401, 403, 404, 410] do
        collector = start_collector()
        client = start_client(collector, max_retries: 3)
        Collector.respond(collector, {:status, status})
        Analytics.capture(client, "u", "e")
        assert {:error, %Error{status: ^status}} = Analytics.flush(client)
        assert Collector.request_count(collector) == 1
        assert Analytics.stats(client).queued == 1
      end
    end

    test "puts the batch back to the front, with its order and its times" do
      collector = start_collector()
      client = start_client(collector, max_batch_size: 2)
      for n <- 1..5, do: Analytics.capture(client, "u", "e#{n}", %{}, %{}, timestamp: n)
      Collector.respond(collector, [:ok, {:status, 503}])
      assert {:error, %Error{status: 503}} = Analytics.flush(client)
      assert Analytics.stats(client).queued == 3
      Analytics.capture(client, "u", "e6", %{}, %{}, timestamp: 6)
      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..6, do: "e#{n}")
      assert for(event <- Collector.events(collector), do: event["event_timestamp"]) == [1, 2, 3, 4, 5, 6]
    end

    test "pauses automatic flushes, and flush/1 ends the pause" do
      collector = start_collector()
      client = start_client(collector, flush_at: 1)
      Collector.respond(collector, {:status, 503})
      Analytics.capture(client, "u", "e1")
      assert Analytics.queue_length(client) == 1
      for n <- 2..100, do: Analytics.capture(client, "u", "e#{n}")
      assert Analytics.queue_length(client) == 100
      assert Collector.request_count(collector) == 1

      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      Analytics.capture(client, "u", "e101")
      assert Analytics.queue_length(client) == 0
      assert names(collector) == for(n <- 1..101, do: "e#{n}")
    end

    test "flush/1 ends a wait between attempts" do
      collector = start_collector()
      test = self()

      wait = fn ms ->
        send(test, {:waiting, ms})
        Process.sleep(:infinity)
      end

      client = start_client(collector, flush_at: 1, max_retries: 5, sleep_fn: wait)
      Collector.respond(collector, [{:status, 503}, :ok])
      Analytics.capture(client, "u", "e")
      assert_receive {:waiting, 1_000}, 30_000
      assert Analytics.flush(client) == :ok
      assert Collector.request_count(collector) == 2
    end
  end

  describe "flush/1" do
    test "takes the result of an attempt in flight that carries all of it" do
      for status <- [401, 503] do
        collector = start_collector()
        client = start_client(collector, flush_at: 1)
        gate(collector)
        Analytics.capture(client, "u", "e")
        {handle, _} = at_gate()
        flush = Task.async(fn -> Analytics.flush(client) end)
        eventually(fn -> map_size(:sys.get_state(client).calls) == 1 end)
        Collector.release(handle, {:status, status})
        assert {:error, %Error{status: ^status}} = Task.await(flush, :infinity)
        assert Collector.request_count(collector) == 1
      end
    end

    test "makes further attempts after one in flight, as any flush" do
      collector = start_collector()
      client = start_client(collector, flush_at: 1, max_retries: 1, sleep_fn: fn _ -> :ok end)
      gate(collector)
      Analytics.capture(client, "u", "e")
      {first, _} = at_gate()
      flush = Task.async(fn -> Analytics.flush(client) end)
      eventually(fn -> map_size(:sys.get_state(client).calls) == 1 end)
      Collector.release(first, {:status, 503})
      {second, _} = at_gate()
      Collector.release(second, {:status, 503})
      assert {:error, %Error{status: 503}} = Task.await(flush, :infinity)
      assert Collector.request_count(collector) == 2
    end

    test "makes an attempt of its own after one in flight that carries only some of it and fails" do
      collector = start_collector()
      client = start_client(collector, flush_at: 1)
      gate(collector)
      Analytics.capture(client, "u", "e")
      {first, _} = at_gate()
      Analytics.capture(client, "u", "later")
      flush = Task.async(fn -> Analytics.flush(client) end)
      eventually(fn -> map_size(:sys.get_state(client).calls) == 1 end)
      Collector.respond(collector, :ok)
      Collector.release(first, {:status, 503})
      assert Task.await(flush, :infinity) == :ok
      assert Analytics.stats(client).delivered == 2
    end

    test "answers for what was captured before it, not after" do
      collector = start_collector()
      client = start_client(collector)
      gate(collector)
      Analytics.capture(client, "u", "e1")
      flush = Task.async(fn -> Analytics.flush(client) end)
      {handle, %{events: 1}} = at_gate()
      Analytics.capture(client, "u", "e2")
      Collector.release(handle, :ok)
      assert Task.await(flush, :infinity) == :ok
      assert %{delivered: 1, queued: 1} = Analytics.stats(client)
    end

    test "of many callers at once makes one request" do
      collector = start_collector()
      client = start_client(collector)
      gate(collector)
      Analytics.capture(client, "u", "e")
      flushes = for _ <- 1..10, do: Task.async(fn -> Analytics.flush(client) end)
      {handle, _} = at_gate()
      Collector.release(handle, :ok)
      assert Task.await_many(flushes) == List.duplicate(:ok, 10)
      assert Collector.request_count(collector) == 1
    end

    test "with a timeout answers TIMEOUT then, and the flush goes on" do
      collector = start_collector()
      client = start_client(collector)
      gate(collector)
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{code: "TIMEOUT", status: 0}} = Analytics.flush(client, timeout: 20)
      {handle, _} = at_gate()
      Collector.release(handle, :ok)
      assert Analytics.flush(client) == :ok
      assert Collector.request_count(collector) == 1
      refute_received _

      assert_raise ArgumentError, ~r/invalid value for :timeout: expected milliseconds/, fn ->
        Analytics.flush(client, timeout: "1")
      end
    end

    test "does not block the process: others are answered meanwhile" do
      collector = start_collector()
      client = start_client(collector)
      gate(collector)
      Analytics.capture(client, "u", "e")
      flush = Task.async(fn -> Analytics.flush(client) end)
      {handle, _} = at_gate()
      assert %{in_flight: 1} = Analytics.stats(client)
      assert :sys.get_state(client)
      Collector.release(handle, :ok)
      assert Task.await(flush, :infinity) == :ok
    end
  end

  describe "queue_length/1" do
    test "answers at once what is queued while no flush is due" do
      client = start_client(nobody())
      for n <- 1..5, do: Analytics.capture(client, "u", "e#{n}")
      assert Analytics.queue_length(client) == 5
    end

    test "waits for the flush that captures have made due, delivered or failed" do
      collector = start_collector()
      client = start_client(collector, flush_at: 10)
      for n <- 1..10, do: Analytics.capture(client, "u", "e#{n}")
      assert Analytics.queue_length(client) == 0
      assert Collector.count(collector) == 10

      Collector.respond(collector, {:status, 401})
      for n <- 1..12, do: Analytics.capture(client, "u", "e#{n}")
      assert Analytics.queue_length(client) == 12
    end
  end

  describe "bounds" do
    test "while no flush is due, max_queue_size holds and the oldest make room" do
      collector = start_collector()
      client = start_client(collector, max_queue_size: 5)
      for n <- 1..8, do: Analytics.capture(client, "u", "e#{n}")
      assert %{queued: 5, dropped: %{queue_full: 3}} = Analytics.stats(client)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 4..8, do: "e#{n}")
    end

    test "while the last flush has failed, max_queue_size holds" do
      collector = start_collector()
      client = start_client(collector, max_queue_size: 5, flush_at: 3)
      Collector.respond(collector, {:status, 503})
      for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
      assert Analytics.queue_length(client) == 3
      for n <- 4..9, do: Analytics.capture(client, "u", "e#{n}")
      assert %{queued: 5, dropped: %{queue_full: 4}} = Analytics.stats(client)
      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 5..9, do: "e#{n}")
    end

    test "while a flush is under way only bytes bind" do
      collector = start_collector()
      client = start_client(collector, max_queue_size: 5, flush_at: 3)
      gate(collector)
      for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
      {handle, _} = at_gate()
      for n <- 4..100, do: Analytics.capture(client, "u", "e#{n}")
      assert %{queued: 100, dropped: dropped} = Analytics.stats(client)
      assert dropped == %{}
      Collector.respond(collector, :ok)
      Collector.release(handle, :ok)
      assert Analytics.flush(client) == :ok
      assert Collector.count(collector) == 100
    end

    test "max_queue_bytes holds always" do
      collector = start_collector()
      client = start_client(collector, max_queue_bytes: 10_000, max_queue_size: :infinity)
      for n <- 1..100, do: Analytics.capture(client, "u", "e#{n}", %{text: String.duplicate("x", 900)})
      stats = Analytics.stats(client)
      assert stats.queued_bytes <= 10_000
      assert stats.queued == 10
      assert stats.dropped == %{queue_full: 90}
      assert balanced?(stats)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 91..100, do: "e#{n}")
    end

    test "an event over max_event_bytes is dropped, wherever it is too long" do
      collector = start_collector()
      client = start_client(collector, max_event_bytes: 1_000)
      long = String.duplicate("x", 1_000)
      Analytics.capture(client, "u", "e", %{text: long})
      Analytics.capture(client, "u", long)
      Analytics.capture(client, long, "e")
      Analytics.capture(client, "u", "e", %{long => 1})
      Analytics.capture(client, "u", "e", %{list: Enum.to_list(1..1_000)})
      Analytics.capture(client, "u", "e", %{pids: List.duplicate(self(), 1_000)})
      Analytics.capture(client, "u", "small")
      assert %{captured: 7, queued: 1, dropped: %{too_large: 6}} = Analytics.stats(client)
      assert Analytics.flush(client) == :ok
      assert names(collector) == ["small"]
    end

    test "a burst of 100,000 at the default options arrives whole and in order" do
      collector = start_collector()
      client = start_supervised!({Analytics, api_key: "key", host: Collector.url(collector)})
      for n <- 1..100_000, do: Analytics.capture(client, "u", "e", %{n: n})
      assert Analytics.flush(client) == :ok

      assert for(event <- Collector.events(collector), do: event["properties"]["n"]) ==
               Enum.to_list(1..100_000)

      assert %{captured: 100_000, delivered: 100_000, dropped: dropped} = Analytics.stats(client)
      assert dropped == %{}
    end
  end

  test "a request_timeout of :infinity, and retries without end, are taken" do
    collector = start_collector()

    for opts <- [[request_timeout: :infinity], [max_retries: 10 ** 12]] do
      client = start_client(collector, opts)
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
    end

    transport =
      BilldogEng.Transport.config(
        host: Collector.url(collector),
        request_timeout: :infinity,
        gzip: false,
        max_retries: :infinity
      )

    client = start_supervised!({Analytics, api_key: "key", transport: transport})
    Analytics.capture(client, "u", "e")
    assert Analytics.flush(client) == :ok
  end

  test "two hundred clients have each their own key, host and queue" do
    collectors = for _ <- 1..4, do: start_collector()

    clients =
      for n <- 1..200 do
        collector = Enum.at(collectors, rem(n, 4))
        {n, start_client(collector, api_key: "key-#{n}")}
      end

    for {n, client} <- clients, _ <- 1..3, do: Analytics.capture(client, "u#{n}", "e")
    for {_, client} <- clients, do: assert(Analytics.flush(client) == :ok)

    for {collector, rest} <- Enum.zip(collectors, 0..3) do
      seen =
        for request <- Collector.requests(collector) do
          {:ok, body} = BilldogEng.Client.Native.json_decode(request.body)
          assert [%{"user_id" => "u" <> n}, _, _] = body["events"]
          assert body["api_key"] == "key-" <> n
          assert Map.new(request.headers)["x-api-key"] == "key-" <> n
          String.to_integer(n)
        end

      assert Enum.sort(seen) == for(n <- 1..200, rem(n, 4) == rest, do: n)
    end
  end
end
