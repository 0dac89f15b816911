defmodule BilldogEng.Collector.Page.API do
  @moduledoc false
  # The page's API, for the page itself, for tests and for scripts.

  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.{Fault, Feed, Filter, JSONWriter, Problems}
  alias BilldogEng.Collector.Page.{Curl, Sample}

  @type answer :: BilldogEng.Collector.Ingest.answer()

  # A body that is shown with a refused request.
  @shown_body 256 * 1024

  @doc """
  Returns the kept events as NDJSON, oldest first, in the format that `bin/demo FILE` reads. `name`, `id` and `q` (a
  filter of the page) choose among them; `limit` is for the newest ones.
  """
  @spec events(map, BilldogEng.Collector.Page.t()) :: answer
  def events(query, page) do
    filter =
      for {key, kind} <- [{"name", :name}, {"id", :id}], value = query[key], do: {kind, Feed.Text.name(value)}

    filter = filter ++ Filter.parse(query["q"] || "")

    case Integer.parse(query["limit"] || "1000000") do
      {limit, ""} when limit > 0 ->
        lines = page.feed |> newest(filter, limit) |> Enum.map(&[line(&1), ?\n])
        {200, [{"content-type", "application/x-ndjson"}], lines}

      _ ->
        {:error, 400, "limit is not a positive integer"}
    end
  end

  defp newest(feed, filter, limit) do
    %{last: last} = Feed.state(feed)

    {_, rows} =
      Feed.fold(feed, 0, last, {limit, []}, fn row, {left, rows} ->
        cond do
          left == 0 -> {:halt, {0, rows}}
          row.kind == :event and Filter.passes?(filter, row) -> {:cont, {left - 1, [row | rows]}}
          true -> {:cont, {left, rows}}
        end
      end)

    rows
  end

  # Groups are in the properties on the wire, and apart in the format.
  defp line(row) do
    {:ok, event} = Native.json_decode(row.slice)
    {groups, properties} = groups(event["properties"])

    JSONWriter.iodata(
      {:object,
       event: event["event_name"],
       distinct_id: event["user_id"],
       timestamp: event["event_timestamp"],
       properties: properties,
       groups: groups}
    )
  end

  defp groups(%{"$groups" => groups} = properties) when is_map(groups),
    do: {groups, Map.delete(properties, "$groups")}

  defp groups(properties), do: {%{}, properties}

  @doc "Returns the details of a row: the text that was sent, and its request."
  @spec row(integer, BilldogEng.Collector.Page.t()) :: answer | {:error, pos_integer, String.t()}
  def row(number, page) do
    case Feed.fetch(page.feed, number) do
      {row, request} ->
        text = if row.kind == :event, do: row.slice, else: Feed.Text.cut(row.slice, @shown_body)
        remedies = Map.new(Problems.kinds(), fn {code, _title, remedy} -> {code, remedy} end)

        details =
          {:object,
           number: row.number,
           kind: row.kind,
           name: row.name,
           id: row.id,
           reason: row.reason,
           marks: row.marks,
           problems: for({code, text} <- row.problems, do: %{text: text, remedy: remedies[code]}),
           text: text,
           request: {:object, request(row, request)}}

        {200, [], JSONWriter.iodata(details)}

      nil ->
        evicted(number)
    end
  end

  defp request(row, request) do
    [
      number: row.request,
      method: request.method,
      path: request.path,
      outcome: row.outcome,
      at: request.at,
      delay: request.delay,
      attempt: row.attempt,
      index: row.index,
      events: request.events,
      bytes: request.bytes,
      wire_bytes: request.wire_bytes,
      headers: for({name, value} <- request.headers, do: [name, Curl.shown(name, value)])
    ]
  end

  @doc "Returns a shell command that sends the row's request again."
  @spec curl(integer, BilldogEng.Collector.Page.t()) :: answer | {:error, pos_integer, String.t()}
  def curl(number, page) do
    case Feed.fetch(page.feed, number) do
      {_row, %{method: ""}} ->
        {:error, 404, "what was sent is not a request"}

      {_row, request} ->
        {200, [{"content-type", "text/plain; charset=utf-8"}], Curl.command(request, ingest(page))}

      nil ->
        evicted(number)
    end
  end

  defp evicted(number), do: {:error, 404, "row #{number} is not kept (any more)"}

  @doc "Sets a fault: `{\"fault\": KIND, \"value\": PARAMETER, \"times\": N}`."
  @spec fault(term, BilldogEng.Collector.Page.t()) :: answer | {:error, pos_integer, String.t()}
  def fault(body, page) do
    with true <- is_binary(body),
         {:ok, %{"fault" => kind} = fault} <- Native.json_decode(body),
         {:ok, mode} <- Fault.mode(kind, fault["value"], fault["times"]),
         :ok <- GenServer.call(page.collector, {:respond, mode}, :infinity) do
      done()
    else
      {:error, message} when is_binary(message) -> {:error, 400, message}
      _ -> {:error, 400, ~s(the body is not {"fault": KIND, "value": PARAMETER, "times": N})}
    end
  end

  @doc "Sends a sample event to the ingest, as a client would."
  @spec sample(BilldogEng.Collector.Page.t()) :: answer | {:error, pos_integer, String.t()}
  def sample(page) do
    with {:error, message} <- Sample.send(ingest(page), page.api_key),
         do: {:error, 503, message},
         else: (:ok -> done())
  end

  @doc "Removes all rows and sets the counters of the page to 0."
  @spec clear(BilldogEng.Collector.Page.t()) :: answer
  def clear(page) do
    Feed.clear(page.feed)
    done()
  end

  defp done, do: {200, [], ~s({"success":true,"data":{}})}
  defp ingest(page), do: GenServer.call(page.collector, :url, :infinity)
end
