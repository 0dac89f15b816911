defmodule BilldogEng.Terms.Normaliser do
  @moduledoc false
  # Rewrites the terms of one event that only Elixir can write. The results are `{marker, form, term}`, which the native encoder
  # recognises by the marker:
  #
  #     :raw       JSON
  #     :text      text that is the value's own form
  #     :replaced  text in place of a value
  #     :improper  the same of an improper list, which is a container where depth counts
  #     :array     elements, also where a list of them would be taken for a keyword list
  #     :pairs     keys and values of a map whose order matters

  alias BilldogEng.Terms.Budget

  # Twice the encoder's depth and one more: a pair of a keyword list is a tuple here, and no level there.
  @deepest 201

  # `most` bounds the terms of `term` and the bytes of the texts made for it. Throws
  # `{BilldogEng.Terms.Normaliser, :too_large}` where one of them is exceeded, or the budget of work.
  def run(term, marker, most) do
    within(most, fn ->
      if Budget.walk_plain(term, most) < 0, do: too_large()
      value(term, marker, 0)
    end)
  end

  # Runs `fun` with a budget of bytes and of work. An app's encoder may capture an event itself; that takes its
  # work from the budget it runs in, and a fixed part of it, so that one that captures its own struct comes to
  # an end.
  def within(most, fun) do
    case Process.get(__MODULE__) do
      nil ->
        Process.put(__MODULE__, {most, Budget.most()})

        try do
          fun.()
        after
          Process.delete(__MODULE__)
        end

      {bytes, _work} ->
        spend(0, div(Budget.most(), 16))
        {_bytes, work} = Process.get(__MODULE__)
        Process.put(__MODULE__, {most, work})

        try do
          fun.()
        after
          {_bytes, work} = Process.get(__MODULE__, {0, 0})
          Process.put(__MODULE__, {bytes, work})
        end
    end
  end

  # The native encoder reads no deeper terms.
  defp value(term, _marker, depth)
       when depth > @deepest and (is_list(term) or is_tuple(term) or (is_map(term) and not is_struct(term))) do
    []
  end

  defp value(term, _marker, _depth) when is_binary(term) or is_number(term) or is_atom(term), do: term

  defp value(%{__struct__: module} = struct, marker, depth) when is_atom(module) do
    struct(module, struct, marker, depth)
  end

  defp value(map, marker, depth) when is_map(map) do
    pairs = for {key, value} <- Map.to_list(map), do: {key(key), value(value, marker, depth + 1)}

    if ordered?(map), do: Map.new(pairs), else: {marker, :pairs, pairs}
  end

  defp value([], _marker, _depth), do: []

  defp value(list, marker, depth) when is_list(list) do
    case proper(list, []) do
      {:ok, elements} -> Enum.map(elements, &value(&1, marker, depth + 1))
      :improper -> {marker, :improper, inspected(list)}
    end
  end

  defp value(tuple, marker, depth) when is_tuple(tuple) do
    tuple |> Tuple.to_list() |> Enum.map(&value(&1, marker, depth + 1)) |> List.to_tuple()
  end

  defp value(other, marker, _depth) do
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

  # nil's name is one, though `to_string(nil)` is empty.
  def key(nil), do: "nil"
  def key(key) when is_binary(key) or is_atom(key) or is_integer(key), do: key

  # No text in its place: keys that were apart could become one.
  def key(key) do
    with :over <- text(key, &name/1), do: too_large()
  end

  defp name(key) do
    case to_string(key) do
      name when is_binary(name) -> name
    end
  catch
    _, _ -> shown(key)
  end

  defp proper([head | tail], seen), do: proper(tail, [head | seen])
  defp proper([], seen), do: {:ok, Enum.reverse(seen)}
  defp proper(_tail, _seen), do: :improper

  defp struct(module, struct, marker, depth) do
    case encoder(module, struct) do
      nil -> known(module, struct, marker, depth)
      encode -> {marker, :raw, encoded(struct, encode)}
    end
  catch
    :throw, {__MODULE__, :too_large} = too_large -> throw(too_large)
    kind, reason -> {marker, :replaced, error(kind, reason)}
  end

  # Calendar types, as Jason writes them.
  defp known(module, struct, marker, _depth) when module in [Date, Time, NaiveDateTime, DateTime],
    do: texted(struct, marker, :text, &module.to_iso8601/1)

  defp known(Decimal, struct, marker, _depth), do: texted(struct, marker, :text, &to_string/1)

  defp known(module, struct, marker, _depth) when module in [URI, Version],
    do: texted(struct, marker, :replaced, &to_string/1)

  defp known(MapSet, struct, marker, depth) do
    {marker, :array, for(element <- MapSet.to_list(struct), do: value(element, marker, depth + 1))}
  end

  defp known(_module, struct, marker, _depth), do: {marker, :replaced, inspected(struct)}

  defp texted(struct, marker, form, fun) do
    case text(struct, fun) do
      :over -> {marker, :replaced, Budget.cut(struct)}
      text -> {marker, form, text}
    end
  end

  # An encoder that the app wrote or derived; the protocols' fallbacks raise for everything.
  defp encoder(module, _struct) when module in [Date, Time, NaiveDateTime, DateTime], do: nil

  defp encoder(_module, struct) do
    Enum.find_value(encoders(), fn {protocol, encode} ->
      if protocol.impl_for(struct) not in [nil, Module.concat(protocol, Any)], do: encode
    end)
  end

  defp encoded(struct, encode) do
    case Budget.walk(struct, Budget.most()) do
      left when left < 0 -> too_large()
      left -> spend(0, Budget.most() - left)
    end

    iodata = encode.(struct)
    # It may share parts, too.
    if Budget.walk(iodata, Budget.most()) < 0, do: too_large()
    json = IO.iodata_to_binary(iodata)
    spend(byte_size(json), 0)
    json
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

  # ── texts ──

  defp inspected(term) do
    with :over <- text(term, &shown/1), do: Budget.cut(term)
  end

  # `safe: false`: a failing implementation must raise here; what Elixir shows in its place is the fields.
  defp shown(term) do
    inspect(term, safe: false)
  catch
    kind, reason -> error(kind, reason)
  end

  defp error(:error, %{__struct__: module}), do: "#Error<#{inspect(module)}>"
  defp error(:error, reason), do: error(:error, Exception.normalize(:error, reason, []))
  defp error(kind, _reason), do: "#Error<#{kind}>"

  # Returns the text that `fun` makes of a term, or `:over`.
  defp text(term, fun) do
    case Budget.text(term) do
      {:ok, cost} ->
        spend(0, cost)
        text = fun.(term)
        spend(byte_size(text), 0)
        text

      {:over, cost} ->
        spend(0, cost)
        :over
    end
  end

  # ── the budget of one event ──

  defp spend(bytes, work) do
    case Process.get(__MODULE__) do
      # An encoder of the app's has emptied the dictionary.
      nil -> :ok
      {bytes_left, work_left} when bytes > bytes_left or work > work_left -> too_large()
      {bytes_left, work_left} -> Process.put(__MODULE__, {bytes_left - bytes, work_left - work})
    end
  end

  defp too_large, do: throw({__MODULE__, :too_large})
end
