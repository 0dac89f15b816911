defmodule BilldogEng.Normaliser do
  @moduledoc false
  # Rewrites the terms that only Elixir knows how to write, for one event that has some. What it writes
  # goes back as `{marker, :raw, json}`, `{marker, :replaced, text}` or `{marker, :text, text}`, and the
  # native encoder, told the marker, takes it from there.

  @deepest 100

  # `budget` is how many terms may be looked at; past it the event is too large, and `:too_large` thrown.
  def run(term, marker, budget) do
    Process.put(__MODULE__, budget)
    value(term, marker, 0)
  after
    Process.delete(__MODULE__)
  end

  # The native encoder writes nothing from here on, so nothing needs to be rewritten.
  defp value(term, _marker, depth) when depth > @deepest, do: shallow(term)

  defp value(term, _marker, _depth) when is_binary(term) or is_number(term) or is_atom(term) do
    count()
    term
  end

  defp value(%{__struct__: module} = struct, marker, _depth) when is_atom(module) do
    count()
    struct(module, struct, marker)
  end

  defp value(map, marker, depth) when is_map(map) do
    count()

    # Pairs keep the map's order, which decides between keys that collide.
    pairs = for {key, value} <- Map.to_list(map), do: {key(key), value(value, marker, depth + 1)}
    if pairs == [], do: map, else: rebuilt(pairs, map)
  end

  defp value([], _marker, _depth), do: []

  defp value(list, marker, depth) when is_list(list) do
    count()

    case proper(list, []) do
      {:ok, elements} -> Enum.map(elements, &value(&1, marker, depth + 1))
      :improper -> {marker, :replaced, inspected(list)}
    end
  end

  defp value(tuple, marker, depth) when is_tuple(tuple) do
    count()
    tuple |> Tuple.to_list() |> Enum.map(&value(&1, marker, depth + 1)) |> List.to_tuple()
  end

  defp value(other, marker, _depth) do
    count()
    {marker, :replaced, inspected(other)}
  end

  defp shallow(term) when is_map(term) and not is_struct(term), do: %{}
  defp shallow(term) when is_list(term) or is_map(term) or is_tuple(term), do: []
  defp shallow(term) when is_binary(term) or is_number(term) or is_atom(term), do: term
  defp shallow(_term), do: nil

  # Where no two keys became one, a map serves; else the last of them wins.
  defp rebuilt(pairs, _map), do: Map.new(pairs)

  defp key(key) when is_binary(key) or is_atom(key) or is_integer(key), do: key

  defp key(key) do
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
  defp struct(module, struct, marker) when module in [Date, Time, NaiveDateTime, DateTime] do
    {marker, :text, module.to_iso8601(struct)}
  rescue
    _ -> {marker, :replaced, "#Error<#{inspect(module)}>"}
  end

  defp struct(module, struct, marker) do
    case encoded(struct) do
      {:ok, json} -> {marker, :raw, json}
      :none -> known(module, struct, marker)
    end
  rescue
    error -> {marker, :replaced, "#Error<#{inspect(error.__struct__)}>"}
  catch
    kind, _ -> {marker, :replaced, "#Error<#{kind}>"}
  end

  defp known(Decimal, struct, marker), do: {marker, :text, to_string(struct)}
  defp known(module, struct, marker) when module in [URI, Version], do: {marker, :replaced, to_string(struct)}
  defp known(MapSet, struct, marker), do: struct |> MapSet.to_list() |> value(marker, 1)
  defp known(_module, struct, marker), do: {marker, :replaced, inspected(struct)}

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

  defp count do
    case Process.get(__MODULE__) do
      :infinity -> :ok
      0 -> throw(:too_large)
      left -> Process.put(__MODULE__, left - 1)
    end
  end
end
