defmodule BilldogEng.Client.PersonUpdate do
  @moduledoc false
  # Updates of persons: from the app's operations to the term that the native library writes, and its way there.
  #
  #     {"distinct_id": …, "operations": [{"operation": "$set", "key": …, "value": …}, …]}

  alias BilldogEng.Client.{Capture, Missing, Remote}
  alias BilldogEng.Log.Writer
  alias BilldogEng.Terms.{Budget, Normaliser}

  # In the order in which the ingest carries them out.
  @operations [set: "$set", set_once: "$set_once", add: "$add", append: "$append", unset: "$unset"]

  # Returns lists of pairs, whose order the encoder keeps. Leaves out what is no operation, and logs its name once, never
  # its value. Throws as `BilldogEng.Terms.Normaliser.run/3` does if a key is too large.
  defp operations(ops), do: Normaliser.within(Budget.most(), fn -> known(ops) end)

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

  # Returns nil for any term but a map and a list of pairs.
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
  # Captures an update for the client of `server`. Returns `:ok`, always.
  def capture(server, distinct_id, operations) do
    Capture.guard(server, :person_update, fn -> route(server, distinct_id, operations(operations)) end)
  end

  @doc false
  # Called on another node too: with operations as `operations/1` returns them.
  def route(server, distinct_id, operations) do
    case Remote.find(server) do
      {:local, pid} ->
        with :no_client <- enqueue(pid, distinct_id, operations),
             do: Remote.cast(pid, {:set_person_properties, distinct_id, operations})

      # Not by a message: a client of the original's kind would crash on it.
      {:remote, remote} ->
        if Remote.copyable?({distinct_id, operations}),
          do: spawn(fn -> route_there(remote, distinct_id, operations) end)

      nil ->
        Missing.count(server)
    end

    :ok
  catch
    _, _ -> :ok
  end

  defp route_there(remote, distinct_id, operations) do
    Remote.call(remote, __MODULE__, :route, [distinct_id, operations])
  catch
    _, _ ->
      node = if is_pid(remote), do: node(remote), else: elem(remote, 1)

      Writer.once({:remote_person, node}, {:remote_person, node})
  end

  @doc false
  # Captures an update for the client that `pid` owns. Returns `:ok` or `:no_client`.
  def enqueue(_pid, _distinct_id, []), do: :ok

  def enqueue(_pid, distinct_id, _operations) when distinct_id in [nil, ""] do
    Writer.once(:person_without_id, :person_without_id)
  end

  def enqueue(pid, distinct_id, operations) do
    update = {distinct_id, nil, operations, nil, nil}
    with :no_thread <- Capture.item(pid, :person_update, update, :raw), do: Writer.write(:person_thread)
  end
end
