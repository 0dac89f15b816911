defmodule BilldogEng.Client.Options.Type do
  @moduledoc false
  # The types of options: which values a type accepts, how an error and the docs describe them, and what the native
  # library gets in their place.
  #
  # A `{:lenient, type, effect}` accepts any term, as the original client did. A term that `type` would refuse has the
  # `effect`, which a warning names.

  alias BilldogEng.Client.Address

  # The native library's numbers have 64 bits.
  @largest 0xFFFF_FFFF_FFFF_FFFF

  # ── which values are accepted ──

  @doc false
  def valid?({:lenient, _type, _effect}, _value), do: true
  def valid?(:boolean, value), do: is_boolean(value)
  def valid?({:integer, least, _unit}, value), do: is_integer(value) and value in least..@largest
  def valid?({:or_infinity, type}, value), do: value == :infinity or valid?(type, value)
  def valid?({:one_of, values}, value), do: value in values
  def valid?({:events, _round, _least}, value), do: is_number(value) or value in [:infinity, nil]
  def valid?(:groups, value), do: value == nil or (plain_map?(value) and Enum.all?(value, &numbered?/1))
  def valid?(:key, value), do: value == nil or key?(value)
  def valid?(:address, value), do: Address.problem(value) == nil
  def valid?(:proxy, value), do: value in [nil, :environment] or Address.problem(value) == nil
  def valid?(:transport, value), do: value == nil or match?(%{host: _}, value)
  def valid?(:directory, value), do: value == nil or (text?(value) and value != "")
  def valid?(:pem_file, value), do: value == nil or certificates?(path(value))
  def valid?(:sleep, value), do: is_function(value, 1)
  def valid?(:event_function, value), do: value == nil or callable?(value, 1)
  def valid?(:properties, value), do: value == nil or plain_map?(value) or callable?(value, 0)

  # The value of a header: a line break would begin another header.
  def valid?(:word, value) when is_binary(value), do: value =~ ~r/\A[A-Za-z0-9_.-]+\z/
  def valid?(:word, value), do: is_atom(value) and not is_boolean(value)

  def valid?(:name, {:global, _term}), do: true
  def valid?(:name, {:via, module, _term}), do: is_atom(module)
  def valid?(:name, value), do: is_atom(value)

  defp plain_map?(value), do: is_map(value) and not is_struct(value)

  defp numbered?({_type, number}), do: number in 0..4

  defp key?(key) when is_atom(key), do: key |> Atom.to_string() |> key?()
  defp key?(key), do: text?(key) and not (String.trim(key) =~ ~r/[[:cntrl:]]/u)

  # The native library takes no other binaries as text.
  defp text?(value), do: is_binary(value) and String.valid?(value)

  defp certificates?(path) do
    with true <- text?(path), {:ok, text} <- File.read(path) do
      text =~ "-----BEGIN CERTIFICATE-----"
    else
      _ -> false
    end
  end

  # `{module, function, args}` is called with `arity` arguments before `args`.
  defp callable?({module, function, args}, arity) do
    is_atom(module) and is_atom(function) and is_list(args) and not List.improper?(args) and
      Code.ensure_loaded?(module) and function_exported?(module, function, length(args) + arity)
  end

  defp callable?(value, arity), do: is_function(value, arity)

  # ── how they are described ──

  @doc false
  # Completes "expected …".
  def expected({:lenient, type, _effect}), do: expected(type)
  def expected(:boolean), do: "true or false"
  def expected({:integer, 0, unit}), do: unit(unit) <> "a non-negative integer"
  def expected({:integer, 1, unit}), do: unit(unit) <> "a positive integer"
  def expected({:or_infinity, type}), do: expected(type) <> ", or :infinity"
  def expected({:one_of, values}), do: values |> Enum.map(&inspect/1) |> alternatives()
  def expected({:events, _round, _least}), do: "a number of events or :infinity"
  def expected(:groups), do: "a map of group types to numbers from 0 to 4"
  def expected(:key), do: "a string of UTF-8 without control characters"
  def expected(:address), do: "an http:// or https:// address"
  def expected(:proxy), do: "an http:// or https:// address, :environment or nil"
  def expected(:transport), do: "what BilldogEng.Transport.config/1 returns"
  def expected(:directory), do: "the path of a directory as a string"
  def expected(:pem_file), do: "the path of a readable file with certificates (PEM)"
  def expected(:sleep), do: "a function of the milliseconds to wait"
  def expected(:event_function), do: "a function of the event, or {module, function, args} of one that exists"
  def expected(:word), do: ~s(a word such as "none", or nil)
  def expected(:name), do: "an atom, {:global, term} or {:via, module, term}"

  def expected(:properties),
    do: "a map, a function of no arguments, or {module, function, args} of one that exists"

  defp unit(nil), do: ""
  defp unit(:ms), do: "milliseconds as "
  defp unit(:bytes), do: "bytes as "

  defp alternatives(values) do
    {firsts, [last]} = Enum.split(values, -1)
    Enum.join(firsts, ", ") <> " or " <> last
  end

  @doc false
  # The message for a value that can't be used. It shows no value that may contain a secret.
  def error(option, type, value, reason \\ nil) do
    reason = reason || reason(type, value)

    "invalid value for #{inspect(option)}: expected #{expected(type)}" <>
      if(type in [:key, :proxy, :transport], do: "", else: ", got: #{shown(value)}") <>
      if(reason, do: " (#{reason})", else: "")
  end

  defp reason({:or_infinity, type}, value), do: reason(type, value)
  defp reason({:integer, _, _}, value) when is_integer(value) and value > @largest, do: "it exceeds 64 bits"
  defp reason(type, value) when type in [:address, :proxy], do: Address.problem(value)
  defp reason(_type, _value), do: nil

  @doc false
  # Returns the notice of a term that a lenient type accepts without a meaning of its own, else nil.
  def effect(option, {:lenient, type, effect}, value) do
    unless valid?(type, value), do: {:option_effect, error(option, type, value), effect}
  end

  def effect(_option, _type, _value), do: nil

  defp shown(value) when is_binary(value), do: value |> Address.shown() |> inspect(printable_limit: 200)
  defp shown(value), do: inspect(value, limit: 10, printable_limit: 200)

  # ── secrets ──

  @secret [:key, :address, :proxy, :transport]

  @doc false
  # Returns whether the value of such an option may be given as a function of no arguments, which hides it.
  def hideable?(type), do: type in @secret

  @doc false
  # Returns whether the value contains a secret.
  def secret?(:key, _value), do: true
  def secret?(type, value) when type in [:address, :proxy], do: Address.secret?(value)
  def secret?(:transport, %{} = parts), do: Address.secret?(parts[:host]) or Address.secret?(parts[:proxy])
  def secret?(_type, _value), do: false

  # ── what the native library gets ──

  @doc false
  # An option without a limit is nil there.
  def to_native({:lenient, type, _effect}, value), do: to_native(type, value)
  def to_native({:events, round, least}, value), do: limit(value, round, least)
  def to_native({:or_infinity, {:integer, _least, _unit}}, value), do: limit(value, &floor/1, 0)
  def to_native(:groups, value), do: groups(value)
  def to_native(:key, value), do: value |> to_string() |> String.trim()
  def to_native(:address, value), do: to_string(value)
  def to_native(:pem_file, value), do: path(value)
  def to_native(:word, value), do: if(value, do: to_string(value))
  # Whether the native library asks its owner to wait.
  def to_native(:sleep, value), do: value != (&Process.sleep/1)
  def to_native(_type, value), do: value

  # In the order of terms an atom is greater than any number, so for the original client :infinity, nil and any other
  # atom were bounds without a limit.
  defp limit(number, round, least) when is_number(number) do
    case max(round.(number), least) do
      limit when limit <= @largest -> limit
      _ -> nil
    end
  end

  defp limit(_unlimited, _round, _least), do: nil

  # Returns `[{kind, name, number}]`. A number other than 0 to 4 hides the number of the same type in its other
  # spelling (an atom, a string) and adds none; the original client did the same.
  defp groups(index) when is_map(index) and not is_struct(index) do
    for {type, number} <- index, number, {kind, name} <- List.wrap(group(type)) do
      {kind, name, if(is_integer(number) and number in 0..4, do: number)}
    end
  end

  defp groups(_ignored), do: []

  defp group(type) when is_atom(type), do: {"a", Atom.to_string(type)}
  defp group(type) when is_integer(type), do: {"i", Integer.to_string(type)}
  defp group(type) when is_binary(type), do: if(String.valid?(type), do: {"s", type})
  defp group(_type), do: nil

  # A path may be a charlist.
  defp path(path) when is_list(path) do
    List.to_string(path)
  rescue
    _ -> nil
  end

  defp path(path), do: path
end
