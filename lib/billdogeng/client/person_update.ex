defmodule BilldogEng.Client.PersonUpdate do
  @moduledoc false
  # An update of a person on its way: from what the app has said to one term, which the native library writes.
  #
  #     {"distinct_id": …, "operations": [{"operation": "$set", "key": …, "value": …}, …]}

  alias BilldogEng.Client.Native
  alias BilldogEng.Log.Writer
  alias BilldogEng.Terms.{Budget, Normaliser}
  alias BilldogEng.Test.Store

  # In the order in which they are carried out.
  @operations [set: "$set", set_once: "$set_once", add: "$add", append: "$append", unset: "$unset"]

  @doc false
  # As lists of pairs, whose order the encoder keeps. What isn't an operation is left out, and said once; never
  # with its value.
  # Throws as `BilldogEng.Terms.Normaliser.run/3` where a key is too large.
  def operations(ops), do: Normaliser.within(Budget.most(), fn -> known(ops) end)

  defp known(ops) do
    pairs = pairs(ops)

    if pairs == nil do
      Writer.once(:person_operations, :person_invalid)
    end

    given = pairs || []

    for {name, _} <- given, not List.keymember?(@operations, name, 0) do
      Writer.once({:person_operation, shown(name)}, {:person_operation_unknown, shown(name)})
    end

    for {name, operation} <- @operations,
        {^name, argument} <- given,
        {key, value} <- arguments(name, argument) do
      [operation: operation, key: key(key), value: value]
    end
  end

  defp arguments(:unset, keys) do
    if proper?(keys) and not keyed?(keys) do
      for key <- keys, do: {key, nil}
    else
      wrong(:unset)
    end
  end

  defp arguments(name, argument), do: pairs(argument) || wrong(name)

  defp wrong(name) do
    Writer.once({:person_operation, name}, {:person_operation_invalid, name})
    []
  end

  # nil where there are none.
  defp pairs(map) when is_map(map) and not is_struct(map), do: Map.to_list(map)
  defp pairs(list), do: if(proper?(list) and Enum.all?(list, &pair?/1), do: list)

  defp proper?(list), do: is_list(list) and not List.improper?(list)
  defp keyed?(list), do: list != [] and Enum.all?(list, &pair?/1)
  defp pair?(pair), do: is_tuple(pair) and tuple_size(pair) == 2

  defp key(key) when is_binary(key), do: key
  defp key(key) when is_atom(key), do: Atom.to_string(key)

  defp key(key), do: key |> Normaliser.key() |> to_string()

  defp shown(name) when is_atom(name), do: inspect(name)
  defp shown(_name), do: "another term"

  @doc false
  # To the client of `pid`: `:ok`, or `:no_client`.
  def hand_in(_pid, _distinct_id, []), do: :ok

  def hand_in(_pid, nobody, _operations) when nobody in [nil, ""] do
    Writer.once(:person_without_id, :person_without_id)
  end

  def hand_in(pid, distinct_id, operations) do
    case native(pid, distinct_id: distinct_id, operations: operations) do
      {:update, update} -> Store.file(pid, event(update))
      :no_thread -> Writer.write(:person_thread)
      taken -> taken
    end
  end

  @doc false
  # Counts an update that was dropped on its way.
  def give_up(pid, reason), do: Native.give_up_person_update(pid, reason)

  # Whatever fails on the way, the update is in the client's accounts.
  defp native(pid, update) do
    encoded(pid, update)
  catch
    {Normaliser, :too_large} -> give_up(pid, :too_large)
    _, _ -> give_up(pid, :failed)
  end

  defp encoded(pid, update) do
    case Native.update_person(pid, update, nil) do
      :dirty -> dirty(pid, update)
      :normalise -> normalised(pid, update)
      taken -> taken
    end
  end

  defp dirty(pid, update) do
    with :normalise <- Native.update_person_dirty(pid, update, nil), do: normalised(pid, update)
  end

  defp normalised(pid, update) do
    marker = make_ref()
    Native.update_person_dirty(pid, Normaliser.run(update, marker, Native.max_event_bytes(pid)), marker)
  end

  # For `BilldogEng.Test`.
  defp event(%{"distinct_id" => distinct_id} = update) do
    %{
      "event_name" => "$set_person_properties",
      "event_timestamp" => Native.now_ms(),
      "properties" => Map.delete(update, "distinct_id"),
      "user_id" => distinct_id
    }
  end
end
