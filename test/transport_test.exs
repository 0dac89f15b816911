defmodule BilldogEng.TransportTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Transport

  doctest Transport

  defp config(to, opts \\ [])

  defp config(host, opts) when is_binary(host) do
    Transport.config(Keyword.merge([host: host, request_timeout: 5_000, gzip: true, max_retries: 0], opts))
  end

  defp config(collector, opts), do: config(Collector.url(collector), opts)

  test "config/1 requires four options and completes the others" do
    config = Transport.config(host: "http://h", request_timeout: 1, gzip: false, max_retries: 2)

    assert %{host: "http://h", request_timeout: 1, gzip: false, max_retries: 2, enable_logging: false} =
             config

    assert config.sleep_fn == (&Process.sleep/1)
    assert_raise KeyError, fn -> Transport.config(host: "http://h", gzip: true, max_retries: 1) end
  end

  test "config/1 raises for a value that no request can be made with, and shows no password" do
    for {option, value} <- [
          {:host, "no address"},
          {:host, "http://h?me=s3cret"},
          {:request_timeout, 0},
          {:request_timeout, nil},
          {:gzip, "true"},
          {:max_retries, 1.5},
          {:sleep_fn, nil},
          {:proxy, "me:s3cret@proxy"},
          {:cacertfile, "/nowhere.pem"}
        ] do
      error = assert_raise ArgumentError, fn -> config("http://h", [{option, value}]) end
      assert error.message =~ "invalid value for #{inspect(option)}: expected"
      refute error.message =~ "s3cret"
    end
  end

  test "a body is POSTed as JSON with the headers given" do
    collector = start_collector()
    body = %{api_key: "key", events: [%{event_name: "e", event_timestamp: 1, properties: %{}, user_id: "u"}]}

    assert {:ok, _} =
             Transport.request(config(collector),
               path: "/ingest-events",
               body: body,
               headers: [{"x-api-key", "key"}]
             )

    assert [%{method: "POST", body: json, headers: headers}] = Collector.requests(collector)

    assert BilldogEng.Client.Native.json_decode(json) ==
             {:ok,
              %{
                "api_key" => "key",
                "events" => [
                  %{"event_name" => "e", "event_timestamp" => 1, "properties" => %{}, "user_id" => "u"}
                ]
              }}

    assert {"x-api-key", "key"} in headers
    assert {"content-type", "application/json"} in headers
  end

  test "without a body it is a GET" do
    collector = start_collector()

    Collector.respond(
      collector,
      {:json, 200, ~s({"success":true,"data":{"a":[1,2.5,null,"x",123456789012345678901234567890]}})}
    )

    assert Transport.request(config(collector), path: "/flags") ==
             {:ok, %{"a" => [1, 2.5, nil, "x", 123_456_789_012_345_678_901_234_567_890]}}

    assert [%{method: "GET", path: "/flags", body: ""}] = Collector.requests(collector)
  end

  test "gzip: of the request overrides the configuration's" do
    collector = start_collector()
    body = %{text: String.duplicate("x", 2_000)}

    for gzip <- [true, false],
        do: Transport.request(config(collector, gzip: not gzip), path: "/x", body: body, gzip: gzip)

    assert for(request <- Collector.requests(collector), do: Map.new(request.headers)["content-encoding"]) ==
             ["gzip", nil]
  end

  test "it is tried again after 1, 2 s by the caller's own sleep_fn, until max_retries" do
    collector = start_collector()
    test = self()
    config = config(collector, max_retries: 2, sleep_fn: &send(test, {:slept, self(), &1}))
    Collector.respond(collector, {:status, 503})
    assert {:error, %Error{status: 503, message: _}} = Transport.request(config, path: "/x", body: %{})
    assert_received {:slept, ^test, 1_000}
    assert_received {:slept, ^test, 2_000}
    refute_received {:slept, _, _}
    assert Collector.request_count(collector) == 3

    Collector.respond(collector, {:status, 404})
    assert {:error, %Error{status: 404}} = Transport.request(config, path: "/x")
    refute_received {:slept, _, _}
  end

  test "a request that cannot be sent is an error with the reason" do
    collector = start_collector()

    assert {:error, %Error{message: message}} =
             Transport.request(config(collector), path: "/x", headers: [{"bad name", "v"}])

    assert message =~ "\"bad name\" is not a header name"

    assert {:error, %Error{message: message}} =
             Transport.request(config(collector), path: "/x", headers: [{"a", "se\ncret"}])

    assert message =~ "control character"
    refute message =~ "se"

    assert {:error, %Error{status: 0, code: "NETWORK_ERROR"}} =
             Transport.request(config(nobody()), path: "/x")
  end

  test "any term is a body" do
    collector = start_collector()
    Collector.respond(collector, {:json, 200, "{}"})

    for body <- [self(), {1, 2}, ~D[2026-01-01], "text", [1 | 2]],
        do: assert({:ok, %{}} = Transport.request(config(collector), path: "/x", body: body))

    assert ["\"#PID" <> _, "[1,2]", ~s("2026-01-01"), ~s("text"), ~s("[1 | 2]")] =
             for(request <- Collector.requests(collector), do: request.body)
  end
end
