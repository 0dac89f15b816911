defmodule BilldogEng.FaultTest do
  @moduledoc """
  What an ingest, or the line to it, can do to a client: each fault is real, and at the end of each the
  accounts are held against what the collector has.
  """

  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Line

  # ── faults: what happens to an answer ──

  # Until the client has had enough.
  defp hang(socket, _answer), do: :gen_tcp.recv(socket, 0)

  defp slow(socket, answer) do
    for <<byte <- answer>>, reduce: :ok do
      :ok -> with :ok <- :gen_tcp.send(socket, [byte]), do: Process.sleep(1_000)
      error -> error
    end
  end

  defp reset(socket, _answer), do: :inet.setopts(socket, linger: {true, 0})

  defp reset_halfway(socket, answer) do
    :gen_tcp.send(socket, binary_part(answer, 0, byte_size(answer) - 5))
    reset(socket, answer)
  end

  defp cut(socket, answer), do: :gen_tcp.send(socket, binary_part(answer, 0, byte_size(answer) - 5)) && :cut
  defp close(_socket, _answer), do: :close

  defp nonsense(socket, _answer),
    do: :gen_tcp.send(socket, for(n <- 1..10_000, do: rem(n * n, 251))) && :close

  defp headers_without_end(socket, _answer) do
    :gen_tcp.send(socket, "HTTP/1.1 200 OK\r\n")
    flood(socket, "x-more: of the same\r\n", 100_000_000)
    :close
  end

  defp answers_unasked(socket, answer),
    do: :gen_tcp.send(socket, [answer, List.duplicate(answer, 100)]) && :go_on

  defp close_after(socket, answer), do: :gen_tcp.send(socket, answer) && :close

  # Answers how much of it the client, or rather its system, has taken.
  defp flood(socket, text, total) do
    piece = String.duplicate(text, div(65_536, byte_size(text)))

    Enum.reduce_while(1..div(total, byte_size(piece))//1, 0, fn _, sent ->
      case :gen_tcp.send(socket, piece) do
        :ok -> {:cont, sent + byte_size(piece)}
        {:error, _} -> {:halt, sent}
      end
    end)
  end

  # ── what holds of all of them ──

  defp start_line(collector, opts \\ []), do: start_supervised!({Line, [collector: collector] ++ opts})

  defp capture(client, numbers), do: for(n <- numbers, do: Analytics.capture(client, "u", "e#{n}"))

  # All of `numbers` have arrived, in their order; and `repeats` of them once more.
  defp accounts(client, collector, numbers, repeats \\ 0) do
    stats = Analytics.stats(client)
    count = Enum.count(numbers)
    assert %{captured: ^count, delivered: ^count, queued: 0, in_flight: 0, dropped: none} = stats
    assert none == %{}
    names = names(collector)
    assert Enum.uniq(names) == for(n <- numbers, do: "e#{n}")
    assert length(names) - count == repeats
  end

  @lost [
    {"hangs", quote(do: &hang/2), "no response within request_timeout (3000 ms)"},
    {"sends one byte a second", quote(do: &slow/2), "no response within request_timeout (3000 ms)"},
    {"resets the connection", quote(do: &reset/2), "reset"},
    {"resets the connection in the middle of its answer", quote(do: &reset_halfway/2), "reset"},
    {"closes the connection without an answer", quote(do: &close/2), "closed"},
    {"closes the connection in the middle of its answer", quote(do: &cut/2), "end of file"},
    {"answers nonsense", quote(do: &nonsense/2), "invalid HTTP version"},
    {"sends headers without end", quote(do: &headers_without_end/2), "too large"}
  ]

  for {does, fault, expected} <- @lost do
    test "an ingest that #{does}: the batch is kept, and arrives when that is over" do
      collector = start_collector()
      line = start_line(collector)
      client = start_client(Line.url(line), request_timeout: 3_000)
      Line.fault(line, unquote(fault))
      capture(client, 1..100)
      assert {:error, %Error{status: 0, code: "NETWORK_ERROR"} = error} = Analytics.flush(client)
      assert error.message =~ unquote(expected)
      assert %{captured: 100, delivered: 0, queued: 100, in_flight: 0} = Analytics.stats(client)

      capture(client, 101..200)
      Line.fault(line, :none)
      assert Analytics.flush(client) == :ok
      # The ingest had stored what it was sent; its answer was lost.
      accounts(client, collector, 1..200, 100)
    end
  end

  test "an ingest that reads nothing: the batch is kept, and arrives when that is over" do
    collector = start_collector()
    line = start_line(collector)
    client = start_client(Line.url(line), request_timeout: 2_000, gzip: false, max_batch_bytes: 16_000_000)
    Line.fault(line, :deaf)
    # More than the sockets' buffers hold.
    for n <- 1..100, do: Analytics.capture(client, "u", "e#{n}", %{text: String.duplicate("x", 50_000)})

    assert {:error, %Error{code: "NETWORK_ERROR", message: "no response within" <> _}} =
             Analytics.flush(client)

    assert %{queued: 100, in_flight: 0} = Analytics.stats(client)
    Line.fault(line, :none)
    # A busy machine may take longer than the time-out for 5 MB.
    assert Enum.any?(1..20, fn _ -> Analytics.flush(client) == :ok end)
    stats = Analytics.stats(client)
    assert %{captured: 100, delivered: 100, queued: 0} = stats
    assert Enum.uniq(names(collector)) == for(n <- 1..100, do: "e#{n}")
  end

  test "an ingest that refuses connections: the batch is kept, and arrives once when that is over" do
    collector = start_collector()
    client = start_client(collector)
    Collector.respond(collector, :refuse)
    capture(client, 1..100)
    assert {:error, %Error{code: "NETWORK_ERROR"} = error} = Analytics.flush(client)
    assert error.message =~ "refused"
    capture(client, 101..200)
    Collector.respond(collector, :ok)
    assert Analytics.flush(client) == :ok
    accounts(client, collector, 1..200)
  end

  test "a name that nobody knows: the batch is kept" do
    # No resolver is asked: a label has 63 bytes at most.
    client = start_client("http://#{String.duplicate("a", 64)}.invalid")
    capture(client, 1..100)
    assert {:error, %Error{status: 0, code: "NETWORK_ERROR"} = error} = Analytics.flush(client)
    assert error.message =~ "lookup"
    assert %{captured: 100, queued: 100, in_flight: 0} = Analytics.stats(client)
  end

  for {status, head} <- [{200, "200 OK"}, {503, "503 Service Unavailable"}] do
    test "of an answer of 100 MB, with #{status}, a client reads what it needs and closes" do
      test = self()
      collector = start_collector()
      line = start_line(collector)
      client = start_client(Line.url(line))

      Line.fault(line, fn socket, _answer ->
        :gen_tcp.send(socket, "HTTP/1.1 #{unquote(head)}\r\ncontent-length: 100000000\r\n\r\n")
        send(test, {:sent, flood(socket, ~s({"more": "of the same"}), 100_000_000)})
        :close
      end)

      capture(client, 1..100)
      repeats = flooded(client, unquote(status))
      # 1 MiB, and what the sockets' buffers hold.
      assert_receive {:sent, sent}, 5_000
      assert sent < 30_000_000
      Line.fault(line, :none)
      assert Analytics.flush(client) == :ok
      accounts(client, collector, 1..100, repeats)
    end
  end

  defp flooded(client, 200) do
    assert Analytics.flush(client) == :ok
    0
  end

  defp flooded(client, 503) do
    assert {:error, %Error{status: 503}} = Analytics.flush(client)
    100
  end

  # The answer's body in place of the collector's, gzip'd.
  defp gzipped(status, body) do
    gzip = if is_binary(body), do: :zlib.gzip(body), else: body.()

    fn socket, _answer ->
      head = "HTTP/1.1 #{status}\r\ncontent-encoding: GZIP\r\ncontent-length: #{byte_size(gzip)}\r\n\r\n"
      :gen_tcp.send(socket, [head, gzip]) && :go_on
    end
  end

  describe "an answer that is gzip'd, though identity was asked for," do
    setup do
      collector = start_collector()
      line = start_line(collector)
      client = start_client(Line.url(line))
      capture(client, 1..10)
      %{collector: collector, wire: line, client: client}
    end

    test "is read", %{collector: collector, wire: line, client: client} do
      Line.fault(line, gzipped("200 OK", ~s({"success":false,"error":{"message":"not stored"}})))
      assert {:error, %Error{code: "MALFORMED_RESPONSE", message: "not stored"}} = Analytics.flush(client)

      Line.fault(
        line,
        gzipped("401 Unauthorized", ~s({"success":false,"error":{"code":"NO","message":"no"}}))
      )

      assert {:error, %Error{status: 401, code: "NO", message: "no"}} = Analytics.flush(client)
      Line.fault(line, gzipped("200 OK", ~s({"quota_limited":["events"]})))

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          assert {:error, %Error{code: "QUOTA_LIMITED"}} = Analytics.flush(client)
        end)

      assert log =~ "quota"

      assert [{_, "identity"}] =
               for({"accept-encoding", _} = header <- hd(Collector.requests(collector)).headers, do: header)
    end

    test "costs no more than its first MiB", %{wire: line, client: client} do
      bomb = :zlib.gzip(:binary.copy(<<0>>, 200_000_000))
      assert byte_size(bomb) < 1_000_000
      Line.fault(line, gzipped("500 Internal Server Error", fn -> bomb end))
      assert {:error, %Error{status: 500, body: body}} = Analytics.flush(client)
      assert body == :binary.copy(<<0>>, 65_536)
      Line.fault(line, gzipped("200 OK", fn -> bomb end))
      assert Analytics.flush(client) == :ok
    end

    test "and cut off or not gzip at all, is one that can't be read", %{wire: line, client: client} do
      Line.fault(line, gzipped("503 Service Unavailable", fn -> "not gzip" end))
      assert {:error, %Error{status: 503, message: "HTTP 503"}} = Analytics.flush(client)
      half = binary_part(:zlib.gzip(:crypto.strong_rand_bytes(1000)), 0, 500)
      Line.fault(line, gzipped("200 OK", fn -> half end))
      assert Analytics.flush(client) == :ok
    end
  end

  test "what an ingest sends unasked is no answer to a later request" do
    collector = start_collector()
    line = start_line(collector)
    client = start_client(Line.url(line), max_retries: 3, sleep_fn: fn _ -> :ok end)
    Line.fault(line, &answers_unasked/2)

    for n <- 1..20 do
      capture(client, [n])
      assert Analytics.flush(client) == :ok
      assert Collector.count(collector) == n
    end

    accounts(client, collector, 1..20)
  end

  test "an ingest that closes idle connections: each flush finds another one, and nothing is sent twice" do
    collector = start_collector()
    line = start_line(collector)
    client = start_client(Line.url(line), max_retries: 3, sleep_fn: fn _ -> :ok end)
    Line.fault(line, &close_after/2)

    for n <- 1..200 do
      capture(client, [n])
      assert Analytics.flush(client) == :ok
    end

    assert Line.connections(line) == 200
    accounts(client, collector, 1..200)
  end

  @tag :slow
  test "all of them in turn, while captures go on: nothing is lost" do
    collector = start_collector()
    line = start_line(collector)

    client =
      start_client(Line.url(line),
        request_timeout: 1_000,
        flush_at: 20,
        max_queue_size: :infinity,
        max_retries: 1,
        sleep_fn: fn _ -> :ok end
      )

    faults = [&hang/2, &reset/2, &reset_halfway/2, &close/2, &cut/2, &nonsense/2, &close_after/2, :none]

    writer =
      Task.async(fn ->
        for n <- 1..20_000 do
          Analytics.capture(client, "u", "e#{n}")
          if rem(n, 100) == 0, do: Process.sleep(1)
        end
      end)

    for fault <- faults ++ faults do
      Line.fault(line, fault)
      Analytics.flush(client)
    end

    Line.fault(line, :none)
    Task.await(writer, 30_000)
    # On a busy machine an answer may take longer than the time-out.
    assert Enum.any?(1..10, fn _ -> Analytics.flush(client) == :ok end)
    assert %{captured: 20_000, delivered: 20_000, queued: 0, dropped: none} = Analytics.stats(client)
    assert none == %{}
    assert Enum.uniq(names(collector)) == for(n <- 1..20_000, do: "e#{n}")
  end
end
