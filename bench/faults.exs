# Ingests that are out of order, for bench/callers.exs and bench/latency.exs: in a VM of their own, each on a port of its own.
# Prints a line for each and one more, and ends when its standard input does.

defmodule Faults do
  @faults ~w(hang slow reset flood nonsense close deaf full)a

  def main do
    for fault <- @faults do
      backlog = if fault == :full, do: 0, else: 1_024
      options = [:binary, active: false, nodelay: true, ip: {127, 0, 0, 1}, backlog: backlog]
      {:ok, listener} = :gen_tcp.listen(0, options)
      {:ok, port} = :inet.port(listener)
      if fault == :full, do: fill(port), else: spawn_link(fn -> accept(listener, fault) end)
      IO.puts("#{fault} http://127.0.0.1:#{port}")
    end

    IO.puts("all of them")
    IO.read(:stdio, :all)
  end

  # Later bytes get no response at all, as in a network that swallows them.
  defp fill(port) do
    for _ <- 1..4, do: spawn_link(fn -> :gen_tcp.connect({127, 0, 0, 1}, port, [], :infinity) && hold() end)
    Process.sleep(100)
  end

  defp hold, do: Process.sleep(:infinity)

  defp accept(listener, fault) do
    {:ok, socket} = :gen_tcp.accept(listener)
    pid = spawn(fn -> receive(do: (:go -> serve(socket, fault))) end)
    :gen_tcp.controlling_process(socket, pid)
    send(pid, :go)
    accept(listener, fault)
  end

  defp serve(_socket, :deaf), do: hold()

  defp serve(socket, fault) do
    with :ok <- request(socket), do: strike(fault, socket)
    :gen_tcp.close(socket)
  end

  @ok "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{\"success\":true,\"data\":{}}"

  # Until the client has had enough.
  defp strike(:hang, socket), do: :gen_tcp.recv(socket, 0)

  defp strike(:slow, socket) do
    Enum.find(:binary.bin_to_list(@ok), fn byte ->
      Process.sleep(1_000)
      :gen_tcp.send(socket, [byte]) != :ok
    end)
  end

  defp strike(:reset, socket), do: :inet.setopts(socket, linger: {true, 0})
  defp strike(:close, socket), do: :gen_tcp.send(socket, @ok)
  defp strike(:nonsense, socket), do: :gen_tcp.send(socket, for(n <- 1..10_000, do: rem(n * n, 251)))

  defp strike(:flood, socket) do
    :gen_tcp.send(socket, "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
    piece = :binary.copy("nonsense", 8_192)
    Enum.find(1..div(100_000_000, byte_size(piece)), fn _ -> :gen_tcp.send(socket, piece) != :ok end)
  end

  defp request(socket, read \\ "") do
    with [head, body] <- :binary.split(read, "\r\n\r\n"),
         [_, length] <- Regex.run(~r/content-length: *(\d+)/i, head),
         true <- byte_size(body) >= String.to_integer(length) do
      :ok
    else
      _ -> with {:ok, more} <- :gen_tcp.recv(socket, 0), do: request(socket, read <> more)
    end
  end
end

Faults.main()
