defmodule BilldogEng.OutageTest do
  @moduledoc """
  The log lines of flushes that fail.
  """

  use BilldogEng.ClientCase, async: false

  import ExUnit.CaptureLog

  alias BilldogEng.Log.{Lines, Notices, Outage}

  @route %{host: "https://api.example/v1", proxy: nil, variable: nil}
  @native %{max_queue_size: 1_000, max_queue_bytes: 2_000, max_event_bytes: 100, spool_dir: nil}
  @minute :timer.minutes(1)

  # Plays `{:failed, minute}` and `:delivered`; returns what is to be logged.
  defp play(steps) do
    {logged, _} =
      Enum.map_reduce(steps, %Outage{}, fn step, outage ->
        {outage, logged} =
          case step do
            {:failed, minute} -> Outage.failed(outage, minute * @minute)
            :delivered -> Outage.delivered(outage)
            :over -> {Outage.over(outage), nil}
          end

        {logged, outage}
      end)

    for line <- logged, line != nil, do: line
  end

  describe "lines" do
    test "are a warning at the first failure, a summary in ten minutes, one line at the end" do
      failures = for minute <- 0..30, do: {:failed, minute}

      assert play(failures ++ [:delivered, :delivered]) == [
               {:first, 1},
               {:still, 11},
               {:still, 21},
               {:still, 31},
               31
             ]
    end

    test "are as few if flushes fail and succeed in turns" do
      steps = for minute <- 0..20, step <- [{:failed, minute}, :delivered], do: step
      assert play(steps) == [{:first, 1}, 1, {:first, 1}, 1, {:first, 1}, 1]
    end

    test "count the failures before a warning" do
      steps = [{:failed, 0}, :delivered, {:failed, 1}, {:failed, 11}, :delivered]
      assert play(steps) == [{:first, 1}, 1, {:first, 2}, 2]
    end

    test "are none if nothing fails, or if the lines of the quota take over" do
      assert play([:delivered, :delivered]) == []
      assert play([{:failed, 0}, :over, :delivered]) == [{:first, 1}]
    end

    defp warning(error, opts \\ []) do
      transport = opts[:transport] || %{host: @route.host, proxy: nil}
      notices = Notices.new(transport, opts[:native] || @native, false)
      failed = {:flush_failed, opts[:count] || 20, {error.message, error.status, error.code, nil}}
      {_, [{:write, notice}]} = Notices.handle(notices, opts[:lane] || :event, [failed], 0, 0)
      assert {:warning, "[BilldogEng:analytics] " <> line} = Lines.line(notice)
      line
    end

    test "name the host, the cause, the events and the remedy" do
      for {error, cause, remedy} <- [
            {Error.new("unknown API key", 401), "the ingest returned HTTP 401: unknown API key",
             "compare :api_key"},
            {Error.new("HTTP 403", 403), "the ingest returned HTTP 403.", "compare :api_key"},
            {Error.new("HTTP 404", 404), "the ingest returned HTTP 404.", "without /ingest-events"},
            {Error.new("HTTP 302", 302), "the ingest returned HTTP 302.", "without /ingest-events"},
            {Error.new("HTTP 503", 503), "the ingest returned HTTP 503.", "try again later"},
            {Error.new("HTTP 429", 429), "the ingest returned HTTP 429.", "quota"},
            {Error.new("a page", 200, "MALFORMED_RESPONSE"), "a page", "a login page"},
            {Error.new("failed to lookup address information: Name or service not known", 0),
             "DNS does not know the name api.example", "check :host"},
            {Error.new("Connection refused (os error 111)", 0), "refuses the connection",
             "the ingest is running"},
            {Error.new("no response within request_timeout (10000 ms)", 0), "can't be reached: no response",
             "firewall"},
            {Error.new("invalid peer certificate: UnknownIssuer", 0),
             "TLS with https://api.example/v1 failed", "ca-certificates"},
            {Error.new("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", 0), "TLS with",
             "set :cacertfile"},
            {Error.new("invalid peer certificate: certificate expired", 0), "TLS with", "clock"},
            {Error.new("the flush thread panicked", 0, "INTERNAL_ERROR"), "panicked", "report this"}
          ] do
        line = warning(error)
        assert "flushes to https://api.example/v1 fail: " <> _ = line
        assert line =~ cause
        assert line =~ ". Re-queued 20 events, kept in memory up to max_queue_size (1000). Remedy: "
        assert [_, what] = String.split(line, "Remedy: ")
        assert what =~ remedy
      end
    end

    test "have a message of any length in one line" do
      message = "no\n[error] forged\u202E\r\n" <> String.duplicate("é", 100_000)
      line = warning(Error.new(message, 400))
      assert line =~ ~S(returned HTTP 400: no\n[error] forged\u{202E}\r\néé)
      assert line =~ "é…. Re-queued 20 events"
      assert String.length(line) < 1_000
      refute line =~ ~r/[[:cntrl:]]/u
    end

    test "name the proxy, without its password" do
      transport = %{host: "https://me:pa55@api.example/v1", proxy: "http://me:pa55@proxy:3128"}
      line = warning(Error.new("Connection refused (os error 111)", 0, "NETWORK_ERROR"), transport: transport)
      assert line =~ "flushes to https://api.example/v1 fail: the proxy http://proxy:3128 can't be reached"
      refute line =~ "pa55"
    end
  end

  describe "a client" do
    test "warns once of thirty refused flushes, and logs when they are accepted again" do
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
               "flushes to #{Collector.url(collector)} fail: the ingest returned HTTP 401: unknown API key"

      assert to_string(line) =~ "compare :api_key"

      Collector.respond(collector, {:json, 200, "{}"})
      log = capture_log(fn -> for _ <- 1..2, do: assert(Analytics.flush(client) == :ok) end)
      assert [line] = Regex.scan(~r/.*\[BilldogEng:analytics\].*/, log)
      assert to_string(line) =~ "[info]"
      assert to_string(line) =~ "succeed again after 30 failures: delivered 30 events"
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
      assert capture_log(fn -> Analytics.flush(client) end) =~ "fail: the ingest returned HTTP 403"
      Analytics.capture(client, "u", "e2")
      Collector.respond(collector, [:ok, {:status, 403}])

      log =
        capture_log(fn ->
          assert {:error, %Error{status: 403}} = Analytics.flush(client)
        end)

      refute log =~ "flushes to"
      Collector.respond(collector, :ok)

      assert capture_log(fn -> assert Analytics.flush(client) == :ok end) =~
               "succeed again after 2 failures"
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
      assert to_string(line) =~ "Re-queued 1 person update, kept in memory up to 1000 of them"
      Collector.respond(collector, :ok)
      assert capture_log(fn -> assert Analytics.flush(client) == :ok end) =~ "succeed again"
    end
  end
end
