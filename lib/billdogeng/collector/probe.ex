defmodule BilldogEng.Collector.Probe do
  @moduledoc false
  # Finds out whether the program that listens on a port is a collector.

  @path "/billdogeng-collector"
  @mark ~s("collector":"billdogeng")
  @timeout 2_000

  @doc "The path that a collector answers whatever its mode is."
  @spec path() :: String.t()
  def path, do: @path

  @doc "The answer to it."
  @spec answer() :: BilldogEng.Collector.Ingest.answer()
  def answer, do: {200, [], ~s({"success":true,"data":{#{@mark}}})}

  @doc "Returns whether a collector listens on that port of this machine."
  @spec collector?(:inet.port_number()) :: boolean
  def collector?(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false], @timeout) do
      {:ok, socket} ->
        :gen_tcp.send(socket, "GET #{@path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        found? = marked?(socket, "")
        :gen_tcp.close(socket)
        found?

      {:error, _} ->
        false
    end
  end

  # Another program may send anything, or nothing, or for ever.
  defp marked?(socket, read) do
    with {:ok, bytes} <- :gen_tcp.recv(socket, 0, @timeout) do
      read = read <> bytes
      String.contains?(read, @mark) or (byte_size(read) < 4_096 and marked?(socket, read))
    else
      {:error, _} -> false
    end
  end
end
