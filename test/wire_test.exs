defmodule BilldogEng.WireTest do
  use BilldogEng.ClientCase, async: true

  {cases, _} = Code.eval_file("fixtures/wire.exs", __DIR__)

  for wire <- cases do
    test "as the original: #{wire.name}" do
      %{calls: calls, events: expected, options: options} = unquote(Macro.escape(wire))
      collector = start_collector()
      client = start_client(collector, options)
      for [function | args] <- calls, do: assert(apply(Analytics, function, [client | args]) == :ok)
      assert Analytics.flush(client) == :ok

      events = Collector.events(collector)
      assert Enum.map(events, &Map.delete(&1, "event_timestamp")) == expected
      assert Enum.all?(events, &is_integer(&1["event_timestamp"]))
    end
  end

  test "a request is a POST to /ingest-events with the key in headers and body" do
    collector = start_collector()
    client = start_client(collector, api_key: "the-key")
    Analytics.capture(client, "u", "e")
    assert Analytics.flush(client) == :ok

    assert [request] = Collector.requests(collector)
    assert %{method: "POST", path: "/ingest-events"} = request
    headers = Map.new(request.headers)
    assert headers["content-type"] == "application/json"
    assert headers["x-api-key"] == "the-key"
    assert headers["x-billdog-api-key"] == "the-key"
    assert headers["user-agent"] == "billdogeng-elixir/#{Mix.Project.config()[:version]}"
    refute Map.has_key?(headers, "content-encoding")
    assert request.body =~ ~r/^\{"api_key":"the-key","events":\[\{"event_name":"e","event_timestamp":\d+,/
  end

  test "the host's path stays in front, with a slash at its end or without" do
    collector = start_collector()

    for path <- ["/v1", "/v1/"] do
      client = start_client(Collector.url(collector) <> path)
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
    end

    assert [%{path: "/v1/ingest-events"}, %{path: "/v1/ingest-events"}] = Collector.requests(collector)
  end

  test "the time of an event is the system's at its capture, whenever it is sent" do
    collector = start_collector()
    client = start_client(collector)
    before = System.system_time(:millisecond)
    Analytics.capture(client, "u", "e")
    later = System.system_time(:millisecond)
    Collector.respond(collector, [{:status, 503}, :ok])
    assert {:error, %Error{status: 503}} = Analytics.flush(client)
    assert Analytics.flush(client) == :ok

    assert [%{"event_timestamp" => ms}] = Collector.events(collector)
    assert ms in before..later
    assert [first, second] = Collector.requests(collector)
    assert first.body == second.body
  end

  test "bodies of 1,024 bytes and more are gzipped, unless gzip is false" do
    collector = start_collector()
    zipping = start_client(collector, gzip: true)
    plain = start_client(collector, gzip: false)

    frame =
      byte_size(
        ~s({"api_key":"key","events":[{"event_name":"","event_timestamp":1700000000000,"properties":{},"user_id":"u"}]})
      )

    for {client, bytes, encoding} <- [{zipping, 1_023, nil}, {zipping, 1_024, "gzip"}, {plain, 4_000, nil}] do
      Collector.reset(collector)

      Analytics.capture(client, "u", String.duplicate("e", bytes - frame), %{}, %{},
        timestamp: 1_700_000_000_000
      )

      assert Analytics.flush(client) == :ok
      assert [request] = Collector.requests(collector)
      assert request.bytes == bytes
      assert Map.new(request.headers)["content-encoding"] == encoding
      if encoding, do: assert(request.wire_bytes < 200), else: assert(request.wire_bytes == bytes)
    end
  end

  test "a timestamp of the caller's is sent in ms" do
    collector = start_collector()
    client = start_client(collector)

    for time <- [~U[2026-01-02 03:04:05.678901Z], ~N[2026-01-02 03:04:05.678], 1_767_323_045_678] do
      Analytics.capture(client, "u", "e", %{}, %{}, timestamp: time)
    end

    assert Analytics.flush(client) == :ok

    assert for(event <- Collector.events(collector), do: event["event_timestamp"]) ==
             List.duplicate(1_767_323_045_678, 3)
  end

  test "no timestamp that can be used: the event is sent with the time of its capture" do
    collector = start_collector()
    client = start_client(collector)
    before = System.system_time(:millisecond)

    for time <- ["2026", 1.5, %{}, 10 ** 30],
        do: Analytics.capture(client, "u", "e", %{}, %{}, timestamp: time)

    Analytics.capture(client, "u", "e", %{}, %{}, :no_options)
    assert Analytics.flush(client) == :ok
    assert [_, _, _, _, _] = events = Collector.events(collector)
    for event <- events, do: assert(event["event_timestamp"] in before..System.system_time(:millisecond))
  end

  describe "the answer" do
    setup do
      collector = start_collector()
      client = start_client(collector)
      Analytics.capture(client, "u", "e")
      %{collector: collector, client: client}
    end

    test "a 2xx in any form is success", %{collector: collector, client: client} do
      for answer <- [
            {:status, 204},
            {:json, 200, ""},
            {:json, 202, "ok"},
            {:json, 200, "[1]"},
            {:json, 200, "{}"}
          ] do
        Collector.respond(collector, answer)
        Analytics.capture(client, "u", "e")
        assert Analytics.flush(client) == :ok
      end
    end

    test "a 2xx with success: false is an error", %{collector: collector, client: client} do
      Collector.respond(collector, {:json, 200, ~s({"success":false,"error":{"code":"C","message":"M"}})})
      assert {:error, %Error{status: 200, code: "MALFORMED_RESPONSE"}} = Analytics.flush(client)
      assert Analytics.stats(client).queued == 1
    end

    test "a 2xx with a page is an error", %{collector: collector, client: client} do
      Collector.respond(collector, {:status, 200, [{"content-type", "text/html; charset=utf-8"}], "hello"})
      assert {:error, %Error{code: "MALFORMED_RESPONSE"}} = Analytics.flush(client)
      Collector.respond(collector, {:json, 200, "  <!doctype html>"})
      assert {:error, %Error{code: "MALFORMED_RESPONSE", body: "  <!doctype html>"}} = Analytics.flush(client)
    end

    test "an error's code and message are the ingest's", %{collector: collector, client: client} do
      body = ~s({"success":false,"error":{"code":"BAD_KEY","message":"no such project"}})
      Collector.respond(collector, {:json, 401, body})
      assert {:error, error} = Analytics.flush(client)
      assert %Error{status: 401, code: "BAD_KEY", message: "no such project"} = error

      assert error.body == %{
               "success" => false,
               "error" => %{"code" => "BAD_KEY", "message" => "no such project"}
             }
    end

    test "an error without them has the status for its message", %{collector: collector, client: client} do
      Collector.respond(collector, {:json, 503, "upstream"})

      assert {:error, %Error{status: 503, code: nil, message: "HTTP 503", body: "upstream"}} =
               Analytics.flush(client)
    end

    test "a redirect is an error and not followed", %{collector: collector, client: client} do
      other = start_collector()
      Collector.respond(collector, {:status, 307, [{"location", Collector.url(other) <> "/ingest-events"}]})
      assert {:error, %Error{status: 307}} = Analytics.flush(client)
      assert Collector.request_count(other) == 0
    end

    test "no answer is status 0 and NETWORK_ERROR", %{collector: collector, client: client} do
      Collector.respond(collector, :reset)
      assert {:error, %Error{status: 0, code: "NETWORK_ERROR"}} = Analytics.flush(client)
    end

    test "a time-out is status 0 and NETWORK_ERROR", %{collector: collector} do
      client = start_client(collector, request_timeout: 50)
      Analytics.capture(client, "u", "e")
      Collector.respond(collector, :hang)
      assert {:error, %Error{status: 0, code: "NETWORK_ERROR", message: message}} = Analytics.flush(client)
      assert message =~ "50 ms"
    end

    test "an answer that quotes the key back does not show it", %{collector: collector} do
      client = start_client(collector, api_key: "s3cret-key")
      Analytics.capture(client, "u", "e")
      Collector.respond(collector, {:json, 403, ~s({"error":{"message":"the key s3cret-key is not known"}})})
      assert {:error, error} = Analytics.flush(client)
      refute inspect(error) =~ "s3cret-key"
    end

    test "an answer that quotes the key percent-encoded or escaped does not show it", %{collector: collector} do
      client = start_client(collector, api_key: "s3cret/k=y+1")
      Analytics.capture(client, "u", "e")

      for quoted <- [~S(s3cret\/k=y+1), ~S(s3cret\u002fk\u003Dy\u002B1), "s3cret%2Fk%3dy%2B1"] do
        for answer <- [
              {:json, 403, ~s({"error":{"message":"no #{quoted}"},"at":"/?key=#{quoted}"})},
              {:status, 502, [{"content-type", "text/html"}], "<p>no #{quoted}</p>"},
              {:status, 200, [{"content-type", "text/html"}], ~s(<p>{"key":"#{quoted}"}</p>)}
            ] do
          Collector.respond(collector, answer)
          assert {:error, error} = Analytics.flush(client)
          assert inspect(error) =~ "[api_key]"
          refute inspect([error, Analytics.stats(client)]) =~ "s3cret"
        end
      end
    end
  end
end
