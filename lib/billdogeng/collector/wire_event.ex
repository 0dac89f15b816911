defmodule BilldogEng.Collector.WireEvent do
  @moduledoc false
  # Checks an event as an ingest receives it: decoded JSON, so a map with string keys. The collector and the asserts
  # of BilldogEng.Test share this check, so that both report the same events in the same words.

  @doc """
  Returns the reasons why an ingest refuses the event, or an empty list. It accepts any term and never raises.

      iex> event = %{"event_name" => "signed_up", "event_timestamp" => 1, "properties" => %{}, "user_id" => "user-1"}
      iex> BilldogEng.Collector.WireEvent.problems(event)
      []
      iex> BilldogEng.Collector.WireEvent.problems(%{event | "event_name" => "", "user_id" => nil, "properties" => [1, 2]})
      ["event_name is empty", "user_id is nil", "properties is not a map: [1, 2]"]
  """
  @spec problems(term) :: [String.t()]
  def problems(event) when is_map(event) do
    for key <- ~w(event_name user_id properties event_timestamp), problem = problem(key, event), do: problem
  end

  def problems(other), do: ["the event is not a map: #{shown(other)}"]

  defp problem(key, event) do
    case event do
      %{^key => value} -> with text when is_binary(text) <- wrong(key, value), do: "#{key} is #{text}"
      _ -> "#{key} is missing"
    end
  end

  defp wrong("event_name", name) when is_binary(name) and name != "", do: nil
  defp wrong("user_id", id) when (is_binary(id) and id != "") or is_number(id), do: nil
  defp wrong("properties", properties) when is_map(properties), do: nil
  defp wrong("event_timestamp", ms) when is_integer(ms), do: nil
  defp wrong(_key, nil), do: "nil"
  defp wrong(key, "") when key in ["event_name", "user_id"], do: "empty"
  defp wrong("event_name", name), do: "not a string: #{shown(name)}"
  defp wrong("user_id", id), do: "neither a string nor a number: #{shown(id)}"
  defp wrong("properties", properties), do: "not a map: #{shown(properties)}"
  defp wrong("event_timestamp", ms), do: "not an integer: #{shown(ms)}"

  defp shown(term), do: inspect(term, limit: 5, printable_limit: 50, width: :infinity)
end
