defmodule BilldogEng.SecurityTest do
  @moduledoc """
  Who is trusted, by which way requests go, and what is said of it.
  """

  use BilldogEng.ClientCase, async: false

  import ExUnit.CaptureLog

  # They are on the code path only from `setup_all` on.
  @compile {:no_warn_undefined, [:ssl, :public_key]}

  # An ingest by TLS that accepts everything, its certificate for `localhost`, and the authority's PEM file.
  defp tls_ingest do
    key = [digest: :sha256, key: {:rsa, 2048, 65_537}]
    name = {:Extension, {2, 5, 29, 17}, false, [dNSName: ~c"localhost"]}

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{root: key, intermediates: [], peer: [extensions: [name]] ++ key},
        client_chain: %{root: key, intermediates: [], peer: key}
      })

    {:ok, listener} =
      :ssl.listen(
        0,
        [ip: {127, 0, 0, 1}, active: false, mode: :binary, packet: :http_bin, reuseaddr: true] ++ server
      )

    {:ok, {_, port}} = :ssl.sockname(listener)
    test = self()
    start_supervised!({Task, fn -> accept(listener, test) end}, id: make_ref())
    {"https://localhost:#{port}", authorities(client[:cacerts])}
  end

  defp authorities(certificates) do
    pem = :public_key.pem_encode(for der <- certificates, do: {:Certificate, der, :not_encrypted})
    path = Path.join(System.tmp_dir!(), "billdogeng_#{System.unique_integer([:positive])}.pem")
    File.write!(path, pem)
    on_exit(fn -> File.rm(path) end)
    path
  end

  defp accept(listener, test) do
    {:ok, socket} = :ssl.transport_accept(listener)

    with {:ok, socket} <- :ssl.handshake(socket, 5_000),
         :ok <- read_head(socket) do
      send(test, :request)
      :ssl.send(socket, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
      :ssl.close(socket)
    end

    accept(listener, test)
  end

  defp read_head(socket) do
    case :ssl.recv(socket, 0, 5_000) do
      {:ok, :http_eoh} -> :ok
      {:ok, _} -> read_head(socket)
      error -> error
    end
  end

  setup_all do
    # Since 1.15 Mix takes off the code path what the project doesn't list, and this library needs no :ssl.
    if function_exported?(Mix, :ensure_application!, 1), do: apply(Mix, :ensure_application!, [:ssl])
    {:ok, _} = Application.ensure_all_started(:ssl)
    :ok
  end

  test "an ingest whose authority :cacertfile names is trusted" do
    {host, cacertfile} = tls_ingest()
    client = start_client(host, cacertfile: cacertfile)
    Analytics.capture(client, "u", "e")
    assert Analytics.flush(client) == :ok
    assert_received :request
  end

  test "an ingest of an unknown authority, or of another name, is sent nothing" do
    {host, cacertfile} = tls_ingest()

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
