defmodule BilldogEng.CollectorTest do
  use ExUnit.Case, async: true

  import BilldogEng.RawHTTP
  import ExUnit.CaptureIO

  alias BilldogEng.Collector

  doctest BilldogEng.Collector
  doctest BilldogEng.Collector.Ingest
  doctest BilldogEng.Collector.Printer

  defp start(opts \\ []) do
    start_supervised!({Collector, opts})
  end

  defp code({_status, _headers, body}) do
    {:ok, %{"success" => false, "error" => %{"code" => code}}} = BilldogEng.Client.Native.json_decode(body)
    code
  end

  describe "as the ingest" do
    test "keeps the events of each batch in order, over one connection" do
      collector = start()
      socket = connect(collector)

      assert {200, _, ~s({"success":true,"data":{"accepted":2}})} = post(socket, batch(~w(a b)))
      assert {200, _, _} = post(socket, batch(~w(c)))

      assert Enum.map(Collector.events(collector), & &1["event_name"]) == ~w(a b c)
      assert Collector.count(collector) == 3

      assert [%{events: 2, status: 200, method: "POST", path: "/ingest-events"}, %{events: 1}] =
               Collector.requests(collector)
    end

    test "takes gzip off and counts bytes on both sides of it" do
      collector = start()
      body = batch(List.duplicate("same", 100))
      wire = :zlib.gzip(body)

      assert {200, _, _} = post(connect(collector), wire, [{"Content-Encoding", "gzip"}])
      assert [request] = Collector.requests(collector)
      assert request.body == body
      assert request.bytes == byte_size(body)
      assert request.wire_bytes == byte_size(wire)
      assert {"content-encoding", "gzip"} in request.headers
    end

    test "reads chunked bodies" do
      collector = start()
      {one, two} = String.split_at(batch(~w(a)), 30)

      :ok =
        :gen_tcp.send(socket = connect(collector), [
          "POST /ingest-events HTTP/1.1\r\nx-api-key: k\r\ntransfer-encoding: chunked\r\n\r\n",
          for(
            part <- [one, two],
            do: [Integer.to_string(byte_size(part), 16), "\r\n", part, "\r\n"]
          ),
          "0\r\n\r\n"
        ])

      assert {200, _, _} = read_answer(socket)
      assert {200, _, _} = post(socket, batch(~w(b)))
      assert Collector.count(collector) == 2
    end

    test "refuses what the ingest would refuse, each with its code" do
      collector = start()
      socket = connect(collector)
      event = ~s({"event_name":"a","event_timestamp":1,"properties":{}})

      assert {400, _, _} = answer = post(socket, "{oops")
      assert code(answer) == "INVALID_JSON"
      assert {400, _, _} = answer = post(socket, "not gzip", [{"content-encoding", "gzip"}])
      assert code(answer) == "INVALID_BODY"
      assert {400, _, _} = answer = post(socket, ~s({"events":[]}))
      assert code(answer) == "INVALID_BODY"
      assert {400, _, _} = answer = post(socket, batch(~w(a), "other"))
      assert code(answer) == "API_KEY_MISMATCH"

      assert {400, _, body} = answer = post(socket, ~s({"api_key":"k","events":[#{event}]}))

      assert code(answer) == "INVALID_EVENT"
      assert body =~ "event 0: without user_id"
      assert {404, _, _} = answer = post(socket, batch(~w(a)), [], "/elsewhere")
      assert code(answer) == "NOT_FOUND"

      assert Collector.events(collector) == []
      assert Collector.request_count(collector) == 6
    end

    test "with a key of its own, refuses others with 401" do
      collector = start(api_key: "mine")
      assert {401, _, _} = answer = post(connect(collector), batch(~w(a)))
      assert code(answer) == "UNAUTHORIZED"
    end

    test "takes user properties into requests" do
      collector = start()
      update = ~s({"api_key":"k","distinct_id":"u","operations":[{"operation":"$set","key":"a","value":1}]})
      assert {200, _, _} = post(connect(collector), update, [], "/user-properties")

      assert [%{path: "/user-properties", body: ^update}] = Collector.requests(collector)
    end

    test "refuses user properties that aren't an update of somebody" do
      collector = start()

      for {body, status, code} <- [
            {~s({"plan":"pro"}), 400, "INVALID_BODY"},
            {~s({"api_key":"k","distinct_id":"","operations":[]}), 400, "INVALID_BODY"},
            {~s({"api_key":"other","distinct_id":"u","operations":[]}), 400, "API_KEY_MISMATCH"},
            {~s({"api_key":"k","distinct_id":"u","operations":[{"operation":"set","key":"a"}]}), 422,
             "INVALID_OPERATION"}
          ] do
        assert {^status, _, _} = answer = post(connect(collector), body, [], "/user-properties")
        assert code(answer) == code
      end
    end

    test "closes after an answer where the client asks for it, and after what isn't HTTP" do
      collector = start()
      socket = connect(collector)

      assert {200, %{"connection" => "close"}, _} = post(socket, batch([]), [{"connection", "close"}])

      assert {:error, :closed} = :gen_tcp.recv(socket, 0, 5_000)

      socket = connect(collector)
      :ok = :gen_tcp.send(socket, "nonsense\r\n\r\n")
      assert {400, _, _} = read_answer(socket)
    end

    test "prints a line an event" do
      lines =
        capture_io(fn ->
          {:ok, collector} = Collector.start_link(print: true)
          assert {200, _, _} = post(connect(collector), batch(~w(a b)))
          GenServer.stop(collector)
        end)

      assert lines == ~s(a u %{"a" => 1}\nb u %{"a" => 1}\n)
    end

    test "marks the events that the real ingest refuses, and accepts them" do
      body =
        ~s({"api_key":"k","events":[) <>
          ~s({"event_name":"a","event_timestamp":1,"properties":{},"user_id":"u"},) <>
          ~s({"event_name":"","event_timestamp":1,"properties":[1],"user_id":null},) <>
          ~s({"event_name":7,"event_timestamp":1,"properties":{},"user_id":""}]})

      lines =
        capture_io(fn ->
          {:ok, collector} = Collector.start_link(print: true)
          assert {200, _, _} = post(connect(collector), body)
          [_, second, third] = Collector.events(collector)

          assert Collector.invalid_events(collector) == [
                   {second, ["event_name is empty", "user_id is nil", "properties is not a map: [1]"]},
                   {third, ["event_name is not a string: 7", "user_id is empty"]}
                 ]

          assert %{events: 3, invalid: 2} = Collector.totals(collector)
          :ok = Collector.reset(collector)
          assert {Collector.invalid_events(collector), Collector.totals(collector).invalid} == {[], 0}
          GenServer.stop(collector)
        end)

      assert lines == """
             a u %{}
             "" nil [invalid: event_name is empty, user_id is nil, properties is not a map: [1]] [1]
             7 "" [invalid: event_name is not a string: 7, user_id is empty] %{}
             """
    end

    test "prints a line a refused request" do
      lines =
        capture_io(fn ->
          {:ok, collector} = Collector.start_link(print: true, api_key: "mine")
          assert {401, _, _} = post(connect(collector), batch(~w(a b)))
          socket = connect(collector)
          :ok = :gen_tcp.send(socket, <<0x16, 0x03, 0x01>>)
          assert {400, _, _} = read_answer(socket)
          GenServer.stop(collector)
        end)

      assert lines == """
             refused with 401: unknown API key
             refused with 400: this is TLS: the collector has none, so its URL begins with http://
             """
    end

    test "with keep: false counts events, and still notifies subscribers" do
      collector = start(keep: false)
      :ok = Collector.subscribe(collector)
      body = batch(~w(a b))
      assert {200, _, _} = post(connect(collector), body)

      assert_receive {:collector, [%{"event_name" => "a"}, %{"event_name" => "b"}]}
      assert Collector.events(collector) == []
      assert Collector.requests(collector) == []

      bytes = byte_size(body)

      assert %{events: 2, requests: 1, accepted: 1, bytes: ^bytes, wire_bytes: ^bytes} =
               Collector.totals(collector)
    end

    test "forgets on reset" do
      collector = start()
      assert {200, _, _} = post(connect(collector), batch(~w(a)))
      :ok = Collector.reset(collector)
      assert {Collector.count(collector), Collector.events(collector)} == {0, []}
      assert Collector.requests(collector) == []
    end
  end

  describe "failing on purpose" do
    test "answers with a status, headers, a body, and keeps nothing" do
      collector = start()
      socket = connect(collector)

      Collector.respond(collector, {:status, 503})
      assert {503, _, _} = answer = post(socket, batch(~w(a)))
      assert code(answer) == "HTTP_503"

      Collector.respond(collector, {:status, 429, [{"retry-after", "7"}]})
      assert {429, %{"retry-after" => "7"}, _} = post(socket, batch(~w(a)))

      Collector.respond(collector, {:status, 200, [{"content-type", "text/html"}], "<html>"})
      assert {200, %{"content-type" => "text/html"}, "<html>"} = post(socket, batch(~w(a)))

      Collector.respond(collector, {:json, 200, ~s({"quota_limited":["events"]})})
      assert {200, _, ~s({"quota_limited":["events"]})} = post(socket, batch(~w(a)))

      assert Collector.events(collector) == []
      assert Enum.map(Collector.requests(collector), & &1.status) == [503, 429, 200, 200]
    end

    test "goes through a sequence, the last mode stays" do
      collector = start()
      socket = connect(collector)
      Collector.respond(collector, [{:status, 500}, {:status, 502}, :ok])
      statuses = for _ <- 1..4, do: elem(post(socket, batch(~w(a))), 0)
      assert statuses == [500, 502, 200, 200]
    end

    test "delays the answer, not the keeping" do
      collector = start()
      :ok = Collector.subscribe(collector)
      Collector.respond(collector, {:delay, 50})
      before = System.monotonic_time(:millisecond)
      assert {200, _, _} = post(connect(collector), batch(~w(a)))
      assert System.monotonic_time(:millisecond) - before >= 50
      assert_received {:collector, [_]}
    end

    test "hangs until the client goes" do
      collector = start()
      Collector.respond(collector, :hang)
      socket = connect(collector)
      send_post(socket, batch(~w(a)))
      assert {:error, :timeout} = :gen_tcp.recv(socket, 0, 50)
      assert [%{status: nil}] = Collector.requests(collector)
    end

    test "resets the connection" do
      collector = start()
      Collector.respond(collector, :reset)
      socket = connect(collector)
      :inet.setopts(socket, show_econnreset: true)
      send_post(socket, batch(~w(a)))
      assert {:error, :econnreset} = :gen_tcp.recv(socket, 0, 5_000)
    end

    test "refuses connections, and listens again on the same port" do
      collector = start()
      port = Collector.port(collector)
      socket = connect(collector)
      assert {200, _, _} = post(socket, batch(~w(a)))

      Collector.respond(collector, :refuse)
      assert {:error, _} = :gen_tcp.recv(socket, 0, 5_000)
      assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])

      Collector.respond(collector, :ok)
      assert Collector.port(collector) == port
      assert {200, _, _} = post(connect(collector), batch(~w(b)))
      assert Collector.count(collector) == 2
    end

    test "holds a request at a gate until it is released, with the mode given there" do
      collector = start()
      Collector.respond(collector, {:gate, self()})
      socket = connect(collector)

      send_post(socket, batch(~w(a)))
      assert_receive {:collector_request, handle, %{events: 1, status: nil}}
      assert Collector.count(collector) == 0
      :ok = Collector.release(handle, {:status, 503})
      assert {503, _, _} = read_answer(socket)

      send_post(socket, batch(~w(a)))
      assert_receive {:collector_request, handle, _}
      :ok = Collector.release(handle)
      assert Collector.count(collector) == 1
      assert {200, _, _} = read_answer(socket)
      assert Enum.map(Collector.requests(collector), & &1.status) == [503, 200]
    end

    test "takes no mode it doesn't know" do
      collector = start()
      assert_raise ArgumentError, ~r/:nonsense/, fn -> Collector.respond(collector, :nonsense) end
    end
  end

  test "start_link/1 raises for unknown options and wrong values, and names what it accepts" do
    for {opts, message} <- [
          {[prot: 1], "unknown option :prot, BilldogEng.Collector.start_link/1 expects one of: :name, "},
          {[port: 65_536], "invalid value for :port: expected a port from 0 to 65535, got: 65536"},
          {[port: "1"], "invalid value for :port: expected a port from 0 to 65535, got: \"1\""},
          {[ip: "127.0.0.1"],
           "invalid value for :ip: expected an address as a tuple, such as {127, 0, 0, 1}"},
          {[ip: {1, 2}], "invalid value for :ip: expected an address as a tuple, such as {127, 0, 0, 1}"},
          {[ip: {127, 0, 0, 256}],
           "invalid value for :ip: expected an address as a tuple, such as {127, 0, 0, 1}"},
          {[print: nil], "invalid value for :print: expected true or false, got: nil"},
          {[read_timeout: 0],
           "invalid value for :read_timeout: expected milliseconds as a positive integer, got: 0"},
          {%{}, "BilldogEng.Collector.start_link/1 expects a keyword list, got: %{}"}
        ] do
      assert_raise ArgumentError, ~r/^#{Regex.escape(message)}/, fn -> Collector.start_link(opts) end
    end

    error = assert_raise ArgumentError, fn -> Collector.start_link(api_key: ~c"secret") end
    assert error.message == "invalid value for :api_key: expected a string or nil"
  end

  test "it listens on IPv6 too" do
    case Collector.start_link(ip: {0, 0, 0, 0, 0, 0, 0, 1}) do
      {:ok, collector} -> assert Collector.url(collector) == "http://[::1]:#{Collector.port(collector)}"
      # A machine without IPv6.
      {:error, {reason, _message}} -> assert reason in [:eaddrnotavail, :eafnosupport]
    end
  end

  test "without the native library start_link/1 returns an error that names it" do
    folder = Path.join(System.tmp_dir!(), "billdogeng_no_nif_#{System.pid()}")
    ebin = Path.join(folder, "billdogeng/ebin")
    on_exit(fn -> File.rm_rf!(folder) end)
    File.mkdir_p!(ebin)
    # Without its priv/.
    File.cp_r!(Application.app_dir(:billdogeng, "ebin"), ebin)

    script = "Process.flag(:trap_exit, true); IO.inspect(BilldogEng.Collector.start_link())"
    {output, 0} = System.cmd("elixir", ["-pa", ebin, "-e", script], stderr_to_stdout: true)
    assert output =~ ~r/{:error,\s+%BilldogEng.Error{\s*message: "the native library can't be loaded: /
  end

  describe "ending" do
    test "leaves neither sockets nor processes" do
      {:ok, collector} = Collector.start_link()
      port = Collector.port(collector)
      socket = connect(collector)
      assert {200, _, _} = post(socket, batch(~w(a)))
      monitors = for pid <- linked(collector), pid != self(), do: Process.monitor(pid)
      assert length(monitors) == 2

      :ok = GenServer.stop(collector)
      for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, _, _, _})
      assert {:error, _} = :gen_tcp.recv(socket, 0, 5_000)
      assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
    end

    test "the same where it is killed" do
      Process.flag(:trap_exit, true)
      {:ok, collector} = Collector.start_link()
      socket = connect(collector)
      assert {200, _, _} = post(socket, batch(~w(a)))
      monitors = for pid <- linked(collector), pid != self(), do: Process.monitor(pid)
      Process.exit(collector, :kill)
      for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, _, _, _})
      assert {:error, _} = :gen_tcp.recv(socket, 0, 5_000)
    end

    test "connections that end are forgotten" do
      collector = start()
      Collector.respond(collector, :hang)
      socket = connect(collector)
      send_post(socket, batch(~w(a)))
      assert {:error, :timeout} = :gen_tcp.recv(socket, 0, 50)
      [a, b] = for pid <- linked(collector), do: {pid, Process.monitor(pid)}
      :gen_tcp.close(socket)
      assert_receive {:DOWN, monitor, _, _, _}
      assert monitor in [elem(a, 1), elem(b, 1)]
    end

    defp linked(collector) do
      {:links, links} = Process.info(collector, :links)
      {:dictionary, dictionary} = Process.info(collector, :dictionary)
      for pid <- links, is_pid(pid), pid != hd(dictionary[:"$ancestors"]), do: pid
    end
  end

  describe "mix billdogeng.collector" do
    test "starts the collector alone, prints its address, and accepts events" do
      options = [:binary, line: 1_000, args: ["billdogeng.collector", "0"], env: [{~c"MIX_ENV", ~c"test"}]]
      port = Port.open({:spawn_executable, System.find_executable("mix")}, options)
      {:os_pid, pid} = Port.info(port, :os_pid)
      on_exit(fn -> System.cmd("kill", ["-9", "#{pid}"], stderr_to_stdout: true) end)
      url = listening(port)
      {:ok, client} = BilldogEng.Analytics.start_link(api_key: "any", host: url)
      BilldogEng.Analytics.capture(client, "user-1", "signed_up", %{plan: "pro"})
      assert BilldogEng.Analytics.flush(client) == :ok
      assert_receive {^port, {:data, {:eol, ~s(signed_up user-1 %{"plan" => "pro"})}}}, 5_000
    end

    test "a port that was asked for and is taken is an error that names it" do
      {:ok, other} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(other)
      Process.flag(:trap_exit, true)
      message = ~r/cannot listen on 127.0.0.1:#{port}: address already in use.*billdogeng.collector 0/

      assert_raise Mix.Error, message, fn ->
        Mix.Tasks.Billdogeng.Collector.start!(port, [page: false], {0, 0})
      end
    end

    test "a second collector is an error that names the first, whatever its mode is" do
      collector = start()
      port = Collector.port(collector)
      Process.flag(:trap_exit, true)

      for mode <- [:ok, :hang, :reset, {:gate, self()}], {asked, default} <- [{nil, port}, {port, 0}] do
        Collector.respond(collector, mode)
        message = ~r/a collector listens on http:..127.0.0.1:#{port} already/

        assert_raise Mix.Error, message, fn ->
          Mix.Tasks.Billdogeng.Collector.start!(asked, [page: false], {default, 0})
        end
      end

      assert Collector.request_count(collector) == 0
    end

    test "a default port that another program has is left for a free one, and the host: line is printed" do
      {:ok, other} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(other)
      Process.flag(:trap_exit, true)
      # It closes what asks it, as a server of another protocol does.
      spawn_link(fn -> :gen_tcp.accept(other) |> elem(1) |> :gen_tcp.close() end)

      {collector, lines} = Mix.Tasks.Billdogeng.Collector.start!(nil, [page: false], {port, 0})
      url = Collector.url(collector)
      refute Collector.port(collector) == port
      assert ["The collector listens on " <> _, elsewhere] = lines
      assert elsewhere =~ "Port #{port} is taken by another program"
      assert elsewhere =~ ~s(    host: "#{url}"\n)
    end

    test "names what is wrong with a port" do
      for argv <- [["65536"], ["-1"], ["http"], ["1", "2"]] do
        assert_raise Mix.Error, ~r/a port from 0 to 65535/, fn -> Mix.Tasks.Billdogeng.Collector.run(argv) end
      end
    end
  end

  defp listening(port) do
    receive do
      {^port, {:data, {:eol, "The collector listens on " <> rest}}} -> rest |> String.split() |> hd()
      {^port, {:data, _}} -> listening(port)
    after
      60_000 -> flunk("the collector did not start")
    end
  end
end
