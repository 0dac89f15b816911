defmodule BilldogEng.TlsIngest do
  @moduledoc """
  An ingest by TLS, with an authority that nobody knows.
  """

  import ExUnit.Callbacks

  # They are on the code path only once `start_ssl/0` has been called.
  @compile {:no_warn_undefined, [:ssl, :public_key]}

  @doc "For `setup_all`."
  def start_ssl do
    # Since 1.15 Mix takes off the code path what the project doesn't list, and this library needs no :ssl.
    if function_exported?(Mix, :ensure_application!, 1), do: apply(Mix, :ensure_application!, [:ssl])
    {:ok, _} = Application.ensure_all_started(:ssl)
    :ok
  end

  @doc """
  An ingest of the test's own that accepts everything and sends the test `:request`: its address, its certificate
  being for `localhost`, and its authority's PEM file.
  """
  def start do
    # Ed25519, since `pkix_test_data/1` writes RSA's algorithm identifiers without their NULL (from OTP 29 on) and those of
    # ECDSA with parameters (RFC 3279, RFC 5758): rustls rejects both, and no authority issues such certificates.
    key = [digest: :sha256, key: {:namedCurve, :ed25519}]
    name = {:Extension, {2, 5, 29, 17}, false, [dNSName: ~c"localhost"]}

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{root: key, intermediates: [], peer: [extensions: [name]] ++ key},
        client_chain: %{root: key, intermediates: [], peer: key}
      })

    {listen(server), authorities(client[:cacerts])}
  end

  @doc "The same with the certificate of an authority in place of one that an authority has signed."
  def start_self_signed do
    name = {:Extension, {2, 5, 29, 17}, false, [dNSName: ~c"localhost"]}
    opts = [digest: :sha256, key: {:rsa, 2048, 65_537}, extensions: [name]]
    %{cert: cert, key: key} = :public_key.pkix_test_root_cert(~c"localhost", opts)

    {listen(cert: cert, key: {:RSAPrivateKey, :public_key.der_encode(:RSAPrivateKey, key)}),
     authorities([cert])}
  end

  defp listen(server) do
    opts = [ip: {127, 0, 0, 1}, active: false, mode: :binary, packet: :http_bin, reuseaddr: true]
    {:ok, listener} = :ssl.listen(0, opts ++ server)
    {:ok, {_, port}} = :ssl.sockname(listener)
    test = self()
    start_supervised!({Task, fn -> accept(listener, test) end}, id: make_ref())
    "https://localhost:#{port}"
  end

  defp authorities(certificates) do
    pem = :public_key.pem_encode(for der <- certificates, do: {:Certificate, der, :not_encrypted})
    path = Path.join(System.tmp_dir!(), "billdogeng_#{System.unique_integer([:positive])}.pem")
    File.write!(path, pem)
    on_exit(fn -> File.rm(path) end)
    path
  end

  defp accept(listener, test) do
    # Without a socket the listener is closed: its owner, the test, has ended.
    with {:ok, socket} <- :ssl.transport_accept(listener) do
      with {:ok, socket} <- :ssl.handshake(socket, 5_000),
           :ok <- read_head(socket) do
        send(test, :request)
        :ssl.send(socket, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        :ssl.close(socket)
      end

      accept(listener, test)
    end
  end

  defp read_head(socket) do
    case :ssl.recv(socket, 0, 5_000) do
      {:ok, :http_eoh} -> :ok
      {:ok, _} -> read_head(socket)
      error -> error
    end
  end
end
