defmodule BilldogEng.Normaliser do
  @moduledoc false
  # Rewrites the terms that only Elixir knows how to write, for one event that has some. What it writes
  # goes back as `{marker, form, what}`, and the native encoder, told the marker, takes it from there:
  #
  #     :raw       JSON
  #     :text      text that is the value's own form
  #     :replaced  text in place of a value
  #     :improper  the same of an improper list, which is a container where depth counts
  #     :array     elements, also where a list of them would be taken for a keyword list
  #     :pairs     keys and values of a map whose order matters

  # Twice the encoder's depth and one more: a pair of a keyword list is a tuple here, and no level there.
  @deepest 201

  # `budget` is how many terms may be looked at; past it the event is too large, and
  # `{BilldogEng.Normaliser, :too_large}` thrown.
  def run(term, marker, budget) do
    # An app's encoder may capture an event itself, and so come here within another run.
    outer = Process.put(__MODULE__, budget)

    try do
      value(term, marker, 0)
    after
      if outer, do: Process.put(__MODULE__, outer), else: Process.delete(__MODULE__)
    end
  end

  # What is deeper the native encoder doesn't look at.
  defp value(term, _marker, depth)
       when depth > @deepest and (is_list(term) or is_tuple(term) or (is_map(term) and not is_struct(term))) do
    []
  end

  defp value(term, _marker, _depth) when is_binary(term) or is_number(term) or is_atom(term) do
    count()
    term
  end

  defp value(%{__struct__: module} = struct, marker, depth) when is_atom(module) do
    count()
    struct(module, struct, marker, depth)
  end

  defp value(map, marker, depth) when is_map(map) do
    count(1 + map_size(map))

    pairs = for {key, value} <- Map.to_list(map), do: {key(key), value(value, marker, depth + 1)}

    if ordered?(map), do: Map.new(pairs), else: {marker, :pairs, pairs}
  end

  defp value([], _marker, _depth), do: []

  defp value(list, marker, depth) when is_list(list) do
    count()

    case proper(list, []) do
      {:ok, elements} -> Enum.map(elements, &value(&1, marker, depth + 1))
      :improper -> {marker, :improper, inspected(list)}
    end
  end

  defp value(tuple, marker, depth) when is_tuple(tuple) do
    count(1 + tuple_size(tuple))
    tuple |> Tuple.to_list() |> Enum.map(&value(&1, marker, depth + 1)) |> List.to_tuple()
  end

  defp value(other, marker, _depth) do
    count()
    {marker, :replaced, inspected(other)}
  end

  # Between keys that collide as strings the map's order decides. It outlives this only where no key changes,
  # and in larger maps only where no two keys collide.
  defp ordered?(map) do
    keys = Map.keys(map)

    if map_size(map) <= 32,
      do: Enum.all?(keys, &(is_binary(&1) or is_atom(&1) or is_integer(&1))),
      else: Enum.all?(keys, &is_atom/1) or Enum.all?(keys, &is_integer/1) or Enum.all?(keys, &text?/1)
  end

  defp text?(key), do: is_binary(key) and String.valid?(key)

  @doc false
  # nil's name is one, though `to_string(nil)` is empty.
  def key(nil), do: "nil"
  def key(key) when is_binary(key) or is_atom(key) or is_integer(key), do: key

  def key(key) do
    to_string(key)
  rescue
    _ -> inspected(key)
  catch
    _, _ -> inspected(key)
  end

  defp proper([head | tail], seen) do
    count()
    proper(tail, [head | seen])
  end

  defp proper([], seen), do: {:ok, Enum.reverse(seen)}
  defp proper(_tail, _seen), do: :improper

  # Calendar types, as Jason writes them.
  defp struct(module, struct, marker, _depth) when module in [Date, Time, NaiveDateTime, DateTime] do
    {marker, :text, module.to_iso8601(struct)}
  rescue
    _ -> {marker, :replaced, "#Error<#{inspect(module)}>"}
  end

  defp struct(module, struct, marker, depth) do
    case encoded(struct) do
      {:ok, json} -> {marker, :raw, json}
      :none -> known(module, struct, marker, depth)
    end
  rescue
    error -> {marker, :replaced, "#Error<#{inspect(error.__struct__)}>"}
  catch
    :throw, {__MODULE__, :too_large} = too_large -> throw(too_large)
    kind, _ -> {marker, :replaced, "#Error<#{kind}>"}
  end

  defp known(Decimal, struct, marker, _depth), do: {marker, :text, to_string(struct)}

  defp known(module, struct, marker, _depth) when module in [URI, Version],
    do: {marker, :replaced, to_string(struct)}

  defp known(MapSet, struct, marker, depth) do
    count(MapSet.size(struct))
    {marker, :array, for(element <- MapSet.to_list(struct), do: value(element, marker, depth + 1))}
  end

  defp known(_module, struct, marker, _depth), do: {marker, :replaced, inspected(struct)}

  # An encoder that the app wrote or derived; the protocols' fallbacks raise for everything.
  defp encoded(struct) do
    Enum.find_value(encoders(), :none, fn {protocol, encode} ->
      implementation = protocol.impl_for(struct)

      if implementation not in [nil, Module.concat(protocol, Any)] do
        {:ok, IO.iodata_to_binary(encode.(struct))}
      end
    end)
  end

  # Asked at run time, once: nothing optional is looked up while this library compiles.
  defp encoders do
    with nil <- :persistent_term.get(__MODULE__, nil) do
      encoders =
        for {protocol, module, function} <- [
              {Jason.Encoder, Jason, :encode_to_iodata!},
              {JSON.Encoder, JSON, :encode_to_iodata!}
            ],
            Code.ensure_loaded?(protocol),
            do: {protocol, Function.capture(module, function, 1)}

      :persistent_term.put(__MODULE__, encoders)
      encoders
    end
  end

  # `safe: false`: a failing implementation must raise here; what Elixir shows in its place is the fields.
  defp inspected(term) do
    inspect(term, safe: false)
  rescue
    error -> "#Error<#{inspect(error.__struct__)}>"
  catch
    kind, _ -> "#Error<#{kind}>"
  end

  # Counted before they are listed: the VM lists ten million elements at one go.
  defp count(terms \\ 1) do
    case Process.get(__MODULE__) do
      # An encoder of the app's has emptied the dictionary.
      nil -> :ok
      :infinity -> :ok
      left when left < terms -> throw({__MODULE__, :too_large})
      left -> Process.put(__MODULE__, left - terms)
    end
  end
end
