defmodule BilldogEng.EmitterTest do
  # Alone: all clients' handlers run in one process, and some here hold it up.
  use BilldogEng.ClientCase

  @moduletag :capture_log

  doctest BilldogEng.Telemetry, only: [measure: 1]

  alias BilldogEng.Telemetry
  alias BilldogEng.Telemetry.Emitter

  @start [:billdogeng, :flush, :start]
  @stop [:billdogeng, :flush, :stop]
  @exception [:billdogeng, :flush, :exception]
  @missed [:billdogeng, :flush, :missed]
  @dropped [:billdogeng, :event, :dropped]
  @queue [:billdogeng, :queue]
  @all [@start, @stop, @exception, @missed, @dropped, @queue]

  setup do
    # Reports of earlier tests' clients arrive before this test listens.
    :sys.get_state(Emitter)
    listen(&__MODULE__.forward/4, self())
    :ok
  end

  defp listen(handler, config) do
    id = make_ref()
    :ok = :telemetry.attach_many(id, @all, handler, config)
    on_exit(fn -> :telemetry.detach(id) end)
    id
  end

  def forward(event, measurements, metadata, test), do: send(test, {event, measurements, metadata})

  def hold(event, _, _, {event, test}) do
    send(test, {:held, self()})
    receive do: (:go_on -> :ok)
  end

  def hold(_, _, _, _), do: :ok

  def fail(_, _, _, _), do: raise("a handler's own failure")

  # The next span of the client, as {start, stop}, each {measurements, metadata}.
  defp span(client) do
    assert_receive {@start, started, %{client: ^client} = about}, 5_000
    assert_receive {@stop, stopped, %{client: ^client} = ended}, 5_000
    {{started, about}, {stopped, ended}}
  end

  defp stop(client), do: client |> span() |> elem(1)

  # Nothing more is on its way.
  defp settled do
    :sys.get_state(Emitter)
    :ok
  end

  describe "a flush" do
    test "is a span from its first batch to its end, with what it came to" do
      collector = start_collector()
      client = start_client(collector, flush_at: 50)
      before = {System.monotonic_time(), System.system_time()}
      for n <- 1..50, do: Analytics.capture(client, "u", "e#{n}", %{text: String.duplicate("text ", 20)})
      {{started, about}, {stopped, ended}} = span(client)
      later = {System.monotonic_time(), System.system_time()}

      [request] = Collector.requests(collector)
      assert stopped.events == 50
      assert stopped.attempts == 1
      assert stopped.wire_bytes == request.wire_bytes
      # All of the body but the commas and what stands around the events.
      assert stopped.bytes == request.bytes - 49 - byte_size(~s({"api_key":"key","events":[]}))
      assert stopped.wire_bytes < stopped.bytes

      assert %{client: ^client, trigger: :size, telemetry_span_context: context} = about
      assert is_reference(context)
      assert Map.take(ended, Map.keys(about)) == about
      assert %{result: :ok, status: 200, error: nil} = ended

      assert stopped.monotonic_time - started.monotonic_time == stopped.duration
      assert elem(before, 0) <= started.monotonic_time and stopped.monotonic_time <= elem(later, 0)
      assert elem(before, 1) <= started.system_time and started.system_time <= elem(later, 1)
    end

    test "has the client's name, where it has one" do
      collector = start_collector()

      for name <- [__MODULE__.Local, {:global, __MODULE__}, {:via, :global, {__MODULE__, :via}}] do
        client = start_client(collector, name: name)
        Analytics.capture(client, "u", "e")
        assert Analytics.flush(client) == :ok
        assert {%{events: 1}, %{trigger: :call}} = stop(name)
      end
    end

    test "has its trigger" do
      collector = start_collector()
      client = start_client(collector, flush_at: 2)

      began = [
        size: fn -> Analytics.capture(client, "u", "e") end,
        interval: fn -> send(client, :flush_tick) end,
        call: fn -> Analytics.flush(client) end,
        shutdown: fn -> Analytics.shutdown(client) end
      ]

      for {trigger, begin} <- began do
        Analytics.capture(client, "u", "e")
        begin.()
        assert {_, %{trigger: ^trigger}} = stop(client)
      end

      timed = start_client(collector, flush_interval: 20)
      Analytics.capture(timed, "u", "e")
      assert {_, %{trigger: :interval}} = stop(timed)
    end

    test "of a client whose process has ended is reported under its name" do
      collector = start_collector()
      gate(collector)
      name = __MODULE__.Ended
      opts = [api_key: "key", host: Collector.url(collector), name: name, flush_interval: 3_600_000]
      {:ok, client} = Analytics.start_link(opts)
      Process.unlink(client)
      Analytics.capture(name, "u", "e")
      Process.exit(client, :kill)
      {handle, _} = at_gate()
      Collector.release(handle)
      assert {%{events: 1}, %{trigger: :shutdown, result: :ok}} = stop(name)
    end

    test "that finds nothing to send is not reported" do
      collector = start_collector()
      client = start_client(collector)
      assert Analytics.flush(client) == :ok
      settled()
      refute_received {_, _, %{client: ^client}}
    end

    @tag :tmp_dir
    test "of events that were on disk is reported as any other", %{tmp_dir: dir} do
      collector = start_collector()
      spool = [spool_dir: dir, shutdown_timeout: 0]
      {:ok, first} = Analytics.start_link([api_key: "key", host: nobody(), flush_at: :infinity] ++ spool)
      for n <- 1..3, do: Analytics.capture(first, "u", "e#{n}")
      GenServer.stop(first)
      drained(first)
      client = start_client(collector, spool_dir: dir)
      assert Analytics.flush(client) == :ok
      assert {%{events: 3, attempts: 1} = stopped, %{result: :ok}} = stop(client)
      [request] = Collector.requests(collector)
      assert stopped.bytes == request.bytes - 2 - byte_size(~s({"api_key":"key","events":[]}))
    end

    test "with retries is one span, and counts their requests and bytes" do
      collector = start_collector()
      Collector.respond(collector, [{:status, 503}, {:status, 429}, :ok])
      client = start_client(collector, max_retries: 2, sleep_fn: fn _ -> :ok end)
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
      assert {%{attempts: 3, events: 1} = stopped, %{result: :ok, status: 200}} = stop(client)
      assert stopped.wire_bytes == Collector.totals(collector).wire_bytes
    end
  end

  describe "a flush that fails" do
    test "is an :error with the last answer's, without its body" do
      collector = start_collector()
      answer = ~s({"success":false,"error":{"code":"BUSY","message":"later"}})
      Collector.respond(collector, {:json, 503, answer})
      client = start_client(collector, max_retries: 1, sleep_fn: fn _ -> :ok end)
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{body: %{}}} = Analytics.flush(client)
      assert {%{events: 0, bytes: 0, attempts: 2} = stopped, ended} = stop(client)
      assert stopped.wire_bytes == Collector.totals(collector).wire_bytes
      error = %Error{message: "later", code: "BUSY", status: 503, body: nil}
      assert %{result: :error, status: 503, error: ^error} = ended
    end

    test "where nobody listens has sent nothing" do
      client = start_client(nobody())
      Analytics.capture(client, "u", "e")
      Analytics.flush(client)
      assert {%{attempts: 1, wire_bytes: 0}, ended} = stop(client)
      assert %{result: :error, status: 0, error: %Error{code: "NETWORK_ERROR"}} = ended
    end

    test "for one event of it is an :error, and has delivered the others" do
      collector = start_collector()
      Collector.respond(collector, fn request -> if request.body =~ "bad", do: {:status, 400}, else: :ok end)
      client = start_client(collector)
      for name <- ~w(a b bad c), do: Analytics.capture(client, "u", name)
      assert {:error, error} = Analytics.flush(client)
      error = %{error | body: nil}
      assert {%{events: 3}, %{result: :error, error: ^error}} = stop(client)
      assert_receive {@dropped, %{count: 1}, %{client: ^client, reason: :rejected}}, 5_000
    end

    test "for the quota is an :error with the status of a success" do
      collector = start_collector()
      Collector.respond(collector, {:json, 200, ~s({"quota_limited":["events"]})})
      client = start_client(collector)
      for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
      Analytics.flush(client)

      assert {%{events: 0}, %{result: :error, status: 200, error: %Error{code: "QUOTA_LIMITED"}}} =
               stop(client)

      assert_receive {@dropped, %{count: 3}, %{client: ^client, reason: :quota}}, 5_000
    end

    test "for its client's end is an :error, and the rest is reported as dropped" do
      collector = start_collector()
      Collector.respond(collector, :hang)
      client = start_client(collector, shutdown_timeout: 50)
      ref = Process.monitor(client)
      for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
      GenServer.stop(client)
      assert_receive {:DOWN, ^ref, _, _, _}
      assert {%{events: 0}, %{result: :error, error: %Error{code: "ENDED"}}} = stop(client)
      assert_receive {@dropped, %{count: 3}, %{client: ^client, reason: :stopped}}, 5_000
    end

    test "for a purge is an :error, and its events are reported as dropped" do
      collector = start_collector()
      gate(collector)
      client = start_client(collector, flush_at: 2)
      for n <- 1..2, do: Analytics.capture(client, "u", "e#{n}")
      {handle, _} = at_gate()
      assert Analytics.purge(client) == :ok
      Collector.release(handle)
      assert {%{events: 0, attempts: 1}, %{result: :error, error: %Error{code: "PURGED"}}} = stop(client)
      assert_receive {@dropped, %{count: 2}, %{client: ^client, reason: :purged}}, 5_000
      Collector.respond(collector, :ok)
      Analytics.capture(client, "u", "e3")
      assert Analytics.flush(client) == :ok
      assert {%{events: 1}, %{result: :ok}} = stop(client)
    end

    test "by a panic is an exception in place of its end" do
      now = System.convert_time_unit(System.monotonic_time(), :native, :nanosecond)
      spans = Emitter.emit({[{:c, {:started, 7, :size, now, {}}}], [], []}, %{})
      assert Emitter.emit({[{:c, {:panicked, 7, :size, now + 5, {100}}}], [], []}, spans) == %{}
      assert_received {@start, started, about}
      assert_received {@exception, raised, failed}
      refute_received {@stop, _, _}
      assert raised.duration == System.convert_time_unit(100, :nanosecond, :native)
      assert raised.monotonic_time == started.monotonic_time + raised.duration
      assert Map.take(failed, Map.keys(about)) == about
      assert %{kind: :error, reason: %Error{code: "INTERNAL_ERROR"}, stacktrace: []} = failed
    end
  end

  test "drops are one event for many, and their sum is the accounts'" do
    client = start_client(nobody(), max_queue_size: 10)
    for _ <- 1..5_000, do: Analytics.capture(client, "u", "e")
    Analytics.flush(client)
    %{dropped: %{queue_full: dropped}} = Analytics.stats(client)
    assert dropped == 4_990
    counts = drops(client, 0, dropped)
    assert Enum.sum(counts) == dropped
    assert length(counts) < 500
  end

  defp drops(_client, sum, sum), do: []

  defp drops(client, sum, all) do
    assert_receive {@dropped, %{count: count}, %{client: ^client, reason: :queue_full}}, 5_000
    [count | drops(client, sum + count, all)]
  end

  describe "handlers" do
    test "that are slow delay no flush and no call, and what they miss is counted" do
      collector = start_collector(keep: false)
      client = start_client(collector, max_event_bytes: 100)
      listen(&__MODULE__.hold/4, {@start, self()})
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
      assert_receive {:held, emitter}, 5_000

      for _ <- 1..1_000 do
        Analytics.capture(client, "u", "e")
        Analytics.capture(client, "u", String.duplicate("large", 100))
        assert Analytics.flush(client) == :ok
      end

      let_go(emitter, client)
      assert_received {@missed, %{count: missed}, %{client: ^client}}
      reported = received(@stop)
      assert missed > 0 and reported > 100
      assert reported + missed == 1_001
      assert received(@start) == reported
      assert_received {@dropped, %{count: 1_000}, %{client: ^client, reason: :too_large}}
    end

    # Until it has gone through all that had come up.
    defp let_go(emitter, client) do
      send(emitter, :go_on)

      receive do
        {:held, ^emitter} -> let_go(emitter, client)
        {@dropped, %{count: 1_000}, _} = last -> send(self(), last)
      after
        5_000 -> flunk("the emitter is stuck")
      end

      settled()
    end

    defp received(event, count \\ 0) do
      receive do
        {^event, _, _} -> received(event, count + 1)
      after
        0 -> count
      end
    end

    test "that raise stop nothing" do
      collector = start_collector()
      client = start_client(collector)
      listen(&__MODULE__.fail/4, nil)
      emitter = Process.whereis(Emitter)

      for _ <- 1..2 do
        Analytics.capture(client, "u", "e")
        assert Analytics.flush(client) == :ok
        assert {_, %{result: :ok}} = stop(client)
      end

      assert Process.whereis(Emitter) == emitter
    end
  end

  test "a process of handlers that is killed is replaced, and its reports are delivered" do
    collector = start_collector()
    client = start_client(collector)
    held = listen(&__MODULE__.hold/4, {@start, self()})
    Analytics.capture(client, "u", "e")
    assert Analytics.flush(client) == :ok
    assert_receive {:held, emitter}, 5_000
    Analytics.capture(client, "u", "e")
    assert Analytics.flush(client) == :ok
    :telemetry.detach(held)
    Process.exit(emitter, :kill)
    assert_receive {@start, _, %{client: ^client}}, 5_000
    assert_receive {@stop, %{events: 1}, %{client: ^client}}, 5_000
  end

  describe "measure/1" do
    test "emits a client's accounts, in the calling process" do
      client = start_client(nobody(), name: __MODULE__.Measured, max_queue_size: 2)
      for _ <- 1..5, do: Analytics.capture(client, "u", "e", %{pid: self()})

      for server <- [client, __MODULE__.Measured] do
        assert Telemetry.measure(server) == :ok
        assert_received {@queue, measured, %{client: __MODULE__.Measured}}
        stats = Analytics.stats(client)
        {rates, accounts} = Map.split(measured, [:captured_per_second, :delivered_per_second])
        assert accounts == stats |> Map.take(Map.keys(accounts)) |> Map.put(:dropped, 3)
        assert rates == %{captured_per_second: 0.0, delivered_per_second: 0.0}
      end
    end

    test "has rates since the last one of the same process and client" do
      collector = start_collector()
      client = start_client(collector)
      other = start_client(collector)
      Telemetry.measure(client)
      assert_receive {@queue, %{captured_per_second: none}, %{client: ^client}} when none == 0
      for _ <- 1..3, do: Analytics.capture(client, "u", "e")
      Telemetry.measure(client)
      Telemetry.measure(other)
      assert_receive {@queue, %{captured_per_second: rate} = measured, %{client: ^client}}
      assert rate > 0.0
      assert measured.delivered_per_second == 0.0
      assert_receive {@queue, %{captured_per_second: none}, %{client: ^other}} when none == 0
    end

    test "is harmless where there is no client" do
      assert Telemetry.measure(__MODULE__.Nobody) == :ok
      refute_received {@queue, _, _}
    end
  end

  test "the guide has every event, its measurements and its metadata" do
    collector = start_collector()
    client = start_client(collector, max_queue_size: 1)
    for _ <- 1..2, do: Analytics.capture(client, "u", "e")
    Analytics.flush(client)
    Telemetry.measure(client)
    now = System.monotonic_time()
    made_up = [{client, {:started, 0, :size, now, {}}}, {client, {:panicked, 0, :size, now, {1}}}]
    Emitter.emit({made_up, [], [{client, 1}]}, %{})

    rows = rows()
    assert Enum.sort(Map.keys(rows)) == Enum.sort(@all)

    for {event, {measurements, metadata}} <- rows do
      assert_receive {^event, measured, %{client: ^client} = about}, 5_000
      assert Enum.sort(Map.keys(measured)) == Enum.sort(measurements), inspect(event)
      assert Enum.sort(Map.keys(about)) == Enum.sort(metadata), inspect(event)
    end
  end

  # The measurements and the metadata of each event in the guide.
  defp rows do
    sections = "guides/telemetry.md" |> File.read!() |> String.split("\n## `") |> tl()
    rows = Map.new(sections, &row/1)
    {_, start} = rows[@start]

    Map.new(rows, fn {event, {measurements, metadata}} ->
      {event,
       {measurements, Enum.uniq(if(metadata == start, do: metadata, else: inherited(metadata, start)))}}
    end)
  end

  defp inherited([:the_metadata_of_start | own], start), do: start ++ own
  defp inherited(own, _start), do: own

  defp row(section) do
    [event, text] = String.split(section, "`", parts: 2)
    {event, _} = Code.eval_string(event)
    [_, measurements] = Regex.run(~r/^- Measurements:(.*?)^- Metadata:/ms, text)
    [_, metadata] = Regex.run(~r/^- Metadata:(.*?)(?:\n\n|\n*\z)/ms, text)
    marker = if metadata =~ "the metadata of `:start`", do: [:the_metadata_of_start], else: []
    {event, {words(measurements), marker ++ words(metadata)}}
  end

  # In a nested list, the names are before its dash.
  defp words(text) do
    for line <- String.split(text, "\n"),
        not String.starts_with?(line, "    "),
        names =
          if(String.starts_with?(line, "  - "), do: line |> String.split(" - ") |> Enum.at(1), else: line),
        [_, word] <- Regex.scan(~r/`(\w+)`/, names),
        do: String.to_atom(word)
  end

  describe "metrics/0" do
    @metrics """
    defmodule Telemetry.Metrics do
      for kind <- [:counter, :sum, :last_value, :summary] do
        def unquote(kind)(name, opts), do: {unquote(kind), name, opts}
      end
    end
    """

    test "metrics/0 names telemetry_metrics if the app has none" do
      assert_raise RuntimeError, ~r/add {:telemetry_metrics, /, &Telemetry.metrics/0
    end

    test "are of events that there are, by their measurements and metadata" do
      Code.compile_string(@metrics)

      on_exit(fn ->
        :code.purge(Elixir.Telemetry.Metrics)
        :code.delete(Elixir.Telemetry.Metrics)
      end)

      rows = rows()

      for {kind, name, opts} <- Telemetry.metrics() do
        {event, [measurement]} = name |> String.split(".") |> Enum.map(&String.to_atom/1) |> Enum.split(-1)
        assert kind != :counter or measurement == :count
        event = Keyword.get(opts, :event_name, event)
        measurement = Keyword.get(opts, :measurement, measurement)
        {measurements, metadata} = Map.fetch!(rows, event)
        if measurement in [:wire_bytes, :queued_bytes], do: assert(opts[:unit] == {:byte, :kilobyte})
        assert measurement in measurements
        assert opts[:tags] -- metadata == []
        # A tag that is no atom would have no text in a reporter.
        assert %{client: "#PID" <> _, reason: :quota} = opts[:tag_values].(%{client: self(), reason: :quota})
        assert opts[:tag_values].(%{client: MyApp.Analytics}) == %{client: "MyApp.Analytics"}
      end
    end
  end

  describe "without :telemetry" do
    @tag :tmp_dir
    test "all works, nothing runs and nothing is logged", %{tmp_dir: dir} do
      collector = start_collector()
      # This library as it is, but for the tests' stand-in.
      for part <- ["ebin", "priv"] do
        File.mkdir_p!(Path.join([dir, "billdogeng", part]))
        File.cp_r!(Application.app_dir(:billdogeng, part), Path.join([dir, "billdogeng", part]))
      end

      File.rm!(Path.join(dir, "billdogeng/ebin/telemetry.beam"))

      script = """
      {:ok, _} = Application.ensure_all_started(:billdogeng)
      {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: #{inspect(Collector.url(collector))})
      BilldogEng.Analytics.capture(client, "u", "e")
      :ok = BilldogEng.Analytics.flush(client)
      :ok = BilldogEng.Telemetry.measure(client)
      nil = Process.whereis(BilldogEng.Telemetry.Emitter)
      {[], [], []} = BilldogEng.Client.Native.take_reports()
      """

      args = ["-pa", Path.join(dir, "billdogeng/ebin"), "-e", script]
      assert System.cmd("elixir", args, stderr_to_stdout: true) == {"", 0}
      assert Collector.count(collector) == 1
    end
  end
end
