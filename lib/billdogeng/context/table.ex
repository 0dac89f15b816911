defmodule BilldogEng.Context.Table do
  @moduledoc false
  # Contexts by the pid of their process, for its tasks to find: no process is ever asked for its own.
  #
  # A row is `{pid, marker, context}`; the context is false once it was taken out. A task finds a row only with its
  # marker, which stands behind the pid in the task's `$callers`: it was there when the task was started. So a task
  # of an earlier request, or of one without a context, never finds the context of another.

  alias BilldogEng.PidTable

  def put(pid, marker, context) do
    if :ets.insert_new(__MODULE__, {pid, marker, context}),
      do: PidTable.watch(__MODULE__, pid),
      else: :ets.insert(__MODULE__, {pid, marker, context})

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

  @doc false
  # The context of that process, whoever asks; nil where it has none.
  def of(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, %{} = context}] -> context
      _ -> nil
    end
  rescue
    ArgumentError -> nil
  end

  @doc false
  # The context of the nearest of `$callers` that has, or had, one; nil where that has another by now.
  def of_first([pid | callers]) do
    case {:ets.lookup(__MODULE__, pid), callers} do
      {[{_, marker, %{} = context}], [marker | _]} -> context
      {[], _} -> of_first(callers)
      _ -> nil
    end
  rescue
    ArgumentError -> nil
  end

  def of_first([]), do: nil
end
