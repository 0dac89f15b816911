defmodule BilldogEng.Client.Hooks do
  @moduledoc false
  # What the app has done to its events in Elixir before they are encoded: `:global_properties`, `:context`,
  # `:before_send`. Clients without any of them never come here.

  alias BilldogEng.Context
  alias BilldogEng.Client.{Native, PidTable}
  alias BilldogEng.Log.Failure
  alias BilldogEng.Terms.Budget
  alias BilldogEng.Client.Hooks.Shared

  defstruct [:before_send, :global_properties, :group_type_index, :context]

  @doc false
  # nil where there is nothing to do.
  def new(before_send, global_properties, group_type_index, context \\ false) do
    if before_send || global_properties || context do
      %__MODULE__{
        before_send: before_send,
        global_properties: global_properties,
        group_type_index: group_type_index,
        context: context
      }
    end
  end

  # Terms of hooks that are copied at each capture; larger ones are read without a copy.
  @copied 200

  @doc false
  # Those of a client, in a table by its pid. The native library has them too, in the external format, which takes
  # three times as long to read.
  def of(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_pid, %__MODULE__{} = hooks}] -> hooks
      [{_pid, {:shared, key}}] -> :persistent_term.get(key, nil) || Native.hooks(pid)
      [{_pid, :native}] -> Native.hooks(pid)
      [] -> pid |> Native.hooks() |> kept(pid)
    end
  rescue
    # No table.
    ArgumentError -> Native.hooks(pid)
  end

  defp kept(nil, _pid), do: nil

  defp kept(hooks, pid) do
    small? = Budget.walk_copied(hooks, @copied) >= 0

    if :ets.insert_new(__MODULE__, {pid, if(small?, do: hooks, else: :native)}) do
      PidTable.watch(__MODULE__, pid)
      unless small?, do: Shared.keep(pid)
    end

    hooks
  end

  # The clients whose hooks the process is running.
  @running :"$billdogeng_hooks"

  @doc false
  # `{:ok, {id, name, properties, groups, timestamp}}`, or `{:drop, reason}`. A capture by a hook of the same client
  # would run that hook again, without end, and without the hook it would bypass what that takes out.
  def run(hooks, pid, event, kind) do
    running = Process.get(@running, [])

    if pid in running do
      {:drop, :in_hook}
    else
      Process.put(@running, [pid | running])

      try do
        apply_to(hooks, pid, event, kind)
      after
        if running == [], do: Process.delete(@running), else: Process.put(@running, running)
      end
    end
  end

  defp apply_to(hooks, pid, {id, name, properties, groups, timestamp}, kind) do
    properties =
      if kind == :with_groups,
        do: properties |> with_context(hooks) |> with_globals(hooks, pid),
        else: properties

    if hooks.before_send do
      properties = if kind == :with_groups, do: with_groups(properties, groups, hooks), else: properties

      event = %{
        "event_name" => name,
        "event_timestamp" => timestamp || Native.now_ms(),
        "properties" => properties,
        "user_id" => id
      }

      before_send(hooks.before_send, pid, event)
    else
      {:ok, {id, name, properties, groups, timestamp}}
    end
  end

  # ── before_send ──

  defp before_send(function, pid, event) do
    case call(function, [event]) do
      %{"event_name" => name, "event_timestamp" => ms, "properties" => properties, "user_id" => id} = changed
      when is_integer(ms) and map_size(changed) == 4 ->
        {:ok, {id, name, properties, %{}, ms}}

      nil ->
        {:drop, :before_send}

      _ ->
        failed(pid, :before_send, :wrong_event)
        {:drop, :before_send}
    end
  catch
    kind, reason ->
      failed(pid, :before_send, failure(function, kind, reason, __STACKTRACE__))
      {:drop, :before_send}
  end

  # ── failures ──

  @options [:before_send, :global_properties]

  # Notifies the owner once for each option: a message for each event would fill its mailbox.
  defp failed(pid, option, failure) do
    if Native.is_first_failure(pid, Enum.find_index(@options, &(&1 == option))),
      do: send(pid, {:hook_failed, option, failure})
  end

  defp failure(function, :error, %BadFunctionError{term: term}, _stacktrace) when term === function,
    do: unloaded(function)

  defp failure(function, :error, {:badfun, term}, _stacktrace) when term === function, do: unloaded(function)

  defp failure(_function, kind, reason, stacktrace), do: Failure.shown(kind, reason, stacktrace)

  defp unloaded(function) do
    {:module, module} = Function.info(function, :module)
    {:unloaded, module}
  end

  # ── the process's context ──

  defp with_context(properties, %{context: true}) do
    case Context.get() do
      %{properties: context} when map_size(context) > 0 -> beneath(context, properties)
      _ -> properties
    end
  end

  defp with_context(properties, _hooks), do: properties

  # ── global properties ──

  defp with_globals(properties, %{global_properties: nil}, _pid), do: properties

  defp with_globals(properties, hooks, pid) do
    case globals(hooks.global_properties, pid) do
      globals when map_size(globals) == 0 -> properties
      globals -> beneath(globals, properties)
    end
  end

  defp globals(map, _pid) when is_map(map), do: map

  defp globals(function, pid) do
    given = call(function, [])

    cond do
      is_map(given) and not is_struct(given) ->
        given

      Keyword.keyword?(given) ->
        Map.new(given)

      true ->
        failed(pid, :global_properties, :wrong_properties)
        %{}
    end
  catch
    kind, reason ->
      failed(pid, :global_properties, failure(function, kind, reason, __STACKTRACE__))
      %{}
  end

  @doc false
  # A capture's own value wins, whether its key is a string or an atom.
  def beneath(globals, properties) when is_map(properties) and not is_struct(properties) do
    Enum.reduce(globals, properties, fn {key, value}, merged ->
      if has?(properties, key), do: merged, else: Map.put(merged, key, value)
    end)
  end

  def beneath(globals, []), do: globals

  def beneath(globals, properties) do
    if Keyword.keyword?(properties), do: beneath(globals, Map.new(properties)), else: properties
  end

  # In either spelling.
  defp has?(properties, key) when is_map_key(properties, key), do: true
  defp has?(properties, key) when is_atom(key), do: is_map_key(properties, Atom.to_string(key))

  defp has?(properties, key) when is_binary(key) do
    is_map_key(properties, String.to_existing_atom(key))
  rescue
    _ -> false
  end

  defp has?(_properties, _key), do: false

  # ── groups, as the original resolves them ──

  defp with_groups(properties, groups, _hooks) when groups in [nil, [], %{}], do: properties

  defp with_groups(properties, groups, hooks) do
    properties = grouped(properties)
    numbered = if is_map(hooks.group_type_index), do: numbers(groups, hooks.group_type_index), else: []

    Enum.reduce([{"$groups", groups} | numbered], properties, fn {key, value}, all ->
      Map.put(all, key, value)
    end)
  end

  defp grouped(properties) when is_map(properties) and not is_struct(properties), do: properties
  defp grouped(properties) when properties in [nil, []], do: %{}

  defp grouped(properties) do
    if Keyword.keyword?(properties), do: Map.new(properties), else: %{"$properties" => properties}
  end

  defp numbers(groups, index) when is_struct(groups), do: numbers([groups], index)

  # An improper list has no length, and no pairs.
  defp numbers(groups, index) when is_map(groups) or (is_list(groups) and length(groups) >= 0) do
    for {type, group} <- groups,
        number = Map.get(index, type) || Map.get(index, name(type)),
        number in 0..4 do
      {"$group_#{number}", group}
    end
  end

  defp numbers(_groups, _index), do: []

  # The digits of larger integers take quadratic time.
  defp name(type) when is_integer(type) and type not in -0x8000_0000_0000_0000..0x7FFF_FFFF_FFFF_FFFF, do: nil
  defp name(type) when is_atom(type) or is_number(type) or is_binary(type), do: to_string(type)
  defp name(_type), do: nil

  defp call({module, function, args}, given), do: apply(module, function, given ++ args)
  defp call(function, given), do: apply(function, given)
end
