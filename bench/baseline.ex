defmodule Bench.Baseline do
  @moduledoc false
  # A client of the original's kind, to measure against: one GenServer, to which each capture is a message;
  # its queue is a list that grows at its end; a flush encodes, packs and POSTs within the process.
  #
  # Left out is what a run without failures never gets to: retries, and the log.

  use GenServer

  defstruct [:api_key, :url, :flush_at, :flush_interval, :max_queue_size, :json, queue: []]

  @gzip_from 1024

  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  def capture(pid, distinct_id, event, properties \\ %{}, groups \\ %{}) do
    GenServer.cast(pid, {:enqueue, distinct_id, event, {:with_groups, properties, groups}})
  end

  def flush(pid), do: GenServer.call(pid, :flush, :infinity)

  @impl true
  def init(opts) do
    state = %__MODULE__{
      api_key: Keyword.fetch!(opts, :api_key),
      url: String.to_charlist(Keyword.fetch!(opts, :host) <> "/ingest-events"),
      flush_at: Keyword.fetch!(opts, :flush_at),
      flush_interval: Keyword.fetch!(opts, :flush_interval),
      max_queue_size: Keyword.get(opts, :max_queue_size, 1_000),
      json: Bench.JSON.encoder()
    }

    Process.send_after(self(), :flush_tick, state.flush_interval)
    {:ok, state}
  end

  @impl true
  def handle_cast({:enqueue, distinct_id, name, {:with_groups, properties, groups}}, state) do
    event = %{
      "event_name" => name,
      "event_timestamp" => System.system_time(:millisecond),
      "properties" => if(groups == %{}, do: properties, else: Map.put(properties, "$groups", groups)),
      "user_id" => distinct_id
    }

    queue = state.queue ++ [event]

    queue =
      if length(queue) > state.max_queue_size,
        do: Enum.drop(queue, length(queue) - state.max_queue_size),
        else: queue

    if length(queue) >= state.flush_at do
      {_result, state} = do_flush(%{state | queue: queue})
      {:noreply, state}
    else
      {:noreply, %{state | queue: queue}}
    end
  end

  @impl true
  def handle_call(:flush, _from, state) do
    {result, state} = do_flush(state)
    {:reply, result, state}
  end

  def handle_call(:queue_length, _from, state), do: {:reply, length(state.queue), state}

  @impl true
  def handle_info(:flush_tick, state) do
    {_result, state} = do_flush(state)
    Process.send_after(self(), :flush_tick, state.flush_interval)
    {:noreply, state}
  end

  defp do_flush(%{queue: []} = state), do: {:ok, state}

  defp do_flush(state) do
    {body, headers} = pack(state.json.(%{api_key: state.api_key, events: state.queue}))
    headers = [{~c"x-api-key", String.to_charlist(state.api_key)} | headers]
    request = {state.url, headers, ~c"application/json", body}

    case :httpc.request(:post, request, [timeout: 10_000], body_format: :binary) do
      {:ok, {{_, status, _}, _, _}} when status in 200..299 -> {:ok, %{state | queue: []}}
      other -> {{:error, other}, state}
    end
  end

  defp pack(json) when byte_size(json) < @gzip_from, do: {json, []}
  defp pack(json), do: {:zlib.gzip(json), [{~c"content-encoding", ~c"gzip"}]}
end
