defmodule BilldogEng.Context do
  @moduledoc """
  Stores the user that a process serves.

  `BilldogEng.Plug` puts a context into the process of a request, and `BilldogEng.LiveView` into that of a LiveView.
  Other processes call `put/1`:

      def join("room:" <> _, _params, socket) do
        BilldogEng.Context.put(distinct_id: socket.assigns.user_id)
        {:ok, socket}
      end

  Telemetry handlers (`BilldogEng.Telemetry.attach/3`) use its distinct ID. A client with the option `context: true` adds
  its properties to each `BilldogEng.Analytics.capture/6` of the process. They override `:global_properties`, and the
  properties passed to `capture/6` override them.

  ## Tasks

  A process that is started by `Task` or `Task.Supervisor`, at any depth, inherits the context that the calling process
  had at that time:

      Task.start(fn -> MyApp.Analytics.capture(user.id, "receipt_sent") end)

  The task finds the context as long as the calling process has it, and for five seconds after the response was sent or
  the process ended. After the first use, the task keeps it. A task never finds the context of another user.

  Other processes (`spawn/1`, a job queue, a running process) and later tasks do not inherit the context. Pass it to them:

      context = BilldogEng.Context.get()

      spawn(fn ->
        BilldogEng.Context.put(context)
        MyApp.Mail.send_receipt()
      end)
  """

  alias BilldogEng.Context.Table

  @typedoc "The user, and properties for the captures of the process."
  @type t :: %{distinct_id: term(), properties: map()}

  # The key in the process dictionary. The value is a context, or `:none` if the process must not inherit one.
  @key __MODULE__
  # The key of the last distinct ID of the process, and the marker of its tasks.
  @marker {__MODULE__, :marker}

  @doc group: "State"
  @doc """
  Replaces the context of the calling process. Nothing is merged.

  `context` is a map or a keyword list of `:distinct_id` and `:properties` (a map or keyword list), or nil to remove the
  context. Raises `ArgumentError` for anything else.

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
  Returns the context of the calling process, or the one that it inherits as a task, or nil.

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
  Returns the distinct ID of `get/0`, or nil.

      iex> BilldogEng.Context.distinct_id()
      nil
  """
  @spec distinct_id() :: term()
  def distinct_id, do: get()[:distinct_id]

  @doc group: "State"
  @doc """
  Removes the context of the calling process.

      iex> BilldogEng.Context.put(distinct_id: "user-1")
      iex> BilldogEng.Context.clear()
      :ok
      iex> BilldogEng.Context.get()
      nil
  """
  @spec clear() :: :ok
  def clear do
    leave()

    # The next user gets another marker, also if the ID is the same.
    with {_id, marker} <- Process.get(@marker), do: Process.put(@marker, {@marker, marker})
    Table.clear(self())
  end

  @doc false
  # Removes the context of the process. Tasks that were started with it still find it.
  def leave do
    case unmark() do
      [] ->
        Process.delete(@key)

      callers ->
        # This process is a task. It and its own tasks must not inherit the context again.
        Process.put(@key, :none)
        Process.put(:"$callers", Table.mark(callers, Table.empty_marker()))
    end

    :ok
  end

  @doc false
  # Runs a handler's capture in the context of the telemetry event, which may differ from that of the process. Tasks do
  # not inherit it.
  def within(context, fun) do
    own = Process.put(@key, context || :none)

    try do
      fun.()
    after
      if own, do: Process.put(@key, own), else: Process.delete(@key)
    end
  end

  # Tasks inherit only `$callers` of the process dictionary, and other libraries expect pids there. So a marker is a pid:
  # that of the process for its first user, later that of a process that has ended. Each user has another marker, and so
  # has each anonymous context.
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

  # Removes the markers of this process from `$callers`, and returns the others.
  defp unmark do
    {_id, marker} = Process.get(@marker, {nil, nil})
    callers = Process.get(:"$callers", [])
    left = callers |> Table.unmark(marker) |> Table.unmark(Table.empty_marker())

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
        raise ArgumentError,
              "invalid context: expected :distinct_id and :properties, got: #{inspect(unknown)}"
    end
  end

  defp checked(_other), do: raise(ArgumentError, "invalid context: expected a map, a keyword list or nil")

  defp properties(nil), do: %{}
  defp properties(map) when is_map(map) and not is_struct(map), do: map
  defp properties([_ | _] = list), do: Map.new(list)
  defp properties([]), do: %{}

  defp properties(_other) do
    raise ArgumentError, "invalid value for :properties of a context: expected a map or keyword list"
  end

  # Stores the context in the task, because the task may outlive the context of its caller.
  defp inherited([_ | _] = callers) do
    with %{} = context <- Table.of_callers(callers) do
      Process.put(@key, context)
      context
    end
  end

  defp inherited(_none), do: nil
end
