defmodule BilldogEng.VMTest do
  # How a whole VM ends: each test runs one of its own.
  use BilldogEng.ClientCase, async: true

  @moduletag :slow
  @moduletag :tmp_dir

  # An app with a supervised client, which depends on this library as apps do.
  @app """
  defmodule Shop do
    use Application

    def start(_type, _args) do
      timeout = String.to_integer(System.get_env("TIMEOUT", "500"))
      opts = [api_key: "key", host: System.fetch_env!("HOST"), name: Shop.Analytics, shutdown_timeout: timeout]
      Supervisor.start_link([{BilldogEng.Analytics, opts}], strategy: :one_for_one)
    end

    def boot do
      :ok = :application.load({:application, :shop, [
        modules: [], registered: [], vsn: ~c"1", mod: {Shop, []},
        applications: [:kernel, :stdlib, :elixir, :logger, :billdogeng]
      ]})

      {:ok, _} = Application.ensure_all_started(:shop)
    end

    def capture(count) do
      for n <- 1..count, do: BilldogEng.Analytics.capture(Shop.Analytics, "u", "e\#{n}")
    end
  end
  """

  defp run(script, collector, dir, host \\ nil) do
    file = Path.join(dir, "script.exs")
    File.write!(file, @app <> script)
    paths = for app <- [:billdogeng], arg <- ["-pa", Application.app_dir(app, "ebin")], do: arg
    env = [{"HOST", host || Collector.url(collector)}, {"MARK", Path.join(dir, "mark")}]
    System.cmd("elixir", paths ++ [file], env: env, stderr_to_stdout: true)
  end

  describe "System.stop" do
    @script "Shop.boot(); Shop.capture(250); System.stop(0); Process.sleep(:infinity)"

    test "sends what is queued", %{tmp_dir: dir} do
      collector = start_collector()
      assert {_, 0} = run(@script, collector, dir)
      assert names(collector) == for(n <- 1..250, do: "e#{n}")
    end

    test "ends while the ingest hangs, and logs the lost events", %{tmp_dir: dir} do
      collector = start_collector()
      Collector.respond(collector, :hang)
      assert {out, 0} = run(@script, collector, dir)
      assert out =~ "dropped 250 events (stopped)"
    end

    test "ends while the ingest is down, and logs the lost events", %{tmp_dir: dir} do
      assert {out, 0} = run(@script, nil, dir, nobody())
      assert out =~ "dropped 250 events (stopped)"
    end

    defp unsupervised(opts) do
      """
      {:ok, _} = Application.ensure_all_started(:billdogeng)
      opts = [api_key: "key", host: System.fetch_env!("HOST")] ++ #{inspect(opts)}
      {:ok, client} = BilldogEng.Analytics.start_link(opts)
      BilldogEng.Analytics.capture(client, "u", "e")
      System.stop(0)
      Process.sleep(:infinity)
      """
    end

    test "sends what a client that nobody supervises has queued", %{tmp_dir: dir} do
      collector = start_collector()
      assert {_, 0} = run(unsupervised([]), collector, dir)
      assert names(collector) == ["e"]
    end

    test "has one line for what a client that nobody supervises has lost", %{tmp_dir: dir} do
      assert {out, 0} = run(unsupervised(shutdown_timeout: 500), nil, dir, nobody())
      assert [_] = Regex.scan(~r/dropped 1 event/, out)
      assert out =~ "dropped 1 event (stopped)"
    end
  end

  test "an app that is stopped by itself has its events sent", %{tmp_dir: dir} do
    collector = start_collector()

    script = """
    Shop.boot()
    Shop.capture(250)
    Application.stop(:shop)
    Application.stop(:billdogeng)
    System.halt(0)
    """

    assert {_, 0} = run(script, collector, dir)
    assert Collector.count(collector) == 250
  end

  test "an app that is stopped while a flush is in flight has its events sent" do
    collector = start_collector()
    gate(collector)

    script = """
    Shop.boot()
    Shop.capture(250)
    spawn(fn -> BilldogEng.Analytics.flush(Shop.Analytics) end)
    IO.puts("flushing")
    IO.gets("")
    Application.stop(:shop)
    IO.puts("stopped")
    Application.stop(:billdogeng)
    System.halt(0)
    """

    env = [HOST: Collector.url(collector), TIMEOUT: "30000"]
    vm = BilldogEng.VM.start(script: @app <> script, env: env)
    BilldogEng.VM.await(vm, "flushing")
    {handle, _} = at_gate()
    BilldogEng.VM.go(vm)
    BilldogEng.VM.await(vm, "stopped")
    Collector.respond(collector, :ok)
    Collector.release(handle)
    assert {_, 0} = BilldogEng.VM.ended(vm)
    assert names(collector) == for(n <- 1..250, do: "e#{n}")
  end

  test "System.halt ends at once, in the middle of everything", %{tmp_dir: dir} do
    collector = start_collector()
    script = "Shop.boot(); Shop.capture(5_000); System.halt(7)"
    assert {_, 7} = run(script, collector, dir)
    Collector.respond(collector, :hang)
    assert {_, 7} = run(script, collector, dir)
    assert {_, 7} = run(script, nil, dir, nobody())
  end

  test "the end of a script ends cleanly with clients alive", %{tmp_dir: dir} do
    collector = start_collector()
    assert {_, 0} = run("Shop.boot(); Shop.capture(5_000)", collector, dir)
  end

  test ":init.restart goes through, and clients work after it", %{tmp_dir: dir} do
    script = """
    Shop.boot()

    if File.exists?(System.fetch_env!("MARK")) do
      Shop.capture(1)
      :ok = BilldogEng.Analytics.flush(Shop.Analytics)
      System.stop(0)
    else
      File.touch!(System.fetch_env!("MARK"))
      Shop.capture(250)
      :init.restart()
    end

    Process.sleep(:infinity)
    """

    collector = start_collector()
    assert {_, 0} = run(script, collector, dir)
    assert names(collector) == for(n <- 1..250, do: "e#{n}") ++ ["e1"]

    File.rm!(Path.join(dir, "mark"))
    Collector.respond(collector, [:hang, :ok])
    assert {_, 0} = run(script, collector, dir)
  end

  test "the native library stays mapped after the stub module is purged" do
    # In a VM without a client: the VM itself keeps a library that has one.
    script = ~S"""
    mapped? = fn -> File.read!("/proc/self/maps") =~ "billdogeng_nif" end
    alias BilldogEng.Client.Native
    {:module, Native} = Code.ensure_loaded(Native)
    nil = Native.load_error()
    for _ <- 1..2 do
      true = :code.delete(Native)
      :code.purge(Native)
      IO.puts("mapped: #{mapped?.()}")
      {:module, Native} = Code.ensure_loaded(Native)
      nil = Native.load_error()
    end
    """

    paths = ["-pa", Application.app_dir(:billdogeng, "ebin")]

    assert {"mapped: true\nmapped: true\n", 0} =
             System.cmd("elixir", paths ++ ["-e", script], stderr_to_stdout: true)
  end

  test "without the library's application clients work all the same", %{tmp_dir: dir} do
    collector = start_collector()

    script = """
    opts = [api_key: "key", host: System.fetch_env!("HOST"), global_properties: %{app: "shop"}]
    {:ok, client} = BilldogEng.Analytics.start_link(opts)
    BilldogEng.Analytics.capture(client, "u", "e")
    :ok = BilldogEng.Analytics.flush(client)
    {:ok, _} = Application.ensure_all_started(:billdogeng)
    BilldogEng.Analytics.capture(client, "u", "e")
    :ok = BilldogEng.Analytics.flush(client)
    """

    assert {_, 0} = run(script, collector, dir)

    assert [%{"app" => "shop"}, %{"app" => "shop"}] =
             for(e <- Collector.events(collector), do: e["properties"])
  end
end
