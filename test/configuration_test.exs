defmodule BilldogEng.ConfigurationTest do
  @moduledoc """
  Where a client's options come from, and what becomes of one without a key.
  """

  # The applications' environment is everybody's.
  use BilldogEng.ClientCase, async: false

  import ExUnit.CaptureLog

  defmodule Shop do
    use BilldogEng, otp_app: :billdogeng_shop

    def order_completed(id), do: capture(id, "order_completed", %{revenue: 1})
  end

  defp put_env(app, key, value) do
    Application.put_env(app, key, value)
    on_exit(fn -> Application.delete_env(app, key) end)
  end

  # Options with which a client of `collector` does nothing by itself.
  defp quiet(collector) do
    [host: Collector.url(collector), flush_at: :infinity, flush_interval: 3_600_000, shutdown_timeout: 0]
  end

  defp keys(collector) do
    for request <- Collector.requests(collector), {"x-api-key", key} <- request.headers, do: key
  end

  # The only thread names that this library has.
  defp threads do
    for path <- Path.wildcard("/proc/self/task/*/comm"),
        {:ok, name} <- [File.read(path)],
        String.starts_with?(name, "billdogeng"),
        do: path
  end

  describe "a module that uses BilldogEng" do
    test "has every function of a client, with the options of its app's configuration" do
      collector = start_collector()
      put_env(:billdogeng_shop, Shop, [api_key: "of-the-app"] ++ quiet(collector))
      start_supervised!(Shop)

      assert Shop.capture("u", "one") == :ok
      assert Shop.capture("u", "two", %{a: 1}) == :ok
      assert Shop.capture("u", "three", %{a: 1}, %{team: "t"}) == :ok
      assert Shop.capture("u", "four", %{}, %{}, timestamp: 1_000) == :ok
      assert Shop.identify("u") == :ok
      assert Shop.identify("u", %{plan: "pro"}) == :ok
      assert Shop.identify("u", %{plan: "pro"}, set_once: %{first: 1}) == :ok
      assert Shop.set_person_properties("u", set: %{plan: "pro"}) == :ok
      assert Shop.group_identify("team", "t") == :ok
      assert Shop.group_identify("team", "t", %{name: "T"}) == :ok
      assert Shop.alias("u", "v") == :ok
      assert Shop.order_completed("u") == :ok
      assert Shop.capture_exception("u", %RuntimeError{}, []) == :ok
      assert Shop.capture_exception("u", %RuntimeError{}, [], %{order: 7}) == :ok
      assert Shop.queue_length() == 13
      assert Shop.flush(timeout: 5_000) == :ok
      assert %{mode: :live, delivered: 13} = Shop.stats()
      assert Shop.flush() == :ok
      assert Shop.shutdown() == :ok
      assert Shop.purge() == :ok

      assert Enum.uniq(keys(collector)) == ["of-the-app"]

      assert names(collector) ==
               ~w(one two three four $identify $identify $identify $groupidentify $groupidentify) ++
                 ~w($create_alias order_completed $exception $exception)

      assert %{"event_timestamp" => 1_000} = Enum.at(Collector.events(collector), 3)
    end

    test "is named in every function that takes a client, as its pid and a struct of it are" do
      put_env(:billdogeng_shop, Shop, mode: :disabled)
      pid = start_supervised!(Shop)
      struct = %BilldogEng{api_key: "key", transport: nil, analytics: Shop}
      for server <- [Shop, pid, struct], do: Analytics.capture(server, "u", "e")
      for server <- [Shop, pid, struct], do: BilldogEng.capture(server, "u", "e")
      assert BilldogEng.stats(Shop).captured == 6
    end

    test "is given its options anew at each start, the child spec's above the app's, the library's beneath" do
      [library, app, spec] = collectors = for _ <- 1..3, do: start_collector()
      put_env(:billdogeng, :api_key, "library")
      put_env(:billdogeng, :host, Collector.url(library))
      put_env(:billdogeng, :shutdown_timeout, 0)

      for {configured, given} <- [
            {[], []},
            {[host: Collector.url(app), api_key: "app"], []},
            {[host: Collector.url(app), api_key: "app"], [api_key: "spec"]},
            {[host: Collector.url(app)], [host: Collector.url(spec), api_key: fn -> "spec" end]}
          ] do
        Application.put_env(:billdogeng_shop, Shop, configured)
        start_supervised!({Shop, given})
        Shop.capture("u", "e")
        assert Shop.flush() == :ok
        stop_supervised!(Shop)
      end

      Application.delete_env(:billdogeng_shop, Shop)
      assert Enum.map(collectors, &keys/1) == [["library"], ["app", "spec"], ["spec"]]
    end

    test "shows its key in no child spec, and no option where they can't be used" do
      refute inspect(Shop.child_spec(api_key: "s3cret")) =~ "s3cret"

      for {configured, given, expected} <- [
            {%{api_key: "s3cret"}, [], "config :billdogeng_shop"},
            {["s3cret"], [], "config :billdogeng_shop"},
            {[api_key: "s3cret", name: Other], [], ":name"},
            {[], [api_key: "s3cret", name: Other], ":name"},
            {[], ["s3cret"], "the child spec"}
          ] do
        put_env(:billdogeng_shop, Shop, configured)
        error = assert_raise ArgumentError, fn -> Shop.start_link(given) end
        assert error.message =~ expected
        assert error.message =~ inspect(Shop)
        refute error.message =~ "s3cret"
      end
    end

    test "names at compile time the options that it takes" do
      for opts <- ["", ", []", ", otp_app: nil", ", otp_app: :my_app, api_key: 1"] do
        code = "defmodule Wrong do use BilldogEng#{opts} end"
        assert_raise ArgumentError, ~r/otp_app: :my_app/, fn -> Code.eval_string(code) end
      end
    end

    test "may define its own start_link/1 and child_spec/1 on top" do
      code = """
      defmodule Overriding do
        use BilldogEng, otp_app: :billdogeng_shop
        def child_spec(opts), do: Map.put(super(opts), :restart, :transient)
      end
      """

      assert [{module, _}] = Code.compile_string(code)
      assert module.child_spec([]).restart == :transient
    end
  end

  describe "config :billdogeng" do
    test "has defaults for all clients; a client's own options and its :transport override them" do
      [configured, own] = for _ <- 1..2, do: start_collector()
      for {option, value} <- quiet(configured), do: put_env(:billdogeng, option, value)
      put_env(:billdogeng, :api_key, "library")
      put_env(:billdogeng, :name, Nobody)

      transport =
        BilldogEng.Transport.config(
          host: Collector.url(own),
          request_timeout: 5_000,
          gzip: false,
          max_retries: 0
        )

      for {module, opts} <- [
            {Analytics, []},
            {BilldogEng, [api_key: "own", host: Collector.url(own)]},
            {BilldogEng, [transport: transport]}
          ] do
        pid = start_supervised!({module, opts}, id: make_ref())
        Analytics.capture(pid, "u", "e")
        assert Analytics.flush(pid) == :ok
      end

      {:ok, %{analytics: pid}} = BilldogEng.new("new")
      Analytics.capture(pid, "u", "e")
      assert Analytics.flush(pid) == :ok

      assert keys(configured) == ["library", "new"]
      assert keys(own) == ["own", "library"]
      assert Process.whereis(Nobody) == nil
    end

    test "is checked as options are" do
      put_env(:billdogeng, :max_queue_bytes, :many)
      assert_raise ArgumentError, ~r/:max_queue_bytes/, fn -> Analytics.start_link(api_key: "key") end
      put_env(:billdogeng, :max_queue_bytes, 1_000_000)
      put_env(:billdogeng, :flush_att, 1)
      put_env(:billdogeng, :in_app, [:shop])
      log = capture_log(fn -> start_client(nobody()) end)
      assert log =~ "unknown options are ignored: :flush_att (did you mean :flush_at?)\n"
    end
  end

  # In a VM of its own: its home is an argument of the VM.
  test "a :spool_dir in a home that nobody knows costs the spool, not the client" do
    code = """
    opts = [api_key: "key", host: "#{nobody()}", spool_dir: "~/spool", shutdown_timeout: 0]
    {:ok, client} = BilldogEng.Analytics.start_link(opts)
    BilldogEng.Analytics.capture(client, "u", "e")
    %{captured: 1, queued: 1} = BilldogEng.Analytics.stats(client)
    IO.puts("captured")
    """

    args = ["-pa", Application.app_dir(:billdogeng, "ebin"), "-e", code]
    {output, 0} = System.cmd("elixir", args, env: [{"HOME", nil}], stderr_to_stdout: true)
    assert output =~ "captured\n"
    assert [line] = Regex.scan(~r/.*:spool_dir is ignored, events are kept in memory only.*/, output)
    assert to_string(line) =~ "[error]"
    assert to_string(line) =~ ~s("~/spool" can't be expanded)
    assert to_string(line) =~ "HOME"
  end

  test "{BilldogEng, opts} and {BilldogEng.Analytics, opts} are one child" do
    opts = [api_key: fn -> "key" end, name: MyApp.Analytics]
    assert BilldogEng.child_spec(opts) == Analytics.child_spec(opts)
    assert BilldogEng.child_spec([]) == Analytics.child_spec([])
  end

  describe "a client without a key" do
    test "is disabled with one warning, and counts what comes" do
      Process.flag(:trap_exit, true)
      collector = start_collector()
      host = Collector.url(collector)
      # Of other tests.
      eventually(fn -> BilldogEng.Client.Native.draining() == 0 end)
      before = threads()

      for opts <- [
            [],
            [api_key: nil],
            [api_key: ""],
            [api_key: " \t\n"],
            [api_key: fn -> nil end],
            [api_key: :""],
            [mode: :live]
          ] do
        log =
          capture_log(fn ->
            {:ok, client} = Analytics.start_link([host: host, flush_at: 1, flush_interval: 1] ++ opts)
            for _ <- 1..3, do: assert(Analytics.capture(client, "u", "e", %{pid: self()}) == :ok)
            Analytics.identify(client, "u", %{a: 1})
            GenServer.cast(client, {:enqueue, "u", "cast", {:raw, %{}}})
            send(client, :flush_tick)
            assert Analytics.queue_length(client) == 0

            assert %{mode: :disabled, captured: 5, delivered: 0, queued: 0, dropped: %{disabled: 5}} =
                     stats = Analytics.stats(client)

            assert balanced?(stats)
            assert Analytics.flush(client) == :ok
            assert Analytics.flush(client, timeout: 5_000) == :ok
            assert Analytics.purge(client) == :ok
            assert Analytics.shutdown(client) == :ok
            assert length(threads()) <= length(before)
            GenServer.stop(client)
            assert Analytics.capture(client, "u", "e") == :ok
            assert BilldogEng.Client.Native.stats(client) == :no_client
          end)

        assert [_, _] = String.split(log, "[BilldogEng:analytics]")
        assert log =~ ":api_key is missing or blank"
      end

      assert Collector.requests(collector) == []
      assert BilldogEng.Client.Native.draining() == 0
    end

    test "logs no warning with mode: :disabled" do
      log =
        capture_log(fn ->
          for mode <- [:disabled, :test] do
            {:ok, client} =
              Analytics.start_link(mode: mode, host: "http://plain.invalid", spool_dir: "/nowhere/x")

            assert Analytics.stats(client).mode == mode
          end
        end)

      refute log =~ ~r/unencrypted|spool_dir/
      refute File.exists?("/nowhere")
    end

    test "runs no hook of the app's" do
      test = self()
      {:ok, client} = Analytics.start_link(mode: :disabled, before_send: &send(test, &1))
      Analytics.capture(client, "u", "e")
      refute_received _
      assert Analytics.stats(client).dropped == %{disabled: 1}
    end

    test "is an error of new/2, which is given one by hand" do
      assert {:error, %Error{code: "INVALID_OPTION"}} = BilldogEng.new("")
      assert {:error, %Error{code: "INVALID_OPTION"}} = BilldogEng.new(nil)
    end

    test "has a mode that is none refused" do
      assert_raise ArgumentError, ~r/:mode: expected :live, :test or :disabled/, fn ->
        Analytics.start_link(api_key: "key", mode: :off)
      end
    end
  end
end
