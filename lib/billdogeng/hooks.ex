defmodule BilldogEng.Hooks do
  @moduledoc false
  # What the app has done to its events in Elixir before they are encoded: `:global_properties`, `:context`,
  # `:before_send`. Clients without any of them never come here.

  alias BilldogEng.{Context, Native, PidTable}

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

  @doc false
  # Those of a client, in a table by its pid. The native library has them too, in the external format, which takes
  # three times as long to read.
  def of(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_pid, hooks}] -> hooks
      [] -> pid |> Native.hooks() |> kept(pid)
    end
  rescue
    # No table.
    ArgumentError -> Native.hooks(pid)
  end

  defp kept(nil, _pid), do: nil

  defp kept(hooks, pid) do
    if :ets.insert_new(__MODULE__, {pid, hooks}), do: PidTable.watch(__MODULE__, pid)
    hooks
  end

  @doc false
  # `{:ok, {id, name, properties, groups, timestamp}}`, or `:drop`, or `{:failed, why}` without a word of the
  # event's in it.
  def run(hooks, event, kind) do
    apply_to(hooks, event, kind)
  catch
    # Of ours, not the app's: whatever the terms are, the event must be accounted for.
    kind, _ -> {:failed, "could not be called: #{kind}#{at(__STACKTRACE__)}"}
  end

  defp apply_to(hooks, {id, name, properties, groups, timestamp}, kind) do
    properties =
      if kind == :with_groups,
        do: properties |> with_context(hooks) |> with_globals(hooks),
        else: properties

    if hooks.before_send do
      properties = if kind == :with_groups, do: with_groups(properties, groups, hooks), else: properties

      before_send(hooks.before_send, %{
        "event_name" => name,
        "event_timestamp" => timestamp || System.system_time(:millisecond),
        "properties" => properties,
        "user_id" => id
      })
    else
      {:ok, {id, name, properties, groups, timestamp}}
    end
  end

  # ── before_send ──

  defp before_send(function, event) do
    case call(function, [event]) do
      %{"event_name" => name, "event_timestamp" => ms, "properties" => properties, "user_id" => id} = changed
      when is_integer(ms) and map_size(changed) == 4 ->
        {:ok, {id, name, properties, %{}, ms}}

      nil ->
        :drop

      _ ->
        {:failed, "answered neither nil nor a map of the four keys of an event, its time an integer"}
    end
  rescue
    error -> {:failed, "raised #{inspect(error.__struct__)}#{at(__STACKTRACE__)}"}
  catch
    kind, _ -> {:failed, "ended by #{kind}#{at(__STACKTRACE__)}"}
  end

  @doc false
  # The place alone: a frame may hold arguments, and a message may quote the event.
  def at([{module, function, arity, location} | _]) do
    arity = if is_list(arity), do: length(arity), else: arity
    line = if location[:line], do: " (#{location[:file]}:#{location[:line]})", else: ""
    " in #{Exception.format_mfa(module, function, arity)}#{line}"
  end

  def at(_), do: ""

  # ── the process's context ──

  defp with_context(properties, %{context: true}) do
    case Context.get() do
      %{properties: context} when map_size(context) > 0 -> beneath(context, properties)
      _ -> properties
    end
  end

  defp with_context(properties, _hooks), do: properties

  # ── global properties ──

  defp with_globals(properties, %{global_properties: nil}), do: properties

  defp with_globals(properties, hooks) do
    case globals(hooks.global_properties) do
      globals when map_size(globals) == 0 -> properties
      globals -> beneath(globals, properties)
    end
  end

  defp globals(map) when is_map(map), do: map

  defp globals(function) do
    case call(function, []) do
      map when is_map(map) and not is_struct(map) -> map
      list when is_list(list) -> if Keyword.keyword?(list), do: Map.new(list), else: %{}
      _ -> %{}
    end
  rescue
    _ -> %{}
  catch
    _, _ -> %{}
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

  defp name(type) when is_atom(type) or is_number(type) or is_binary(type), do: to_string(type)
  defp name(_type), do: nil

  defp call({module, function, args}, given), do: apply(module, function, given ++ args)
  defp call(function, given), do: apply(function, given)
end
