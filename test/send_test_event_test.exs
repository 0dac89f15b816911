# Not compiled with the app, which has no :ssl.
Code.require_file("support/tls_ingest.exs", __DIR__)

defmodule BilldogEng.SendTestEventTest do
  @moduledoc """
  `mix billdogeng.send_test_event`, against real sockets.
  """

  # Mix's shell and the applications' environment are everybody's.
  use BilldogEng.ClientCase, async: false

  alias BilldogEng.TlsIngest
  alias BilldogEng.Client.Using
  alias Mix.Tasks.Billdogeng.SendTestEvent

  @key "s3cret-key"

  defmodule Shop do
    use BilldogEng, otp_app: :billdogeng_shop
  end

  defmodule Second do
    use BilldogEng, otp_app: :billdogeng_shop
  end

  setup_all do: TlsIngest.start_ssl()

  setup do
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)
    on_exit(fn -> Mix.shell(shell) end)
  end

  defp configure(opts) do
    Application.put_env(:billdogeng_shop, Shop, opts)
    on_exit(fn -> Application.delete_env(:billdogeng_shop, Shop) end)
  end

  # Its output, and its error, if any.
  defp run(argv) do
    failed =
      try do
        SendTestEvent.run(argv)
        nil
      rescue
        error in Mix.Error -> error.message
      end

    printed = printed()
    refute printed =~ @key
    if failed, do: refute(failed =~ @key)
    {printed, failed}
  end

  defp run_with(opts) do
    configure([api_key: @key] ++ opts)
    run(~w(--client #{inspect(Shop)}))
  end

  defp printed do
    receive do
      {:mix_shell, :info, [line]} -> IO.iodata_to_binary(line) <> "\n" <> printed()
    after
      0 -> ""
    end
  end

  describe "an event that is accepted" do
    test "goes by the configuration of the app's own client, and by which way is printed" do
      collector = start_collector(api_key: @key)
      dir = Path.join(System.tmp_dir!(), "billdogeng_none")
      drop = fn _event -> nil end
      opts = [host: Collector.url(collector), mode: :disabled, before_send: drop, spool_dir: dir]
      assert {printed, nil} = run_with(opts)

      assert [%{"event_name" => "billdogeng_test_event", "user_id" => "billdogeng-test"}] =
               Collector.events(collector)

      assert [%{status: 200, headers: headers}] = Collector.requests(collector)
      for header <- ["x-api-key", "x-billdog-api-key"], do: assert({header, @key} in headers)

      assert printed =~ ~r/^client     BilldogEng.SendTestEventTest.Shop$/m
      assert printed =~ ~r/^mode       :disabled/m
      assert printed =~ ~r/^host       #{Collector.url(collector)}$/m
      assert printed =~ ~r/^proxy      none$/m
      assert printed =~ ~r/^TLS roots  not needed/m
      assert printed =~ ~r/^status     200$/m
      assert printed =~ ~r/^took       \d+ ms$/m
      assert [_, library] = Regex.run(~r/^library    (.+)$/m, printed)
      assert File.exists?(library)
      refute File.exists?(dir)
    end

    test "may have its host and key given by hand, the rest by config :billdogeng" do
      collector = start_collector(api_key: @key)
      Application.put_env(:billdogeng, :api_key, "another")
      on_exit(fn -> Application.delete_env(:billdogeng, :api_key) end)
      assert {printed, nil} = run(["--host", Collector.url(collector), "--api-key", @key])
      assert printed =~ "client     none, so config :billdogeng"
      refute printed =~ "mode"
      assert Collector.count(collector) == 1

      assert {_, "the event was not accepted: the ingest returned HTTP 401" <> _} =
               run(["--host", Collector.url(collector)])
    end

    test "goes by TLS and by proxies" do
      {host, cacertfile} = TlsIngest.start()
      assert {printed, nil} = run_with(host: host, cacertfile: cacertfile)
      assert printed =~ "TLS roots  those of :cacertfile, #{cacertfile}"
      assert_received :request

      proxy = start_collector()
      address = String.replace(Collector.url(proxy), "http://", "http://me:passw0rd@")
      assert {printed, nil} = run_with(host: "http://ingest.invalid", proxy: address)
      assert printed =~ ~r/^proxy      #{Collector.url(proxy)}$/m
      refute printed =~ "passw0rd"
      assert Collector.count(proxy) == 1
    end
  end

  describe "a fault is reported with its remedy:" do
    test "no key" do
      for key <- [nil, "", " "] do
        configure(api_key: key, host: nobody())
        assert {printed, failed} = run(~w(--client #{inspect(Shop)}))
        assert failed =~ ":api_key is missing or blank"
        assert failed =~ "System.fetch_env!"
        assert printed =~ "library"
      end
    end

    test "a key that the ingest doesn't know, which its answer quotes" do
      collector = start_collector(api_key: "another")
      assert {printed, failed} = run_with(host: Collector.url(collector))
      assert printed =~ "status     401"
      assert failed =~ "HTTP 401: unknown API key"
      assert failed =~ "compare :api_key"

      Collector.respond(collector, {:json, 403, ~s({"error":{"message":"no project has #{@key}"}})})
      assert {_, failed} = run_with(host: Collector.url(collector))
      assert failed =~ "403: no project has [api_key]"
    end

    test "a key that the ingest quotes where the message is cut, without a part of it" do
      collector = start_collector()
      message = String.duplicate("x", 296) <> @key
      Collector.respond(collector, {:json, 403, ~s({"error":{"message":"#{message}"}})})
      assert {_, failed} = run_with(host: Collector.url(collector))
      assert failed =~ "xxx[api…"
      refute failed =~ "xs3c"
    end

    test "a key that can't be sent" do
      configure(api_key: @key <> "\n1", host: nobody())
      assert {_, failed} = run(~w(--client #{inspect(Shop)}))
      assert failed =~ "control character"
    end

    test "a name that DNS doesn't know" do
      assert {printed, failed} = run_with(host: "https://ingest.invalid/v1")
      assert failed =~ "DNS does not know the name ingest.invalid"
      assert failed =~ "check :host"
      assert printed =~ "took"
      refute printed =~ "status"
    end

    test "an untrusted certificate, one of another host, and no TLS at all" do
      {host, cacertfile} = TlsIngest.start()
      assert {_, failed} = run_with(host: host)
      assert failed =~ "TLS with #{host} failed"
      assert failed =~ ":cacertfile"

      assert {_, failed} =
               run_with(host: String.replace(host, "localhost", "127.0.0.1"), cacertfile: cacertfile)

      assert failed =~ "TLS with"
      assert failed =~ "the certificate is another host's"

      {host, own} = TlsIngest.start_self_signed()
      assert {_, failed} = run_with(host: host, cacertfile: own)
      assert failed =~ "CaUsedAsEndEntity"
      assert failed =~ "set :cacertfile to the authority's"

      plain = start_collector()
      assert {_, failed} = run_with(host: String.replace(Collector.url(plain), "http:", "https:"))
      assert failed =~ "the host's port does not speak TLS"
    end

    test "a proxy that isn't there, wants a password, or lets nothing through" do
      for host <- ["http://ingest.invalid", "https://ingest.invalid"] do
        gone = nobody()
        assert {_, failed} = run_with(host: host, proxy: String.replace(gone, "//", "//me:passw0rd@"))
        assert failed =~ "the proxy #{gone} can't be reached"
        assert failed =~ ":proxy option"
        refute failed =~ "passw0rd"

        proxy = start_collector()
        Collector.respond(proxy, {:status, 407, [{"proxy-authenticate", "Basic"}]})
        assert {_, failed} = run_with(host: host, proxy: Collector.url(proxy))
        assert failed =~ "requires a name and a password"
      end

      proxy = start_collector()
      assert {_, failed} = run_with(host: "https://ingest.invalid", proxy: Collector.url(proxy))
      assert failed =~ "does not connect to the host"
    end

    test "a quota that is used up" do
      collector = start_collector()
      Collector.respond(collector, {:json, 200, ~s({"success":true,"quota_limited":["events"]})})
      assert {printed, failed} = run_with(host: Collector.url(collector))
      assert printed =~ "status     200"
      assert failed =~ "quota is used up"
      assert failed =~ "raise the project's quota"
    end

    test "nobody there, no answer, a login page, another address, an ingest in trouble" do
      host = nobody()
      assert {_, failed} = run_with(host: host)
      assert failed =~ "#{host} refuses the connection"

      collector = start_collector()

      for {mode, expected} <- [
            {:reset, "can't be reached"},
            {:hang, "no response within request_timeout (200 ms)"},
            {{:status, 200, [{"content-type", "text/html"}], "<html>"}, "a login page"},
            {{:status, 302, [{"location", "/v2"}]}, "without /ingest-events"},
            {{:status, 404}, "without /ingest-events"},
            {{:status, 503}, "fails: try again later"},
            {{:status, 429}, "send less often"},
            {{:status, 422}, "refuses the request"}
          ] do
        Collector.respond(collector, mode)
        assert {_, failed} = run_with(host: Collector.url(collector), request_timeout: 200)
        assert failed =~ expected, inspect({mode, failed})
      end
    end

    test "options that can't be used, a client that is none, arguments that it doesn't take" do
      assert {"", failed} = run_with(host: "ftp://x")
      assert failed =~ "invalid value for :host"
      configure([@key])
      assert {"", failed} = run(~w(--client #{inspect(Shop)}))
      assert failed =~ "keyword list"
      assert {"", failed} = run(~w(--client Nobody))
      assert failed =~ "Nobody is no module with `use BilldogEng`"
      assert {"", failed} = run([@key])
      assert failed =~ "takes --client"
      assert {"", failed} = run(["--key", @key])
      assert failed =~ "takes --client"
    end
  end

  test "the clients of an app are the modules that use BilldogEng" do
    app = :billdogeng_some_shop
    :ok = :application.load({:application, app, [vsn: ~c"1", modules: [Shop, Enum, Second, Missing]]})
    on_exit(fn -> :application.unload(app) end)
    assert Using.clients([app, :kernel, :no_such_app]) == [Shop, Second]
  end

  @tag :slow
  test "the command's exit status is 0 only after a success" do
    collector = start_collector(api_key: @key)
    url = Collector.url(collector)

    for {key, status, expected} <- [
          {@key, 0, "The ingest has accepted"},
          {"wrong", 1, "Remedy: compare :api_key"}
        ] do
      command = ~w(billdogeng.send_test_event --host #{url} --api-key #{key})

      assert {output, ^status} =
               System.cmd("mix", command, env: [{"MIX_ENV", "test"}], stderr_to_stdout: true)

      assert output =~ expected
      refute output =~ @key
    end
  end
end
