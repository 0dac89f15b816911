defmodule BilldogEng.Client.Stats do
  @moduledoc false
  # The counters of a client as people and programs read them: times as `DateTime`.

  alias BilldogEng.Client.Native
  alias BilldogEng.Log.Text

  # Returns the counters of the client that `pid` owns, or `:no_client`. A client knows its counters once its spool is
  # open; its process replies from then on, also while the VM stops.
  def of(pid) do
    case with(:no_client <- Native.stats(pid), do: GenServer.call(pid, :stats, :infinity)) do
      :no_client -> :no_client
      %{person_updates: updates} = stats -> read(%{stats | person_updates: read(updates)})
    end
  end

  defp read(stats) do
    %{stats | last_error: error(stats.last_error), last_success: time(stats.last_success)}
  end

  defp error(nil), do: nil

  defp error({message, status, code, ms}),
    do: %{message: message, status: status, code: code, time: time(ms)}

  defp time(nil), do: nil
  defp time(ms), do: DateTime.from_unix!(ms, :millisecond)

  # Returns a client's state and its last requests for people, as `{label, text}`.
  def explained(stats) do
    [
      {"state", state(stats)},
      {"last error", last_error(stats.last_error)},
      {"delivered", "#{stats.delivered} of #{stats.captured} events, #{last_success(stats.last_success)}"}
    ]
  end

  def state(%{next_attempt_in: nil} = stats), do: "#{stats.state}"
  def state(stats), do: "#{stats.state}, next attempt in #{div(stats.next_attempt_in + 999, 1000)} s"

  def last_error(nil), do: "none"

  def last_error(error) do
    code = if error.code, do: " (#{Text.shown(error.code, 100)})", else: ""
    "#{Text.shown(error.message)}#{code} at #{shown(error.time)}"
  end

  defp last_success(nil), do: "none yet"
  defp last_success(time), do: "the last at #{shown(time)}"

  defp shown(time), do: time |> DateTime.truncate(:second) |> DateTime.to_iso8601()
end
