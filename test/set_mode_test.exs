defmodule BilldogEng.SetModeTest do
  use BilldogEng.ClientCase, async: true

  use BilldogEng.Test

  test "a client that is switched off drops what is captured from then on, and counts it" do
    collector = start_collector()
    client = start_client(collector)
    assert Analytics.set_mode(client, :disabled) == :ok
    # By a process that was there before, too.
    Task.await(Task.async(fn -> Analytics.capture(client, "u", "e") end))
    Analytics.identify(client, "u", %{plan: "pro"})
    Analytics.set_person_properties(client, "u", set: %{plan: "pro"})
    assert Analytics.flush(client) == :ok
    assert Collector.request_count(collector) == 0

    assert %{mode: :disabled, captured: 2, queued: 0, dropped: %{disabled: 2}} =
             stats = Analytics.stats(client)

    assert %{captured: 1, dropped: %{disabled: 1}} = stats.person_updates
  end

  test "what was queued before is delivered, by a flush and by the client's end" do
    collector = start_collector()
    client = start_client(collector, shutdown_timeout: 30_000)
    Analytics.capture(client, "u", "before")
    assert Analytics.set_mode(client, :disabled) == :ok
    Analytics.capture(client, "u", "while off")
    assert Analytics.stats(client).queued == 1
    assert Analytics.flush(client) == :ok
    assert Analytics.set_mode(client, :live) == :ok
    Analytics.capture(client, "u", "after")
    assert Analytics.set_mode(client, :disabled) == :ok
    GenServer.stop(client)
    eventually(fn -> Collector.count(collector) == 2 end)
    assert ["before", "after"] = for(event <- Collector.events(collector), do: event["event_name"])
  end

  test "neither before_send nor the encoder sees an event while the client is off" do
    test = self()

    client =
      start_client(start_collector(),
        before_send: fn event ->
          send(test, :seen)
          event
        end
      )

    assert Analytics.set_mode(client, :disabled) == :ok
    Analytics.capture(client, "u", "e", %{pid: self()})
    refute_received :seen
    assert %{replaced: 0, dropped: %{disabled: 1}} = Analytics.stats(client)
  end

  test "events that are dropped while off are no warning, nor at the client's end" do
    client = start_client(start_collector())

    log =
      ExUnit.CaptureLog.capture_log(fn ->
        own =
          log_of(client, fn ->
            Analytics.set_mode(client, :disabled)
            Analytics.capture(client, "u", "e")
            # Its answer comes after all notices of before.
            assert Analytics.flush(client) == :ok
          end)

        assert own == ""
        GenServer.stop(client)
        drained(client)
      end)

    refute log =~ "(disabled)"
  end

  test "a client of tests is switched off and is one of tests again" do
    {:ok, client} = Analytics.start_link(mode: :test)
    assert Analytics.set_mode(client, :disabled) == :ok
    Analytics.capture(client, "u", "while off")
    assert Analytics.set_mode(client, :live) == :ok
    Analytics.capture(client, "u", "after")
    assert_captured "after", _, client: client
    refute_captured "while off", _, client: client, timeout: 0
    assert Analytics.stats(client).mode == :test
  end

  test "a client that was started disabled can't be switched on" do
    {:ok, client} = Analytics.start_link(mode: :disabled)
    assert Analytics.set_mode(client, :disabled) == :ok
    assert {:error, %{code: "NOT_LIVE", message: message}} = Analytics.set_mode(client, :live)
    assert message =~ "mode: :live"
    assert Analytics.stats(client).mode == :disabled
  end

  test "another mode raises, and no client exits as calls do" do
    client = start_client(start_collector())

    assert_raise ArgumentError, ~r/:live or :disabled, got: :test/, fn ->
      Analytics.set_mode(client, :test)
    end

    assert {:noproc, _} = catch_exit(Analytics.set_mode(__MODULE__.Nobody, :disabled))
  end
end
