defmodule BilldogEng.Collector.Probe do
  @moduledoc false
  # Finds out whether the program that listens on a port is a collector.

  @path "/billdogeng-collector"
  @mark ~s("collector":"billdogeng")
  @timeout 2_000

  @doc "The path that a collector answers whatever its mode is."
  @spec path() :: String.t()
  def path, do: @path

  @doc "The answer to it, with the address of the collector's page, if it has one."
  @spec answer(nil | String.t()) :: BilldogEng.Collector.Ingest.answer()
  def answer(nil), do: {200, [], ~s({"success":true,"data":{#{@mark}}})}
  def answer(page), do: {200, [], ~s({"success":true,"data":{#{@mark},"page":"#{page}"}})}

  @doc "Returns whether a collector listens on that port of this machine, and the address of its page or nil."
  @spec collector(:inet.port_number()) :: {:ok, nil | String.t()} | :error
  def collector(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false], @timeout) do
      {:ok, socket} ->
        :gen_tcp.send(socket, "GET #{@path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        read = read(socket, "")
        :gen_tcp.close(socket)
        if read =~ @mark, do: {:ok, page(read)}, else: :error

      {:error, _} ->
        :error
    end
  end

  # Another program may send anything, or nothing, or for ever.
  defp read(socket, read) do
    case :gen_tcp.recv(socket, 0, @timeout) do
      {:ok, bytes} when byte_size(read) + byte_size(bytes) < 4_096 -> read(socket, read <> bytes)
      {:ok, bytes} -> read <> bytes
      {:error, _} -> read
    end
  end

  # Printed in a terminal, so nothing but an address is taken.
  defp page(read) do
    with [_, page] <- Regex.run(~r/"page":"(http:[\w.:\[\]\/-]{1,100})"/, read), do: page
  end
end
