defmodule BilldogEng.SendFileTest do
  @moduledoc """
  `BilldogEng.send_file/2` and `mix billdogeng.send`: files, real sockets, kills.
  """

  # Mix's shell and standard input are everybody's.
  use BilldogEng.ClientCase, async: false

  alias BilldogEng.Client.Native
  alias Mix.Tasks.Billdogeng.Send

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    {:ok, collector: start_collector(), path: Path.join(dir, "events.ndjson")}
  end

  defp line(n, more \\ %{}) do
    event = %{"event" => "viewed", "distinct_id" => "user-#{rem(n, 7)}", "timestamp" => 1_700_000_000_000 + n}
    to_json(Map.merge(Map.put(event, "properties", %{"n" => n}), more)) <> "\n"
  end

  defp lines(range, more \\ %{}), do: Enum.map(range, &line(&1, more))

  # Objects of strings, integers and objects.
  defp to_json(map) when is_map(map),
    do: "{" <> Enum.map_join(map, ",", fn {key, value} -> to_json(key) <> ":" <> to_json(value) end) <> "}"

  defp to_json(text) when is_binary(text), do: inspect(text, printable_limit: :infinity)
  defp to_json(other), do: to_string(other)

  defp send!(context, opts \\ []) do
    {:ok, summary} = BilldogEng.send_file(context.path, options(context, opts))
    assert summary.read == summary.delivered + summary.rejected + summary.kept
    summary
  end

  defp options(context, opts),
    do: Keyword.merge([api_key: "key", host: Collector.url(context.collector)], opts)

  defp rejected(context) do
    for line <- File.stream!(context.path <> ".rejected") do
      {:ok, entry} = Native.json_decode(line)
      {entry["line"], entry["reason"], entry["content"]}
    end
  end

  defp numbers(collector), do: for(event <- Collector.events(collector), do: event["properties"]["n"])

  # ── lines ──

  test "a line is the event that a capture of its values would be", context do
    File.write!(context.path, """
    {"event":"paid","distinct_id":"user-1","timestamp":"2026-01-02T03:04:05.678Z","properties":{"a":[1,2.5,null],"b":{"c":"é\\n"}}}
    {"event":"paid","distinct_id":42,"timestamp":"2026-01-02T05:04:05+02:00"}

    {"distinct_id":"user-2","event":"joined","timestamp":1767323045678,"groups":{"company":"acme","team":7},"properties":{"$group_0":"old","x":1}}
    {"event":"paid","distinct_id":"user-3","timestamp":"2026-01-02 03:04:05","properties":{"$insert_id":"own"},"groups":{}}
    """)

    summary = send!(context, group_type_index: %{"company" => 0})
    assert %{read: 4, delivered: 4, rejected: 0, kept: 0, rejected_file: nil, error: nil} = summary
    [first, second, third, fourth] = Collector.events(context.collector)

    assert %{"event_name" => "paid", "user_id" => "user-1", "event_timestamp" => 1_767_323_045_678} = first
    assert %{"a" => [1, 2.5, nil], "b" => %{"c" => "é\n"}, "$insert_id" => id} = first["properties"]
    assert id =~ ~r/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
    assert %{"user_id" => 42, "event_timestamp" => 1_767_323_045_000} = second
    assert Map.keys(second["properties"]) == ["$insert_id"]

    assert Map.delete(third["properties"], "$insert_id") ==
             %{"$groups" => %{"company" => "acme", "team" => 7}, "$group_0" => "acme", "x" => 1}

    assert fourth["properties"] == %{"$insert_id" => "own"}
    refute File.exists?(context.path <> ".resume")
  end

  test "an event without a time gets the time at which it is sent", context do
    File.write!(
      context.path,
      ~s({"event":"a","distinct_id":"u"}\n{"event":"a","distinct_id":"u","timestamp":null})
    )

    before = System.system_time(:millisecond)
    assert send!(context).delivered == 2
    for event <- Collector.events(context.collector), do: assert(event["event_timestamp"] >= before)
  end

  test "a line that is no event goes to FILE.rejected with its number and the reason; the others are sent",
       context do
    deep = String.duplicate("[", 101) <> String.duplicate("]", 101)

    malformed = [
      {~s({"event":"a"}), "distinct_id is missing"},
      {~s({"distinct_id":"u"}), "event is missing"},
      {~s({"event":"","distinct_id":"u"}), "event is empty"},
      {~s({"event":7,"distinct_id":"u"}), "event is not a string"},
      {~s({"event":"a","distinct_id":null}), "distinct_id is not a string or integer"},
      {~s({"event":"a","distinct_id":1.5}), "distinct_id is not a string or integer"},
      {~s({"event":"a","distinct_id":""}), "distinct_id is empty"},
      {~s({"event":"a","distinct_id":"u","timestamp":"yesterday"}),
       ~s(timestamp "yesterday" is not ISO 8601)},
      {~s({"event":"a","distinct_id":"u","timestamp":1700000000}),
       "timestamp 1700000000 is before March 1973: milliseconds are expected, this looks like seconds"},
      {~s({"event":"a","distinct_id":"u","timestamp":1.5}),
       "timestamp is neither ISO 8601 nor integer milliseconds"},
      {~s({"event":"a","distinct_id":"u","properties":[1]}), "properties is not an object"},
      {~s({"event":"a","distinct_id":"u","groups":"acme"}), "groups is not an object"},
      {~s({"event":"a","distinct_id":"u","properties":{"x":1e999}}),
       "properties has text or a number that can't be read"},
      {~s({"event":"a","distinct_id":"u","properties":{"x":"\\ud800"}}),
       "properties has text or a number that can't be read"},
      {~s({"event":"a","distinct_id":"u","properties":{"x":#{deep}}}),
       "properties is nested deeper than 100 levels"},
      {~s([1]), "the line is not a JSON object"},
      {~s(event), ~s(not JSON: "event")},
      {~s({"event":"a",}), "not JSON: trailing comma at column 14"}
    ]

    content = Enum.map_join(malformed, fn {text, _} -> text <> "\n" <> line(1) end)
    File.write!(context.path, content)
    summary = send!(context)
    count = length(malformed)
    assert %{read: read, delivered: ^count, rejected: ^count} = summary
    assert read == 2 * count
    assert summary.rejected_file == context.path <> ".rejected"
    expected = for {{text, reason}, n} <- Enum.with_index(malformed), do: {2 * n + 1, reason, text}
    assert rejected(context) == expected

    File.write!(context.path, [line(1), <<"{\"event\":\"caf", 0xE9, "\"}\n">>, line(2)])
    assert %{delivered: 2, rejected: 1} = send!(context)
    assert [{2, "not UTF-8", _}] = rejected(context)
  end

  test "a line of any length costs no more than itself", context do
    long = String.duplicate("x", 17 * 1024 * 1024)
    big = String.duplicate("y", 2 * 1024 * 1024)

    File.write!(context.path, [
      line(1),
      line(2, %{"extra" => long}),
      line(3, %{"properties" => %{"x" => big}}),
      line(4)
    ])

    assert %{read: 4, delivered: 2, rejected: 2} = send!(context)
    assert [{2, "longer than 16 MiB", _}, {3, too_large, _}] = rejected(context)
    assert too_large =~ "bytes of JSON, :max_event_bytes is 1048576"
    assert numbers(context.collector) == [1, 4]
  end

  test "names are mapped, nested ones by dots", context do
    File.write!(
      context.path,
      ~s({"name":"a","user":{"id":"u","data":{"plan":"pro"}},"at.ms":1700000000000,"event":"no"}\n)
    )

    map = [event: "name", distinct_id: "user.id", properties: "user.data", timestamp: "at.ms"]
    assert send!(context, map: map).delivered == 1

    assert [%{"event_name" => "a", "user_id" => "u", "event_timestamp" => 1_700_000_000_000} = event] =
             Collector.events(context.collector)

    assert event["properties"]["plan"] == "pro"
  end

  test "a file is decompressed, also one of several members", context do
    parts = for range <- [1..1_000, 1_001..2_500], do: :zlib.gzip(lines(range))
    File.write!(context.path, parts)
    assert %{delivered: 2_500} = send!(context)
    assert numbers(context.collector) == Enum.to_list(1..2_500)

    File.write!(context.path, binary_part(:zlib.gzip(lines(1..5_000)), 0, 20_000))
    summary = send!(context)
    assert %{code: "FILE_ERROR", message: message} = summary.error
    assert message =~ "can't read line"
    assert summary.delivered == summary.read
  end

  test "CSV: columns are fields or properties", context do
    File.write!(context.path, """
    event,distinct_id,timestamp,plan,properties.price,zip,note,groups.company\r
    paid,user-1,2026-01-02T03:04:05Z,pro,49.99,01234,"a ""b""
    c",acme\r
    paid,,1767323045000,free,,,,\r
    paid,user-2\r
    paid,user-3,1767323045000,true,-1,,,\r
    """)

    assert %{read: 4, delivered: 2, rejected: 2} = send!(context, csv: true)
    assert [first, second] = Collector.events(context.collector)

    assert Map.delete(first["properties"], "$insert_id") ==
             %{
               "plan" => "pro",
               "price" => 49.99,
               "zip" => "01234",
               "note" => ~s(a "b"\nc),
               "$groups" => %{"company" => "acme"}
             }

    assert first["event_timestamp"] == 1_767_323_045_000
    assert %{"plan" => true, "price" => -1} = second["properties"]

    assert [{4, "distinct_id is empty", _}, {5, "2 cells, the header has 8", "paid,user-2"}] =
             rejected(context)

    File.write!(context.path, "name,distinct_id\na,b\n")
    assert {:error, error} = BilldogEng.send_file(context.path, options(context, csv: true))
    assert error.message == ~s(the header has no column "event", it has: name, distinct_id)
  end

  # ── delivery ──

  test "the same line of the same file always has the same insert ID, and no other line has it", context do
    File.write!(context.path, [line(1), line(1), line(2)])
    send!(context)
    send!(context)
    ids = for event <- Collector.events(context.collector), do: event["properties"]["$insert_id"]
    assert [a, b, c, a, b, c] = ids
    assert length(Enum.uniq([a, b, c])) == 3
  end

  test "events that the ingest refuses go to FILE.rejected, wherever they stand", context do
    # Also a run at the start, before anything is accepted, and one at the end, behind which there is nothing to try.
    bad = Enum.concat([1..1_500, [1_800, 2_999], 3_500..4_000])
    good = Enum.to_list(1..4_000) -- bad
    lines = for n <- 1..4_000, do: line(n, if(n in bad, do: %{"event" => "bad"}, else: %{}))
    File.write!(context.path, lines)

    Collector.respond(context.collector, fn request ->
      if request.body =~ ~s("event_name":"bad"),
        do: {:status, 400, [], ~s({"success":false,"error":{"code":"NO","message":"no such event"}})},
        else: :ok
    end)

    assert %{read: 4_000, delivered: delivered, kept: 0, error: nil} = send!(context)
    assert delivered == length(good)
    assert Enum.sort(numbers(context.collector)) == good
    entries = rejected(context)
    assert Enum.sort(for {line, _, _} <- entries, do: line) == bad
    assert {_, "the ingest answered 400: no such event", content} = hd(entries)
    assert content =~ ~s("event":"bad")
  end

  test "an ingest that refuses everything ends the run, and everything is kept", context do
    File.write!(context.path, lines(1..3_000))
    Collector.respond(context.collector, {:status, 400})
    assert %{delivered: 0, rejected: 0, kept_from: 1, error: %{status: 400}} = send!(context)
    assert Collector.request_count(context.collector) < 300
    Collector.respond(context.collector, :ok)
    assert %{delivered: 3_000, kept: 0} = send!(context, resume: true)
    assert numbers(context.collector) == Enum.to_list(1..3_000)
  end

  @tag :slow
  test "an ingest that refuses everything from some event on ends the run after 10,000 events", context do
    File.write!(context.path, lines(1..12_000))

    Collector.respond(context.collector, fn request ->
      if request.body =~ ~s("n":1,), do: :ok, else: {:status, 422}
    end)

    assert %{delivered: 1_000, rejected: rejected, error: %{status: 422}, kept_from: from} = send!(context)
    assert rejected in 10_000..10_100
    Collector.respond(context.collector, :ok)
    assert %{delivered: delivered, kept: 0} = send!(context, resume: true)
    assert delivered == 12_000 - rejected
    assert from > 10_000
  end

  test "a request that is too large is split", context do
    File.write!(context.path, lines(1..500))

    Collector.respond(context.collector, fn request ->
      if byte_size(request.body) > 5_000, do: {:status, 413}, else: :ok
    end)

    assert %{delivered: 500} = send!(context)
    assert numbers(context.collector) == Enum.to_list(1..500)
  end

  test "a wrong key ends the run at once; it is resumed where it ended", context do
    File.write!(context.path, lines(1..2_500))
    Collector.respond(context.collector, [:ok, {:status, 401}])
    assert %{delivered: 1_000, kept_from: 1_001, error: %{status: 401}} = send!(context)

    assert {:error, error} = BilldogEng.send_file(context.path, options(context, []))

    assert error.message =~
             "an earlier run ended at line 1001, see #{context.path}.resume: resume it with --resume"

    Collector.respond(context.collector, :ok)
    assert %{read: 2_500, delivered: 2_500, resumed: 1_000, error: nil} = send!(context, resume: true)
    assert numbers(context.collector) == Enum.to_list(1..2_500)
    refute File.exists?(context.path <> ".resume")
  end

  test "a run that ends within a split batch is resumed without a duplicate, also of CSV and gzip", context do
    for {csv?, gzip?} <- [{false, false}, {false, true}, {true, false}] do
      rows = for n <- 1..40, do: "viewed,user-1,#{n}\n"
      content = if csv?, do: ["event,distinct_id,n\n" | rows], else: [lines(1..20), "{}\n", lines(21..40)]
      File.write!(context.path, if(gzip?, do: :zlib.gzip(content), else: content))
      Collector.reset(context.collector)

      # The whole batch and its first half are too large; then two quarters pass, and the key is revoked.
      Collector.respond(context.collector, [{:status, 413}, {:status, 413}, :ok, :ok, {:status, 401}])
      assert %{delivered: 20, error: %{status: 401}} = send!(context, csv: csv?)
      Collector.respond(context.collector, :ok)
      malformed = if csv?, do: 0, else: 1
      assert %{delivered: 40, rejected: ^malformed} = send!(context, csv: csv?, resume: true)
      assert numbers(context.collector) == Enum.to_list(1..40)
    end
  end

  test "an event that was accepted ahead of older ones is not sent again by the run that is resumed",
       context do
    File.write!(
      context.path,
      for(n <- 1..1_000, do: line(n, if(n <= 300, do: %{"event" => "bad"}, else: %{})))
    )

    accepted = :counters.new(1, [])

    # After so many refusals single events are tried at random; after the first that is accepted the key is revoked.
    Collector.respond(context.collector, fn request ->
      cond do
        :counters.get(accepted, 1) == 1 -> {:status, 401}
        request.body =~ ~s("event_name":"bad") -> {:status, 400}
        true -> with(:ok <- :counters.add(accepted, 1, 1), do: :ok)
      end
    end)

    assert %{delivered: 1, error: %{status: 401}} = send!(context)

    Collector.respond(
      context.collector,
      &if(&1.body =~ ~s("event_name":"bad"), do: {:status, 400}, else: :ok)
    )

    assert %{delivered: 700, rejected: 300, kept: 0} = send!(context, resume: true)
    assert Enum.sort(numbers(context.collector)) == Enum.to_list(301..1_000)
    assert Enum.sort(for {line, _, _} <- rejected(context), do: line) == Enum.to_list(1..300)
  end

  test "failures are retried for as long as :retry_for, which starts anew with each success", context do
    File.write!(context.path, lines(1..10))
    Collector.respond(context.collector, {:status, 503})
    assert %{delivered: 0, kept: 10, error: %{status: 503}} = send!(context, retry_for: 0)
    assert Collector.request_count(context.collector) == 1

    Collector.respond(context.collector, [{:status, 503, [{"retry-after", "0"}]}, :reset, :ok])
    test = self()
    progress = &if(&1.failure, do: send(test, {:failure, &1.failure.status}))
    assert %{delivered: 10, error: nil} = send!(context, resume: true, progress: progress)
    assert_received {:failure, 0}
  end

  test "a used-up quota ends the run, and the batch is kept", context do
    File.write!(context.path, lines(1..10))
    Collector.respond(context.collector, {:status, 200, [], ~s({"success":true,"quota_limited":["events"]})})
    assert %{delivered: 0, kept: 10, kept_from: 1, error: %{code: "QUOTA_LIMITED"}} = send!(context)
  end

  test "a rate is kept to", context do
    File.write!(context.path, lines(1..30))
    # The first second's worth is sent at once.
    assert %{delivered: 30, seconds: seconds} = send!(context, rate: 10)
    assert seconds >= 2.0
    assert Collector.request_count(context.collector) == 3
  end

  test "a dry run checks every line, and sends and writes nothing", context do
    File.write!(context.path, [lines(1..1_500), "{}\n", lines(1..10), "x\n"])
    assert {:ok, summary} = BilldogEng.send_file(context.path, dry_run: true)
    assert %{read: 1_512, rejected: 2, delivered: 0, sent: 0, kept: 0, rejected_file: nil} = summary
    assert summary.examples == [{1_501, "event is missing"}, {1_512, ~s(not JSON: "x")}]
    assert Collector.request_count(context.collector) == 0
    assert File.ls!(context.tmp_dir) == ["events.ndjson"]
  end

  # ── errors ──

  test "what can't be used is named, with what is accepted, and nothing is sent", context do
    File.write!(context.path, lines(1..10))
    gone = context.path <> ".gone"

    error = fn path, opts ->
      with {:error, error} <- BilldogEng.send_file(path, options(context, opts)), do: error.message
    end

    assert error.(gone, []) =~ "can't read #{gone}: No such file"
    assert error.(context.tmp_dir, []) =~ "is a directory"
    assert error.(:x, []) == "expected the path of a file, got: :x"
    assert error.(context.path, hots: 1) == "unknown: :hots (did you mean :host?)"
    assert error.(context.path, rate: 0) == "invalid value for :rate: expected an integer from 1, got: 0"
    assert error.(context.path, csv: 1) == "invalid value for :csv: expected true or false, got: 1"
    assert error.(context.path, map: [name: "x"]) =~ "invalid value for :map: expected the fields :event"
    assert error.(context.path, api_key: " ") == ":api_key is missing or blank"
    assert error.(context.path, host: "nowhere") =~ "invalid value for :host"
    assert error.("-", resume: true) =~ ":resume needs a file"
    assert error.(context.path, client: Enum) =~ "Enum is no module with `use BilldogEng`"
    assert Collector.request_count(context.collector) == 0
    refute File.exists?(context.path <> ".resume")
  end

  test "a file that is another one now is not resumed, nor is a state that can't be read", context do
    File.write!(context.path, lines(1..10))
    Collector.respond(context.collector, {:status, 401})
    send!(context)
    File.write!(context.path, lines(2..11))
    assert {:error, error} = BilldogEng.send_file(context.path, options(context, resume: true))
    assert error.message == "#{context.path} has changed since the run that is to be resumed"

    File.write!(context.path <> ".resume", "{}")
    assert {:error, error} = BilldogEng.send_file(context.path, options(context, resume: true))
    assert error.message =~ "is no state of a run that this version can resume"
  end

  test "a run ends with the process that started it", context do
    File.write!(context.path, lines(1..20_000))
    Collector.respond(context.collector, {:gate, self()})
    opts = options(context, max_batch_size: 10)
    runner = spawn(fn -> BilldogEng.send_file(context.path, opts) end)
    assert_receive {:collector_request, handle, %{events: 10}}, 5_000
    Process.exit(runner, :kill)
    eventually(fn -> not Process.alive?(runner) end)
    # The request in flight has ended, and none follows.
    Collector.release(handle)
    refute_receive {:collector_request, _, _}, 300
    Collector.respond(context.collector, :ok)
    assert %{delivered: 20_000} = send!(context, resume: true)
  end

  # ── the task ──

  defp run_task(argv) do
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)

    status =
      try do
        Send.run(argv)
        0
      catch
        :exit, {:shutdown, status} -> status
      after
        Mix.shell(shell)
      end

    {status, printed()}
  end

  defp printed do
    receive do
      {:mix_shell, _, [line]} -> [line | printed()]
    after
      0 -> []
    end
  end

  test "mix billdogeng.send prints a summary, and its status is 1 if any line was not delivered", context do
    File.write!(context.path, lines(1..1_234))
    where = ["--host", Collector.url(context.collector), "--api-key", "s3cret"]

    assert {0, [path, "read       1,234", "sent       1,234", "delivered  1,234", "rejected   0", _]} =
             run_task([context.path | where])

    assert path == context.path

    File.write!(context.path, [line(1), "{}\n"])
    assert {1, printed} = run_task([context.path | where])
    assert "the rejected lines, with their reasons: #{context.path}.rejected" in printed
    assert {1, printed} = run_task([context.path, "--dry-run"])
    assert "line 2: event is missing" in printed

    Collector.respond(context.collector, {:status, 401})
    assert {1, printed} = run_task([context.path | where])

    assert "lines from 1 on are kept: the ingest answered 401: the collector answers so on request; go on with --resume" in printed

    refute inspect(printed) =~ "s3cret"

    error = assert_raise Mix.Error, fn -> run_task([context.path, "--api-kee", "s3cret"]) end
    assert error.message =~ "can't use --api-kee; the options are --map"
    refute error.message =~ "s3cret"

    assert_raise Mix.Error, ~r/--map takes pairs such as event=name/, fn ->
      run_task([context.path, "--map", "x=y"])
    end
  end

  # ── other processes ──

  @sender """
  [path, host] = System.argv()
  IO.inspect(BilldogEng.send_file(path, api_key: "key", host: host, resume: path != "-"))
  """

  defp elixir(args), do: ["-pa", Application.app_dir(:billdogeng, "ebin"), "-e", @sender, "--" | args]

  @tag :slow
  test "a run that is killed and resumed sends every event, and at most one batch twice", context do
    File.write!(context.path, [lines(1..30_000), "{}\n", lines(30_001..60_000)])
    Collector.respond(context.collector, {:delay, 5})
    Collector.subscribe(context.collector)

    for _ <- 1..2 do
      port =
        Port.open({:spawn_executable, System.find_executable("elixir")}, [
          :binary,
          :exit_status,
          args: elixir([context.path, Collector.url(context.collector)])
        ])

      {:os_pid, pid} = Port.info(port, :os_pid)
      for _ <- 1..(10 + :rand.uniform(10)), do: assert_receive({:collector, _}, 30_000)
      System.cmd("kill", ["-9", Integer.to_string(pid)])
      assert_receive {^port, {:exit_status, _}}, 30_000
      flush_messages()
    end

    Collector.respond(context.collector, :ok)
    assert %{read: 60_001, delivered: 60_000, rejected: 1} = send!(context, resume: true)
    arrived = numbers(context.collector)
    assert Enum.sort(Enum.uniq(arrived)) == Enum.to_list(1..60_000)
    assert length(arrived) <= 62_000
    assert length(rejected(context)) == 1
    ids = for event <- Collector.events(context.collector), do: event["properties"]["$insert_id"]
    assert length(Enum.uniq(ids)) == 60_000
  end

  defp flush_messages do
    receive do
      {:collector, _} -> flush_messages()
    after
      0 -> :ok
    end
  end

  @tag :slow
  test "standard input is sent, byte by byte", context do
    File.write!(context.path, [lines(1..5_000), line(5_001, %{"properties" => %{"n" => 5_001, "t" => "é😀"}})])
    shell = ~s(cat "$0" | "$@")

    args = [
      "-c",
      shell,
      context.path,
      System.find_executable("elixir") | elixir(["-", Collector.url(context.collector)])
    ]

    {output, 0} = System.cmd("sh", args, cd: context.tmp_dir)
    assert output =~ "delivered: 5001"
    assert numbers(context.collector) == Enum.to_list(1..5_001)
    assert List.last(Collector.events(context.collector))["properties"]["t"] == "é😀"
  end
end
