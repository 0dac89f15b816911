defmodule BilldogEng.Installer.Supervision do
  @moduledoc false
  # The places in an application's module: its children, and the start of start/2.

  alias BilldogEng.Installer.Source

  # Inserts a child before the endpoint, or as the first one.
  def child(source, code, application, module) do
    with :error <- if(child?(code, module), do: :present, else: :error),
         {:ok, {_meta, body}} <- start(code, application),
         {:ok, list, index} <- place(body) do
      Source.element_edits(source, list, index, inspect(module))
    end
  end

  # Returns whether the module is an element of a list: `[MyApp.Analytics]` or `[{MyApp.Analytics, opts}]`, under its name or
  # an alias of it.
  def child?(code, module) do
    short = module |> Module.split() |> List.last() |> List.wrap() |> Module.concat()
    names = if aliased?(code, module), do: [module, short], else: [module]

    Source.any?(code, fn
      {:__block__, _, [list]} when is_list(list) -> Enum.any?(list, &child_of?(&1, names))
      _ -> false
    end)
  end

  defp child_of?({:__block__, _, [{child, _opts}]}, names), do: child_of?(child, names)

  # `{BilldogEng, name: MyApp.Analytics}` and `{BilldogEng.Analytics, name: MyApp.Analytics}` start a client of this name.
  defp child_of?(child, names), do: Enum.any?(names, &Source.alias?(child, &1))

  defp aliased?(code, module) do
    {parent, [last]} = module |> Module.split() |> Enum.split(-1)

    Source.any?(code, fn
      {:alias, _, [{:__aliases__, _, _} = name]} ->
        Source.alias?(name, module)

      {:alias, _, [{{:., _, [{:__aliases__, _, _} = base, :{}]}, _, names}]} ->
        parent != [] and Source.alias?(base, Module.concat(parent)) and
          Enum.any?(names, &match?({:__aliases__, _, [name]} when name == :erlang.binary_to_atom(last), &1))

      _ ->
        false
    end)
  end

  # Inserts lines at the start of start/2.
  def first_lines(source, code, application, lines, present?) do
    with :error <- if(present?, do: :present, else: :error),
         {:ok, {meta, _body}} <- start(code, application),
         do: Source.body_edits(source, meta, lines)
  end

  # With several clauses it is unknown which one starts the children.
  defp start(code, application) do
    with {_, body} <- List.keyfind(Source.modules(code), application, 0),
         [start] <- Source.functions(body, :start, 2) do
      {:ok, start}
    else
      _ -> :error
    end
  end

  # ── the list of children ──

  # Only lists that start/2 builds in any case are considered, not those in an `if`.
  defp place(body) do
    children = variable(body)

    lists =
      for expression <- Source.expressions(body),
          value <- values(expression, children),
          list <- lists(value),
          do: list

    with_endpoint =
      Enum.find_value(lists, fn list ->
        index = Enum.find_index(Source.literal(list), &endpoint?/1)
        if index, do: {:ok, list, index}
      end)

    with_endpoint || first(lists)
  end

  defp first([list | _]), do: {:ok, list, 0}
  defp first([]), do: :error

  defp variable(body) do
    variables =
      Source.find(body, fn
        {{:., _, [{:__aliases__, _, [:Supervisor]}, :start_link]}, _, [{name, _, context} | _]}
        when is_atom(context) ->
          name

        _ ->
          nil
      end)

    List.first(variables) || :children
  end

  defp values({:=, _, [{name, _, context}, value]}, name) when is_atom(context), do: [value]
  defp values({:=, _, [_, value]}, children), do: values(value, children)

  defp values({{:., _, [{:__aliases__, _, [:Supervisor]}, :start_link]}, _, [value | _]}, _), do: [value]
  defp values(_, _), do: []

  defp lists({:++, _, [left, right]}), do: lists(left) ++ lists(right)

  defp lists({:__block__, meta, [elements]} = list) when is_list(elements),
    do: if(meta[:closing], do: [list], else: [])

  defp lists(_), do: []

  defp endpoint?(child) do
    Source.any?(child, fn
      {:__aliases__, _, names} -> List.last(names) == :Endpoint
      _ -> false
    end)
  end
end
