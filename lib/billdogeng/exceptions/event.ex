defmodule BilldogEng.Exceptions.Event do
  @moduledoc false
  # The properties of an `$exception`, of whatever terms: nothing here raises for them.
  #
  # The message is written in one of two ways. `:all` uses the exception's own message. That can quote any value, so `:safe`
  # uses only names of modules and functions, arities, and atoms. Neither has arguments.

  alias BilldogEng.Client.Hooks
  alias BilldogEng.Exceptions.Stacktrace
  alias BilldogEng.Terms.Budget

  # Bytes of a message, and nested calls of an exit.
  @longest 4_096
  @deepest 8

  @constant %{
    ArithmeticError => "bad argument in arithmetic expression",
    MatchError => "no match of right hand side value",
    CaseClauseError => "no case clause matching",
    WithClauseError => "no with clause matching",
    CondClauseError => "no cond clause evaluated to a truthy value",
    TryClauseError => "no try clause matching",
    BadMapError => "expected a map",
    BadBooleanError => "expected a boolean",
    BadFunctionError => "expected a function",
    SystemLimitError => "a system limit has been reached",
    Enum.EmptyError => "empty error",
    Enum.OutOfBoundsError => "out of bounds error"
  }

  # Their messages may hold the arguments of a call, once `Exception.blame/3` has seen them or at once.
  @always_safe [FunctionClauseError, BadArityError, ArithmeticError]

  # Of what a caller handed in: an exception, what `catch kind, reason` gives as `{kind, reason}`, or any term.
  def captured(exception, stacktrace, properties) do
    exception
    |> caught(stacktrace)
    |> properties(stacktrace, handled: true, messages: :all, in_app: nil)
    |> Hooks.beneath(pairs(properties))
  end

  # Of what a process ended with, `{kind, reason}` as `BilldogEng.Exceptions.Crash` reads it.
  def properties({kind, reason}, stacktrace, opts) do
    in_app = opts[:in_app] || Application.get_env(:billdogeng, :in_app)
    frames = Stacktrace.frames(stacktrace, in_app)
    type = type(kind, reason)
    message = kind |> text(reason, opts[:messages]) |> bounded() || place(frames)

    %{
      "$exception_list" => [
        %{
          "type" => type,
          "value" => message,
          "mechanism" => %{"handled" => opts[:handled], "synthetic" => kind != :error},
          "stacktrace" => %{"type" => "raw", "frames" => frames}
        }
      ],
      "$exception_type" => type,
      "$exception_message" => message,
      "$exception_level" => "error"
    }
  end

  # `{kind, reason}`, an exception where the kind is `:error`.
  def normal(:error, reason, stacktrace), do: {:error, normalize(reason, stacktrace)}
  def normal({:EXIT, _pid}, reason, _stacktrace), do: {:exit, reason}
  def normal(kind, reason, _stacktrace), do: {kind, reason}

  defp caught({kind, reason}, stacktrace) when kind in [:error, :exit, :throw],
    do: normal(kind, reason, stacktrace)

  defp caught({{:EXIT, pid} = kind, reason}, stacktrace) when is_pid(pid),
    do: normal(kind, reason, stacktrace)

  defp caught(reason, stacktrace), do: normal(:error, reason, stacktrace)

  # It asks modules that the stacktrace names how to put the error. They, and Elixir itself, may print the values
  # and arguments there.
  defp normalize(reason, stacktrace) when not is_exception(reason) do
    reason = printable(reason)
    asked? = Stacktrace.stacktrace?(stacktrace) and Budget.printable?(stacktrace)

    try do
      Exception.normalize(:error, reason, if(asked?, do: stacktrace, else: []))
    catch
      _, _ -> Exception.normalize(:error, reason, [])
    end
  end

  defp normalize(exception, _stacktrace), do: exception

  # With cut texts in place of what is too large.
  defp printable(reason) do
    cond do
      Budget.printable?(reason) ->
        reason

      is_tuple(reason) and tuple_size(reason) <= 3 ->
        reason |> Tuple.to_list() |> Enum.map(&printed/1) |> List.to_tuple()

      true ->
        Budget.cut(reason)
    end
  end

  defp printed(value), do: if(Budget.printable?(value), do: value, else: Budget.cut(value))

  # As groups resolve them: what is neither map nor keyword list is kept under a name of its own.
  defp pairs(properties) when is_map(properties) and not is_struct(properties), do: properties
  defp pairs(nil), do: %{}

  defp pairs(properties),
    do: if(Keyword.keyword?(properties), do: Map.new(properties), else: %{"$properties" => properties})

  # ── type and message ──

  defp type(:error, %{__struct__: module}), do: inspect(module)
  defp type(kind, _reason), do: Atom.to_string(kind)

  # Returns nil without a message.
  defp text(kind, reason, messages) do
    case kind do
      :error -> message(reason, messages)
      :exit -> exit_text(reason, messages, @deepest)
      :throw -> if messages == :all, do: Budget.inspect(reason)
    end
  catch
    _, _ -> nil
  end

  # `Exception.message/1` would inspect the whole exception where the app's own `message/1` fails.
  defp message(%{__struct__: module} = exception, :all) when module not in @always_safe do
    if Budget.printable?(exception) do
      case module.message(exception) do
        "" -> nil
        text when is_binary(text) -> text
      end
    else
      message(exception, :safe)
    end
  end

  defp message(%{__struct__: module}, _) when is_map_key(@constant, module), do: @constant[module]

  defp message(%FunctionClauseError{module: module, function: function, arity: arity}, _),
    do: "no function clause matching in " <> mfa(module, function, arity)

  defp message(%UndefinedFunctionError{module: module, function: function, arity: arity}, _),
    do: "function #{mfa(module, function, arity)} is undefined or private"

  defp message(%BadArityError{function: function, args: args}, _) do
    {:arity, arity} = Function.info(function, :arity)
    "function with arity #{arity} called with #{length(args)} argument(s)"
  end

  defp message(%KeyError{key: key}, _) when is_atom(key), do: "key #{inspect(key)} not found"
  defp message(%KeyError{}, _), do: "key not found"

  # A map pattern: Elixir 1.20 no longer has this struct.
  defp message(%{__struct__: BadStructError, struct: module}, _) when is_atom(module),
    do: "expected a struct named #{inspect(module)}"

  defp message(%Protocol.UndefinedError{protocol: protocol}, _) when is_atom(protocol),
    do: "protocol #{inspect(protocol)} not implemented"

  defp message(%ErlangError{original: original}, _) do
    if word = word(original), do: "Erlang error: " <> word
  end

  defp message(_other, _), do: nil

  defp mfa(module, function, arity) when is_atom(module) and is_atom(function) and is_integer(arity),
    do: Exception.format_mfa(module, function, arity)

  # ── exits ──

  # `Exception.format_exit/1` would show the request of a call that failed.
  defp exit_text(_reason, _messages, 0), do: nil

  defp exit_text({reason, {module, function, arguments}}, messages, left)
       when is_atom(module) and is_atom(function) and is_list(arguments) do
    call = "exited in: " <> mfa(module, function, length(arguments))
    if why = exit_text(reason, messages, left - 1), do: call <> ": " <> why, else: call
  end

  defp exit_text({:EXIT, reason}, messages, left), do: exit_text(reason, messages, left - 1)
  defp exit_text({:bad_return_value, _value}, :safe, _left), do: "bad return value"

  defp exit_text({reason, stacktrace} = exit, messages, left) do
    cond do
      not Stacktrace.stacktrace?(stacktrace) -> leaf(exit, messages)
      is_exception(reason) -> exception_text(reason, messages)
      true -> exit_text(reason, messages, left - 1)
    end
  end

  defp exit_text(exception, messages, _left) when is_exception(exception),
    do: exception_text(exception, messages)

  defp exit_text(reason, messages, _left), do: leaf(reason, messages)

  defp exception_text(exception, messages) do
    Enum.join([type(:error, exception) | List.wrap(text(:error, exception, messages))], ": ")
  end

  defp leaf(reason, :all), do: Budget.inspect(reason)
  defp leaf(reason, :safe), do: word(reason)

  # Atoms are words of the program; values are not.
  defp word(atom) when is_atom(atom), do: inspect(atom)

  defp word(tuple) when is_tuple(tuple) and tuple_size(tuple) > 1 and is_atom(elem(tuple, 0)),
    do: "{#{inspect(elem(tuple, 0))}, …}"

  defp word(_other), do: nil

  # ── small things ──

  defp place(frames) do
    if place = Stacktrace.place(frames), do: "in " <> place, else: ""
  end

  defp bounded(text) when is_binary(text) and byte_size(text) > @longest,
    do: text |> binary_part(0, @longest) |> whole() |> Kernel.<>("…")

  defp bounded(text), do: text

  # Without the beginning of a character that was cut in two.
  defp whole(text) do
    Enum.find_value(0..3, text, fn cut ->
      part = binary_part(text, 0, byte_size(text) - cut)
      if String.valid?(part), do: part
    end)
  end
end
