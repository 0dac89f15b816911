defmodule BilldogEng.Collector.Listener do
  @moduledoc false
  # The listening socket of the ingest and that of the page.

  @doc "Listens on an address and port, and returns the socket with the port that it got."
  @spec open(:inet.ip_address(), :inet.port_number()) ::
          {:ok, :gen_tcp.socket(), :inet.port_number()} | {:error, :inet.posix()}
  def open(ip, port) do
    family = if tuple_size(ip) == 8, do: [:inet6], else: []

    options = [
      :binary,
      active: false,
      reuseaddr: true,
      nodelay: true,
      ip: ip,
      backlog: 1024,
      buffer: 65_536,
      send_timeout: 5_000,
      send_timeout_close: true
    ]

    with {:ok, listener} <- :gen_tcp.listen(port, family ++ options),
         {:ok, port} <- :inet.port(listener),
         do: {:ok, listener, port}
  end

  @doc """
  Returns the authority of a URL.

      iex> BilldogEng.Collector.Listener.address({127, 0, 0, 1}, 4632)
      "127.0.0.1:4632"
      iex> BilldogEng.Collector.Listener.address({0, 0, 0, 0, 0, 0, 0, 1}, 4632)
      "[::1]:4632"
  """
  @spec address(:inet.ip_address(), :inet.port_number()) :: String.t()
  def address(ip, port) do
    host = ip |> :inet.ntoa() |> to_string()
    if tuple_size(ip) == 8, do: "[#{host}]:#{port}", else: "#{host}:#{port}"
  end

  @doc "Returns why it cannot listen."
  @spec error(:inet.ip_address(), :inet.port_number(), term) :: String.t()
  def error(ip, port, reason), do: "cannot listen on #{address(ip, port)}: #{:inet.format_error(reason)}"
end
