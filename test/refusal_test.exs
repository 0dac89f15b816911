defmodule BilldogEng.RefusalTest do
  @moduledoc """
  Refusals of an ingest: single events, too large batches, a quota, too many requests.
  """

  use BilldogEng.ClientCase, async: true

  import ExUnit.CaptureLog

  # Refuses each request that holds an event of one of these names.
  defp refusing(status, refused) do
    fn request ->
      if Enum.any?(refused, &(request.body =~ ~s("event_name":"#{&1}"))), do: {:status, status}, else: :ok
    end
  end

  # A collector that answers so, and a client of it.
  defp answered(mode, opts \\ []) do
    collector = start_collector()
    client = start_client(collector, opts)
    Collector.respond(collector, mode)
    {collector, client}
  end

  defp capture(client, numbers), do: for(n <- numbers, do: Analytics.capture(client, "u", "e#{n}"))

  describe "400 and 422" do
    test "cost the event that they are for, and no other" do
      for status <- [400, 422] do
        {collector, client} = answered(refusing(status, ["e7"]))
        capture(client, 1..20)

        log = capture_log(fn -> assert {:error, %Error{status: ^status}} = Analytics.flush(client) end)

        assert names(collector) == for(n <- 1..20, n != 7, do: "e#{n}")
        assert %{queued: 0, delivered: 19, dropped: %{rejected: 1}} = stats = Analytics.stats(client)
        assert balanced?(stats)
        assert log =~ "dropped 1 event (rejected)"
        capture(client, [21])
        assert Analytics.flush(client) == :ok
      end
    end

    test "of a batch that passes in parts drop nothing, and flush/1 returns :ok" do
      {collector, client} = answered(&if(&1.events > 5, do: {:status, 400}, else: :ok))
      capture(client, 1..20)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..20, do: "e#{n}")
      assert %{delivered: 20, dropped: dropped} = Analytics.stats(client)
      assert dropped == %{}
    end

    test "for everything cost nothing: all is kept, and the requests are few" do
      {collector, client} = answered({:status, 400})
      capture(client, 1..500)
      assert {:error, %Error{status: 400}} = Analytics.flush(client)
      assert %{queued: 500, in_flight: 0, dropped: dropped} = Analytics.stats(client)
      assert dropped == %{}
      # Twenty parts, and as many events at random.
      assert Collector.request_count(collector) == 40

      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..500, do: "e#{n}")
    end

    test "for a lone event keep it" do
      {collector, client} = answered({:status, 422})
      capture(client, [1])
      assert {:error, %Error{status: 422}} = Analytics.flush(client)
      assert %{queued: 1} = Analytics.stats(client)
      assert Collector.request_count(collector) == 1
    end

    test "do not keep an outage among the parts from being retried" do
      {collector, client} =
        answered([{:status, 400}, {:status, 503}, :ok], max_retries: 1, sleep_fn: fn _ -> :ok end)

      capture(client, 1..4)
      assert Analytics.flush(client) == :ok
      assert for(request <- Collector.requests(collector), do: request.events) == [4, 2, 2, 2]
      assert names(collector) == for(n <- 1..4, do: "e#{n}")
    end

    test "and an outage that lasts keep what is left, in its order" do
      {collector, client} = answered([{:status, 400}, :ok, {:status, 400}, {:status, 503}])
      capture(client, 1..8)
      assert {:error, %Error{status: 503}} = Analytics.flush(client)
      assert %{delivered: 4, queued: 4} = stats = Analytics.stats(client)
      assert balanced?(stats)
      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..8, do: "e#{n}")
    end
  end

  # Flushes until all of `good` have arrived, each time with a bounded number of requests.
  defp flush_until(collector, client, good, flushes) do
    good = Enum.sort(for n <- good, do: "e#{n}")

    Enum.find(1..flushes, fn _ ->
      before = Collector.request_count(collector)
      Analytics.flush(client)
      assert Collector.request_count(collector) - before <= 100
      Enum.sort(names(collector)) == good
    end) || flunk("#{length(names(collector))} of #{length(good)} arrived in #{flushes} flushes")
  end

  describe "many refused events" do
    # Events without a name, as the ingest refuses them.
    defp nameless(bad) do
      bad = MapSet.new(bad, &"e#{&1}")

      fn request ->
        names = Regex.scan(~r/"event_name":"(e\d+)"/, request.body, capture: :all_but_first)
        if Enum.any?(names, fn [name] -> name in bad end), do: {:status, 400}, else: :ok
      end
    end

    test "at the head of a batch hold up none of the others" do
      {collector, client} = answered(nameless(1..8))
      capture(client, 1..508)

      log = capture_log(fn -> assert {:error, %Error{status: 400}} = Analytics.flush(client) end)

      assert length(names(collector)) == 500
      assert %{queued: 0, delivered: 500, dropped: %{rejected: 8}} = stats = Analytics.stats(client)
      assert balanced?(stats)
      assert log =~ "the ingest returned HTTP 400 to each alone"
    end

    for percent <- [30, 50] do
      test "#{percent} % of 1,000 at random hold up none of the others for longer than 20 flushes" do
        bad = Enum.take_random(1..1000, unquote(percent) * 10)
        {collector, client} = answered(nameless(bad))
        capture(client, 1..1000)
        capture_log(fn -> flush_until(collector, client, Enum.to_list(1..1000) -- bad, 20) end)
        stats = Analytics.stats(client)
        assert balanced?(stats)
        assert stats.delivered == 1000 - length(bad)
        assert Map.keys(stats.dropped) == [:rejected]
      end
    end

    test "that fill whole batches hold up none of those behind them" do
      {collector, client} = answered(nameless(1..7), max_batch_size: 2)
      capture(client, 1..20)
      capture_log(fn -> flush_until(collector, client, 8..20, 5) end)
      assert %{queued: 0, dropped: %{rejected: 7}} = Analytics.stats(client)
    end

    @tag :tmp_dir
    test "are no more to a client whose events are on disk", %{tmp_dir: tmp} do
      dir = Path.join(tmp, "spool")
      collector = start_collector()
      Collector.respond(collector, {:status, 503})

      {:ok, first} =
        Analytics.start_link(
          api_key: "key",
          host: Collector.url(collector),
          spool_dir: dir,
          shutdown_timeout: 0
        )

      capture(first, 1..300)
      GenServer.stop(first)
      drained(first)

      bad = Enum.take_random(1..300, 100)
      client = start_client(collector, spool_dir: dir)
      Collector.respond(collector, nameless(bad))
      capture_log(fn -> flush_until(collector, client, Enum.to_list(1..300) -- bad, 20) end)
      assert balanced?(Analytics.stats(client))
    end
  end

  describe "403, 409 and 5xx" do
    test "for one event in five flushes in a row have it dropped, and the others delivered" do
      for status <- [403, 409, 500] do
        {collector, client} = answered(refusing(status, ["e77"]))
        capture(client, 1..200)

        for _ <- 1..5 do
          assert {:error, %Error{status: ^status}} = Analytics.flush(client)
          assert Analytics.stats(client).queued == 200
        end

        assert Collector.request_count(collector) == 5
        log = capture_log(fn -> assert {:error, %Error{status: ^status}} = Analytics.flush(client) end)
        assert %{queued: 0, delivered: 199, dropped: %{rejected: 1}} = stats = Analytics.stats(client)
        assert balanced?(stats)
        assert log =~ "dropped 1 event (rejected): the ingest returned HTTP #{status} to each alone"
        capture(client, 201..210)
        assert Analytics.flush(client) == :ok
      end
    end

    @tag :tmp_dir
    test "in one flush of each of several starts count together, with a spool", %{tmp_dir: tmp} do
      dir = Path.join(tmp, "spool")
      collector = start_collector()
      Collector.respond(collector, refusing(500, ["e7"]))

      opts =
        [api_key: "key", host: Collector.url(collector), spool_dir: dir] ++
          [shutdown_timeout: 0, flush_at: :infinity, flush_interval: 3_600_000, max_retries: 0]

      capture_log(fn ->
        for start <- 1..6 do
          {:ok, client} = Analytics.start_link(opts)
          if start == 1, do: capture(client, 1..20)
          assert Analytics.stats(client).queued == 20
          assert {:error, %Error{status: 500}} = Analytics.flush(client)
          GenServer.stop(client)
          drained(client)
        end
      end)

      assert names(collector) == for(n <- 1..20, n != 7, do: "e#{n}")
    end

    test "for everything have nothing dropped" do
      {collector, client} = answered({:status, 500})
      capture(client, 1..50)
      for _ <- 1..15, do: assert({:error, %Error{status: 500}} = Analytics.flush(client))
      assert %{queued: 50, dropped: dropped} = Analytics.stats(client)
      assert dropped == %{}
      Collector.respond(collector, :ok)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..50, do: "e#{n}")
    end

    test "of a gateway drop no event, and cost one request for each flush" do
      for status <- [502, 503, 504] do
        {collector, client} = answered(refusing(status, ["e7"]))
        capture(client, 1..20)
        for _ <- 1..12, do: assert({:error, %Error{status: ^status}} = Analytics.flush(client))
        assert Collector.request_count(collector) == 12
        assert Analytics.stats(client).queued == 20
      end
    end
  end

  describe "413" do
    test "splits a batch until it passes" do
      {collector, client} = answered(&if(&1.bytes > 500, do: {:status, 413}, else: :ok))
      capture(client, 1..50)
      assert Analytics.flush(client) == :ok
      assert names(collector) == for(n <- 1..50, do: "e#{n}")
    end

    test "costs an event that is too large by itself" do
      {collector, client} = answered(&if(&1.bytes > 500, do: {:status, 413}, else: :ok))
      Analytics.capture(client, "u", "large", %{text: String.duplicate("x", 600)})
      capture(client, 1..3)
      capture_log(fn -> assert {:error, %Error{status: 413}} = Analytics.flush(client) end)
      assert names(collector) == ["e1", "e2", "e3"]
      assert %{queued: 0, dropped: %{too_large: 1}} = Analytics.stats(client)
    end
  end

  describe "quota_limited" do
    @limited ~s({"success":true,"data":{},"quota_limited":["events"]})

    test "drops queued and new events, logs that once, and makes no request" do
      {collector, client} = answered([:ok, {:json, 200, @limited}], max_batch_size: 2)
      capture(client, 1..6)

      log =
        capture_log(fn ->
          assert {:error, %Error{status: 200, code: "QUOTA_LIMITED"}} = Analytics.flush(client)
          capture(client, 7..9)
          assert {:error, %Error{code: "QUOTA_LIMITED"}} = Analytics.flush(client)
          assert Analytics.queue_length(client) == 0
        end)

      assert names(collector) == ["e1", "e2"]
      assert Collector.request_count(collector) == 2
      assert %{captured: 9, delivered: 2, queued: 0, dropped: %{quota: 7}} = Analytics.stats(client)
      assert [_, _] = String.split(log, "quota is used up")
      assert Analytics.shutdown(client) == :ok
    end

    test "in the answer to a shutdown is no error" do
      {_collector, client} = answered({:json, 200, @limited})
      capture(client, [1])
      capture_log(fn -> assert Analytics.shutdown(client) == :ok end)
      assert %{dropped: %{quota: 1}} = Analytics.stats(client)
    end
  end

  describe "Retry-After" do
    test "of up to 30 s takes the place of the delay" do
      test = self()
      soon = DateTime.utc_now() |> DateTime.add(20) |> Calendar.strftime("%a, %d %b %Y %H:%M:%S GMT")

      for {value, least, most} <- [{"0", 0, 0}, {"30", 30_000, 30_000}, {soon, 10_000, 20_000}] do
        {_collector, client} =
          answered([{:status, 429, [{"retry-after", value}]}, :ok],
            max_retries: 1,
            sleep_fn: &send(test, {:slept, &1})
          )

        capture(client, [1])
        assert Analytics.flush(client) == :ok
        assert_received {:slept, ms}
        assert ms in least..most
      end
    end

    test "that is longer ends the flush, and holds those that nobody asks for" do
      {collector, client} =
        answered([{:status, 503, [{"retry-after", "3600"}]}, :ok], flush_at: 1, max_retries: 3)

      capture(client, [1])
      assert Analytics.queue_length(client) == 1
      capture(client, [2])
      assert Analytics.queue_length(client) == 2
      assert Collector.request_count(collector) == 1
      assert Analytics.flush(client) == :ok
      assert names(collector) == ["e1", "e2"]
    end

    test "of no time at all makes no drain hammer the ingest" do
      for asked <- ["0", "Wed, 25 Nov 2020 08:00:00 GMT"] do
        {collector, client} = answered({:status, 429, [{"retry-after", asked}]}, shutdown_timeout: 1_500)
        capture(client, [1])

        capture_log(fn ->
          GenServer.stop(client)
          drained(client)
        end)

        assert Collector.request_count(collector) in 1..3
      end
    end

    test "that lasts longer than a drain ends it, however long it is" do
      for seconds <- ["3600", "99999999999999999999"] do
        {collector, client} = answered({:status, 503, [{"retry-after", seconds}]}, shutdown_timeout: 60_000)
        capture(client, [1])

        capture_log(fn ->
          GenServer.stop(client)
          drained(client)
        end)

        assert Collector.request_count(collector) == 1
      end
    end

    test "that is none is not heeded" do
      test = self()

      {_collector, client} =
        answered([{:status, 503, [{"retry-after", "soon"}]}, :ok],
          max_retries: 1,
          sleep_fn: &send(test, {:slept, &1})
        )

      capture(client, [1])
      assert Analytics.flush(client) == :ok
      assert_received {:slept, 1_000}
    end
  end
end
