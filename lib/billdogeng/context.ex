defmodule BilldogEng.Context do
  @moduledoc """
  Who is being served, kept by the process that serves them.

  `BilldogEng.Plug` puts it into the process of a request and `BilldogEng.LiveView` into that of a LiveView;
  other processes put their own:

      def join("room:" <> _, _params, socket) do
        BilldogEng.Context.put(distinct_id: socket.assigns.user_id)
        {:ok, socket}
      end

  Telemetry handlers (`BilldogEng.Telemetry.attach/3`) take their distinct id from it. Its properties are in every
  `BilldogEng.Analytics.capture/6` of the process to a client with the option `context: true`; a capture's own
  properties stand above them, and they above `:global_properties`.

  ## Tasks

  A process that `Task` or `Task.Supervisor` has started, at any depth, finds the context that its starter had then:

      Task.start(fn -> MyApp.Analytics.capture(user.id, "receipt_sent") end)

  It finds it for as long as the starter has that context, and for five seconds more: after the response has been
  sent, or the process has ended. What it has found once it keeps. It never finds another user's context.

  `spawn/1`, a job queue and a process that was there before find nothing. They take the context along, as does a
  task that first captures later than that:

      context = BilldogEng.Context.get()

      spawn(fn ->
        BilldogEng.Context.put(context)
        MyApp.Mail.send_receipt()
      end)
  """

  alias BilldogEng.Context.Table

  @typedoc "Who it is, and properties of what is being done for them."
  @type t :: %{distinct_id: term(), properties: map()}

  # Its place in the process dictionary: a context, or `:none` where there was one and tasks that this one
  # comes from have one too.
  @key __MODULE__
  # The distinct ID that this process had last, and the marker of its tasks.
  @marker {__MODULE__, :marker}

  @doc group: "State"
  @doc """
  Puts a context into the calling process, in place of what it has: nothing is merged.

  Takes a map or keyword list of `:distinct_id` and `:properties` (a map or keyword list), or nil for none.

      iex> BilldogEng.Context.put(distinct_id: "user-1", properties: %{plan: "pro"})
      :ok
      iex> BilldogEng.Context.get()
      %{distinct_id: "user-1", properties: %{plan: "pro"}}
      iex> BilldogEng.Context.put(properties: %{step: 2})
      :ok
      iex> BilldogEng.Context.get()
      %{distinct_id: nil, properties: %{step: 2}}
  """
  @spec put(map() | keyword() | nil) :: :ok
  def put(nil), do: clear()

  def put(context) do
    context = checked(context)
    Process.put(@key, context)
    Table.put(self(), mark(context.distinct_id), context)
  end

  @doc group: "State"
  @doc """
  The context of the calling process, else of the one whose task it is; nil where there is none.

      iex> BilldogEng.Context.put(distinct_id: "user-1")
      iex> Task.await(Task.async(fn -> BilldogEng.Context.get() end))
      %{distinct_id: "user-1", properties: %{}}
  """
  @spec get() :: t() | nil
  def get do
    case Process.get(@key) do
      nil -> inherited(Process.get(:"$callers"))
      :none -> nil
      context -> context
    end
  end

  @doc group: "State"
  @doc """
  The distinct id of `get/0`, nil where there is none.

      iex> BilldogEng.Context.distinct_id()
      nil
  """
  @spec distinct_id() :: term()
  def distinct_id do
    case get() do
      %{distinct_id: id} -> id
      nil -> nil
    end
  end

  @doc group: "State"
  @doc """
  Takes the context out of the calling process.

      iex> BilldogEng.Context.put(distinct_id: "user-1")
      iex> BilldogEng.Context.clear()
      :ok
      iex> BilldogEng.Context.get()
      nil
  """
  @spec clear() :: :ok
  def clear do
    leave()

    # Whoever comes next gets another marker.
    with {_id, marker} <- Process.get(@marker), do: Process.put(@marker, {@marker, marker})
    Table.clear(self())
  end

  @doc false
  # Takes the context out of the process, and leaves it to the tasks that the process has started with it.
  def leave do
    case unmark() do
      [] ->
        Process.delete(@key)

      callers ->
        # What a task had found must not be found again, by its own tasks neither.
        Process.put(@key, :none)
        Process.put(:"$callers", Table.mark(callers, Table.nobody()))
    end

    :ok
  end

  @doc false
  # Runs a handler's capture in the context of what it tells of, which may no longer be, or never was, that of
  # the process. Nothing of it is for tasks.
  def within(context, fun) do
    own = Process.put(@key, context || :none)

    try do
      fun.()
    after
      if own, do: Process.put(@key, own), else: Process.delete(@key)
    end
  end

  # Tasks inherit `$callers` and nothing else of the process dictionary, and other libraries expect pids there. So a
  # marker is a pid: the process's own for its first user, later that of a process that has ended. Another user has
  # another one, and so has each anonymous context.
  defp mark(id) do
    marker =
      case Process.get(@marker) do
        {^id, marker} when id != nil -> marker
        nil -> self()
        _another -> spawn(fn -> :ok end)
      end

    callers = unmark()
    Process.put(@marker, {id, marker})
    Process.put(:"$callers", Table.mark(callers, marker))
    marker
  end

  # The callers that are left.
  defp unmark do
    {_id, marker} = Process.get(@marker, {nil, nil})
    callers = Process.get(:"$callers", [])
    left = callers |> Table.unmark(marker) |> Table.unmark(Table.nobody())

    case left do
      ^callers -> :ok
      [] -> Process.delete(:"$callers")
      _ -> Process.put(:"$callers", left)
    end

    left
  end

  defp checked(context) when is_list(context) or (is_map(context) and not is_struct(context)) do
    given = Map.new(context)

    case Map.keys(given) -- [:distinct_id, :properties] do
      [] ->
        %{distinct_id: given[:distinct_id], properties: properties(given[:properties])}

      [unknown | _] ->
        raise ArgumentError, "a context takes :distinct_id and :properties; it was given #{inspect(unknown)}"
    end
  end

  defp checked(_other), do: raise(ArgumentError, "a context is a map or keyword list, or nil")

  defp properties(nil), do: %{}
  defp properties(map) when is_map(map) and not is_struct(map), do: map
  defp properties([_ | _] = list), do: Map.new(list)
  defp properties([]), do: %{}

  defp properties(_other) do
    raise ArgumentError, "the :properties of a context take a map or keyword list"
  end

  # Kept once found: the task may outlive what it was started for.
  defp inherited([_ | _] = callers) do
    with %{} = context <- Table.of_callers(callers) do
      Process.put(@key, context)
      context
    end
  end

  defp inherited(_none), do: nil
end
