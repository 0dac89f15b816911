defmodule BilldogEng.CollectorHostileTest do
  use ExUnit.Case, async: true

  import BilldogEng.RawHTTP
  import ExUnit.CaptureIO
  import ExUnit.CaptureLog

  alias BilldogEng.Collector

  @mib 1024 * 1024
  @line "POST /ingest-events HTTP/1.1\r\n"
  @chunked "x-api-key: k\r\ntransfer-encoding: chunked\r\n\r\n"

  defp start(opts \\ []), do: start_supervised!({Collector, opts})

  # Sends `first`, then `piece` for as long as the peer takes it, and returns the answer.
  defp endless(collector, first, piece) do
    socket = connect(collector)
    sender = Task.async(fn -> with :ok <- :gen_tcp.send(socket, first), do: send_on(socket, piece) end)
    answer = read_answer(socket)
    # A close would wait until all is sent.
    Task.shutdown(sender, :brutal_kill)
    :gen_tcp.close(socket)
    answer
  end

  defp send_on(socket, piece), do: with(:ok <- :gen_tcp.send(socket, piece), do: send_on(socket, piece))

  defp answer_to(collector, bytes) do
    socket = connect(collector)
    :ok = :gen_tcp.send(socket, bytes)
    {status, _, _} = answer = read_answer(socket)
    {status, code(answer), socket}
  end

  defp code({_status, _headers, body}) do
    [_, code] = Regex.run(~r/"code":"(\w+)"/, body)
    code
  end

  describe "a head without an end is answered 431:" do
    test "a request line" do
      assert {431, %{"connection" => "close"}, _} = answer = endless(start(), "GET /", "aaaaaaaa")
      assert code(answer) == "HEADERS_TOO_LARGE"
    end

    test "a header line" do
      assert {431, _, _} = endless(start(), @line <> "a: ", "aaaaaaaa")
    end

    test "header lines" do
      assert {431, _, _} = endless(start(), @line, "a: b\r\n")
    end

    test "empty lines ahead of a request" do
      assert {431, _, _} = endless(start(), "", "\r\n")
    end

    test "a chunk's size line" do
      assert {431, _, _} = endless(start(), @line <> @chunked <> "1;", "aaaaaaaa")
    end

    test "trailers" do
      assert {431, _, _} = endless(start(), @line <> @chunked <> "0\r\n", "a: b\r\n")
    end
  end

  describe "a body over 16 MiB is answered 413:" do
    test "an announced one, before it is sent" do
      for length <- ["#{16 * @mib + 1}", String.duplicate("9", 1_000)] do
        head = [@line, "expect: 100-continue\r\ncontent-length: ", length, "\r\n\r\n"]
        assert {413, "PAYLOAD_TOO_LARGE", _} = answer_to(start_collector(), head)
      end
    end

    test "a sender that reads no answer before it has sent everything gets it nonetheless" do
      socket = connect(start())
      :ok = :gen_tcp.send(socket, [@line, "content-length: #{17 * @mib}\r\n\r\n"])
      for _ <- 1..17, do: :ok = :gen_tcp.send(socket, :binary.copy("a", @mib))
      assert {413, _, _} = read_answer(socket)
    end

    test "an announced chunk" do
      for size <- ["1000001", String.duplicate("F", 1_000)] do
        assert {413, "PAYLOAD_TOO_LARGE", _} = answer_to(start_collector(), [@line, @chunked, size, "\r\n"])
      end
    end

    test "the sum of chunks" do
      chunk = ["100000\r\n", :binary.copy("a", @mib), "\r\n"]
      assert {413, _, _} = endless(start(), @line <> @chunked, chunk)
    end

    test "gzip that unfolds to more, and the connection goes on" do
      collector = start()
      socket = connect(collector)
      bomb = :zlib.gzip(:binary.copy(<<0>>, 16 * @mib + 1))
      assert {413, headers, _} = answer = post(socket, bomb, [{"content-encoding", "gzip"}])
      assert code(answer) == "PAYLOAD_TOO_LARGE"
      refute headers["connection"]
      assert {200, _, _} = post(socket, batch(["a"]))
    end
  end

  # As start/1, in a loop.
  defp start_collector do
    {:ok, collector} = Collector.start_link()
    collector
  end

  describe "requests that are not HTTP/1.1" do
    test "are answered with a status and a reason, and end the connection" do
      collector = start()

      for {status, bytes} <- [
            {400, "nonsense\r\n\r\n"},
            {505, "GET /\r\n\r\n"},
            {400, <<0x16, 0x03, 0x01, 0x02, 0x00, 0x01>>},
            {505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
            {400, @line <> "no colon\r\n\r\n"},
            {400, @line <> "content-length: ten\r\n\r\n"},
            {400, @line <> "content-length: -1\r\n\r\n"},
            {400, @line <> "content-length: +1\r\n\r\na"},
            {400, @line <> "content-length: 1, 1\r\n\r\na"},
            {400, @line <> "content-length: 1\r\ncontent-length: 2\r\n\r\nab"},
            {400, @line <> "content-length: \r\n\r\n"},
            {400, @line <> "content-length: 1\r\n" <> @chunked <> "0\r\n\r\n"},
            {501, @line <> "transfer-encoding: gzip, chunked\r\n\r\n"},
            {417, @line <> "expect: a miracle\r\ncontent-length: 1\r\n\r\n"},
            {400, @line <> @chunked <> "x\r\n"},
            {400, @line <> @chunked <> "-1\r\n"},
            {400, @line <> @chunked <> "\r\n"},
            {400, @line <> @chunked <> "1\r\nab\r\n0\r\n\r\n"}
          ] do
        socket = connect(collector)
        :ok = :gen_tcp.send(socket, bytes)
        assert {^status, %{"connection" => "close"}, body} = read_answer(socket), inspect(bytes)
        assert body =~ ~s({"success":false,"error":{"code":")
        assert {:error, :closed} = :gen_tcp.recv(socket, 0, 30_000)
      end

      assert Collector.request_count(collector) == 0
      assert {200, _, _} = post(connect(collector), batch(["a"]))
    end

    test "bodies that do not match their encoding are refused, and the connection continues" do
      collector = start()
      socket = connect(collector)
      gzip = :zlib.gzip(batch(["a"]))

      for {encoding, body} <- [
            {"gzip", "not gzip"},
            {"gzip", ""},
            {"gzip", binary_part(gzip, 0, byte_size(gzip) - 1)},
            {"gzip", gzip <> "trailing"},
            {"br", gzip}
          ] do
        assert {400, _, _} = answer = post(socket, body, [{"content-encoding", encoding}])
        assert code(answer) == "INVALID_BODY"
      end

      # Two members are one text.
      {one, two} = String.split_at(batch(["a"]), 30)
      members = :zlib.gzip(one) <> :zlib.gzip(two)
      assert {200, _, _} = post(socket, members, [{"content-encoding", "gzip"}])
    end

    test "JSON nested deeper than 127 levels is refused with 400 and the reason" do
      deep = String.duplicate("[", 128) <> String.duplicate("]", 128)
      body = ~s({"api_key":"k","events":[#{deep}]})
      assert {400, _, answer} = post(connect(start()), body)
      assert answer =~ ~s("code":"INVALID_JSON","message":"nested deeper than 127 levels at line 1 column)
    end

    test "a path that is not UTF-8 is answered in valid JSON" do
      assert {404, _, body} = post(connect(start()), "", [], <<"/", 0xFF, "\"">>)
      assert String.valid?(body)
    end
  end

  describe "how requests are cut into packets does not matter:" do
    test "many in one packet are answered in order" do
      collector = start()
      socket = connect(collector)

      requests =
        for n <- 1..100 do
          body = batch(["event-#{n}"])

          if rem(n, 2) == 0,
            do: [@line, "x-api-key: k\r\ncontent-length: #{byte_size(body)}\r\n\r\n", body],
            else: [
              @line,
              @chunked,
              Integer.to_string(byte_size(body), 16),
              "\r\n",
              body,
              "\r\n0\r\na: b\r\n\r\n"
            ]
        end

      :ok = :gen_tcp.send(socket, requests)
      for _ <- 1..100, do: assert({200, _, _} = read_answer(socket))
      assert Enum.map(Collector.events(collector), & &1["event_name"]) == for(n <- 1..100, do: "event-#{n}")
    end

    test "one in a packet for each byte" do
      collector = start()
      socket = connect(collector)
      :ok = :inet.setopts(socket, nodelay: true)
      {one, two} = String.split_at(batch(["a"]), 3)
      chunks = for part <- [one, two], do: [Integer.to_string(byte_size(part), 16), ";x=y\r\n", part, "\r\n"]
      request = IO.iodata_to_binary(["\r\n", @line, @chunked, chunks, "0\r\n\r\n"])
      for <<byte <- request>>, do: :ok = :gen_tcp.send(socket, <<byte>>)
      assert {200, _, _} = read_answer(socket)
      assert {200, _, _} = post(socket, batch(["b"]))
    end
  end

  describe "time-outs" do
    test "a connection without a request is closed after idle_timeout" do
      collector = start(idle_timeout: 20)
      assert {:error, :closed} = :gen_tcp.recv(connect(collector), 0, 30_000)
    end

    test "a request that stays incomplete is answered 408 after read_timeout" do
      collector = start(read_timeout: 20)

      for bytes <- [
            "P",
            @line,
            @line <> "a: b",
            @line <> "content-length: 5\r\n\r\nabcd",
            @line <> @chunked <> "5",
            @line <> @chunked <> "5\r\nabcd"
          ] do
        assert {408, "REQUEST_TIMEOUT", _} = answer_to(collector, bytes)
      end
    end

    test "a request that arrives byte by byte is answered 408 too" do
      socket = connect(start(read_timeout: 50))
      :ok = :gen_tcp.send(socket, @line <> "a: ")
      assert "HTTP/1.1 408" <> _ = drip(socket)
    end

    test "a kept-alive connection may be idle for longer than read_timeout" do
      collector = start(read_timeout: 20)
      socket = connect(collector)
      assert {200, _, _} = post(socket, batch(["a"]))
      assert {:error, :timeout} = :gen_tcp.recv(socket, 0, 60)
      assert {200, _, _} = post(socket, batch(["b"]))
    end
  end

  defp drip(socket) do
    with {:error, :timeout} <- :gen_tcp.recv(socket, 0, 5) do
      :gen_tcp.send(socket, "a")
      drip(socket)
    else
      {:ok, answer} -> answer
    end
  end

  describe "a function given to respond/2" do
    test "that fails or returns no mode is answered 500 and logged in one line, and the collector goes on" do
      collector = start()
      socket = connect(collector)

      for {choose, line} <- [
            {fn _ -> raise "boom" end, "failed: ** (RuntimeError) boom"},
            {fn _ -> throw(:ball) end, "failed: ** (throw) :ball"},
            {fn _ -> exit(:left) end, "failed: ** (exit) :left"},
            {fn %{nothing: _} -> :ok end, "failed: ** (FunctionClauseError) no function clause matching"},
            {fn _ -> nil end, "returned nil, which is not a mode"},
            {fn _ -> {:status, 99} end, "returned {:status, 99}, which is not a mode"},
            {fn _ -> {:status, 200, %{}} end, "returned {:status, 200, %{}}, which is not a mode"},
            {fn _ -> [:ok, :no] end, "returned :no, which is not a mode (in [:ok, :no])"}
          ] do
        # As it is, in a sequence and after a delay.
        for mode <- [choose, [choose], {:delay, 1, choose}] do
          Collector.respond(collector, mode)

          log =
            capture_log(fn ->
              assert {500, _, _} = answer = post(socket, batch(["a"]))
              assert code(answer) == "RESPOND_FAILED"
            end)

          assert log =~ "BilldogEng.Collector: answered 500, the function given to respond/2 #{line}"
          assert length(String.split(log, "[error] BilldogEng.Collector: answered 500")) == 2
        end
      end

      assert Enum.all?(Collector.requests(collector), &(&1.status == 500))
      Collector.respond(collector, :ok)
      assert {200, _, _} = post(socket, batch(["a"]))
      assert Collector.count(collector) == 1
    end

    test "is logged without the key of the request, in one line" do
      collector = start()
      Collector.respond(collector, fn request -> raise "two\nlines: #{inspect(request)}" end)
      body = batch(["a"], "key-12345678")

      log =
        capture_log(fn ->
          assert {500, _, answer} = post(connect(collector), body, [{"x-billdog-api-key", "key-12345678"}])
          refute answer =~ "key-12345678"
        end)

      assert log =~ "failed: ** (RuntimeError) two lines: %{"
      refute log =~ "key-12345678"
    end

    test "that is killed ends its connection alone" do
      collector = start()
      Collector.respond(collector, fn _ -> Process.exit(self(), :kill) end)
      socket = connect(collector)
      send_post(socket, batch(["a"]))
      assert {:error, _} = :gen_tcp.recv(socket, 0, 30_000)
      Collector.respond(collector, :ok)
      assert {200, _, _} = post(connect(collector), batch(["a"]))
    end

    test "can call the collector" do
      collector = start()
      Collector.respond(collector, fn _ -> {:status, 500 + Collector.request_count(collector)} end)
      assert {501, _, _} = post(connect(collector), batch(["a"]))
    end

    test "chooses at the gate too" do
      collector = start()
      Collector.respond(collector, {:gate, self()})
      socket = connect(collector)
      send_post(socket, batch(["a"]))
      assert_receive {:collector_request, handle, _}, 30_000
      :ok = Collector.release(handle, fn request -> {:status, 400 + request.events} end)
      assert {401, _, _} = read_answer(socket)
    end
  end

  describe "the collector outlives" do
    test "peers that leave at any point" do
      collector = start()

      for bytes <- ["", "PO", @line, @line <> "content-length: 9\r\n\r\nabc", @line <> @chunked <> "9\r\nabc"],
          linger <- [[], [linger: {true, 0}]],
          _ <- 1..20 do
        socket = connect(collector)
        :inet.setopts(socket, linger)
        :ok = :gen_tcp.send(socket, bytes)
        :ok = :gen_tcp.close(socket)
      end

      assert {200, _, _} = post(connect(collector), batch(["a"]))
    end

    test "200 clients at a time, and counts each event" do
      collector = start()
      test = self()

      tasks =
        for _ <- 1..200 do
          Task.async(fn ->
            socket = connect(collector)
            send(test, :connected)
            receive do: (:go -> :ok)
            for _ <- 1..5, do: assert({200, _, _} = post(socket, batch(~w(a b))))
          end)
        end

      for _ <- tasks, do: assert_receive(:connected, 30_000)
      for task <- tasks, do: send(task.pid, :go)
      Task.await_many(tasks, 60_000)
      assert %{events: 2_000, requests: 1_000, accepted: 1_000} = Collector.totals(collector)
    end

    test "a peer that sends on while its request hangs, without keeping what it sends" do
      collector = start()
      Collector.respond(collector, :hang)
      socket = connect(collector)
      send_post(socket, batch(["a"]))
      for _ <- 1..16, do: :ok = :gen_tcp.send(socket, :binary.copy("a", @mib))
      {:links, links} = Process.info(collector, :links)

      for pid <- links, is_pid(pid) do
        # The piece that is being read may be a message.
        {:message_queue_len, waiting} = Process.info(pid, :message_queue_len)
        assert waiting <= 1
      end
    end

    test "the device that it prints to" do
      {:ok, device} = StringIO.open("")
      leader = Process.group_leader()
      Process.group_leader(self(), device)
      {:ok, collector} = Collector.start_link(print: true)
      Process.group_leader(self(), leader)
      StringIO.close(device)

      assert {200, _, _} = post(connect(collector), batch(["a"]))
      assert Collector.count(collector) == 1
    end

    test "a port that another takes while it refuses" do
      collector = start()
      port = Collector.port(collector)
      Collector.respond(collector, :refuse)
      {:ok, other} = :gen_tcp.listen(port, ip: {127, 0, 0, 1}, reuseaddr: true)

      assert_raise RuntimeError, ~r/cannot listen on 127.0.0.1:#{port}: address already in use/, fn ->
        Collector.respond(collector, :ok)
      end

      :ok = :gen_tcp.close(other)
      :ok = Collector.respond(collector, :ok)
      assert {200, _, _} = post(connect(collector), batch(["a"]))
    end
  end

  test "what is printed cannot control the terminal" do
    event =
      ~s({"event_name":"a\\nb\\u001b[2J","event_timestamp":1,"properties":{"p":"\\u001b"},"user_id":"\\u0007"})

    lines =
      capture_io(fn ->
        {:ok, collector} = Collector.start_link(print: true)
        assert {200, _, _} = post(connect(collector), ~s({"api_key":"k","events":[#{event}]}))
        GenServer.stop(collector)
      end)

    assert lines == ~S("a\nb\e[2J" "\a" %{"p" => "\e"}) <> "\n"
  end
end
