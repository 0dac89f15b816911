# Not compiled with the app, which has no :ssl.
Code.require_file("support/tls_ingest.exs", __DIR__)

defmodule BilldogEng.SecurityTest do
  @moduledoc """
  Trusted authorities, proxies, and the log lines about them.
  """

  use BilldogEng.ClientCase, async: false

  import ExUnit.CaptureLog

  alias BilldogEng.TlsIngest

  setup_all do: TlsIngest.start_ssl()

  test "an ingest whose authority :cacertfile names is trusted" do
    {host, cacertfile} = TlsIngest.start()
    client = start_client(host, cacertfile: cacertfile)
    Analytics.capture(client, "u", "e")
    assert Analytics.flush(client) == :ok
    assert_received :request
  end

  test "an ingest of an unknown authority, or of another name, is sent nothing" do
    {host, cacertfile} = TlsIngest.start()

    for {host, opts} <- [
          {host, []},
          {String.replace(host, "localhost", "127.0.0.1"), [cacertfile: cacertfile]}
        ] do
      client = start_client(host, opts)
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: 0, code: "NETWORK_ERROR", message: message}} = Analytics.flush(client)
      assert message =~ "certificate"
      assert Analytics.stats(client).queued == 1
    end

    refute_received :request
  end

  test "a :cacertfile without certificates, and a :proxy that is none, are refused with their names" do
    for path <- ["/nowhere.pem", __ENV__.file, 1] do
      assert_raise ArgumentError, ~r/:cacertfile/, fn ->
        Analytics.start_link(api_key: "key", cacertfile: path)
      end
    end

    error =
      assert_raise ArgumentError, fn -> Analytics.start_link(api_key: "key", proxy: "user:passw0rd@proxy") end

    assert error.message =~ ":proxy"
    refute error.message =~ "passw0rd"
  end

  test "requests go by the :proxy" do
    proxy = start_collector()

    capture_log(fn ->
      client = start_client("http://ingest.invalid", proxy: Collector.url(proxy))
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
    end)

    assert names(proxy) == ["e"]
    assert [%{headers: headers}] = Collector.requests(proxy)
    assert {"host", "ingest.invalid"} in headers
  end

  # In a VM of its own: what Erlang sets in its environment, its native code does not see.
  test "the environment's proxy is taken only if asked for" do
    proxy = start_collector()
    collector = start_collector()

    for opts <- ["[]", "[proxy: :environment]"] do
      code = """
      opts = [api_key: "key", host: "#{Collector.url(collector)}"] ++ #{opts}
      {:ok, client} = BilldogEng.Analytics.start_link(opts)
      BilldogEng.Analytics.capture(client, "u", "#{opts}")
      :ok = BilldogEng.Analytics.flush(client)
      """

      env = [
        {"HTTP_PROXY", Collector.url(proxy)},
        {"NO_PROXY", "localhost"},
        {"no_proxy", nil},
        {"http_proxy", nil}
      ]

      ebin = Application.app_dir(:billdogeng, "ebin")
      assert {_, 0} = System.cmd("elixir", ["-pa", ebin, "-e", code], env: env, stderr_to_stdout: true)
    end

    assert names(collector) == ["[]"]
    assert names(proxy) == ["[proxy: :environment]"]
  end

  # In a VM of its own: what Erlang sets in its environment, its native code does not see.
  @tag :slow
  test "SSL_CERT_FILE and SSL_CERT_DIR that name no certificate are warned of, with their remedy" do
    {_, cacertfile} = TlsIngest.start()
    directory = Path.join(System.tmp_dir!(), "billdogeng_roots_#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    File.cp!(cacertfile, Path.join(directory, "authority.pem"))

    code = """
    for _ <- 1..2, do: BilldogEng.Analytics.start_link(api_key: "key", host: "https://h.invalid", shutdown_timeout: 0)
    IO.puts("roots: " <> BilldogEng.Client.Roots.describe("https://h.invalid", nil))
    """

    empty = "SSL_CERT_FILE (\"/nowhere.pem\") has no certificate that can be read"
    untrusted = "until then no https ingest is trusted"

    for {file, dir, roots, expected, absent} <- [
          {"/nowhere.pem", nil, "none; SSL_CERT_FILE, /nowhere.pem, has none", [empty, untrusted], "apt-get"},
          {"/nowhere.pem", directory,
           "those of SSL_CERT_DIR, #{directory}; SSL_CERT_FILE, /nowhere.pem, has none", [empty], untrusted},
          {nil, "/nowhere", "none; SSL_CERT_DIR, /nowhere, has none",
           ["SSL_CERT_DIR (\"/nowhere\") has no certificate"], "SSL_CERT_FILE"},
          {cacertfile, nil, "those of SSL_CERT_FILE, #{cacertfile}", [], "[warning]"}
        ] do
      ebin = Application.app_dir(:billdogeng, "ebin")
      env = [{"SSL_CERT_FILE", file}, {"SSL_CERT_DIR", dir}]
      {output, 0} = System.cmd("elixir", ["-pa", ebin, "-e", code], env: env, stderr_to_stdout: true)
      assert output =~ "roots: #{roots}\n"
      for words <- expected, do: assert([_] = Regex.scan(~r/#{Regex.escape(words)}/, output))
      refute output =~ absent
    end
  end

  test "a host that is sent the key unencrypted is warned of once, loopback is not" do
    name = "h#{System.unique_integer([:positive])}.invalid"

    log =
      capture_log(fn ->
        for host <- [
              "http://#{name}",
              "http://#{name}",
              "http://localhost:9",
              "http://127.0.0.1:9",
              "http://[::1]:9"
            ] do
          start_client(host)
        end
      end)

    assert [_, _] = String.split(log, "unencrypted")
    assert log =~ name
  end
end
