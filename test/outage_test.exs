defmodule BilldogEng.OutageTest do
  @moduledoc """
  The log lines of flushes that fail.
  """

  use BilldogEng.ClientCase, async: false

  import ExUnit.CaptureLog

  alias BilldogEng.Log.{Diagnosis, Outage}

  @route %{host: "https://api.example/v1", proxy: nil, variable: nil}
  @native %{spool_dir: nil, max_queue_size: 1_000}
  @minute :timer.minutes(1)

  defp words(kind \\ :event, route \\ @route, native \\ @native), do: Outage.words(kind, route, native)

  # Plays `{:failed, minute}` and `{:delivered, count}`; returns the level and the first words of each line.
  defp play(steps) do
    {lines, _} =
      Enum.map_reduce(steps, %Outage{}, fn
        {:failed, minute}, outage ->
          {outage, line} = Outage.failed(outage, 20, Error.new("HTTP 503", 503), words(), minute * @minute)
          {line, outage}

        {:delivered, count}, outage ->
          {outage, line} = Outage.delivered(outage, count, words())
          {line, outage}

        :over, outage ->
          {nil, Outage.over(outage)}
      end)

    for {level, text} <- lines, do: {level, text |> String.split([": the ingest", ": delivered"]) |> hd()}
  end

  describe "lines" do
    test "are a warning at the first failure, a summary in ten minutes, one line at the end" do
      failures = for minute <- 0..30, do: {:failed, minute}

      flushes = "flushes to https://api.example/v1"

      assert play(failures ++ [{:delivered, 345}, {:delivered, 1}]) == [
               warning: flushes <> " fail",
               warning: flushes <> " still fail, 11 in a row",
               warning: flushes <> " still fail, 21 in a row",
               warning: flushes <> " still fail, 31 in a row",
               info: flushes <> " succeed again, after 31 that failed"
             ]
    end

    test "are as few where flushes fail and succeed in turns" do
      steps = for minute <- 0..20, step <- [{:failed, minute}, {:delivered, 1}], do: step
      assert [warning: _, info: _, warning: _, info: _, warning: _, info: _] = play(steps)
    end

    test "are none where nothing fails, or where a suspension has its own" do
      assert play([{:delivered, 1}, {:delivered, 1}]) == []
      assert [warning: _] = play([{:failed, 0}, :over, {:delivered, 1}])
    end

    test "name the status or the cause, the host, what becomes of the events, and the remedy" do
      for {error, cause, remedy} <- [
            {Error.new("unknown API key", 401), "the ingest answered 401: unknown API key",
             "compare :api_key"},
            {Error.new("HTTP 403", 403), "the ingest answered 403", "compare :api_key"},
            {Error.new("HTTP 404", 404), "the ingest answered 404", "without /ingest-events"},
            {Error.new("HTTP 302", 302), "the ingest answered 302", "without /ingest-events"},
            {Error.new("HTTP 503", 503), "the ingest answered 503", "try again later"},
            {Error.new("HTTP 429", 429), "the ingest answered 429", "quota"},
            {Error.new("a page", 200, "MALFORMED_RESPONSE"), "a page", "a login page"},
            {Error.new("failed to lookup address information: Name or service not known", 0),
             "the name api.example is not known to DNS", "look for a mistake in :host"},
            {Error.new("Connection refused (os error 111)", 0), "refuses the connection",
             "nothing listens there"},
            {Error.new("no answer within 10000 ms", 0), "can't be reached: no answer", "firewall"},
            {Error.new("invalid peer certificate: UnknownIssuer", 0),
             "TLS with https://api.example/v1 failed", "ca-certificates"},
            {Error.new("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", 0), "TLS with",
             "the CA's certificate"},
            {Error.new("invalid peer certificate: certificate expired", 0), "TLS with", "clock"},
            {Error.new("the flush thread panicked", 0, "INTERNAL_ERROR"), "panicked", "report this"}
          ] do
        {_, {:warning, line}} = Outage.failed(%Outage{}, 20, error, words(), 0)
        assert "flushes to https://api.example/v1 fail: " <> _ = line
        assert line =~ cause

        assert line =~
                 ". 20 event(s) of the last one are kept in memory, up to :max_queue_size (1000), and tried"

        assert [_, told] = String.split(line, "What to do: ")
        assert told =~ remedy
      end
    end

    test "have a message of any length in one line" do
      message = "no\n[error] forged\r\n" <> String.duplicate("é", 100_000)
      {_, {:warning, line}} = Outage.failed(%Outage{}, 20, Error.new(message, 400), words(), 0)
      assert line =~ "answered 400: no [error] forged éé"
      assert line =~ "é…. 20 event(s)"
      assert String.length(line) < 1_000
      refute line =~ ~r/[[:cntrl:]]/u
    end

    test "name the proxy, without its password" do
      transport = %{host: "https://me:pa55@api.example/v1", proxy: "http://me:pa55@proxy:3128"}
      words = words(:event, Diagnosis.route(transport))
      error = Error.new("Connection refused (os error 111)", 0, "NETWORK_ERROR")
      {_, {:warning, line}} = Outage.failed(%Outage{}, 1, error, words, 0)
      assert line =~ "flushes to https://api.example/v1 fail: the proxy http://proxy:3128 can't be reached"
      refute line =~ "pa55"
    end

    test "say where events and person updates are kept" do
      error = Error.new("HTTP 503", 503)

      for {kind, native, kept} <- [
            {:event, %{@native | spool_dir: "/x"}, "event(s) of the last one are kept on disk"},
            {:event, %{@native | max_queue_size: nil}, "kept in memory, up to :max_queue_bytes"},
            {:person_update, @native,
             "person update(s) of the last one are kept in memory, up to 1000 of them"}
          ] do
        {_, {:warning, line}} = Outage.failed(%Outage{}, 1, error, words(kind, @route, native), 0)
        assert line =~ kept
      end
    end
  end

  describe "a client" do
    test "warns once of thirty flushes that are refused, and says when they are accepted again" do
      collector = start_collector(api_key: "another")
      client = start_client(collector)

      log =
        capture_log(fn ->
          for n <- 1..30 do
            Analytics.capture(client, "u", "e#{n}")
            assert {:error, %Error{status: 401}} = Analytics.flush(client)
          end
        end)

      assert [line] = Regex.scan(~r/.*\[BilldogEng:analytics\].*/, log)
      assert to_string(line) =~ "[warning]"

      assert to_string(line) =~
               "flushes to #{Collector.url(collector)} fail: the ingest answered 401: unknown API key"

      assert to_string(line) =~ "compare :api_key"

      Collector.respond(collector, {:json, 200, "{}"})
      log = capture_log(fn -> for _ <- 1..2, do: assert(Analytics.flush(client) == :ok) end)
      assert [line] = Regex.scan(~r/.*\[BilldogEng:analytics\].*/, log)
      assert to_string(line) =~ "[info]"
      assert to_string(line) =~ "succeed again, after 30 that failed: delivered 30 event(s)"
    end

    test "logs nothing where the retries of a flush succeed" do
      collector = start_collector()
      client = start_client(collector, max_retries: 2, sleep_fn: fn _ -> :ok end)
      Collector.respond(collector, [{:status, 503}, :reset, :ok])
      Analytics.capture(client, "u", "e")
      refute capture_log(fn -> assert Analytics.flush(client) == :ok end) =~ "flushes to"
      assert Collector.request_count(collector) == 3
    end

    test "goes on failing where a flush delivers some of its batches" do
      collector = start_collector()
      client = start_client(collector, max_batch_size: 1)
      Collector.respond(collector, [{:status, 403}])
      Analytics.capture(client, "u", "e1")
      assert capture_log(fn -> Analytics.flush(client) end) =~ "fail: the ingest answered 403"
      Analytics.capture(client, "u", "e2")
      Collector.respond(collector, [:ok, {:status, 403}])

      log =
        capture_log(fn ->
          assert {:error, %Error{status: 403}} = Analytics.flush(client)
        end)

      refute log =~ "flushes to"
      Collector.respond(collector, :ok)

      assert capture_log(fn -> assert Analytics.flush(client) == :ok end) =~
               "succeed again, after 2 that failed"
    end

    test "warns of person updates too" do
      collector = start_collector()
      client = start_client(collector)
      Collector.respond(collector, {:status, 404})

      log =
        capture_log(fn ->
          for n <- 1..3 do
            Analytics.set_person_properties(client, "u", set: %{n: n})
            assert {:error, %Error{status: 404}} = Analytics.flush(client)
          end
        end)

      assert [line] = Regex.scan(~r/.*\[BilldogEng:analytics\].*/, log)
      assert to_string(line) =~ "1 person update(s) of the last one are kept"
      Collector.respond(collector, :ok)
      assert capture_log(fn -> assert Analytics.flush(client) == :ok end) =~ "succeed again"
    end
  end
end
