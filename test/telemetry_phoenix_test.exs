defmodule BilldogEng.TelemetryPhoenixTest do
  # Alone: events of Phoenix reach every handler.
  use BilldogEng.ClientCase

  alias BilldogEng.{Recorded, Telemetry}

  setup_all do
    %{steps: Recorded.steps("phoenix")}
  end

  setup do
    collector = start_collector()
    %{collector: collector, client: start_client(collector)}
  end

  defp attach(client, opts \\ []) do
    assert Telemetry.attach_phoenix(client, Keyword.merge([distinct_id: "u1"], opts)) == :ok
    on_exit(fn -> Telemetry.detach({Telemetry, client, :phoenix}) end)
  end

  # One process, as of a LiveView, to which these steps come one after the other.
  defp replay(%{steps: steps}, names) do
    {:ok, process} = Agent.start(fn -> nil end)
    for name <- List.wrap(names), do: Agent.update(process, fn _ -> Recorded.replay(steps, name) end)
    Agent.stop(process)
  end

  defp captured(%{client: client, collector: collector}) do
    assert Analytics.flush(client) == :ok
    for event <- Collector.events(collector), do: {event["event_name"], event["properties"]}
  end

  defp routes(context) do
    for {"page_viewed", properties} <- captured(context), do: {properties["via"], properties["route"]}
  end

  describe "a page is viewed" do
    test "by a request that is answered with it, under its route's pattern", context do
      attach(context.client)
      replay(context, :page)

      assert captured(context) == [
               {"page_viewed",
                %{
                  "route" => "/",
                  "via" => "request",
                  "controller" => "ShopWeb.PageController",
                  "action" => "index",
                  "duration_ms" => System.convert_time_unit(21_948_584, :native, :microsecond) / 1000
                }}
             ]
    end

    test "not by a redirect, JSON, an error, or another method", %{steps: steps} = context do
      attach(context.client)
      for step <- [:redirect, :json, :no_route, :raises], do: replay(context, step)
      [{event, measurements, metadata}] = steps[:page]
      :telemetry.execute(event, measurements, put_in(metadata.conn.method, "POST"))
      :telemetry.execute(event, measurements, put_in(metadata.conn.status, nil))
      assert routes(context) == []
    end

    test "not by scripts, styles and downloads, though a router answers them", %{steps: steps} = context do
      attach(context.client)
      [{event, measurements, metadata}] = steps[:page]

      for headers <- [[{"content-type", "text/csv"}], [{"content-type", "text/css; charset=utf-8"}], []] do
        :telemetry.execute(event, measurements, put_in(metadata.conn.resp_headers, headers))
      end

      assert routes(context) == []
      html = [{"content-type", "application/xhtml+xml"}]
      :telemetry.execute(event, measurements, put_in(metadata.conn.resp_headers, html))
      assert [{"request", "/"}] = routes(context)
    end

    test "once where one router forwards to another", context do
      # As it is where a request has just gone through it.
      Code.ensure_loaded!(ShopWeb.Inner)
      attach(context.client)
      replay(context, :forwarded)
      assert routes(context) == [{"request", "/deep/:id"}]
    end

    test "once where it is a LiveView's, whether or not its socket connects", context do
      attach(context.client)
      replay(context, :live_request)
      assert [{"page_viewed", %{"route" => "/list", "via" => "request"} = properties}] = captured(context)
      assert %{"view" => "ShopWeb.ListLive", "action" => "index"} = properties
      refute Map.has_key?(properties, "controller")
      replay(context, :live_socket)
      replay(context, :socket_without_hook)
      assert [_] = routes(context)
    end

    test "once by each of two requests that one process serves, LiveViews though they are of", context do
      attach(context.client)

      second =
        for {event, measured, about} <- context.steps[:live_request], do: {event, measured, elsewhere(about)}

      steps = [live_request: context.steps[:live_request], elsewhere: second]
      replay(%{steps: steps}, [:live_request, :elsewhere, :live_request])
      assert [{"request", _}, {"request", _}, {"request", _}] = routes(context)
    end

    defp elsewhere(%{uri: _} = about), do: %{about | uri: "http://localhost/list/9"}
    defp elsewhere(about), do: about

    test "by a patch to another path, and not by one of the query alone", context do
      attach(context.client)
      replay(context, [:live_socket, :patch_query])
      assert routes(context) == []
      replay(context, [:live_socket, :patch_query, :patch, :push_patch])
      assert routes(context) == [{"patch", "/list/:id"}, {"patch", "/list/:id"}]
    end

    test "by a navigation, to a view with handle_params/3 and to one without", context do
      attach(context.client)
      replay(context, :navigate)
      replay(context, :navigate_plain)
      assert routes(context) == [{"navigate", "/list/:id"}, {"navigate", "/plain/:id"}]
    end

    test "by a navigation to a view without mount/3", %{steps: steps} = context do
      attach(context.client)
      only = for {event, _, _} = recorded <- steps[:navigate], :handle_params in event, do: recorded
      assert [_] = only
      replay(%{steps: [navigate: only]}, :navigate)
      assert routes(context) == [{"navigate", "/list/:id"}]
    end

    test "once where a view patches itself while it mounts", %{steps: steps} = context do
      attach(context.client)
      [mounted, {event, measurements, metadata} = params] = steps[:navigate]
      patched = {event, measurements, %{metadata | uri: "http://localhost/list"}}

      replay(%{steps: [navigate: [mounted, params, patched], patch_query: steps[:patch_query]]}, [
        :navigate,
        :patch_query
      ])

      assert routes(context) == [{"navigate", "/list/:id"}]
    end

    test "not when the connection comes back, after a navigation neither", context do
      attach(context.client)
      replay(context, :reconnect)
      replay(context, :reconnect_navigated)
      assert routes(context) == []
    end

    test "not by a view within a view", context do
      attach(context.client)
      replay(context, :nested)
      assert captured(context) == []
    end

    test "in each client that has a handler", context do
      other = start_client(context.collector)
      attach(context.client)
      attach(other, events: [page_viewed: "other"])
      replay(context, [:live_socket, :patch])
      assert Analytics.flush(other) == :ok
      assert [{"other", _}, {"page_viewed", _}] = Enum.sort(captured(context))
    end

    test "which the handler sees first in the midst is no view: it may be the query alone", context do
      attach(context.client)
      replay(context, [:patch, :patch])
      assert captured(context) == []
    end
  end

  describe "a request that fails" do
    test "has its status, its route and the exception's module", context do
      attach(context.client)
      for step <- [:raises, :raises_404, :no_route], do: replay(context, step)

      assert captured(context) == [
               {"request_failed",
                %{"status" => 500, "method" => "GET", "route" => "/boom/:id", "error" => "RuntimeError"}},
               {"request_failed",
                %{"status" => 404, "method" => "GET", "route" => "/missing/:id", "error" => "Shop.NotFound"}},
               {"request_failed",
                %{"status" => 404, "method" => "GET", "error" => "Phoenix.Router.NoRouteError"}}
             ]
    end

    test "is one event where a LiveView's first rendering is what failed", context do
      attach(context.client)
      replay(context, :live_request_raises)
      assert [{"request_failed", %{"status" => 404, "route" => "/list"}}] = captured(context)
    end
  end

  describe "an event in a LiveView" do
    test "has its name, view and route, and not its parameters", context do
      attach(context.client)
      replay(context, [:live_socket, :patch, :event, :component_event, :nested_event])

      assert [{"page_viewed", _} | events] = captured(context)

      assert [
               {"live_event",
                %{"event" => "save", "view" => "ShopWeb.ListLive", "route" => "/list/:id"} = save},
               {"live_event", %{"event" => "press", "component" => "ShopWeb.Button"}},
               {"live_event", %{"event" => "inner", "view" => "ShopWeb.NestedLive"}}
             ] = events

      assert Enum.sort(Map.keys(save)) == ["duration_ms", "event", "route", "view"]
    end

    test "of a form's change is captured only on request", context do
      attach(context.client)
      replay(context, :form_change)
      assert captured(context) == []
      Telemetry.detach({Telemetry, context.client, :phoenix})
      attach(context.client, form_changes: true)
      replay(context, :form_change)
      assert [{"live_event", %{"event" => "change"}}] = captured(context)
    end
  end

  describe "a LiveView that fails" do
    test "has its callback and the exception's module", context do
      attach(context.client, events: [page_viewed: false])
      replay(context, :event_raises)

      assert captured(context) == [
               {"live_view_failed",
                %{
                  "callback" => "handle_event",
                  "event" => "boom",
                  "view" => "ShopWeb.ListLive",
                  "error" => "RuntimeError"
                }}
             ]
    end

    test "is captured once if a component failed", context do
      attach(context.client)
      replay(context, :update_raises)
      failures = for {"live_view_failed", properties} <- captured(context), do: properties
      assert [%{"callback" => "update", "component" => "ShopWeb.Button"}] = failures
    end

    test "is captured if mount/3 fails, unless the browser makes a request instead", context do
      attach(context.client, events: %{page_viewed: nil, live_view_failed: :failed})
      replay(context, :mount_raises_404)
      assert captured(context) == []
      replay(context, :handle_params_raises)
      assert {"failed", %{"callback" => "handle_params", "route" => "/list"}} = List.last(captured(context))
    end

    test "is named by what Erlang's own errors are in Elixir, and by its kind where it is none", context do
      %{steps: steps} = context
      attach(context.client)
      [{event, measurements, metadata}] = steps[:event_raises]

      for failure <- [%{reason: {:badmatch, "s3cret"}}, %{kind: :exit, reason: "s3cret"}] do
        replay(%{steps: [raises: [{event, measurements, Map.merge(metadata, failure)}]]}, :raises)
      end

      assert ["MatchError", "exit"] =
               for({"live_view_failed", recorded} <- captured(context), do: recorded["error"])
    end
  end

  describe "a channel" do
    test "that is joined has its module and the topic's first part", %{steps: steps} = context do
      attach(context.client)
      replay(context, :channel)
      [{event, measurements, metadata}] = steps[:channel]

      for topic <- ["lv:phx-1", "lvu:1", "phoenix:live_reload"] do
        :telemetry.execute(event, measurements, put_in(metadata.socket.topic, topic))
      end

      :telemetry.execute(event, measurements, %{metadata | result: :error})
      :telemetry.execute(event, measurements, put_in(metadata.socket.topic, "lobby"))

      assert [
               {"channel_joined", %{"channel" => "ShopWeb.RoomChannel", "topic" => "room:*"}},
               {"channel_joined", %{"topic" => "lobby"}}
             ] = captured(context)
    end
  end

  describe "options" do
    test "rename events, and leave events out", context do
      attach(context.client, events: [page_viewed: "$pageview", live_event: false, request_failed: :failed])
      for step <- [:page, :event, :raises], do: replay(context, step)
      assert [{"$pageview", _}, {"failed", _}] = captured(context)
    end

    test "ask for the path itself, never for the query", context do
      attach(context.client, path: true)
      replay(context, :page)
      replay(context, :raises)
      replay(context, :navigate_plain)
      paths = for {_, properties} <- captured(context), do: properties["path"]
      assert paths == ["/", "/boom/s3cret-path", "/plain/7"]
    end

    test "of every handler are taken too", context do
      attach(context.client, filter: fn _, metadata -> metadata[:route] != "/" end, properties: %{app: "shop"})

      replay(context, :page)
      replay(context, :live_request)
      assert [{"page_viewed", %{"route" => "/list", "app" => "shop"}}] = captured(context)
    end

    test "that can't be used are refused by their names", %{client: client} do
      for wrong <- [
            [events: [page: "p"]],
            [events: [page_viewed: 1]],
            [events: true],
            [path: 1],
            [patch: true]
          ] do
        assert_raise ArgumentError, fn -> Telemetry.attach_phoenix(client, wrong) end
      end

      refute Enum.any?(Telemetry.handlers(), &(&1.client == client))
    end
  end

  test "addresses are taken apart as LiveView takes them" do
    alias BilldogEng.Telemetry.Address

    for {uri, expected} <- [
          {"http://localhost/list/5?a=/b#c", {"localhost", "/list/5"}},
          {"https://u:p@shop.example:8443/", {"shop.example", "/"}},
          {"https://shop.example:8443/a", {"shop.example", "/a"}},
          {"https://shop.example", {"shop.example", "/"}},
          {"https://shop.example?a=1", {"shop.example", "/"}},
          {"https://shop.example#/b", {"shop.example", "/"}},
          {"http://[::1]:4000/a/b", {"::1", "/a/b"}},
          {"ws://localhost/a?b", {"localhost", "/a"}},
          {"/a/b", {nil, "/a/b"}}
        ] do
      assert %{host: host, path: path} = address = Address.parse(uri)
      assert {host, path} == expected
      assert %{host: host, path: path} = URI.parse(uri)
      assert {host, path || "/"} == expected
      assert Address.of?(address, uri)
      bare = hd(String.split(uri, ["?", "#"]))
      for other <- [bare, bare <> "?b", bare <> "#d"], do: assert(Address.of?(address, other))
      for other <- [bare <> "x", bare <> "/x", "x" <> bare, "", "/"], do: refute(Address.of?(address, other))
    end

    refute Address.of?(nil, "")

    last = Address.parse("https://shop.example:84/a")

    for uri <- [
          "https://shop.example:84/b/c?a=/b#c",
          "https://shop.example:84",
          "https://shop.example:84?a",
          "https://shop.example:8443/b",
          "https://shop.example:84.example/b",
          "http://shop.example:84/b",
          "ws://shop.example:84/b",
          "/b"
        ] do
      assert Address.parse(uri, last) == Address.parse(uri)
      assert Address.parse("/a", Address.parse(uri)) == Address.parse("/a")
    end

    assert Address.segments("//a/%C3%BC%2F/b/") == ["a", "ü/", "b"]
    assert Address.segments("/") == []

    socket = %{router: ShopWeb.Router, endpoint: ShopWeb.Endpoint}
    alias BilldogEng.Telemetry.Route
    route = &Route.of_view(&1, Address.parse("http://localhost" <> &2))
    assert route.(socket, "/tea%20%E2%98%95/1/") == "/tea ☕/:id"
    assert route.(socket, "/%zz") == nil
    assert route.(%{socket | router: nil}, "/") == nil
  end
end
