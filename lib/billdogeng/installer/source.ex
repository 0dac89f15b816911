defmodule BilldogEng.Installer.Source do
  @moduledoc false
  # Elixir source with positions, and insertions into it. A file is parsed for positions only. Its text is never printed
  # from the code, so each byte that is not inserted stays as it is.

  @type position :: {line :: pos_integer(), column :: pos_integer()}
  @type edit :: {offset :: non_neg_integer(), text :: String.t()}

  # Returns the code with positions. Lists, tuples and other literals have positions too: `{:__block__, meta, [literal]}`.
  def parse(source) do
    Code.string_to_quoted(source,
      columns: true,
      token_metadata: true,
      literal_encoder: &{:ok, {:__block__, &2, [&1]}},
      emit_warnings: false
    )
  end

  # ── nodes ──

  # Returns all nodes in a code, outer ones first, for which `wanted` returns neither nil nor false.
  def find(code, wanted) do
    {_, found} =
      Macro.prewalk(code, [], fn node, found ->
        if result = wanted.(node), do: {node, [result | found]}, else: {node, found}
      end)

    Enum.reverse(found)
  end

  def any?(code, wanted), do: find(code, wanted) != []

  # Returns whether this module's name is in the code.
  def mentions?(code, module), do: any?(code, &alias?(&1, module))

  def alias?({:__aliases__, _, names}, module) when is_list(names),
    do: Enum.all?(names, &is_atom/1) and Module.concat(names) == module

  def alias?(_, _), do: false

  # Returns the bodies of the modules in a code, as `{module, body}`. A nested module has the name that its source has.
  def modules(code) do
    find(code, fn
      {:defmodule, _, [{:__aliases__, _, names}, [{_do, body}]]} ->
        if Enum.all?(names, &is_atom/1), do: {Module.concat(names), body}

      _ ->
        nil
    end)
  end

  # Returns the `def name/arity` in a code that have a block, as `{meta, body}`.
  def functions(code, name, arity) do
    find(code, fn
      {:def, meta, [head, [{_do, body} | _]]} ->
        if meta[:do] && head(head) == {name, arity}, do: {meta, body}

      _ ->
        nil
    end)
  end

  defp head({:when, _, [head | _]}), do: head(head)
  defp head({name, _, arguments}) when is_list(arguments), do: {name, length(arguments)}
  defp head({name, _, _context}), do: {name, 0}
  defp head(_), do: nil

  def expressions({:__block__, _, expressions}), do: expressions
  def expressions(expression), do: [expression]

  def literal({:__block__, _, [literal]}), do: literal
  def literal(other), do: other

  # ── positions ──

  # Returns the position where a node starts. An operator's own position is in its middle.
  def start(node) do
    {_, least} =
      Macro.prewalk(node, nil, fn
        {_, meta, _} = node, least when is_list(meta) -> {node, min(position(meta) || least, least)}
        node, least -> {node, least}
      end)

    least
  end

  # nil is an atom, and so less than no tuple: `min/2` keeps a position.
  def position(meta), do: if(meta[:line], do: {meta[:line], meta[:column]})

  def offset(source, {line, column}) do
    lines = :binary.split(source, "\n", [:global])
    {before, [line | _]} = Enum.split(lines, line - 1)
    whole = Enum.reduce(before, 0, &(&2 + byte_size(&1) + 1))
    # The columns of the tokenizer are code points.
    whole + (line |> String.to_charlist() |> Enum.take(column - 1) |> List.to_string() |> byte_size())
  end

  # ── text ──

  def apply_edits(source, edits) do
    edits
    |> Enum.sort_by(&elem(&1, 0), :desc)
    |> Enum.reduce(source, fn {offset, text}, source ->
      <<before::binary-size(offset), behind::binary>> = source
      before <> text <> behind
    end)
  end

  # Returns the edit that inserts lines behind a line. They end as the file's lines do.
  def lines_edit(source, line, lines, indent) do
    eol = eol(source)
    text = for line <- lines, do: [if(line == "", do: "", else: [indent, line]), eol]
    {offset(source, {line + 1, 1}), IO.iodata_to_binary(text)}
  end

  def eol(source), do: if(source =~ "\r\n", do: "\r\n", else: "\n")

  def line(source, line), do: source |> :binary.split("\n", [:global]) |> Enum.at(line - 1, "")

  def indent(source, line) do
    [indent] = Regex.run(~r/^[ \t]*/, line(source, line))
    indent
  end

  def blank?(source, line), do: line(source, line) =~ ~r/^\s*$/

  # Returns whether nothing but blanks is before the position, or nothing but blanks and a comment behind it.
  def first_on_line?(source, {line, column}),
    do: source |> line(line) |> String.slice(0, column - 1) |> String.trim() == ""

  def last_on_line?(source, {line, column}, length),
    do: source |> line(line) |> String.slice((column - 1 + length)..-1//1) =~ ~r/^\s*(#.*)?$/

  # Returns the last line before `line`, and not before `floor`, that is neither blank nor a comment. Text behind it is above
  # the comments that belong to `line`.
  def above(source, line, floor) do
    Enum.find((line - 1)..floor//-1, floor, &(line(source, &1) =~ ~r/^\s*[^\s#]/))
  end

  # ── insertions ──

  # Returns the edits that insert an element before the one of this index of a list in brackets, or `:error`.
  def element_edits(source, {:__block__, meta, [elements]}, index, text) do
    {opening, closing} = {position(meta), position(meta[:closing])}
    next = Enum.at(elements, index)
    at = next && start(next)

    cond do
      elements != [] and next == nil ->
        :error

      next == nil and elem(opening, 0) == elem(closing, 0) ->
        {:ok, [{offset(source, closing), text}]}

      next == nil ->
        own_line(source, opening, elem(opening, 0), text)

      first_on_line?(source, at) ->
        own_line(source, opening, above(source, elem(at, 0), elem(opening, 0)), text <> ",")

      true ->
        {:ok, [{offset(source, at), text <> ", "}]}
    end
  end

  defp own_line(source, {line, _} = opening, behind, text) do
    if behind > line or last_on_line?(source, opening, 1),
      do: {:ok, [lines_edit(source, behind, [text], indent(source, line) <> "  ")]},
      else: :error
  end

  # Returns the edits that insert lines at the start of a block, or `:error` if code is on the line of its `do`.
  def body_edits(source, meta, lines) do
    {line, _} = position(meta[:do])

    if last_on_line?(source, position(meta[:do]), 2) and elem(position(meta[:end]), 0) > line do
      gap = if blank?(source, line + 1), do: [], else: [""]
      {:ok, [lines_edit(source, line, lines ++ gap, indent(source, elem(position(meta), 0)) <> "  ")]}
    else
      :error
    end
  end

  # Returns the edits that insert lines before a block's `end`.
  def end_edits(source, meta, lines) do
    {line, _} = position(meta[:end])

    if first_on_line?(source, position(meta[:end])) and line > elem(position(meta[:do]), 0),
      do: {:ok, [lines_edit(source, line - 1, lines, indent(source, line) <> "  ")]},
      else: :error
  end
end
