defmodule BilldogEng.HookFaultsTest do
  # Hooks, and other code of an app, that fail or capture themselves.
  use BilldogEng.ClientCase, async: true

  import ExUnit.CaptureLog

  defmodule Calendar do
    @moduledoc "A calendar that ends the call in a way that its date's year selects."
    def naive_datetime_to_iso_days(year, _, _, _, _, _, _), do: fail(year)
    def day_rollover_relative_to_midnight_utc, do: {0, 1}
    defp fail(1), do: throw(:s3cret)
    defp fail(2), do: exit(:s3cret)
    defp fail(3), do: raise("s3cret")
  end

  for option <- [:before_send, :global_properties] do
    test "a capture by #{inspect(option)} to its own client is dropped as in_hook and logged once" do
      collector = start_collector()
      name = :"#{__MODULE__}.#{unquote(option)}"

      hook =
        case unquote(option) do
          :before_send ->
            fn event ->
              Analytics.capture(name, "u", "inner")
              event
            end

          :global_properties ->
            fn ->
              Analytics.capture(name, "u", "inner")
              %{}
            end
        end

      client = start_client(collector, [{:name, name}, {unquote(option), hook}])

      log =
        log_of(client, fn ->
          for _ <- 1..3, do: assert(Analytics.capture(client, "u", "outer") == :ok)
          eventually(fn -> Analytics.stats(client).captured == 6 end)
          assert Analytics.flush(client) == :ok
          :sys.get_state(client)
        end)

      assert names(collector) == ["outer", "outer", "outer"]
      assert %{captured: 6, delivered: 3, dropped: %{in_hook: 3}} = Analytics.stats(client)
      assert [_] = Regex.scan(~r/events? \(in_hook\)/, log)
    end
  end

  test "a hook may capture to another client, whose own hooks apply" do
    collector = start_collector()
    other = start_client(collector, before_send: &put_in(&1["properties"]["scrubbed"], true))

    client =
      start_client(nobody(),
        before_send: fn event ->
          Analytics.capture(other, "u", "copy")
          event
        end
      )

    assert Analytics.capture(client, "u", "outer") == :ok
    assert Analytics.flush(other) == :ok
    assert [%{"event_name" => "copy", "properties" => %{"scrubbed" => true}}] = Collector.events(collector)
    assert Analytics.stats(client).captured == 1
  end

  test "clients whose hooks capture to each other come to an end" do
    one = :"#{__MODULE__}.one"
    two = :"#{__MODULE__}.two"
    to = fn name -> fn event -> Analytics.capture(name, "u", "inner") && event end end
    client = start_client(nobody(), name: one, before_send: to.(two))
    other = start_client(nobody(), name: two, before_send: to.(one))
    assert Analytics.capture(client, "u", "outer") == :ok
    assert %{captured: 2, queued: 1, dropped: %{in_hook: 1}} = Analytics.stats(client)
    assert %{captured: 1, queued: 1} = Analytics.stats(other)
  end

  test "a failing hook sends its client's process one message" do
    client = start_client(nobody(), before_send: fn _ -> raise "no" end)

    capture_log(fn ->
      :sys.suspend(client)
      for _ <- 1..50, do: Analytics.capture(client, "u", "e")
      {:messages, messages} = Process.info(client, :messages)
      assert [_] = for({:hook_failed, :before_send, _} = message <- messages, do: message)
      :sys.resume(client)
      assert %{dropped: %{before_send: 50}} = Analytics.stats(client)
    end)
  end

  test "a local function of a module that was reloaded twice is named once, with the remedy" do
    # As bytes, for loading over old code ends processes that hold functions of it.
    define = fn properties ->
      Code.compile_string("""
      defmodule BilldogEng.HookFaultsTest.Reloaded do
        def hooks, do: for(hook <- [fn event -> event end, fn -> #{properties} end], do: :erlang.term_to_binary(hook))
      end
      """)

      apply(__MODULE__.Reloaded, :hooks, [])
    end

    hooks = define.("%{app: 1}")
    for module <- [__MODULE__.Reloaded], step <- [:delete, :purge], do: apply(:code, step, [module])
    define.("%{app: 2}")
    [before_send, globals] = Enum.map(hooks, &:erlang.binary_to_term/1)

    for {option, hook, effect} <- [
          {:before_send, before_send, "dropped its event"},
          {:global_properties, globals, "sent its event without them"}
        ] do
      client = start_client(nobody(), [{option, hook}])

      log =
        capture_log(fn ->
          for _ <- 1..3, do: assert(Analytics.capture(client, "u", "e") == :ok)
          Analytics.queue_length(client)
        end)

      assert [_] = Regex.scan(~r/is a local function of a version of BilldogEng.HookFaultsTest.Reloaded/, log)
      assert log =~ "use &BilldogEng.HookFaultsTest.Reloaded.function/arity"
      assert log =~ effect
      assert balanced?(Analytics.stats(client))
    end
  end

  test "a calendar that throws, exits or raises costs its value, not the event" do
    collector = start_collector()
    client = start_client(collector)

    for {year, text} <- [{1, "#Error<throw>"}, {2, "#Error<exit>"}, {3, "#Error<RuntimeError>"}] do
      date = %{~D[2026-01-01] | calendar: Calendar, year: year}
      assert Analytics.capture(client, "u", text, %{at: date, list: [date]}) == :ok
    end

    assert Analytics.flush(client) == :ok
    assert [_, _, _] = events = Collector.events(collector)

    for event <- events,
        do: assert(event["properties"] == %{"at" => event["event_name"], "list" => [event["event_name"]]})
  end

  test "an event whose capture fails in any other way is counted as failed, and logged once" do
    client = start_client(nobody(), before_send: & &1)

    log =
      log_of(client, fn ->
        # Only the process itself may write there.
        Process.put(:"$billdogeng_hooks", :broken)
        for _ <- 1..3, do: assert(Analytics.capture(client, "u", "e") == :ok)
        assert Analytics.identify(client, "u") == :ok
        assert Analytics.capture_exception(client, "u", %RuntimeError{message: "no"}, []) == :ok
        Process.delete(:"$billdogeng_hooks")
        Analytics.queue_length(client)
        :sys.get_state(client)
      end)

    assert %{captured: 5, dropped: %{failed: 5}} = Analytics.stats(client)
    assert [_] = Regex.scan(~r/events? \(failed\): /, log)
  end
end
