defmodule BilldogEng.ReleaseTest do
  @moduledoc """
  What a deploy does to an app: `mix release`, a start, SIGTERM. The release runs without Mix and without Rust,
  and its end is an orderly one, whatever its ingest does.
  """

  use BilldogEng.ClientCase

  @moduletag :slow

  alias BilldogEng.VM

  @moduletag :tmp_dir
  @moduletag timeout: 180_000

  @root Path.expand("..", __DIR__)

  @mix """
  defmodule Shop.MixProject do
    use Mix.Project

    def project do
      [
        app: :shop,
        version: "1.0.0",
        deps: [{:billdogeng, path: System.fetch_env!("ROOT")}],
        # Debian has Erlang in parts, of which a build machine need not have all.
        releases: [shop: [include_erts: false]]
      ]
    end

    def application, do: [mod: {Shop, []}, extra_applications: [:logger]]
  end
  """

  # 250 events, which nothing but its end makes due.
  @app """
  defmodule Shop do
    use Application

    def start(_type, _args) do
      opts = [
        api_key: "key",
        host: System.fetch_env!("HOST"),
        name: Shop.Analytics,
        flush_at: :infinity,
        flush_interval: 3_600_000,
        shutdown_timeout: String.to_integer(System.get_env("TIMEOUT", "5000")),
        spool_dir: System.get_env("SPOOL")
      ]

      {:ok, supervisor} = Supervisor.start_link([{BilldogEng.Analytics, opts}], strategy: :one_for_one)
      for n <- 1..250, do: BilldogEng.Analytics.capture(Shop.Analytics, "u", "e\#{n}")
      if System.get_env("FLUSH"), do: spawn(fn -> BilldogEng.Analytics.flush(Shop.Analytics) end)
      IO.puts("up")
      {:ok, supervisor}
    end
  end
  """

  # Once for all: it takes some seconds.
  defp release(dir) do
    app = Path.join(dir, "shop")
    File.mkdir_p!(Path.join(app, "lib"))
    File.write!(Path.join(app, "mix.exs"), @mix)
    File.write!(Path.join(app, "lib/shop.ex"), @app)
    [library] = :billdogeng |> :code.priv_dir() |> Path.join("native/billdogeng_nif.*") |> Path.wildcard()
    env = [{"MIX_ENV", "prod"}, {"ROOT", @root}, {"BILLDOGENG_NIF", library}, {"MIX_BUILD_PATH", nil}]
    assert {_, 0} = System.cmd("mix", ["release", "--quiet"], cd: app, env: env, stderr_to_stdout: true)
    Path.join(app, "_build/prod/rel/shop/bin/shop")
  end

  defp start(command, collector, env \\ []) do
    env = [HOST: Collector.url(collector), RELEASE_DISTRIBUTION: "none", MIX_ENV: "prod"] ++ env
    vm = VM.start(command: command, args: ["start"], env: env)
    VM.await(vm, "up")
    vm
  end

  defp terminate(vm), do: {_, 0} = System.cmd("kill", ["-TERM", "#{vm.pid}"])

  test "SIGTERM to a release", %{tmp_dir: dir} do
    command = release(dir)
    all = for n <- 1..250, do: "e#{n}"

    # The queue is sent.
    collector = start_collector()
    vm = start(command, collector)
    terminate(vm)
    assert {out, 0} = VM.ended(vm)
    assert names(collector) == all
    refute out =~ "dropped"

    # A flush in flight is waited for.
    collector = start_collector()
    gate(collector)
    vm = start(command, collector, FLUSH: "1", TIMEOUT: "30000")
    {handle, _} = at_gate()
    terminate(vm)
    Collector.respond(collector, :ok)
    Collector.release(handle)
    assert {out, 0} = VM.ended(vm)
    assert names(collector) == all
    refute out =~ "dropped"

    # The client does not wait for a hanging ingest beyond shutdown_timeout, and logs the lost events in one line.
    collector = start_collector()
    Collector.respond(collector, :hang)
    vm = start(command, collector, FLUSH: "1", TIMEOUT: "300")
    terminate(vm)
    assert {out, 0} = VM.ended(vm)

    assert out =~
             "dropped 250 events (stopped) after the client's process had ended: captured 250, delivered 0, dropped 250 (stopped)"

    # With a spool nothing is, and the next start sends it, before its own.
    spool = Path.join(dir, "spool")
    vm = start(command, collector, FLUSH: "1", TIMEOUT: "300", SPOOL: spool)
    terminate(vm)
    assert {out, 0} = VM.ended(vm)
    assert out =~ "left 250 events in the spool"
    refute out =~ "dropped"
    Collector.respond(collector, :ok)
    vm = start(command, collector, SPOOL: spool)
    terminate(vm)
    assert {_, 0} = VM.ended(vm)
    assert names(collector) == all ++ all
  end
end
