defmodule BilldogEng.VisitorTest do
  use BilldogEng.ClientCase

  alias BilldogEng.{Context, Telemetry, Visitor}

  doctest BilldogEng.Visitor

  defp conn(session, assigns \\ %{}) do
    %{
      assigns: assigns,
      host: "localhost",
      method: "GET",
      path_info: ["list", "5"],
      private: %{phoenix_router: ShopWeb.Router, plug_session: session},
      request_path: "/list/5",
      resp_headers: [{"content-type", "text/html"}],
      status: 200
    }
  end

  defp visit(session, assigns \\ %{}) do
    conn = session |> conn(assigns) |> Visitor.call(Visitor.init([])) |> BilldogEng.Plug.call([])
    {conn, conn.private.plug_session}
  end

  defp socket(assigns \\ %{}) do
    %{
      assigns: assigns,
      endpoint: ShopWeb.Endpoint,
      id: "phx-1",
      parent_pid: nil,
      private: %{},
      root_pid: self(),
      router: ShopWeb.Router,
      transport_pid: self(),
      view: ShopWeb.ListLive
    }
  end

  test "a visitor has one ID for as long as the session lasts, and no other visitor has it" do
    {first, session} = visit(%{})
    assert "visitor-" <> _ = id = Visitor.id(first)
    assert Context.distinct_id() == id
    {again, ^session} = visit(session)
    assert Visitor.id(again) == id
    {other, _session} = visit(%{})
    assert Visitor.id(other) != id
  end

  test "a user's own ID is used where there is one, and the visitor's is known for an alias" do
    {conn, session} = visit(%{}, %{current_user: %{id: "u1"}})
    assert Context.distinct_id() == "u1"
    assert "visitor-" <> _ = Visitor.id(conn)

    {:cont, socket} =
      BilldogEng.LiveView.on_mount(:default, %{}, session, socket(%{current_user: %{id: "u1"}}))

    assert Context.distinct_id() == "u1"
    assert Visitor.id(socket) == Visitor.id(conn)
  end

  test "a LiveView has the visitor of its session" do
    {conn, session} = visit(%{})
    Context.clear()
    {:cont, _socket} = BilldogEng.LiveView.on_mount(:default, %{}, session, socket())
    assert Context.distinct_id() == Visitor.id(conn)
    {:cont, socket} = BilldogEng.LiveView.on_mount(:default, %{}, %{}, socket())
    assert {Context.distinct_id(), Visitor.id(socket)} == {nil, nil}
  end

  test "a :distinct_id function decides alone" do
    conn = %{} |> conn() |> Visitor.call([]) |> BilldogEng.Plug.call(distinct_id: fn _conn -> nil end)
    assert Context.distinct_id() == nil
    BilldogEng.Plug.call(conn, distinct_id: &Visitor.id/1)
    assert Context.distinct_id() == Visitor.id(conn)
  end

  test "forget/1 takes the ID out of the session and the conn" do
    {conn, _session} = visit(%{"consent" => true})
    conn = Visitor.forget(conn)
    assert conn.private.plug_session == %{"consent" => true}
    assert Visitor.id(conn) == nil
  end

  test "page views are captured under the visitor's ID" do
    collector = start_collector()
    client = start_client(collector)
    :ok = Telemetry.attach_phoenix(client)
    on_exit(fn -> Telemetry.detach({Telemetry, client, :phoenix}) end)
    {conn, _session} = visit(%{})
    conn = Plug.Conn.run_before_send(conn)
    :telemetry.execute([:phoenix, :router_dispatch, :stop], %{duration: 1}, %{conn: conn, route: "/list/:id"})
    assert Analytics.flush(client) == :ok
    assert [%{"event_name" => "page_viewed", "user_id" => id}] = Collector.events(collector)
    assert id == Visitor.id(conn)
  end

  test "it takes no options" do
    assert_raise ArgumentError, ~r/expected none/, fn -> Visitor.init(cookie: "v") end
  end
end
