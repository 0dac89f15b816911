defmodule BilldogEng.Client.Hooks do
  @moduledoc false
  # Runs the app's changes to events before they are encoded: `:global_properties`, `:context`, `:before_send`. The
  # captures of clients without any of them do not run this.

  alias BilldogEng.Context
  alias BilldogEng.Client.Native
  alias BilldogEng.Log.Failure

  defstruct [:before_send, :global_properties, :group_type_index, :context]

  @doc false
  # Returns nil if there is nothing to do.
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

  # The clients whose hooks the process is running.
  @running :"$billdogeng_hooks"

  @doc false
  # Returns `{:ok, event}` or `{:drop, reason}`. Drops a capture by a hook of the same client: to run the hook again would
  # not end, and to skip it would bypass what it removes.
  def run(hooks, pid, event, form) do
    running = Process.get(@running, [])

    if pid in running do
      {:drop, :in_hook}
    else
      Process.put(@running, [pid | running])

      try do
        apply_to(hooks, pid, event, form)
      after
        if running == [], do: Process.delete(@running), else: Process.put(@running, running)
      end
    end
  end

  defp apply_to(hooks, pid, {id, name, properties, groups, timestamp}, form) do
    properties =
      if form == :with_groups,
        do: properties |> with_context(hooks) |> with_globals(hooks, pid),
        else: properties

    if hooks.before_send do
      properties = if form == :with_groups, do: with_groups(properties, groups, hooks), else: properties

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

  # Reports one failure for each option of a client: a message for each event would fill its owner's mailbox.
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
  # Merges `globals` into `properties`, which override them, whether a key is a string or an atom.
  def beneath(globals, properties) when is_map(properties) and not is_struct(properties) do
    Enum.reduce(globals, properties, fn {key, value}, merged ->
      if has?(properties, key), do: merged, else: Map.put(merged, key, value)
    end)
  end

  def beneath(globals, []), do: globals

  def beneath(globals, properties) do
    if Keyword.keyword?(properties), do: beneath(globals, Map.new(properties)), else: properties
  end

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

  # The guard fails for an improper list, which has no pairs.
  defp numbers(groups, index) when is_map(groups) or (is_list(groups) and length(groups) >= 0) do
    for {type, group} <- groups,
        number = Map.get(index, type) || Map.get(index, name(type)),
        number in 0..4 do
      {"$group_#{number}", group}
    end
  end

  defp numbers(_groups, _index), do: []

  # To print larger integers takes quadratic time.
  defp name(type) when is_integer(type) and type not in -0x8000_0000_0000_0000..0x7FFF_FFFF_FFFF_FFFF, do: nil
  defp name(type) when is_atom(type) or is_number(type) or is_binary(type), do: to_string(type)
  defp name(_type), do: nil

  defp call({module, function, args}, given), do: apply(module, function, given ++ args)
  defp call(function, given), do: apply(function, given)
end
