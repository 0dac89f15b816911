defmodule BilldogEng.Collector.Printer do
  @moduledoc false
  # The lines of `print: true`. Whatever was received, a line is one line and cannot control the terminal.

  alias BilldogEng.Collector.WireEvent

  @doc "Prints a line. A device that is gone is none of the collector's business."
  @spec puts(iodata) :: :ok
  def puts(line) do
    IO.puts(line)
  catch
    _kind, _reason -> :ok
  end

  @doc """
  Returns the line of an event.

      iex> event = %{"event_name" => "a", "event_timestamp" => 1, "properties" => %{"n" => 1}, "user_id" => "user-1"}
      iex> BilldogEng.Collector.Printer.event(event)
      ~S(a user-1 %{"n" => 1})
      iex> BilldogEng.Collector.Printer.event(%{event | "event_name" => "", "user_id" => nil})
      ~S("" nil [invalid: event_name is empty, user_id is nil] %{"n" => 1})
  """
  @spec event(map) :: String.t()
  def event(event) do
    [name, user] = for key <- ~w(event_name user_id), do: word(event[key])
    properties = inspect(event["properties"], limit: :infinity, width: :infinity)

    case WireEvent.problems(event) do
      [] -> "#{name} #{user} #{properties}"
      problems -> "#{name} #{user} [invalid: #{Enum.join(problems, ", ")}] #{properties}"
    end
  end

  @doc """
  Returns the line of a request that was refused.

      iex> BilldogEng.Collector.Printer.refused(401, "unknown API key")
      "refused with 401: unknown API key"
  """
  @spec refused(pos_integer, String.t()) :: String.t()
  def refused(status, message), do: "refused with #{status}: #{word(message)}"

  defp word(text) when is_binary(text) and text != "" do
    if String.valid?(text) and not (text =~ ~r/[[:cntrl:]]/u), do: text, else: inspect(text)
  end

  defp word(other), do: inspect(other)
end
