defmodule BilldogEng.CollectorPageTest do
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.{Fault, Feed, Filter, Problems}
  alias BilldogEng.Collector.Page.Curl

  doctest BilldogEng.Collector.Page.Curl
  doctest BilldogEng.Collector.Page.Guard
  doctest BilldogEng.Collector.Feed.Recent
  doctest Filter
  doctest Fault

  setup do
    collector = start_collector(page: [hosts: ["page.example"]], api_key: "secret-key")
    %{collector: collector, page: Collector.page_url(collector)}
  end

  defp client(collector), do: start_client(collector, api_key: "secret-key")

  # {status, headers, body}, by a connection of its own.
  defp request(page, text) do
    "http://127.0.0.1:" <> port = page
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, String.to_integer(port), [:binary, active: false])
    :ok = :gen_tcp.send(socket, text)
    [head, body] = socket |> all("") |> String.split("\r\n\r\n", parts: 2)
    ["HTTP/1.1 " <> <<status::binary-size(3), _::binary>> | headers] = String.split(head, "\r\n")
    {String.to_integer(status), headers, body}
  end

  defp all(socket, read) do
    case :gen_tcp.recv(socket, 0, 30_000) do
      {:ok, more} -> all(socket, read <> more)
      {:error, :closed} -> read
    end
  end

  defp get(page, path, headers \\ ["host: 127.0.0.1"]) do
    request(
      page,
      "GET #{path} HTTP/1.1\r\nconnection: close\r\n#{Enum.map_join(headers, &(&1 <> "\r\n"))}\r\n"
    )
  end

  defp post(page, path, body) do
    request(
      page,
      "POST #{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: #{byte_size(body)}\r\n\r\n#{body}"
    )
  end

  defp events(page, query \\ "") do
    {200, _, lines} = get(page, "/api/events#{query}")
    for line <- String.split(lines, "\n", trim: true), {:ok, event} = Native.json_decode(line), do: event
  end

  describe "security" do
    test "every response has a policy without inline script and style", %{page: page} do
      for path <- ["/", "/page.css", "/page.js", "/details.js", "/api/events", "/nothing"] do
        {_, headers, _} = get(page, path)

        assert policy =
                 Enum.find(headers, &String.starts_with?(&1, "content-security-policy: default-src 'none'"))

        refute policy =~ "unsafe"
        assert "x-content-type-options: nosniff" in headers
      end
    end

    test "the page has no inline script and no inline style", %{page: page} do
      {200, _, html} = get(page, "/")
      refute html =~ ~r/<script(?![^>]* src=)|<style| style=| on[a-z]+=/
    end

    test "a foreign Host or Origin is refused before any routing, for reads too", %{page: page} do
      for path <- ["/", "/api/events", "/%61pi/events", "/api/stream", "/api/rows/1"],
          headers <- [
            ["host: evil.example"],
            ["host: 127.0.0.1.evil.example"],
            ["host: 127.0.0.1", "origin: http://evil.example"],
            ["host: 127.0.0.1", "origin: null"],
            ["host: 127.0.0.1", "sec-fetch-site: cross-site"]
          ] do
        assert {403, _, _} = get(page, path, headers)
      end

      assert {400, _, _} = get(page, "/", [])
      assert {400, _, _} = get(page, "/", ["host: 127.0.0.1", "host: evil.example"])
      assert {200, _, _} = get(page, "/", ["host: page.example", "origin: https://page.example"])
      assert {200, _, _} = get(page, "/", ["host: LOCALHOST:1", "origin: http://localhost:1"])
    end

    test "the details of a row hide the key, and the curl command has it", %{collector: collector, page: page} do
      client = client(collector)
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
      {200, _, details} = get(page, "/api/rows/1")
      refute details =~ "secret-key"
      assert {200, _, "curl -X POST" <> command} = get(page, "/api/rows/1/curl")
      assert command =~ "x-api-key: secret-key"
    end
  end

  describe "GET /api/events" do
    test "returns the events as lines of JSON, oldest first, by name, ID and filter", %{
      collector: collector,
      page: page
    } do
      client = client(collector)

      Analytics.capture(client, "u1", "signed_up", %{plan: "pro"}, %{company: "acme"},
        timestamp: 1_700_000_000_000
      )

      Analytics.capture(client, "u2", "signed_up", %{plan: "free"})
      Analytics.capture(client, "u1", "left")
      assert Analytics.flush(client) == :ok

      assert [
               %{
                 "event" => "signed_up",
                 "distinct_id" => "u1",
                 "timestamp" => 1_700_000_000_000,
                 "properties" => %{"plan" => "pro"} = properties,
                 "groups" => %{"company" => "acme"}
               },
               %{"distinct_id" => "u2"},
               %{"event" => "left"}
             ] = events(page)

      refute is_map_key(properties, "$groups")
      assert [%{"distinct_id" => "u1"}, %{"distinct_id" => "u2"}] = events(page, "?name=signed_up")
      assert [%{"event" => "left"}] = events(page, "?id=u1&limit=1")
      assert [%{"distinct_id" => "u2"}] = events(page, "?q=properties.plan:free")
      assert events(page, "?q=event:other") == []
      assert {400, _, message} = get(page, "/api/events?limit=none")
      assert message =~ "limit is not a positive integer"
    end
  end

  describe "the API" do
    test "names an unknown path, an unknown row and a wrong method", %{page: page} do
      assert {404, _, message} = get(page, "/api/nothing")
      assert message =~ "the page has no /api/nothing"
      assert {404, _, message} = get(page, "/api/rows/7")
      assert message =~ "row 7 is not kept"
      assert {405, _, _} = post(page, "/page.js", "")
    end

    test "sets a fault, for some requests or until it is switched off", %{collector: collector, page: page} do
      client = client(collector)
      assert {200, _, _} = post(page, "/api/fault", ~s({"fault":"503","times":1}))
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: 503}} = Analytics.flush(client)
      assert Analytics.flush(client) == :ok
      assert {200, _, _} = post(page, "/api/fault", ~s({"fault":"down"}))
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: 0}} = Analytics.flush(client)
      assert {200, _, _} = post(page, "/api/fault", ~s({"fault":"off"}))
      assert Analytics.flush(client) == :ok
      assert names(collector) == ["e", "e"]
    end

    test "names what a fault accepts", %{page: page} do
      assert {400, _, message} = post(page, "/api/fault", ~s({"fault":"slow","value":-1}))
      assert message =~ "the fault slow takes ms as an integer from 0 to 600000"
      assert {400, _, message} = post(page, "/api/fault", ~s({"fault":"fire"}))
      assert message =~ "there is no such fault, one of: off, down, 503"
      assert {400, _, _} = post(page, "/api/fault", "{")
    end

    test "sends a sample, and clears", %{collector: collector, page: page} do
      assert {200, _, _} = post(page, "/api/sample", "")
      assert [%{}] = events(page)
      assert Collector.count(collector) == 1
      assert {200, _, _} = post(page, "/api/clear", "")
      assert events(page) == []
    end
  end

  describe "the stream" do
    setup %{page: page} do
      "http://127.0.0.1:" <> port = page
      %{port: String.to_integer(port)}
    end

    defp stream(port, query) do
      {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      :ok = :gen_tcp.send(socket, "GET /api/stream#{query} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
      {socket, ""}
    end

    # The next event of a name: {id, data, stream}.
    defp next({socket, read}, name) do
      case String.split(read, "\n\n", parts: 2) do
        [event, rest] ->
          if event =~ "event: #{name}\n" do
            [json] = Regex.run(~r/^data: (.*)$/m, event, capture: :all_but_first)
            id = Regex.run(~r/^id: (.*)$/m, event, capture: :all_but_first)
            {:ok, data} = Native.json_decode(json)
            {id && hd(id), data, {socket, rest}}
          else
            next({socket, rest}, name)
          end

        [_] ->
          {:ok, more} = :gen_tcp.recv(socket, 0, 30_000)
          next({socket, read <> more}, name)
      end
    end

    test "resumes behind the last ID, and begins anew after a clear", %{
      collector: collector,
      page: page,
      port: port
    } do
      client = client(collector)
      Analytics.capture(client, "u", "first")
      assert Analytics.flush(client) == :ok
      {_, %{"resumed" => false}, stream} = next(stream(port, ""), "hello")
      {id, %{"rows" => [%{"e" => "first"}], "matched" => 1}, {socket, _}} = next(stream, "update")
      :gen_tcp.close(socket)

      Analytics.capture(client, "u", "second")
      assert Analytics.flush(client) == :ok
      {_, %{"resumed" => true}, stream} = next(stream(port, "?after=#{id}"), "hello")
      {id, %{"rows" => [%{"e" => "second"}]}, stream} = next(stream, "update")

      assert {200, _, _} = post(page, "/api/clear", "")
      {_, %{"clear" => true, "rows" => []}, _} = next(stream, "update")
      assert {_, %{"resumed" => false}, _} = next(stream(port, "?after=#{id}"), "hello")
    end

    test "filters before it samples, so the totals are exact", %{collector: collector, port: port} do
      client = start_client(collector, api_key: "secret-key", max_queue_size: :infinity)

      for n <- 1..5_000,
          do: Analytics.capture(client, "u", if(rem(n, 2) == 0, do: "even", else: "odd"), %{n: n})

      assert Analytics.flush(client) == :ok
      {_, update, _} = next(stream(port, "?q=event:odd&column=n"), "update")
      assert %{"matched" => 2_500, "hidden" => 500, "examined" => 5_000, "missed" => 0} = update
      assert [%{"e" => "odd", "c" => "4999"} | _] = rows = update["rows"]
      assert length(rows) == 2_000
    end

    test "reports a fault and the counters of what was refused", %{collector: collector, port: port} do
      client = client(collector)
      Collector.respond(collector, {:status, 401})
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: 401}} = Analytics.flush(client)
      {_, update, _} = next(stream(port, ""), "update")

      assert %{"fault" => "requests are answered with 401", "counters" => %{"refused" => %{"401" => 1}}} =
               update

      assert [%{"k" => "refused", "p" => "401: a fault; without it the ingest accepts its event"}] =
               update["rows"]
    end
  end

  describe "the feed" do
    test "keeps at most its rows and bytes, oldest out first, and counts the others" do
      {:ok, pid} = Feed.start_link(max_rows: 10, max_bytes: 1_000_000)
      feed = Feed.handle(pid)
      for n <- 1..25, do: Feed.record(pid, Feed.Record.unreadable(400, "request #{n}"))
      assert %{kept: 10, evicted: 15, last: 25} = Feed.state(feed)
      assert Feed.fetch(feed, 15) == nil
      assert {%{reason: "400: request 16"}, _} = Feed.fetch(feed, 16)
      GenServer.stop(pid)
    end
  end

  test "problems name what a real ingest accepts silently" do
    now = 1_800_000_000_000
    event = %{"event_name" => "e", "user_id" => "u", "properties" => %{"n" => 1}, "event_timestamp" => now}
    codes = fn event -> for {code, _} <- event |> Problems.facts(100, now) |> elem(0), do: code end

    assert codes.(event) == []
    assert codes.(%{event | "event_name" => ""}) == [:no_name]
    for id <- [nil, "", "undefined"], do: assert(codes.(%{event | "user_id" => id}) == [:no_user])
    assert codes.(%{event | "user_id" => "a@b.example"}) == [:email]
    assert codes.(%{event | "event_timestamp" => now + 3_600_000}) == [:future]
    assert codes.(%{event | "event_timestamp" => 1_800_000_000}) == [:old]

    {_, first} = Problems.facts(event, 100, now)
    {_, other} = Problems.facts(%{event | "event_name" => "E", "properties" => %{"n" => "1"}}, 100, now)
    {[], known} = Problems.compare(Problems.new(), first)
    assert {problems, _} = Problems.compare(known, other)
    assert Keyword.keys(problems) == [:similar_name, :type_change]
  end

  test "a body that begins with @ is not a file's name for curl" do
    request = %{method: "POST", path: "/x", headers: [], body: "@/etc/passwd"}
    assert Curl.command(request, "http://h") =~ "--data-binary @- <<'END_OF_BODY'\n@/etc/passwd\n"
  end
end
