# bin/demo FILE: captures the events of a file, one JSON object a line.
#
#     lines ──capture/6──► client ──HTTP──► collector ──► the summary's own count
Code.require_file("demo_summary.exs", __DIR__)

defmodule Demo.File do
  alias BilldogEng.Analytics
  alias BilldogEng.Client.Native
  alias Demo.Summary

  # Reading waits while more bytes than this are queued, of the 64 MiB that the queue takes: nothing is dropped.
  @most_queued 16 * 1024 * 1024
  @lines_per_look 1_000

  def run(path) do
    demo = Summary.start()

    {sent, malformed} =
      Summary.step("events of #{Path.basename(path)}", fn ->
        path
        |> Elixir.File.stream!()
        |> Stream.with_index(1)
        |> Enum.reduce({0, 0}, &capture(&1, &2, demo.client))
      end)

    Summary.finish(demo, sent, [{"lines sent", sent}, {"lines malformed", malformed}])
  end

  defp capture({line, number}, {sent, malformed}, client) do
    if rem(number, @lines_per_look) == 0, do: wait_for_room(client)

    case line |> String.trim() |> parse() do
      :blank ->
        {sent, malformed}

      {:ok, arguments} ->
        apply(Analytics, :capture, [client | arguments])
        {sent + 1, malformed}

      {:error, reason} ->
        IO.puts(:stderr, "line #{number}: #{reason}")
        {sent, malformed + 1}
    end
  end

  defp wait_for_room(client) do
    if Analytics.stats(client).queued_bytes > @most_queued do
      Process.sleep(5)
      wait_for_room(client)
    end
  end

  # Returns the arguments of capture/6 behind the client.
  defp parse(""), do: :blank

  defp parse(line) do
    with {:ok, event} <- decode(line),
         {:ok, name} <- field(event, "event", &(is_binary(&1) and &1 != ""), "a string"),
         {:ok, id} <- field(event, "distinct_id", &(is_binary(&1) or is_integer(&1)), "a string or integer"),
         {:ok, properties} <- object(event, "properties"),
         {:ok, groups} <- object(event, "groups"),
         {:ok, options} <- timestamp(event["timestamp"]) do
      {:ok, [id, name, properties, groups, options]}
    end
  end

  defp decode(line) do
    case Native.json_decode(line) do
      {:ok, event} when is_map(event) -> {:ok, event}
      {:ok, _} -> {:error, "not a JSON object"}
      {:error, reason} -> {:error, "not JSON: #{reason}"}
    end
  end

  defp field(event, key, good?, expected) do
    cond do
      not is_map_key(event, key) -> {:error, "#{key} is missing"}
      good?.(event[key]) -> {:ok, event[key]}
      true -> {:error, "#{key} is not #{expected}"}
    end
  end

  defp object(event, key) do
    case event[key] || %{} do
      value when is_map(value) -> {:ok, value}
      _ -> {:error, "#{key} is not an object"}
    end
  end

  defp timestamp(nil), do: {:ok, []}
  defp timestamp(ms) when is_integer(ms), do: {:ok, [timestamp: ms]}

  defp timestamp(text) when is_binary(text) do
    with {:error, _} <- DateTime.from_iso8601(text),
         {:error, _} <- NaiveDateTime.from_iso8601(text) do
      {:error, "timestamp #{inspect(text)} is not ISO 8601"}
    else
      {:ok, time, _offset} -> {:ok, [timestamp: time]}
      {:ok, time} -> {:ok, [timestamp: time]}
    end
  end

  defp timestamp(_), do: {:error, "timestamp is neither ISO 8601 nor integer milliseconds"}
end

[path] = System.argv()
System.halt(Demo.File.run(path))
