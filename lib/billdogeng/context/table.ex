defmodule BilldogEng.Context.Table do
  @moduledoc false
  # Contexts by the pid of their process, for its tasks to find: no process is ever asked for its own.
  #
  # A row is `{pid, whose, context}`. Its context is false once it was taken out, and its whose `@several` once
  # the process has served another user too: from then on a task that is late can't be told from one of now.

  alias BilldogEng.{Budget, PidTable}

  @several :"$several"

  def put(pid, %{distinct_id: id} = context) do
    # A table's copy of shared parts could take all the VM's memory. Tasks then find none.
    context = if Budget.walk_copied(context, Budget.most()) >= 0, do: context, else: false
    id = if context, do: id, else: @several

    if :ets.insert_new(__MODULE__, {pid, id, context}) do
      PidTable.watch(__MODULE__, pid)
    else
      case :ets.lookup_element(__MODULE__, pid, 2) do
        ^id -> :ets.insert(__MODULE__, {pid, id, context})
        _ -> :ets.insert(__MODULE__, {pid, @several, false})
      end
    end

    :ok
  rescue
    # Where the library's application isn't running there is no table, and tasks find nothing.
    ArgumentError -> :ok
  end

  def clear(pid) do
    :ets.update_element(__MODULE__, pid, {3, false})
    :ok
  rescue
    ArgumentError -> :ok
  end

  # The nearest caller that has, or had, one; nil where that is none or has none now.
  def of_first([pid | callers]) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, %{} = context}] -> context
      [_] -> nil
      [] -> of_first(callers)
    end
  rescue
    ArgumentError -> nil
  end

  def of_first(_none), do: nil
end
