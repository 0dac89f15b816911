defmodule BilldogEng.Installer.Source do
  @moduledoc false
  # Finds places in Elixir source and inserts text there. The rest of a file stays as it is, byte by byte: its code is parsed
  # for positions, and never printed again.
  #
  # A function returns `{:ok, source}`, or `:error` if there is no such place.

  # Returns the code with positions. Lists, tuples and other literals have a position too.
  def parse(source) do
    Code.string_to_quoted(source,
      columns: true,
      token_metadata: true,
      literal_encoder: &{:ok, {:__block__, &2, [&1]}},
      emit_warnings: false
    )
  end

  # ── children of a supervisor ──

  # Inserts a child before the first child that `before?` holds for, or as the first one.
  def insert_child(source, child, before?) do
    with {:ok, code} <- parse(source),
         {:ok, {_, meta, [elements]}} <- find(code, &children/1) do
      {:ok, insert_element(source, meta, elements, child, before?)}
    else
      _ -> :error
    end
  end

  defp children({:=, _, [{:children, _, context}, {:__block__, meta, [list]} = literal]})
       when is_atom(context) and is_list(list),
       do: if(meta[:closing], do: literal)

  defp children(_), do: nil

  defp insert_element(source, meta, elements, child, before?) do
    {previous, next} = Enum.split_while(elements, &(not before?.(&1)))
    {previous, next} = if next == [], do: {[], elements}, else: {previous, next}
    opening = meta[:line]
    from = if previous == [], do: opening, else: last_line(List.last(previous))

    cond do
      # The list is on one line, or the next child is on the line of the one before it.
      opening == meta[:closing][:line] and next == [] ->
        insert_at(source, position(meta[:closing]), child)

      next != [] and line_of(hd(next)) == from ->
        insert_at(source, start(hd(next)), child <> ", ")

      # Behind the one before it: comments above the next child stay with that one.
      true ->
        insert_line(
          source,
          from,
          indent(source, opening) <> "  " <> child <> if(next == [], do: "", else: ",")
        )
    end
  end

  # Returns whether this module is among the children.
  def child?(source, module) do
    alias? = alias_of(module)

    has?(source, fn code ->
      with {_, _, [elements]} <- children(code) do
        Enum.any?(elements, fn
          {:__block__, _, [{child, _options}]} -> alias?.(child)
          child -> alias?.(child)
        end)
      end
    end)
  end

  # ── functions and blocks ──

  # Inserts lines at the start of the body of the function `name/arity`.
  def insert_in_function(source, name, arity, lines) do
    with {:ok, code} <- parse(source),
         {:ok, meta} <- find(code, &definition(&1, name, arity)) do
      text = indented(lines, indent(source, meta[:line]) <> "  ")
      {:ok, insert_line(source, meta[:do][:line], text <> "\n")}
    else
      _ -> :error
    end
  end

  defp definition({:def, meta, [{name, _, arguments}, _body]}, name, arity) when is_list(arguments),
    do: if(length(arguments) == arity and meta[:do], do: meta)

  defp definition({:def, meta, [{name, _, context}, _body]}, name, 0) when is_atom(context),
    do: if(meta[:do], do: meta)

  defp definition(_, _, _), do: nil

  # Inserts lines before the `end` of a call such as `pipeline :browser do`. `wanted` is called with the call's name and
  # its arguments.
  def insert_in_block(source, lines, wanted) do
    with {:ok, code} <- parse(source),
         {:ok, {_, meta, arguments}} <- find(code, &block(&1, wanted)),
         true <- meta[:do][:line] < meta[:end][:line] do
      text = indented(lines, indent(source, meta[:line]) <> "  ")
      # Before the `end` of one with an `else` would be in the else.
      line = if plain_block?(arguments), do: meta[:end][:line] - 1, else: meta[:do][:line]
      {:ok, insert_line(source, line, text)}
    else
      _ -> :error
    end
  end

  defp block({name, meta, arguments} = block, wanted) when is_atom(name) and is_list(arguments),
    do: if(meta[:do] && wanted.(name, Enum.map(arguments, &plain/1)), do: block)

  defp block(_, _), do: nil

  defp plain_block?(arguments), do: match?([{{:__block__, _, [:do]}, _}], List.last(arguments))

  # Inserts lines behind `use module` within the function of this name.
  def insert_after_use(source, function, module, lines) do
    with {:ok, code} <- parse(source),
         {:ok, body} <- find(code, &function_of(&1, function)),
         {:ok, use} <- find(body, &use_of(&1, module)) do
      text = indented(lines, indent(source, line_of(use)))
      {:ok, insert_line(source, last_line(use), "\n" <> text)}
    else
      _ -> :error
    end
  end

  defp function_of({:def, _, [{name, _, _}, body]}, name), do: body
  defp function_of(_, _), do: nil

  defp use_of({:use, _, [{:__aliases__, _, names} | _]} = use, module),
    do: if(Module.concat(names) == module, do: use)

  defp use_of(_, _), do: nil

  # ── lists of options ──

  # Adds an atom to the list of a key in a keyword list such as .formatter.exs, or the key with it.
  def add_to_option(source, key, atom) do
    with {:ok, {:__block__, meta, [options]} = code} when is_list(options) <- parse(source) do
      case find(code, &option(&1, key)) do
        {:ok, {:__block__, list, [[]]}} ->
          {:ok, insert_at(source, position(list[:closing]), inspect(atom))}

        {:ok, {:__block__, _, [elements]}} when is_list(elements) ->
          if atom in Enum.map(elements, &plain/1),
            do: {:ok, source},
            else: {:ok, insert_at(source, start(hd(elements)), inspect(atom) <> ", ")}

        :error ->
          {:ok, add_option(source, meta, "#{key}: [#{inspect(atom)}]", options)}

        _ ->
          :error
      end
    else
      _ -> :error
    end
  end

  defp add_option(source, meta, option, options) do
    comma = if options == [], do: "", else: ","
    {line, column} = position(meta)

    if line == meta[:closing][:line],
      do: insert_at(source, {line, column + 1}, option <> comma <> if(options == [], do: "", else: " ")),
      else: insert_line(source, line, "  " <> option <> comma)
  end

  defp option({{:__block__, _, [key]}, list}, key), do: list
  defp option(_, _), do: nil

  # ── queries ──

  # Returns whether the code calls a function of this name.
  def calls?(source, function), do: has?(source, &match?({{:., _, [_, ^function]}, _, _}, &1))

  # Returns whether the code of a source has this module's name.
  def mentions?(source, module), do: has?(source, alias_of(module))

  # Returns whether the code has `config app, module, …`.
  def configures?(source, module), do: has?(source, configures(module))

  # Returns whether the code does so in `if config_env() == env`.
  def configures?(source, module, env) do
    has?(source, fn
      {:if, _, [condition | _]} = block -> environment?(condition, env) and found?(block, configures(module))
      _ -> false
    end)
  end

  defp configures(module) do
    alias? = alias_of(module)

    fn
      {:config, _, [_app, module | _]} -> alias?.(module)
      _ -> false
    end
  end

  # Returns whether code is `config_env() == env`.
  def environment?({:==, _, [{:config_env, _, _}, {:__block__, _, [env]}]}, env), do: true
  def environment?(_, _), do: false

  # Returns whether a plug of the app assigns the user, such as `:fetch_current_user`.
  def plugs_user?(source), do: has?(source, &user_plug?/1)

  # By its name, of a function or of a module.
  defp user_plug?({:plug, _, [name | _]}) do
    name =
      case plain(name) do
        {:__aliases__, _, names} -> names |> List.last() |> Atom.to_string()
        name when is_atom(name) -> Atom.to_string(name)
        _ -> ""
      end

    name =~ ~r/user|account|auth|scope|session_token/i
  end

  defp user_plug?(_), do: false

  # ── positions and text ──

  # Returns `{:ok, found}` for the first node that `wanted` returns something for.
  defp find(code, wanted) do
    {_, found} = Macro.prewalk(code, nil, fn node, found -> {node, found || wanted.(node)} end)
    if found, do: {:ok, found}, else: :error
  end

  defp found?(code, wanted), do: match?({:ok, _}, find(code, wanted))

  defp has?(source, wanted) do
    case parse(source) do
      {:ok, code} -> found?(code, wanted)
      _error -> false
    end
  end

  # Returns a function that returns whether code is this module's name.
  defp alias_of(module) do
    names = module |> Module.split() |> Enum.map(&String.to_atom/1)
    &match?({:__aliases__, _, ^names}, &1)
  end

  defp plain({:__block__, _, [literal]}), do: literal
  defp plain(other), do: other

  defp start({_, meta, _} = node) do
    {_, first} =
      Macro.prewalk(node, position(meta), fn node, least -> {node, min(least, at(node) || least)} end)

    first
  end

  defp at({_, meta, _}) when is_list(meta), do: if(meta[:line], do: position(meta))
  defp at(_), do: nil

  defp position(meta), do: {meta[:line], meta[:column]}
  defp line_of(node), do: node |> start() |> elem(0)

  defp last_line(node) do
    {_, last} =
      Macro.prewalk(node, 0, fn
        {_, meta, _} = node, last when is_list(meta) ->
          lines = [meta[:line], meta[:closing][:line], meta[:end][:line], meta[:end_of_expression][:line]]
          {node, lines |> Enum.reject(&is_nil/1) |> Enum.max(fn -> 0 end) |> max(last)}

        node, last ->
          {node, last}
      end)

    last
  end

  # Inserts text as lines of their own behind this line.
  defp insert_line(source, line, text) do
    {before, behind} = source |> String.split("\n") |> Enum.split(line)
    Enum.join(before ++ [text | behind], "\n")
  end

  defp insert_at(source, {line, column}, text) do
    source
    |> String.split("\n")
    |> List.update_at(line - 1, fn whole ->
      {before, behind} = String.split_at(whole, column - 1)
      before <> text <> behind
    end)
    |> Enum.join("\n")
  end

  defp indent(source, line) do
    [indent] = Regex.run(~r/^\s*/, source |> String.split("\n") |> Enum.at(line - 1))
    indent
  end

  defp indented(lines, indent),
    do: Enum.map_join(lines, "\n", &if(&1 == "", do: "", else: indent <> &1))
end
