defmodule BilldogEng.Test.Refusal do
  @moduledoc false
  # Finds events that an ingest refuses. A capture accepts every term and never raises, so the asserts report them.

  # A sentence about the first of these events that an ingest would refuse; nil where there is none.
  def sentence(events) do
    Enum.find_value(events, fn event ->
      if reason = reason(event), do: "an ingest refuses the event #{inspect(event["event_name"])}: #{reason}"
    end)
  end

  defp reason(%{"event_name" => ""}), do: "its name is empty"

  defp reason(%{"event_name" => name}) when not is_binary(name) do
    "its name must be a string or an atom, got: #{inspect(name)}"
  end

  defp reason(%{"user_id" => id}) when id in [nil, ""] do
    "it has no distinct ID, got: #{inspect(id)}"
  end

  defp reason(%{"properties" => properties}) when not is_map(properties) do
    "its properties must be a map or keyword list, got: #{inspect(properties, limit: 5, printable_limit: 50)}"
  end

  defp reason(_event), do: nil
end
