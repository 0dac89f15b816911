defmodule BilldogEng.LiveDashboard.History do
  @moduledoc false
  # Samples the counters of clients once a second, for the charts of the dashboard's page. It samples a client from the
  # first look at its page on, and keeps five minutes. Without a look it does nothing.

  use GenServer

  alias BilldogEng.Analytics

  @interval 1_000
  @samples 300

  @type sample :: %{captured: non_neg_integer, delivered: non_neg_integer, queued: non_neg_integer}

  def start_link(opts), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc false
  # Returns a client's samples, the oldest first: one for each second, nil for one without a client. Samples it from now on.
  @spec of(GenServer.server()) :: [nil | sample]
  def of(client), do: GenServer.call(__MODULE__, {:of, client})

  @impl true
  def init(_opts), do: {:ok, %{}}

  @impl true
  def handle_call({:of, client}, _from, clients) when is_map_key(clients, client),
    do: {:reply, Enum.reverse(clients[client]), clients}

  def handle_call({:of, client}, _from, clients) do
    if clients == %{}, do: Process.send_after(self(), :sample, @interval)
    samples = [sample(client)]
    {:reply, samples, Map.put(clients, client, samples)}
  end

  @impl true
  def handle_info(:sample, clients) do
    Process.send_after(self(), :sample, @interval)

    {:noreply,
     Map.new(clients, fn {client, samples} -> {client, Enum.take([sample(client) | samples], @samples)} end)}
  end

  def handle_info(_other, clients), do: {:noreply, clients}

  defp sample(client) do
    client |> Analytics.stats() |> Map.take([:captured, :delivered, :queued])
  catch
    # It is not running.
    _, _ -> nil
  end
end
