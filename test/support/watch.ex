defmodule BilldogEng.Watch do
  @moduledoc "Whether a scheduler of this VM is held."

  # Far above what a busy machine does to anybody's turn: giving 200 MB back to the system alone has been
  # seen to take 100 ms.
  @long 500

  @doc """
  Runs `prepare`, then, watched, `run` with what it gave, in a process of their own. Answers the turns of it
  that were too long, as the monitor saw them, which is another process: the VM does not report the monitor
  itself.
  """
  def long_schedules(prepare \\ fn -> nil end, run) do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        made = prepare.()
        :erlang.garbage_collect()
        send(test, :made)
        receive do: (:go -> run.(made))
      end)

    receive do: (:made -> :ok)

    monitor =
      spawn_link(fn ->
        :erlang.system_monitor(self(), long_schedule: @long)
        send(pid, :go)
        collect([])
      end)

    receive do: ({:DOWN, ^ref, :process, ^pid, reason} -> :normal = reason)
    # The VM reports a turn after it, perhaps after the end of the process, at no known time.
    Process.sleep(50)
    send(monitor, {:seen, test, pid})
    receive do: ({:seen, seen} -> seen)
  end

  @doc """
  Runs `watched`, which answers what `long_schedules/2` does, until no turn was too long, three times at most. What
  holds a scheduler does so each time; a busy machine, which may take seconds from anybody's turn, does not.
  """
  def each_time(watched) do
    Enum.reduce_while(1..3, nil, fn _, _ ->
      case watched.() do
        [] -> {:halt, []}
        seen -> {:cont, seen}
      end
    end)
  end

  defp collect(seen) do
    receive do
      {:monitor, pid, :long_schedule, info} ->
        collect([{pid, info} | seen])

      {:seen, from, pid} ->
        # Before the next one begins: what that prepares would be measured too.
        :erlang.system_monitor(:undefined)
        send(from, {:seen, for({^pid, info} <- seen, do: info)})
    end
  end
end
