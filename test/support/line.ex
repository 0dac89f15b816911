defmodule BilldogEng.Line do
  @moduledoc """
  The line between a client and its collector, on which things go wrong.

      client ──request──▶ line ──request──▶ collector
             ◀──the fault's doing── line ◀──answer──

  A fault is a function of the client's socket and of the answer that the collector gave, so that it strikes
  after the ingest has stored the batch: what the client is to take for lost arrives twice. It answers
  `:go_on`, or anything else to have the connection closed. `:deaf` strikes before: nothing is read.
  """

  use Agent

  @doc """
  Starts a line to a collector. `:ip` is where it listens, and `:netns` the network namespace in which.
  """
  def start_link(opts) do
    port = BilldogEng.Collector.port(opts[:collector])
    ip = Keyword.get(opts, :ip, {127, 0, 0, 1})

    Agent.start_link(fn ->
      there = if opts[:netns], do: [netns: opts[:netns]], else: []

      {:ok, listener} =
        :gen_tcp.listen(0, [:binary, active: false, nodelay: true, backlog: 128, ip: ip] ++ there)

      {:ok, own} = :inet.port(listener)
      line = self()
      spawn_link(fn -> accept(listener, line, port) end)
      %{url: "http://#{:inet.ntoa(ip)}:#{own}", fault: :none, pids: []}
    end)
  end

  @doc "The URL to give a client as `:host`."
  def url(line), do: Agent.get(line, & &1.url)

  @doc "What goes wrong from now on; `:none` for nothing."
  def fault(line, fault), do: Agent.update(line, &%{&1 | fault: fault})

  @doc "Cuts all connections, and with them what goes wrong on them."
  def cut(line), do: for(pid <- Agent.get(line, & &1.pids), do: Process.exit(pid, :cut))

  @doc "How many connections it has taken."
  def connections(line), do: Agent.get(line, &length(&1.pids))

  defp accept(listener, line, port) do
    {:ok, socket} = :gen_tcp.accept(listener)
    pid = spawn(fn -> receive(do: (:go -> serve(socket, line, port))) end)
    Agent.update(line, &%{&1 | pids: [pid | &1.pids]})
    :ok = :gen_tcp.controlling_process(socket, pid)
    send(pid, :go)
    accept(listener, line, port)
  end

  defp serve(socket, line, port) do
    with fault when fault != :deaf <- Agent.get(line, & &1.fault),
         {:ok, request} <- message(socket),
         {:ok, answer} <- ask(port, request),
         :go_on <- strike(Agent.get(line, & &1.fault), socket, answer) do
      serve(socket, line, port)
    else
      :deaf -> Process.sleep(:infinity)
      _ -> :gen_tcp.close(socket)
    end
  end

  defp strike(:none, socket, answer), do: with(:ok <- :gen_tcp.send(socket, answer), do: :go_on)
  defp strike(:deaf, _socket, _answer), do: Process.sleep(:infinity)
  defp strike(fault, socket, answer), do: fault.(socket, answer)

  defp ask(port, request) do
    with {:ok, collector} <- :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false]),
         :ok <- :gen_tcp.send(collector, request) do
      answer = message(collector)
      :gen_tcp.close(collector)
      answer
    end
  end

  # A request or an answer, as it is; the next one isn't sent before this one is answered.
  defp message(socket, read \\ "") do
    case :binary.split(read, "\r\n\r\n") do
      [head, body] -> rest(socket, read, content_length(head) - byte_size(body))
      [_] -> with {:ok, more} <- :gen_tcp.recv(socket, 0), do: message(socket, read <> more)
    end
  end

  defp rest(_socket, read, 0), do: {:ok, read}
  defp rest(socket, read, left), do: with({:ok, more} <- :gen_tcp.recv(socket, left), do: {:ok, read <> more})

  defp content_length(head) do
    case Regex.run(~r/\r\ncontent-length: *(\d+)/i, head) do
      [_, length] -> String.to_integer(length)
      nil -> 0
    end
  end
end
