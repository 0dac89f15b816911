defmodule BilldogEng.Collector.Feed.Record do
  @moduledoc false
  # A request as the feed takes it: pure functions, which run in the process of the connection, so that the feed's own
  # work for an event is small.
  #
  # An accepted batch has a row for each event, an accepted person update has one, and any other request has one row with
  # the reason.

  alias BilldogEng.Client.Native
  alias BilldogEng.Collector.Feed.{Slices, Text}
  alias BilldogEng.Collector.{JSONWriter, Problems, WireEvent}

  @type outcome :: {:answer, BilldogEng.Collector.Ingest.answer()} | :hang | :reset

  @type row :: %{
          kind: :event | :update | :refused,
          name: String.t(),
          id: String.t(),
          preview: String.t(),
          slice: binary,
          reason: nil | String.t(),
          timestamp: nil | integer,
          insert_id: term,
          problems: [Problems.problem()],
          facts: Problems.facts()
        }

  @type t :: %{request: map, status: nil | pos_integer, outcome: String.t(), rows: [row], hash: nil | binary}

  @no_facts %{name: nil, types: []}

  @doc "Returns the record of a request, of the ingest's verdict on it, and of its outcome `delay` ms after it."
  @spec new(map, BilldogEng.Collector.Ingest.verdict(), outcome, non_neg_integer) :: t
  def new(request, verdict, outcome, delay) do
    now = System.system_time(:millisecond)
    status = with {:answer, {status, _, _}} <- outcome, do: status, else: (_ -> nil)
    kept? = verdict.accepted and outcome == {:answer, verdict.answer}

    rows =
      cond do
        not kept? -> [refused(request, verdict, outcome)]
        verdict.events == [] and request.path =~ "user-properties" -> [update(request)]
        true -> events(request, verdict.events, now)
      end

    %{
      request: Map.merge(request, %{status: status, at: now, delay: delay}),
      status: status,
      outcome: outcome(outcome),
      rows: rows,
      hash: if(request.body != "", do: :erlang.md5(request.body))
    }
  end

  @doc "Returns the record of bytes that are no request: the row shows the answer and why."
  @spec unreadable(pos_integer, String.t()) :: t
  def unreadable(status, message) do
    now = System.system_time(:millisecond)
    request = %{method: "", path: "", headers: [], body: "", wire_bytes: 0, bytes: 0, events: 0}
    row = %{row(:refused, "") | name: "not a request", reason: "#{status}: #{message}", preview: message}

    %{
      request: Map.merge(request, %{status: status, at: now, delay: 0}),
      status: status,
      outcome: Integer.to_string(status),
      rows: [row],
      hash: nil
    }
  end

  defp outcome({:answer, {status, _, _}}), do: Integer.to_string(status)
  defp outcome(step), do: Atom.to_string(step)

  defp row(kind, slice) do
    %{kind: kind, name: "", id: "", preview: "", slice: slice, reason: nil, timestamp: nil}
    |> Map.merge(row_facts())
  end

  defp row_facts, do: %{insert_id: nil, problems: [], facts: @no_facts}

  defp refused(request, verdict, outcome) do
    reason = "#{outcome(outcome)}: #{reason(outcome, verdict)}"
    name = Text.name("#{request.method} #{request.path}")
    %{row(:refused, request.body) | name: name, reason: reason, preview: Text.cut(reason, 240)}
  end

  # An answer of the ingest itself has its reason; of a fault, the row shows what the ingest would have answered.
  defp reason({:answer, answer}, %{answer: answer, reason: reason}) when reason != nil, do: reason
  defp reason(outcome, verdict), do: "#{fault(outcome)}; without it the ingest #{answer(verdict)}"

  defp fault({:answer, {_, _, body}}) do
    if body =~ "quota_limited", do: "a fault: over quota, nothing is stored", else: "a fault"
  end

  defp fault(:hang), do: "a fault: no answer"
  defp fault(:reset), do: "a fault: the connection was reset"

  defp answer(%{accepted: true, events: []}), do: "accepts it"
  defp answer(%{accepted: true, events: [_]}), do: "accepts its event"
  defp answer(%{accepted: true, events: events}), do: "accepts its #{length(events)} events"
  defp answer(%{answer: {status, _, _}, reason: reason}), do: "answers #{status}: #{reason}"

  defp update(%{body: body}) do
    {:ok, %{"distinct_id" => id, "operations" => operations}} = Native.json_decode(body)
    row = row(:update, body)
    %{row | name: "person update", id: Text.name(id), preview: operations |> Enum.take(20) |> operations()}
  end

  defp operations(operations) do
    operations
    |> Enum.map_join("  ", fn operation ->
      "#{Text.short(operation["operation"])} #{Text.short(operation["key"])}: #{Text.short(operation["value"])}"
    end)
    |> Text.cut(240)
  end

  defp events(request, events, now) do
    slices = Slices.events(request.body)

    events
    |> slices(slices)
    |> Enum.map(fn {event, slice} -> event(event, slice, now) end)
  end

  # Keys that repeat in the body can hide events from the decoder, and then the texts are not those of the events.
  defp slices(events, slices) when length(events) == length(slices), do: Enum.zip(events, slices)

  defp slices(events, _slices),
    do: for(event <- events, do: {event, event |> JSONWriter.iodata() |> IO.iodata_to_binary()})

  defp event(event, slice, now) do
    {problems, facts} = Problems.facts(event, byte_size(slice), now)
    # Reasons of the ingest that no kind of problem covers.
    problems =
      if problems == [], do: Enum.map(WireEvent.problems(event), &{:refused_event, &1}), else: problems

    properties = event["properties"]

    %{
      row(:event, slice)
      | name: Text.name(event["event_name"]),
        id: Text.name(event["user_id"]),
        preview: Text.preview(properties),
        timestamp: event["event_timestamp"],
        insert_id: insert_id(properties),
        problems: problems,
        facts: facts
    }
  end

  defp insert_id(%{"$insert_id" => id}) when is_binary(id) and byte_size(id) <= 200, do: id
  defp insert_id(_), do: nil
end
