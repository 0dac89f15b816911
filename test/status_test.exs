defmodule BilldogEng.StatusTest do
  @moduledoc """
  The state of a client in stats/1 and debug/1, and captures that no client takes.
  """

  use BilldogEng.ClientCase, async: false

  import ExUnit.CaptureLog

  alias BilldogEng.Client.Missing

  @moduletag :capture_log

  defp state(client),
    do: client |> Analytics.stats() |> Map.take([:state, :next_attempt_in, :last_error, :last_success])

  @never %{state: :idle, next_attempt_in: nil, last_error: nil, last_success: nil}

  describe "stats/1" do
    test "shows a client that has nothing to do, in every mode" do
      assert state(start_client(nobody())) == @never
      for mode <- [:test, :disabled], do: assert(state(start_client(nobody(), mode: mode)) == @never)
    end

    test "shows when an idle client will flush what it has" do
      client = start_client(nobody())
      Analytics.capture(client, "u", "e")
      assert %{state: :idle, next_attempt_in: ms} = eventually(fn -> planned(client) end)
      assert ms in 1..3_600_000
      Analytics.purge(client)
      assert state(client) == @never
    end

    test "shows a request in flight, and the last one that was accepted" do
      collector = start_collector()
      client = start_client(collector, flush_at: 1)
      gate(collector)
      Analytics.capture(client, "u", "e")
      {handle, _} = at_gate()
      assert %{state: :in_flight, next_attempt_in: nil, last_success: nil} = state(client)
      before = DateTime.utc_now()
      Collector.release(handle, :ok)
      assert Analytics.flush(client) == :ok
      assert %{state: :idle, last_error: nil, last_success: %DateTime{} = time} = state(client)
      assert DateTime.diff(time, before, :millisecond) in -1..60_000
    end

    test "shows a wait between two attempts, and why there is one" do
      collector = start_collector()
      client = start_client(collector, flush_at: 1, max_retries: 5)
      Collector.respond(collector, {:status, 503, [{"retry-after", "30"}]})
      Analytics.capture(client, "u", "e")

      assert %{state: :waiting, next_attempt_in: ms, last_error: error} =
               eventually(fn -> planned(client) end)

      assert ms in 1..30_000
      assert %{message: "the collector" <> _, status: 503, code: "HTTP_503", time: %DateTime{}} = error
    end

    test "shows a failed flush as soon as its caller knows of it" do
      client = start_client(nobody())

      for n <- 1..200 do
        Analytics.capture(client, "u", "e#{n}")
        assert {:error, %Error{message: message}} = Analytics.flush(client)
        assert %{state: :backing_off, next_attempt_in: ms, last_error: error} = state(client)
        assert ms in 1..72_000
        assert %{message: ^message, status: 0, code: "NETWORK_ERROR"} = error
      end

      assert {:error, _} = Analytics.shutdown(client)
      assert %{state: :backing_off, next_attempt_in: nil} = state(client)
    end

    test "shows a suspension and its end" do
      collector = start_collector()
      client = start_client(collector)
      Collector.respond(collector, {:json, 200, ~s({"quota_limited":["events"]})})
      Analytics.capture(client, "u", "e")
      assert {:error, _} = Analytics.flush(client)

      assert %{
               state: :suspended,
               next_attempt_in: ms,
               last_error: %{code: "QUOTA_LIMITED"},
               last_success: nil
             } = state(client)

      assert ms in 1..900_000
    end

    test "shows the same of person updates" do
      collector = start_collector()
      client = start_client(collector)
      assert @never = Analytics.stats(client).person_updates
      Collector.respond(collector, {:status, 404})
      Analytics.set_person_properties(client, "u", set: %{a: 1})
      assert {:error, _} = Analytics.flush(client)
      assert %{state: :idle, person_updates: updates} = Analytics.stats(client)
      assert %{state: :backing_off, last_error: %{status: 404, time: %DateTime{}}} = updates
    end

    @tag :slow
    test "is shown by send_test_event of a client that runs in the same VM" do
      defmodule Shop do
        use BilldogEng, otp_app: :billdogeng_shop
      end

      assert BilldogEng.Client.TestEvent.running(inspect(Shop)) == []
      assert BilldogEng.Client.TestEvent.running("none, so config :billdogeng") == []
      start_supervised!({Shop, api_key: "key", host: nobody(), shutdown_timeout: 0})
      Shop.capture("u", "e")
      Shop.flush()
      shown = Map.new(BilldogEng.Client.TestEvent.running(inspect(Shop)))
      assert shown["state"] =~ ~r/^backing_off, next attempt in \d+ s$/
      assert shown["last error"] =~ ~r/refused.* \(NETWORK_ERROR\) at 20.*Z$/
      assert shown["delivered"] == "0 of 1 events, none yet"
    end
  end

  describe "debug/1" do
    test "shows the phase, what it waits for and the calls that wait, with their processes and events" do
      collector = start_collector()
      client = start_client(collector)

      assert %{state: :idle, waits_for: :events, callers: [], person_updates: nil} = Analytics.debug(client)

      gate(collector)
      for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
      flush = Task.async(fn -> Analytics.flush(client) end)
      {handle, _} = at_gate()
      length = Task.async(fn -> Analytics.queue_length(client) end)

      assert [_, _] = eventually(fn -> callers(client, 2) end)

      assert %{state: :in_flight, waits_for: :response, since: ms, next_attempt_in: nil} =
               debug = Analytics.debug(client)

      assert ms in 0..60_000

      assert Enum.sort_by(debug.callers, & &1.call) == [
               %{call: :flush, events: 3, pid: flush.pid},
               %{call: :queue_length, events: 3, pid: length.pid}
             ]

      Collector.release(handle, :ok)
      assert Task.await(flush) == :ok
      assert Task.await(length) == 0
      assert %{state: :idle, callers: []} = Analytics.debug(client)
    end

    test "shows a wait between two attempts, a backoff and a suspension, and the same of person updates" do
      collector = start_collector()
      client = start_client(collector, max_retries: 5)
      Collector.respond(collector, {:status, 503, [{"retry-after", "30"}]})
      Analytics.capture(client, "u", "e")
      flush = Task.async(fn -> Analytics.flush(client) end)
      assert [%{call: :flush, events: 1}] = eventually(fn -> callers(client, 1) end)
      assert %{state: :waiting} = eventually(fn -> planned(client) end)
      assert %{state: :waiting, waits_for: :retry, next_attempt_in: ms} = Analytics.debug(client)
      assert ms in 0..30_000

      Collector.respond(collector, {:status, 404})
      assert {:error, _} = Analytics.flush(client)
      assert {:error, _} = Task.await(flush)
      assert %{state: :backing_off, waits_for: :backoff} = Analytics.debug(client)

      Collector.respond(collector, {:json, 200, ~s({"quota_limited":["events"]})})
      assert {:error, _} = Analytics.flush(client)
      assert %{state: :suspended, waits_for: :quota, callers: []} = Analytics.debug(client)

      Analytics.set_person_properties(client, "u", set: %{a: 1})
      assert {:error, _} = Analytics.flush(client)
      assert %{person_updates: %{state: state, waits_for: :quota, callers: []}} = Analytics.debug(client)
      assert state == :suspended
    end

    test "exits as other calls do where there is no client" do
      assert {:noproc, _} = catch_exit(Analytics.debug(:nobody_here))
    end
  end

  defp callers(client, count) do
    callers = Analytics.debug(client).callers
    if length(callers) == count, do: callers
  end

  defp planned(client),
    do: with(%{next_attempt_in: ms} = state when ms != nil <- state(client), do: state, else: (_ -> nil))

  test "every code of an error is documented" do
    sources = Path.wildcard("lib/**/*.ex") ++ Path.wildcard("native/*/src/**/*.rs")
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(BilldogEng.Error)

    codes =
      for path <- sources,
          not String.contains?(path, "tests"),
          [code] <-
            Regex.scan(
              ~r/(?:Error\.new\([^\n]*, \d+, |without_answer\(\s*|code: Some\(|Some\()"([A-Z_]{4,})"/,
              File.read!(path),
              capture: :all_but_first
            ),
          uniq: true,
          do: code

    assert length(codes) >= 10
    for code <- codes -- ["INVALID_KEY"], do: assert(doc =~ ~s(`"#{code}"`), code)
  end

  describe "a capture under a name that no client has" do
    setup do
      {:ok, name: :"forgotten#{System.unique_integer([:positive])}"}
    end

    test "returns :ok, is counted, and warned of once with the child that is missing", %{name: name} do
      log =
        capture_log(fn ->
          for _ <- 1..3, do: assert(Analytics.capture(name, "u", "e") == :ok)
          assert Analytics.identify(name, "u", %{a: 1}) == :ok
          assert Analytics.set_person_properties(name, "u", set: %{a: 1}) == :ok
        end)

      assert [_] = Regex.scan(~r/dropped a capture for/, log)
      assert log =~ "dropped a capture for #{inspect(name)}: no client has this name"
      assert log =~ "Add {BilldogEng, name: #{inspect(name)}, api_key: …} to the app's supervisor"
      assert Analytics.missing()[name] == 5
    end

    test "names the module, where that is the client", %{name: name} do
      module = Module.concat([Macro.camelize("#{name}")])
      Code.eval_string("defmodule #{inspect(module)} do use BilldogEng, otp_app: :billdogeng_shop end")
      log = capture_log(fn -> module.capture("u", "e") end)
      assert log =~ "Add #{inspect(module)} to the app's supervisor"
    end

    test "is named by the client that takes the name, and warned of again after its end", %{name: name} do
      capture_log(fn -> for _ <- 1..4, do: Analytics.capture(name, "u", "e") end)
      opts = [api_key: "key", host: nobody(), name: name]
      log = capture_log(fn -> start_supervised!({Analytics, opts}) end)
      assert log =~ "dropped 4 captures for #{inspect(name)} while no client had this name"
      refute Map.has_key?(Analytics.missing(), name)
      stop_supervised!(name)
      assert capture_log(fn -> Analytics.capture(name, "u", "e") end) =~ "dropped a capture for"
    end

    test "takes bounded memory, however many names there are", %{name: name} do
      log = capture_log(fn -> for n <- 1..1_000, do: Analytics.capture({:global, {name, n}}, "u", "e") end)
      assert :ets.info(Missing, :size) <= 101
      assert length(Regex.scan(~r/dropped a capture for/, log)) <= 100
      assert [_] = Regex.scan(~r/more than 100 names/, log)
      assert Analytics.missing() |> Map.values() |> Enum.sum() >= 1_000
      for {{:global, _} = key, _} <- Analytics.missing(), do: :ets.delete(Missing, key)
      :ets.delete(Missing, :"other names")
    end
  end
end
