defmodule BilldogEng.PlugTest do
  use BilldogEng.ClientCase

  import ExUnit.CaptureLog

  alias BilldogEng.{Context, Telemetry}
  require Logger

  def visitor(conn), do: conn.assigns[:visitor]
  def tenant(conn, tenant), do: %{tenant: tenant, path: length(conn.path_info)}
  def fails(_conn), do: raise("s3cret")

  defp conn(fields \\ %{}) do
    Map.merge(
      %{
        assigns: %{},
        host: "localhost",
        method: "GET",
        path_info: ["list", "5"],
        private: %{phoenix_router: ShopWeb.Router},
        request_path: "/list/5",
        resp_headers: [{"x-request-id", "r1"}],
        status: nil
      },
      fields
    )
  end

  defp through(conn, opts \\ []), do: BilldogEng.Plug.call(conn, BilldogEng.Plug.init(opts))

  describe "the plug" do
    test "puts whose the request is, its route and its id" do
      through(conn(%{assigns: %{current_scope: %{user: %{id: 7, email: "s3cret"}}}}))
      assert Context.get() == %{distinct_id: 7, properties: %{route: "/list/:id", request_id: "r1"}}

      through(conn(%{assigns: %{current_user: %{id: "u"}}, path_info: ["none"], resp_headers: []}))
      assert Context.get() == %{distinct_id: "u", properties: %{}}

      through(conn(%{assigns: %{current_scope: nil}, private: %{}}))
      assert Context.get() == %{distinct_id: nil, properties: %{request_id: "r1"}}
    end

    test "asks functions of the conn, where there are some" do
      opts = [distinct_id: &__MODULE__.visitor/1, properties: {__MODULE__, :tenant, ["acme"]}]
      through(conn(%{assigns: %{visitor: "v1", current_user: %{id: "u"}}, resp_headers: []}), opts)
      assert Context.get() == %{distinct_id: "v1", properties: %{route: "/list/:id", tenant: "acme", path: 2}}
    end

    test "has options that can be part of compiled code, as Plug has them in production" do
      opts = [distinct_id: &__MODULE__.visitor/1, properties: {__MODULE__, :tenant, ["acme"]}]
      assert {^opts, _} = opts |> BilldogEng.Plug.init() |> Macro.escape() |> Code.eval_quoted()
    end

    test "refuses options that it can't use" do
      for opts <- [[user: &__MODULE__.visitor/1], [distinct_id: "u"], [properties: %{}], :options] do
        assert_raise ArgumentError, fn -> BilldogEng.Plug.init(opts) end
      end
    end

    test "that fails breaks no request: it is logged once, and the request has no user" do
      log =
        capture_log(fn ->
          for _ <- 1..2 do
            assert %{private: %{billdogeng_context: context}} =
                     through(conn(), distinct_id: &__MODULE__.fails/1)

            assert context == %{distinct_id: nil, properties: %{route: "/list/:id", request_id: "r1"}}
          end
        end)

      assert [_, _] = String.split(log, "raised RuntimeError")
      refute log =~ "s3cret"
    end

    test "leaves nothing behind once the response is sent, and the conn names the user" do
      conn = through(conn(%{assigns: %{current_user: %{id: "a"}}}))
      # As one who signs in.
      Context.put(distinct_id: "b")
      conn = Plug.Conn.run_before_send(conn)
      assert Context.get() == nil
      assert conn.private.billdogeng_context == %{distinct_id: "b", properties: %{}}
    end

    test "may come twice in a request: the second replaces the first" do
      conn = conn(%{assigns: %{current_user: %{id: "a"}}}) |> through() |> Map.put(:assigns, %{}) |> through()
      assert Context.distinct_id() == nil
      assert [_leaves_once] = conn.private.before_send
    end
  end

  describe "a request that fails" do
    setup do
      collector = start_collector()
      client = start_client(collector)
      :ok = Telemetry.attach_phoenix(client)
      config = %{client: client, distinct_id: nil}
      handler = :"plug_test_#{System.unique_integer([:positive])}"
      :ok = :logger.add_handler(handler, BilldogEng.LoggerHandler, %{config: config})

      on_exit(fn ->
        Telemetry.detach({Telemetry, client, :phoenix})
        :logger.remove_handler(handler)
      end)

      %{collector: collector, client: client}
    end

    # The events that arrive and their distinct ID; nil for a random one.
    defp arrived(%{collector: collector, client: client}) do
      assert Analytics.flush(client) == :ok

      for event <- Collector.events(collector) do
        {event["event_name"],
         if(event["properties"]["$process_person_profile"] != false, do: event["user_id"])}
      end
    end

    # As Plug.RequestId, the router's pipeline, and Phoenix do in turns.
    defp begin(user, request_id) do
      Logger.metadata(request_id: request_id)
      through(conn(%{assigns: %{current_user: %{id: user}}, resp_headers: [{"x-request-id", request_id}]}))
    end

    defp rendered(conn, kind, reason) do
      metadata = %{conn: conn, status: 500, kind: kind, reason: reason, stacktrace: [], log: :error}
      capture_log(fn -> :telemetry.execute([:phoenix, :error_rendered], %{duration: 1}, metadata) end)
    end

    # As the web server, once the page is sent.
    defp crashed(reason) do
      capture_log(fn -> Logger.error("crashed", crash_reason: {reason, []}) end)
    end

    test "that raises has its user, and so has its crash, which is logged after the error page was sent",
         context do
      conn = Plug.Conn.run_before_send(%{begin("u1", "r1") | status: 500})
      rendered(conn, :error, %RuntimeError{message: "no"})
      crashed(%RuntimeError{message: "no"})
      assert arrived(context) == [{"request_failed", "u1"}, {"$exception", "u1"}]
    end

    test "by an exit or a throw has its user, though its telemetry event has the conn as it arrived",
         context do
      begin("u1", "r1")
      rendered(conn(), :exit, :timeout)
      crashed({:timeout, {GenServer, :call, []}})
      assert arrived(context) == [{"request_failed", "u1"}, {"$exception", "u1"}]
    end

    test "is not the one's that its process has served before", context do
      Plug.Conn.run_before_send(%{begin("u1", "r1") | status: 503})
      Logger.metadata(request_id: "r2")
      rendered(conn(), :exit, :timeout)
      crashed(%RuntimeError{message: "no"})
      # Nor where that one was left unanswered, and the next one has no user.
      begin("u1", "r3")
      Logger.metadata(request_id: "r4")
      rendered(conn(), :exit, :timeout)
      assert arrived(context) == [{"$exception", nil}]
    end
  end

  # A server that reads one request after the other from a connection, in one process that keeps its dictionary.
  # A request names its user, and whether it goes through the plug.
  defp serve(client) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, packet: :line, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)

    start_supervised!({Task,
     fn ->
       # The entries of Task are no server's.
       Process.delete(:"$callers")
       {:ok, socket} = :gen_tcp.accept(listener)
       requests(socket, client, nil)
     end})

    {:ok, connection} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, packet: :line, active: false])
    connection
  end

  defp requests(socket, client, late) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, line} ->
        [how, user] = line |> String.trim() |> String.split(" ")

        conn =
          conn(%{
            assigns: %{current_user: %{id: user}},
            resp_headers: [{"x-request-id", "of-" <> user}, {"content-type", "text/html"}]
          })

        conn = if how == "plug", do: through(conn), else: conn
        # The last request's task comes to its capture only now.
        if late, do: run(late)
        Analytics.capture(client, "explicit", "of " <> user)
        Task.await(Task.async(fn -> Analytics.capture(client, "explicit", "task of " <> user) end))
        late = task(fn -> Analytics.capture(client, "explicit", "late of " <> user) end)
        conn = Plug.Conn.run_before_send(%{conn | status: 200})

        :telemetry.execute([:phoenix, :router_dispatch, :stop], %{duration: 1}, %{
          conn: conn,
          route: "/",
          plug: nil
        })

        :ok = :gen_tcp.send(socket, "200 #{inspect(self())}\n")
        requests(socket, client, late)

      {:error, :closed} ->
        :ok
    end
  end

  defp task(fun), do: Task.async(fn -> receive(do: (:go -> fun.())) end)

  defp run(task) do
    send(task.pid, :go)
    Task.await(task)
  end

  defp request(connection, line) do
    :ok = :gen_tcp.send(connection, line <> "\n")
    {:ok, "200 " <> pid} = :gen_tcp.recv(connection, 0, 5_000)
    pid
  end

  test "two users on one connection that is kept alive: nothing of the first is in the second's events" do
    collector = start_collector()
    client = start_client(collector, context: true)
    :ok = Telemetry.attach_phoenix(client)
    on_exit(fn -> Telemetry.detach({Telemetry, client, :phoenix}) end)
    connection = serve(client)

    capture_log(fn ->
      pids =
        for line <- ["plug first", "plug second", "bare third", "plug second"], do: request(connection, line)

      assert [_one_process] = Enum.uniq(pids)
    end)

    :gen_tcp.close(connection)
    assert Analytics.flush(client) == :ok

    events =
      for event <- Collector.events(collector) do
        {event["event_name"], event["user_id"], event["properties"]["request_id"]}
      end

    assert events == [
             {"of first", "explicit", "of-first"},
             {"task of first", "explicit", "of-first"},
             {"page_viewed", "first", "of-first"},
             # Asks after the response, when the second user is served.
             {"late of first", "explicit", "of-first"},
             {"of second", "explicit", "of-second"},
             {"task of second", "explicit", "of-second"},
             {"page_viewed", "second", "of-second"},
             {"late of second", "explicit", "of-second"},
             {"of third", "explicit", nil},
             {"task of third", "explicit", nil},
             {"late of third", "explicit", nil},
             {"of second", "explicit", "of-second"},
             {"task of second", "explicit", "of-second"},
             {"page_viewed", "second", "of-second"}
           ]
  end

  test "a crash that a web server logs after its request's process has ended is the request's user's" do
    collector = start_collector()
    client = start_client(collector)
    handler = :"plug_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(handler, BilldogEng.LoggerHandler, %{config: %{client: client}})
    on_exit(fn -> :logger.remove_handler(handler) end)

    {owner, ref} =
      spawn_monitor(fn ->
        %{assigns: %{current_user: %{id: "u1"}}}
        |> conn()
        |> through()
        |> Map.put(:status, 500)
        |> Plug.Conn.run_before_send()
      end)

    assert_receive {:DOWN, ^ref, :process, ^owner, :normal}, 5_000
    # The conn as it was before all plugs, as Plug.Cowboy has it.
    metadata = [
      crash_reason: {%RuntimeError{message: "s3cret"}, []},
      domain: [:cowboy],
      conn: %{owner: owner}
    ]

    capture_log(fn -> Logger.error("request failed", metadata) end)
    assert Analytics.flush(client) == :ok
    assert [%{"event_name" => "$exception", "user_id" => "u1"}] = Collector.events(collector)
  end
end
