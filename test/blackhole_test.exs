defmodule BilldogEng.BlackholeTest do
  @moduledoc """
  A network from which nothing comes back, not even that there is nobody: two network namespaces of the
  test's own, the client's VM in one and the ingest's socket in the other, which loses the way back.

      here ── client's VM ── 192.0.2.1 ═══ 192.0.2.2 ── line ── collector (in this VM)
                                        ╳ route dropped
  """

  use BilldogEng.ClientCase

  @moduletag :slow

  alias BilldogEng.{Line, VM}

  # Printed, because a skipped test is easily taken for one that passes.
  unusable =
    with ip when ip != nil <- System.find_executable("ip"),
         {_, 0} <- System.cmd(ip, ~w(netns add billdogeng-try), stderr_to_stdout: true) do
      System.cmd(ip, ~w(netns del billdogeng-try))
      nil
    else
      nil -> "there is no `ip` (iproute2) here"
      {why, _} -> "network namespaces can't be made here: #{String.trim(why)}"
    end

  if unusable do
    IO.puts("BilldogEng.BlackholeTest is skipped: #{unusable}")
    @moduletag skip: unusable
  end

  @moduletag timeout: 120_000

  setup do
    [client, ingest] = for side <- ["c", "i"], do: "billdogeng-#{System.pid()}-#{side}"

    on_exit(fn ->
      for name <- [client, ingest], do: System.cmd("ip", ["netns", "del", name], stderr_to_stdout: true)
      File.rm_rf!("/etc/netns/#{client}")
    end)

    for name <- [client, ingest], do: ip!(["netns", "add", name])
    ip!(~w(link add bd0 netns #{client} type veth peer name bd0 netns #{ingest}))

    for {name, address} <- [{client, "192.0.2.1"}, {ingest, "192.0.2.2"}] do
      ip!(["-n", name, "addr", "add", address <> "/24", "dev", "bd0"])
      for device <- ["lo", "bd0"], do: ip!(["-n", name, "link", "set", device, "up"])
    end

    {:ok, client: client, ingest: ingest}
  end

  defp ip!(arguments) do
    {out, status} = System.cmd("ip", arguments, stderr_to_stdout: true)
    assert status == 0, "ip #{Enum.join(arguments, " ")}: #{out}"
  end

  defp drop_route(ingest), do: ip!(["-n", ingest, "route", "del", "192.0.2.0/24"])
  defp restore_route(ingest), do: ip!(["-n", ingest, "route", "add", "192.0.2.0/24", "dev", "bd0"])

  # The beginning of each script.
  @client """
  alias BilldogEng.{Analytics, Watch}

  start = fn opts ->
    {:ok, client} =
      Analytics.start_link(
        [api_key: "key", host: System.fetch_env!("HOST"), flush_at: :infinity, max_queue_size: :infinity] ++
          [max_retries: 0, shutdown_timeout: 1_000] ++ opts
      )

    client
  end

  capture = fn client, numbers -> for n <- numbers, do: :ok = Analytics.capture(client, "u", "e\#{n}") end

  step = fn name ->
    IO.puts(name)
    IO.gets("")
  end
  """

  test "the way back is lost: callers go on, flushes end, and all arrives when it is found again",
       %{client: client, ingest: ingest} do
    collector = start_collector()
    line = start_supervised!({Line, collector: collector, ip: {192, 0, 2, 2}, netns: "/run/netns/#{ingest}"})

    script = """
    client = start.(request_timeout: 1_000)
    capture.(client, 1..100)
    :ok = Analytics.flush(client)
    step.("connected")

    # Twice: with the connection that was open, and with one that is never established.
    capture.(client, 101..200)

    for _ <- 1..2 do
      {:error, %{status: 0, code: "NETWORK_ERROR", message: "no response within request_timeout (1000 ms)"}} = Analytics.flush(client)
      %{captured: 200, delivered: 100, queued: 100, in_flight: 0} = Analytics.stats(client)
    end

    step.("lost")
    :ok = Analytics.flush(client)
    %{captured: 200, delivered: 200, queued: 0, dropped: none} = Analytics.stats(client)
    0 = map_size(none)
    step.("found")

    # An attempt without end, and captures beside it.
    client = start.(request_timeout: :infinity)
    capture.(client, [201])
    flush = Task.async(fn -> Analytics.flush(client) end)
    [] = Watch.long_schedules(fn _ -> capture.(client, 202..100_200) end)
    %{captured: 100_000, delivered: 0, queued: 100_000, dropped: none} = Analytics.stats(client)
    0 = map_size(none)
    step.("captured")
    :ok = Task.await(flush, :infinity)
    :ok = Analytics.flush(client)
    %{captured: 100_000, delivered: 100_000, queued: 0} = Analytics.stats(client)
    System.halt(0)
    """

    vm = VM.start(script: @client <> script, netns: client, env: [HOST: Line.url(line)])
    VM.await(vm, "connected")
    drop_route(ingest)
    VM.go(vm)
    VM.await(vm, "lost")
    restore_route(ingest)
    VM.go(vm)
    VM.await(vm, "found")
    drop_route(ingest)
    VM.go(vm)
    VM.await(vm, "captured")
    restore_route(ingest)
    VM.go(vm)
    assert {_, 0} = VM.ended(vm)

    # Requests did get through, and were stored.
    assert Enum.uniq(names(collector)) == for(n <- 1..100_200, do: "e#{n}")
  end

  test "an end in a black hole takes shutdown_timeout, and logs the number of lost events", %{
    client: client,
    ingest: ingest
  } do
    collector = start_collector()
    line = start_supervised!({Line, collector: collector, ip: {192, 0, 2, 2}, netns: "/run/netns/#{ingest}"})
    drop_route(ingest)

    script = """
    {:ok, _} = Application.ensure_all_started(:billdogeng)
    client = start.([])
    capture.(client, 1..100)
    System.stop(0)
    Process.sleep(:infinity)
    """

    vm = VM.start(script: @client <> script, netns: client, env: [HOST: Line.url(line)])
    assert {out, 0} = VM.ended(vm)

    assert out =~
             "dropped 100 events (stopped) after the client's process had ended: captured 100, delivered 0"

    assert Collector.count(collector) == 0
  end

  test "a resolver from which nothing comes back holds neither callers nor the end", %{client: client} do
    # `ip netns exec` puts this in the place of /etc/resolv.conf. Nothing listens there, and no error comes back.
    File.mkdir_p!("/etc/netns/#{client}")
    File.write!("/etc/netns/#{client}/resolv.conf", "nameserver 192.0.2.77\noptions timeout:30 attempts:5\n")

    script = """
    {:ok, _} = Application.ensure_all_started(:billdogeng)
    client = start.(request_timeout: 1_000)
    capture.(client, [1])
    flush = Task.async(fn -> Analytics.flush(client) end)
    [] = Watch.long_schedules(fn _ -> capture.(client, 2..100_000) end)
    {:error, %{status: 0, code: "NETWORK_ERROR"}} = Task.await(flush, :infinity)
    %{captured: 100_000, delivered: 0, queued: 100_000, dropped: none} = Analytics.stats(client)
    0 = map_size(none)
    System.stop(0)
    Process.sleep(:infinity)
    """

    vm = VM.start(script: @client <> script, netns: client, env: [HOST: "http://ingest.example"])
    assert {out, 0} = VM.ended(vm)

    assert out =~
             "dropped 100000 events (stopped) after the client's process had ended: captured 100000, delivered 0"
  end
end
