defmodule BilldogEng.TelemetryRedirectsTest do
  # Alone: what Phoenix emits reaches every handler.
  use BilldogEng.ClientCase

  import ExUnit.CaptureLog

  alias BilldogEng.{Recorded, Telemetry}

  setup do
    collector = start_collector()
    client = start_client(collector)
    assert Telemetry.attach_phoenix(client, distinct_id: "u1") == :ok
    on_exit(fn -> Telemetry.detach({Telemetry, client, :phoenix}) end)
    %{collector: collector, client: client, steps: Recorded.steps("phoenix_redirects")}
  end

  # Each step in a process of its own, as each LiveView is.
  defp viewed(%{client: client, collector: collector, steps: steps}, names) do
    for name <- names, do: Task.await(Task.async(fn -> Recorded.replay(steps, name) end))
    assert Analytics.flush(client) == :ok

    for %{"event_name" => "page_viewed", "properties" => properties} <- Collector.events(collector),
        do: {properties["via"], properties["route"]}
  end

  describe "a navigation is one view, of the page that it ends on," do
    for {what, step} <- [
          {"where an on_mount hook halts with push_navigate", :mount_halts},
          {"where mount/3 does push_navigate", :mount_navigates},
          {"where handle_params/3 does push_navigate", :params_navigate}
        ] do
      test what, context do
        assert viewed(context, [unquote(step), :navigated]) == [{"navigate", "/plain"}]
      end
    end

    test "where mount/3 redirects: the view of the request that follows", context do
      assert viewed(context, [:mount_redirects]) == []
    end

    test "where handle_params/3 does push_patch", context do
      assert viewed(context, [:params_patch]) == [{"navigate", "/patcher/default"}]
    end
  end

  describe "a patch is one view, of the path that it ends on," do
    test "where handle_params/3 does push_patch, once or twice", context do
      assert viewed(context, [:patch_patches, :patch_patches_twice]) == [
               {"patch", "/patcher/default"},
               {"patch", "/patcher/end"}
             ]
    end

    test "and none where it ends on the path that was there before", context do
      assert viewed(context, [:patch_back]) == []
    end

    test "where handle_params/3 does push_navigate: the next LiveView's", context do
      assert viewed(context, [:patch_navigates, :navigated]) == [{"navigate", "/plain"}]
    end
  end

  test "the time of a view has that of the callbacks that led to it", context do
    recorded = Keyword.fetch!(context.steps, :params_patch)
    native = recorded |> Enum.map(fn {_event, %{duration: duration}, _metadata} -> duration end) |> Enum.sum()
    assert [_] = viewed(context, [:params_patch])
    assert [%{"properties" => %{"duration_ms" => ms}}] = Collector.events(context.collector)
    assert ms == System.convert_time_unit(native, :native, :microsecond) / 1000
  end

  test "a channel is joined by the user of its socket", context do
    Telemetry.detach({Telemetry, context.client, :phoenix})
    assert Telemetry.attach_phoenix(context.client) == :ok
    log = capture_log(fn -> Recorded.replay(context.steps, :channels) end)
    assert Analytics.flush(context.client) == :ok
    # The context that join/3 put in the recorded app is not part of the recording.
    assert ["c1", "c2", "c3", "c1"] = for(event <- Collector.events(context.collector), do: event["user_id"])
    assert log =~ "in ShopWeb.RoomChannel: the socket has no user"
  end
end
