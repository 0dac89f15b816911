defmodule BilldogEng.Collector.Mode do
  @moduledoc false
  # Checks what `BilldogEng.Collector.respond/2` and `release/2` are given. A function's result is checked with each
  # request.

  # The times that a process can wait.
  @max_delay 0xFFFFFFFF

  @doc "Returns the mode in its long form, or what is wrong with it."
  @spec check(term) :: {:ok, BilldogEng.Collector.mode()} | {:error, String.t()}
  def check(mode) do
    {:ok, long(mode)}
  catch
    {:wrong, part} -> {:error, "#{shown(part)}, which is not a mode" <> within(part, mode)}
  end

  defp within(mode, mode), do: ""
  defp within(_part, mode), do: " (in #{shown(mode)})"

  defp shown(term), do: inspect(term, limit: 20, printable_limit: 200)

  defp long([_ | _] = modes), do: long({:sequence, modes})
  defp long({:sequence, [_ | _] = modes} = mode), do: {:sequence, each(modes, mode)}
  defp long(mode) when mode in [:ok, :hang, :reset, :refuse, :quota], do: mode
  defp long({:times, n, mode}) when is_integer(n) and n > 0, do: {:times, n, long(mode)}
  defp long({:too_large, bytes} = mode) when is_integer(bytes) and bytes >= 0, do: mode
  defp long({:reject, name} = mode) when is_binary(name), do: mode
  defp long({:status, status} = mode) when status in 100..599, do: mode

  defp long({:status, status, headers} = mode) when status in 100..599,
    do: if(headers?(headers), do: mode, else: throw({:wrong, mode}))

  defp long({:status, status, headers, body} = mode) when status in 100..599 and is_binary(body),
    do: if(headers?(headers), do: mode, else: throw({:wrong, mode}))

  defp long({:json, status, body} = mode) when status in 100..599 and is_binary(body), do: mode
  defp long({:delay, ms}), do: long({:delay, ms, :ok})
  defp long({:delay, ms, mode}) when ms in 0..@max_delay, do: {:delay, ms, long(mode)}
  defp long({:gate, pid} = mode) when is_pid(pid), do: mode
  defp long(choose) when is_function(choose, 1), do: choose
  defp long(other), do: throw({:wrong, other})

  defp each([mode | modes], whole), do: [long(mode) | each(modes, whole)]
  defp each([], _whole), do: []
  defp each(_improper, whole), do: throw({:wrong, whole})

  defp headers?([{name, value} | headers]) when is_binary(name) and is_binary(value),
    do: not String.contains?(name <> value, ["\r", "\n"]) and headers?(headers)

  defp headers?(headers), do: headers == []
end
