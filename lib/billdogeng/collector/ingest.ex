defmodule BilldogEng.Collector.Ingest do
  @moduledoc false
  # Judges a request like the real ingest: pure functions, no sockets.

  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.WireEvent

  @keys ~w(event_name event_timestamp properties user_id)

  @typedoc "An answer: status, headers, body."
  @type answer :: {non_neg_integer, [{String.t(), String.t()}], binary}

  @typedoc """
  The answer to a request, and whether it is accepted: `events` are those in it, also if it is refused; `invalid`
  those of them that the real ingest refuses, with its reasons; `reason` is why the request is refused.
  """
  @type verdict :: %{
          optional(:bytes) => non_neg_integer,
          events: [map],
          invalid: [{map, [String.t(), ...]}],
          accepted: boolean,
          answer: answer,
          reason: nil | String.t()
        }

  @doc """
  Judges a request as the ingest does.

  `api_key` is the one key the collector takes, or nil for any.

  ## Examples

      iex> body = ~s({"api_key":"k","events":[]})
      iex> request = %{method: "POST", path: "/ingest-events", headers: [{"x-api-key", "k"}], body: body}
      iex> BilldogEng.Collector.Ingest.judge(request, "k").answer
      {200, [], ~s({"success":true,"data":{"accepted":0}})}
      iex> {status, _headers, _body} = BilldogEng.Collector.Ingest.judge(request, "other").answer
      iex> status
      401

  """
  @spec judge(map, nil | String.t()) :: verdict
  def judge(%{body: {status, code, message}}, _api_key), do: refused(status, code, message)

  def judge(%{method: method, path: path} = request, api_key) do
    case {method, path |> String.split("?") |> hd()} do
      {"POST", path} when path in ["/ingest-events", "/v1/ingest-events"] ->
        ingest(request, api_key)

      {"POST", path} when path in ["/user-properties", "/v1/user-properties"] ->
        user_properties(request, api_key)

      {_, path} ->
        refused(404, "NOT_FOUND", "nothing answers to #{method} #{path}")
    end
  end

  @doc """
  The envelope of an error.

  ## Examples

      iex> BilldogEng.Collector.Ingest.error(503, "HTTP_503", "on request")
      {503, [], ~s({"success":false,"error":{"code":"HTTP_503","message":"on request"}})}

  """
  @spec error(non_neg_integer, String.t(), String.t()) :: answer
  def error(status, code, message) do
    {status, [], ~s({"success":false,"error":{"code":#{quoted(code)},"message":#{quoted(message)}}})}
  end

  # A path that is not UTF-8 is shown escaped.
  defp quoted(text) do
    text = if String.valid?(text), do: text, else: inspect(text)
    escaped = for <<byte <- text>>, into: "", do: escaped(byte)
    ~s("#{escaped}")
  end

  defp escaped(byte) when byte in [?", ?\\], do: <<?\\, byte>>
  defp escaped(byte) when byte < 0x20, do: "\\u" <> Base.encode16(<<byte::16>>)
  defp escaped(byte), do: <<byte>>

  defp ingest(request, api_key) do
    decoded = Native.json_decode(request.body)
    events = events_in(decoded)

    with :ok <- check_key(request, api_key),
         {:ok, body} <- decoded,
         :ok <- check_body(body, header(request, "x-api-key")),
         :ok <- check_events(body["events"]) do
      count = length(events)
      answer = {200, [], ~s({"success":true,"data":{"accepted":#{count}}})}
      invalid = for event <- events, [_ | _] = problems <- [WireEvent.problems(event)], do: {event, problems}
      %{events: events, invalid: invalid, accepted: true, answer: answer, reason: nil}
    else
      {:error, reason} -> refused(400, "INVALID_JSON", reason, events)
      {status, code, message} -> refused(status, code, message, events)
    end
  end

  defp user_properties(request, api_key) do
    with :ok <- check_key(request, api_key),
         {:ok, body} <- Native.json_decode(request.body),
         :ok <- check_update(body, header(request, "x-api-key")) do
      answer = {200, [], ~s({"success":true,"data":{}})}
      %{events: [], invalid: [], accepted: true, answer: answer, reason: nil}
    else
      {:error, reason} -> refused(400, "INVALID_JSON", reason)
      {status, code, message} -> refused(status, code, message)
    end
  end

  defp events_in({:ok, %{"events" => events}}) when is_list(events), do: events
  defp events_in(_), do: []

  defp check_key(request, api_key) do
    case header(request, "x-api-key") do
      nil -> {401, "UNAUTHORIZED", "the header x-api-key is missing"}
      key when api_key != nil and key != api_key -> {401, "UNAUTHORIZED", "unknown API key"}
      _ -> :ok
    end
  end

  defp check_body(%{"api_key" => key, "events" => events}, key) when is_list(events), do: :ok

  defp check_body(%{"api_key" => _, "events" => events}, _key) when is_list(events),
    do: {400, "API_KEY_MISMATCH", "api_key in the body isn't the one in x-api-key"}

  defp check_body(_, _key),
    do: {400, "INVALID_BODY", ~s(the body isn't {"api_key": KEY, "events": [...]})}

  defp check_update(%{"api_key" => key, "distinct_id" => id, "operations" => operations}, key)
       when id not in [nil, ""] and is_list(operations) do
    if Enum.all?(operations, &match?(%{"operation" => "$" <> _, "key" => key} when is_binary(key), &1)),
      do: :ok,
      else:
        {422, "INVALID_OPERATION", ~s(an operation isn't {"operation": "$set", "key": KEY, "value": VALUE})}
  end

  defp check_update(%{"api_key" => other, "distinct_id" => _, "operations" => _}, key) when other != key,
    do: {400, "API_KEY_MISMATCH", "api_key in the body isn't the one in x-api-key"}

  defp check_update(_, _key),
    do: {400, "INVALID_BODY", ~s(the body isn't {"api_key": KEY, "distinct_id": ID, "operations": [...]})}

  defp check_events(events) do
    events
    |> Enum.with_index()
    |> Enum.find_value(:ok, fn {event, index} ->
      case wrong_with(event) do
        nil -> nil
        what -> {400, "INVALID_EVENT", "event #{index}: #{what}"}
      end
    end)
  end

  defp wrong_with(event) when not is_map(event), do: "not an object"

  defp wrong_with(event) do
    case Enum.reject(@keys, &is_map_key(event, &1)) do
      [] when is_integer(:erlang.map_get("event_timestamp", event)) -> nil
      [] -> "event_timestamp isn't an integer"
      missing -> "without #{Enum.join(missing, ", ")}"
    end
  end

  defp header(request, name) do
    Enum.find_value(request.headers, fn {key, value} -> if key == name, do: value end)
  end

  defp refused(status, code, message, events \\ []) do
    %{events: events, invalid: [], accepted: false, answer: error(status, code, message), reason: message}
  end
end
