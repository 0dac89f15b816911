defmodule BilldogEng.LiveViewTest do
  use BilldogEng.ClientCase

  alias BilldogEng.{Context, Telemetry}
  alias BilldogEng.LiveView, as: Hook

  def visitor(socket), do: "visitor of #{socket.id}"

  defp socket(fields \\ %{}) do
    Map.merge(
      %{
        assigns: %{current_scope: %{user: %{id: "u1"}}},
        endpoint: ShopWeb.Endpoint,
        id: "phx-1",
        parent_pid: nil,
        private: %{},
        root_pid: self(),
        router: ShopWeb.Router,
        transport_pid: self(),
        view: ShopWeb.ListLive
      },
      fields
    )
  end

  # As LiveView does on a patch or a navigation, once the hooks of mount are through.
  defp handle_params(socket, uri) do
    for {{:handle_params, _}, hook} <- socket.private.hooks,
        do: assert({:cont, ^socket} = hook.(%{}, uri, socket))

    :ok
  end

  describe "on_mount" do
    test "puts whose the view is, and follows the route that it shows" do
      assert {:cont, socket} = Hook.on_mount(:default, %{}, %{}, socket())
      assert Context.get() == %{distinct_id: "u1", properties: %{view: "ShopWeb.ListLive"}}
      handle_params(socket, "http://localhost/list/5?token=s3cret")

      assert Context.get() == %{
               distinct_id: "u1",
               properties: %{view: "ShopWeb.ListLive", route: "/list/:id"}
             }

      # Another query is the same route.
      before = Context.get()
      handle_params(socket, "http://localhost/list/5?page=2")
      assert Context.get() == before

      # The view's later context stays.
      Context.put(distinct_id: "u2", properties: %{step: 1})
      handle_params(socket, "http://localhost/list")
      assert Context.get() == %{distinct_id: "u2", properties: %{step: 1, route: "/list"}}
    end

    test "takes the plug's options" do
      opts = [distinct_id: &__MODULE__.visitor/1, properties: {Map, :take, [[:id]]}]
      assert {:cont, _} = Hook.on_mount(opts, %{}, %{}, socket())

      assert Context.get() == %{
               distinct_id: "visitor of phx-1",
               properties: %{view: "ShopWeb.ListLive", id: "phx-1"}
             }

      assert_raise ArgumentError, ~r/BilldogEng.LiveView/, fn ->
        Hook.on_mount([user: 1], %{}, %{}, socket())
      end
    end

    test "leaves a request to the plug" do
      socket = socket(%{transport_pid: nil, root_pid: nil})
      assert Hook.on_mount(:default, %{}, %{}, socket) == {:cont, socket}
      assert Context.get() == nil
    end

    test "may come twice" do
      assert {:cont, socket} = Hook.on_mount(:default, %{}, %{}, socket())
      assert {:cont, socket} = Hook.on_mount(:default, %{}, %{}, socket)
      assert [_] = socket.private.hooks
    end

    test "hooks nothing where there is no route" do
      within = socket(%{parent_pid: self()})
      assert Hook.on_mount(:default, :not_mounted_at_router, %{}, within) == {:cont, within}
      beside = socket(%{router: nil})
      assert Hook.on_mount(:default, :not_mounted_at_router, %{}, beside) == {:cont, beside}
      assert Context.distinct_id() == "u1"
    end
  end

  test "a view within a view has its context in what handlers capture" do
    collector = start_collector()
    client = start_client(collector, context: true)
    :ok = Telemetry.attach_phoenix(client)
    on_exit(fn -> Telemetry.detach({Telemetry, client, :phoenix}) end)
    Hook.on_mount(:default, %{}, %{}, socket())
    within = socket(%{parent_pid: self(), assigns: %{}})
    event = [:phoenix, :live_view, :handle_event, :stop]
    {:ok, child} = Agent.start_link(fn -> nil end)

    Agent.update(child, fn _ ->
      :telemetry.execute(event, %{duration: 1}, %{socket: within, event: "save", params: %{}})
      nil = Context.get()
    end)

    assert Analytics.flush(client) == :ok
    assert [%{"event_name" => "live_event", "user_id" => "u1"}] = Collector.events(collector)
  end
end
