defmodule BilldogEng.ClientCase do
  @moduledoc """
  Tests of a client with a collector of their own, by real sockets on free ports.
  """

  use ExUnit.CaseTemplate

  alias BilldogEng.{Analytics, Collector}
  alias BilldogEng.Client.Native

  using do
    quote do
      import BilldogEng.ClientCase
      alias BilldogEng.{Analytics, Collector, Error}
    end
  end

  # A test's log is captured until its clients have ended, so that none of their last lines comes to the console between
  # two tests, or into the log of the next test.
  setup do
    log = hold_log()

    # Registered first, so it runs last: the test's process and the children of its supervisor have ended by then.
    on_exit(fn ->
      all_drained()
      send(log, :release)
    end)
  end

  defp hold_log do
    test = self()

    holder =
      spawn(fn ->
        ExUnit.CaptureLog.capture_log(fn ->
          send(test, {self(), :held})
          receive do: (:release -> :ok)
        end)
      end)

    receive do: ({^holder, :held} -> holder)
  end

  @doc "A collector of the test's own."
  def start_collector(opts \\ []), do: start_supervised!({Collector, opts}, id: make_ref())

  @doc """
  A client of the collector, or of a host: one that does nothing by itself unless `opts` change that, and that
  sends nothing once the test is over.
  """
  def start_client(to, opts \\ [])

  def start_client(host, opts) when is_binary(host) do
    opts =
      Keyword.merge(
        [
          api_key: "key",
          host: host,
          flush_at: :infinity,
          flush_interval: 3_600_000,
          max_retries: 0,
          shutdown_timeout: 0
        ],
        opts
      )

    client = start_supervised!({Analytics, opts}, id: make_ref())
    on_exit(fn -> unregistered(client) end)
    start_supervised!({BilldogEng.ClientCase.Purge, client}, id: make_ref())
    client
  end

  def start_client(collector, opts), do: start_client(Collector.url(collector), opts)

  defmodule Purge do
    @moduledoc false
    # Ends before the client that was started before it: what that still has when a test is over is purged, for
    # nothing of it is logged then.

    use GenServer

    def start_link(client), do: GenServer.start_link(__MODULE__, client)

    @impl true
    def init(client) do
      Process.flag(:trap_exit, true)
      {:ok, client}
    end

    @impl true
    def terminate(_reason, client) do
      GenServer.call(client, :purge)
    catch
      # It has ended.
      :exit, _ -> :ok
    end
  end

  @doc "Lets requests wait at a gate: each arrives here as a message, and waits for `Collector.release/2`."
  def gate(collector), do: Collector.respond(collector, {:gate, self()})

  @doc "The next request at the gate: its handle and itself."
  def at_gate(timeout \\ 30_000) do
    receive do
      {:collector_request, handle, request} -> {handle, request}
    after
      timeout -> ExUnit.Assertions.flunk("no request came within #{timeout} ms")
    end
  end

  @doc "The names of the events that the collector has, in their order."
  def names(collector), do: for(event <- Collector.events(collector), do: event["event_name"])

  @doc "An address where nobody listens."
  def nobody do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    "http://127.0.0.1:#{port}"
  end

  @doc "Waits until `fun` answers something true, and answers that: for what sends no message."
  def eventually(fun, left \\ 3_000) do
    cond do
      value = fun.() ->
        value

      left == 0 ->
        ExUnit.Assertions.flunk("it did not come true within 30 s")

      true ->
        Process.sleep(10)
        eventually(fun, left - 1)
    end
  end

  @doc """
  Waits until a client has ended, whose process has: the one may hear of it before the other. Its last words are
  with the log by then.
  """
  def drained(client) do
    unregistered(client)
    all_drained()
  end

  defp unregistered(client), do: eventually(fn -> Native.stats(client) == :no_client end)

  defp all_drained do
    eventually(fn -> Native.draining() == 0 end)
    :sys.get_state(BilldogEng.Client.Reporter)
  end

  @doc """
  Runs `fun` and returns what the process `pid` logs meanwhile: `capture_log/1` also returns the lines of other tests.
  """
  def log_of(pid, fun) do
    id = :"log_of_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, BilldogEng.ClientCase.Log, %{config: %{of: pid, to: self(), id: id}})

    try do
      fun.()
    after
      :logger.remove_handler(id)
    end

    id |> lines() |> Enum.join("\n")
  end

  @doc """
  Runs `fun` and returns its result once the process `pid` has logged a line that contains `text`.
  """
  def awaiting_line(pid, text, fun) do
    id = :"log_of_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, BilldogEng.ClientCase.Log, %{config: %{of: pid, to: self(), id: id}})

    try do
      result = fun.()
      await_line(id, text)
      result
    after
      :logger.remove_handler(id)
    end
  end

  defp await_line(id, text) do
    receive do
      {^id, line} -> if line =~ text, do: :ok, else: await_line(id, text)
    after
      30_000 -> ExUnit.Assertions.flunk("no line with #{inspect(text)} was logged within 30 s")
    end
  end

  defp lines(id) do
    receive do
      {^id, line} -> [line | lines(id)]
    after
      0 -> []
    end
  end

  defmodule Log do
    @moduledoc false
    # A handler of `:logger`. It runs in the process that logs.

    def log(%{level: level, msg: {:string, text}, meta: %{pid: pid}}, %{config: %{of: pid} = config}),
      do: send(config.to, {config.id, "[#{level}] #{text}"})

    def log(_event, _config), do: :ok
  end

  @doc "`captured = delivered + dropped + queued`."
  def balanced?(stats) do
    stats.captured == stats.delivered + stats.queued + Enum.sum(Map.values(stats.dropped))
  end
end
