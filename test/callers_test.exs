defmodule BilldogEng.CallersTest do
  @moduledoc """
  Captures go on whatever the ingest does: each fault is in force when they begin and is ended only after the
  last has returned, so that one that waited for its end would never return.
  """

  # Alone: it watches the VM's schedulers.
  use BilldogEng.ClientCase

  import BilldogEng.Watch

  alias BilldogEng.Line

  @captures 20_000

  # Each client has flushes due all the time, and its thread at work on the fault.
  defp start_busy(host) do
    start_client(host,
      flush_at: 20,
      max_queue_size: :infinity,
      max_retries: 1_000_000,
      sleep_fn: fn _ -> :ok end,
      request_timeout: :infinity
    )
  end

  # Answers once the last capture has returned.
  defp capture_all(client) do
    held =
      long_schedules(fn _ -> for n <- 1..@captures, do: :ok = Analytics.capture(client, "u", "e#{n}") end)

    assert held == []
    stats = Analytics.stats(client)
    # And one that brought the fault about.
    assert stats.captured == @captures + 1
    assert stats.dropped == %{}
    assert balanced?(stats)
  end

  defp arrived(client, collector) do
    assert Analytics.flush(client) == :ok
    assert %{queued: 0, delivered: delivered} = Analytics.stats(client)
    assert delivered == @captures + 1
    assert Enum.uniq(names(collector)) == ["first" | for(n <- 1..@captures, do: "e#{n}")]
  end

  # ── faults: the test is notified when they strike, and ends them ──

  defp hang(socket, _answer), do: :gen_tcp.recv(socket, 0)

  defp slow(socket, answer) do
    for <<byte <- answer>>, reduce: :ok do
      :ok -> with :ok <- :gen_tcp.send(socket, [byte]), do: Process.sleep(1_000)
      error -> error
    end
  end

  defp reset(socket, _answer), do: :inet.setopts(socket, linger: {true, 0})

  defp nonsense(socket, _answer),
    do: :gen_tcp.send(socket, for(n <- 1..10_000, do: rem(n * n, 251))) && :close

  defp close_after(socket, answer), do: :gen_tcp.send(socket, answer) && :close

  defp flood(socket, _answer) do
    :gen_tcp.send(socket, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100000000\r\n\r\n")
    piece = :binary.copy("nonsense", 8_192)
    Enum.find(1..div(100_000_000, byte_size(piece)), fn _ -> :gen_tcp.send(socket, piece) != :ok end)
    :close
  end

  @faults [
    "an ingest that hangs": quote(do: &hang/2),
    "an ingest that sends one byte a second": quote(do: &slow/2),
    "an ingest that resets": quote(do: &reset/2),
    "an ingest that answers 100 MB": quote(do: &flood/2),
    "an ingest that answers nonsense": quote(do: &nonsense/2),
    "an ingest that closes idle connections": quote(do: &close_after/2)
  ]

  for {name, fault} <- @faults do
    test "captures go on with #{name}" do
      test = self()
      collector = start_collector()
      line = start_supervised!({Line, collector: collector})
      client = start_busy(Line.url(line))

      Line.fault(line, fn socket, answer ->
        send(test, :struck)
        unquote(fault).(socket, answer)
      end)

      Analytics.capture(client, "u", "first")
      flush = Task.async(fn -> Analytics.flush(client) end)
      assert_receive :struck, 5_000
      capture_all(client)
      Line.fault(line, :none)
      Line.cut(line)
      Task.await(flush, 30_000)
      arrived(client, collector)
    end
  end

  test "an error of 1 MiB of JSON is one string of 64 KiB to all callers of a flush" do
    collector = start_collector()
    client = start_client(collector, max_retries: 0)
    gate(collector)
    Analytics.capture(client, "u", "e")
    flushes = for _ <- 1..20, do: Task.async(fn -> Analytics.flush(client) end)
    {handle, _} = at_gate()
    eventually(fn -> map_size(:sys.get_state(client).calls) == 20 end)
    body = ~s({"error":{"message":"no"},"more":[) <> :binary.copy("0,", 500_000) <> "0]}"
    Collector.release(handle, {:json, 401, body})
    kept = binary_part(body, 0, 65_536)

    for result <- Task.await_many(flushes, 30_000),
        do: assert({:error, %Error{status: 401, message: "no", body: ^kept}} = result)
  end

  test "an error of less is parsed" do
    collector = start_collector()
    client = start_client(collector, max_retries: 0)
    body = ~s({"a":[) <> :binary.copy("0,", 30_000) <> "0]}"
    Collector.respond(collector, {:json, 401, body})
    Analytics.capture(client, "u", "e")
    assert {:error, %Error{body: %{"a" => zeros}}} = Analytics.flush(client)
    assert zeros == List.duplicate(0, 30_001)
  end

  test "thousands of flushes are all answered" do
    collector = start_collector()
    client = start_client(collector)
    gate(collector)
    Analytics.capture(client, "u", "e")
    first = Task.async(fn -> Analytics.flush(client) end)
    {handle, _} = at_gate()
    # Of callers that have gone, as after their time-outs.
    alias_of_nobody = make_ref()
    for _ <- 1..5_000, do: send(client, {:"$gen_call", {self(), [:alias | alias_of_nobody]}, :flush})
    last = Task.async(fn -> Analytics.flush(client) end)
    eventually(fn -> map_size(:sys.get_state(client).calls) == 5_002 end)
    Collector.release(handle, {:status, 401})
    assert {:error, %Error{status: 401}} = Task.await(first, 30_000)
    assert {:error, %Error{status: 401}} = Task.await(last, 30_000)
    assert :sys.get_state(client).calls == %{}
  end

  test "captures go on with an ingest that reads nothing" do
    collector = start_collector()
    line = start_supervised!({Line, collector: collector})
    client = start_busy(Line.url(line))
    Line.fault(line, :deaf)
    Analytics.capture(client, "u", "first")
    flush = Task.async(fn -> Analytics.flush(client) end)
    eventually(fn -> Line.connections(line) == 1 end)
    capture_all(client)
    Line.fault(line, :none)
    Line.cut(line)
    assert Task.await(flush, 30_000) == :ok
    arrived(client, collector)
  end

  test "captures go on with an ingest that refuses connections" do
    collector = start_collector()
    client = start_busy(Collector.url(collector))
    Collector.respond(collector, :refuse)
    Analytics.capture(client, "u", "first")
    flush = Task.async(fn -> Analytics.flush(client) end)
    eventually(fn -> Analytics.stats(client).retries > 0 end)
    capture_all(client)
    Collector.respond(collector, :ok)
    assert Task.await(flush, 30_000) == :ok
    arrived(client, collector)
  end

  test "captures go on with a host that has no address" do
    client = start_busy("http://#{String.duplicate("a", 64)}.invalid")
    Analytics.capture(client, "u", "first")
    spawn_link(fn -> Analytics.flush(client) end)
    eventually(fn -> Analytics.stats(client).retries > 0 end)
    capture_all(client)
    assert %{delivered: 0, queued: queued} = Analytics.stats(client)
    assert queued == @captures + 1
  end

  test "a hundred thousand captures return while the ingest's gate is shut" do
    collector = start_collector()
    client = start_supervised!({Analytics, api_key: "key", host: Collector.url(collector)})
    gate(collector)
    for n <- 1..20, do: Analytics.capture(client, "u", "e", %{n: n})
    {handle, _} = at_gate()

    assert long_schedules(fn _ -> for n <- 21..100_000, do: Analytics.capture(client, "u", "e", %{n: n}) end) ==
             []

    assert %{captured: 100_000, delivered: 0, queued: 100_000, in_flight: 20} = Analytics.stats(client)
    Collector.respond(collector, :ok)
    Collector.release(handle)
    assert Analytics.flush(client) == :ok
    assert %{delivered: 100_000, queued: 0, dropped: none} = Analytics.stats(client)
    assert none == %{}
    assert for(event <- Collector.events(collector), do: event["properties"]["n"]) == Enum.to_list(1..100_000)
  end
end
