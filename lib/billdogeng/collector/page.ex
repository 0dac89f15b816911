defmodule BilldogEng.Collector.Page do
  @moduledoc false
  # The collector's page: a listener of its own, so that it stays up while the ingest's socket is closed.
  #
  #     browser ──► connection ──► guard ──► router ─┬─► assets
  #                                                  ├─► API     reads the feed, sets faults
  #                                                  └─► stream  reads the feed, for as long as the browser listens
  #
  # Each connection is a process, linked to this one.

  use GenServer

  alias BilldogEng.Collector.Listener
  alias BilldogEng.Collector.Page.Connection

  @typedoc "The page as its connections see it."
  @type t :: %{
          collector: pid,
          feed: BilldogEng.Collector.Feed.t(),
          hosts: [String.t()],
          client: nil | GenServer.server(),
          api_key: nil | String.t(),
          idle_timeout: pos_integer,
          read_timeout: pos_integer
        }

  @doc "Starts the page. `options` are those of `:page`: true, a port, or a keyword list."
  @spec start_link(term, :inet.ip_address(), nil | String.t(), pid, BilldogEng.Collector.Feed.t()) ::
          GenServer.on_start()
  def start_link(options, ip, api_key, collector, feed) do
    options =
      case options do
        true -> []
        port when is_integer(port) -> [port: port]
        options -> options
      end

    page = %{
      collector: collector,
      feed: feed,
      hosts: Keyword.get(options, :hosts, []),
      client: options[:client],
      api_key: api_key,
      idle_timeout: 60_000,
      read_timeout: 30_000
    }

    GenServer.start_link(__MODULE__, {Keyword.get(options, :ip, ip), Keyword.get(options, :port, 0), page})
  end

  @doc "Returns the page's address."
  @spec url(pid) :: String.t()
  def url(pid), do: GenServer.call(pid, :url)

  @impl true
  def init({ip, port, page}) do
    Process.flag(:trap_exit, true)

    case Listener.open(ip, port) do
      {:ok, listener, port} ->
        state = %{listener: listener, page: page, acceptor: nil, connections: MapSet.new()}
        {:ok, state |> Map.put(:url, "http://" <> Listener.address(ip, port)) |> accept()}

      {:error, reason} ->
        {:stop, {:"page_#{reason}", "the page: " <> Listener.error(ip, port, reason)}}
    end
  end

  @impl true
  def handle_call(:url, _from, state), do: {:reply, state.url, state}

  @impl true
  def handle_info({:accepted, pid}, %{acceptor: pid} = state), do: {:noreply, accept(state)}

  def handle_info({:EXIT, pid, _reason}, state) do
    state = %{state | connections: MapSet.delete(state.connections, pid)}
    {:noreply, if(pid == state.acceptor, do: accept(state), else: state)}
  end

  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Enum.each(state.connections, &Process.exit(&1, :kill))

  defp accept(state) do
    pid = Connection.start_link(state.listener, self(), state.page)
    %{state | acceptor: pid, connections: MapSet.put(state.connections, pid)}
  end
end
