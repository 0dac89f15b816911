defmodule BilldogEng.EndingTest do
  @moduledoc """
  How clients end while their ingest hangs: within their time, and with exact accounts. Events that were
  accepted is with the collector, what was not is in the last line with its count, or in the spool.
  """

  # Alone: it reads the log, and waits until no client drains.
  use BilldogEng.ClientCase

  import ExUnit.CaptureLog

  alias BilldogEng.Client.Native

  @moduletag :tmp_dir

  setup do
    eventually(fn -> Native.draining() == 0 end)
    %{collector: start_collector()}
  end

  defp supervise(collector, opts) do
    opts =
      [api_key: "key", host: Collector.url(collector), flush_at: :infinity, flush_interval: 3_600_000] ++
        [max_queue_size: :infinity, max_batch_size: 10, shutdown_timeout: 300] ++ opts

    # Never restarted: how it ends is what is tried.
    client = Supervisor.child_spec({Analytics, opts}, restart: :temporary, shutdown: 1_000)
    above = %{id: :above, type: :supervisor, restart: :temporary}
    start = {Supervisor, :start_link, [[client], [strategy: :one_for_one]]}
    supervisor = start_supervised!(Map.put(above, :start, start))
    [{_, client, _, _}] = Supervisor.which_children(supervisor)
    {supervisor, client}
  end

  # Of 35 events 10 are delivered; then nothing is answered any more.
  defp hang_after_10(client, collector) do
    for n <- 1..10, do: Analytics.capture(client, "u", "e#{n}")
    assert Analytics.flush(client) == :ok
    Collector.respond(collector, :hang)
    for n <- 11..35, do: Analytics.capture(client, "u", "e#{n}")
  end

  endings = [
    "stopped: GenServer.stop/1": quote(do: fn _, client -> GenServer.stop(client) end),
    "killed: Process.exit/2 with :kill": quote(do: fn _, client -> Process.exit(client, :kill) end),
    "crashed: an exit with a reason": quote(do: fn _, client -> Process.exit(client, :boom) end),
    "its supervisor stopped": quote(do: fn supervisor, _ -> Supervisor.stop(supervisor) end),
    "its supervisor killed": quote(do: fn supervisor, _ -> Process.exit(supervisor, :kill) end),
    "its supervisor shut down by the one above": quote(do: fn _, _ -> stop_supervised(:above) end)
  ]

  test "a refused connection does not end a client that has delivered before its time", %{
    collector: collector
  } do
    opts = [api_key: "key", host: Collector.url(collector), flush_at: :infinity, flush_interval: 3_600_000]
    {:ok, client} = Analytics.start_link(opts ++ [max_retries: 0, shutdown_timeout: 30_000])
    Analytics.capture(client, "u", "e1")
    assert Analytics.flush(client) == :ok
    Collector.respond(collector, :refuse)
    Analytics.capture(client, "u", "e2")
    assert {:error, %Error{status: 0}} = Analytics.flush(client)
    GenServer.stop(client)
    Collector.respond(collector, :ok)
    drained(client)
    assert names(collector) == ["e1", "e2"]
  end

  for {how, ending} <- endings do
    test "#{how}: what the ingest had no answer for is counted in one line", %{collector: collector} do
      {supervisor, client} = supervise(collector, [])
      hang_after_10(client, collector)

      log =
        capture_log(fn ->
          ended(unquote(ending), supervisor, client)
          drained(client)
        end)

      assert names(collector) == for(n <- 1..10, do: "e#{n}")
      assert [line] = for(line <- String.split(log, "\n"), line =~ "BilldogEng", do: line)

      assert line =~
               "dropped 25 events (stopped) after the client's process had ended: captured 35, delivered 10, dropped 25 (stopped)"
    end

    test "#{how}, in the middle of a flush/1: the same", %{collector: collector} do
      {supervisor, client} = supervise(collector, [])
      hang_after_10(client, collector)
      caller = spawn(fn -> Analytics.flush(client) end)
      ref = Process.monitor(caller)
      eventually(fn -> Collector.request_count(collector) == 2 end)

      log =
        capture_log(fn ->
          ended(unquote(ending), supervisor, client)
          drained(client)
        end)

      # Callers that waited exit, as with any GenServer that ends.
      assert_receive {:DOWN, ^ref, :process, _, {_reason, {GenServer, :call, _}}}, 5_000
      assert names(collector) == for(n <- 1..10, do: "e#{n}")
      assert log =~ "captured 35, delivered 10, dropped 25 (stopped)"
    end

    test "#{how}, with a spool: what is left is sent by the next start", context do
      %{collector: collector, tmp_dir: tmp} = context
      dir = Path.join(tmp, "spool")
      {supervisor, client} = supervise(collector, spool_dir: dir)
      hang_after_10(client, collector)

      log =
        capture_log(fn ->
          ended(unquote(ending), supervisor, client)
          drained(client)
        end)

      assert names(collector) == for(n <- 1..10, do: "e#{n}")
      assert log =~ "left 25 events in the spool"
      refute log =~ ~r|dropped .*captured 35,|

      Collector.respond(collector, :ok)
      next = start_client(collector, spool_dir: dir)
      assert Analytics.flush(next) == :ok
      assert names(collector) == for(n <- 1..35, do: "e#{n}")
      assert %{captured: 25, delivered: 25, queued: 0, dropped: none} = Analytics.stats(next)
      assert none == %{}
    end
  end

  defp ended(ending, supervisor, client) do
    ref = Process.monitor(client)
    ending.(supervisor, client)
    assert_receive {:DOWN, ^ref, :process, _, _}, 5_000
  end
end
