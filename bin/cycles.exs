# Fails if modules of a Rust crate import each other in a circle.
#
#     elixir bin/cycles.exs native/billdogeng/src native/billdogeng_nif/src
#
# Imports are read as text: each path that starts with `crate::` or `super::`, `use` declarations with braces included.
# Tests may import anything. A `mod.rs` is not a module here: it names its folder's modules.
defmodule Cycles do
  def main(roots) do
    cycles = for root <- roots, cycle <- root |> modules() |> imports() |> cycles(), do: {root, cycle}
    for {root, cycle} <- cycles, do: IO.puts("import cycle in #{root}: #{Enum.join(cycle, " -> ")}")
    System.halt(if cycles == [], do: 0, else: 1)
  end

  # %{["spool", "thread"] => source}
  defp modules(root) do
    for path <- Path.wildcard("#{root}/**/*.rs"),
        name = path |> Path.relative_to(root) |> Path.rootname() |> Path.split(),
        List.last(name) not in ~w(lib mod tests interleavings fuzzing),
        into: %{},
        do: {name, path |> File.read!() |> code()}
  end

  defp code(source) do
    [code | _tests] = String.split(source, ~r/^#\[cfg\(test\)\]\s*mod \w+ \{/m)
    String.replace(code, ~r{//.*}, "")
  end

  defp imports(modules) do
    Map.new(modules, fn {name, code} ->
      imported =
        for [_, base, path] <-
              Regex.scan(~r/\b(crate|(?:super::)*super)::((?:[\w:]*\{[^;]*?\}(?=;))|[\w:]+)/s, code),
            path <- expand(path),
            module = known(base(base, name) ++ path, modules),
            # A module's own sub-modules are part of it.
            module not in [nil, name] and not List.starts_with?(module, name),
            uniq: true,
            do: module

      {name, imported}
    end)
  end

  defp base("crate", _name), do: []
  defp base(supers, name), do: Enum.drop(name, -length(String.split(supers, "::")))

  # "a::{b, c::{d}}" to [["a", "b"], ["a", "c", "d"]]
  defp expand(path) do
    case String.split(path, "{", parts: 2) do
      [path] ->
        [String.split(path, "::", trim: true)]

      [prefix, rest] ->
        prefix = String.split(prefix, "::", trim: true)
        for part <- parts(String.replace_suffix(rest, "}", "")), tail <- expand(part), do: prefix ++ tail
    end
  end

  # At commas outside of braces.
  defp parts(text) do
    {parts, last, 0} =
      text
      |> String.graphemes()
      |> Enum.reduce({[], "", 0}, fn
        ",", {parts, part, 0} -> {[part | parts], "", 0}
        "{", {parts, part, depth} -> {parts, part <> "{", depth + 1}
        "}", {parts, part, depth} -> {parts, part <> "}", depth - 1}
        char, {parts, part, depth} -> {parts, part <> char, depth}
      end)

    for part <- [last | parts], part = String.trim(part), part != "", do: part
  end

  # The module that a path to an item is in.
  defp known([], _modules), do: nil
  defp known(path, modules), do: if(modules[path], do: path, else: known(Enum.drop(path, -1), modules))

  # One cycle through each module that is in any, each set of modules once.
  defp cycles(imports) do
    for(name <- Map.keys(imports), cycle = path(imports[name], name, imports, [name], %{}), do: cycle)
    |> Enum.uniq_by(&Enum.sort/1)
    |> Enum.map(fn cycle -> Enum.map(cycle ++ [hd(cycle)], &Enum.join(&1, "::")) end)
  end

  # Depth first, from `name`'s imports back to `name`.
  defp path(next, name, imports, trail, seen) do
    case search(next, name, imports, trail, seen) do
      {:found, cycle} -> cycle
      _seen -> nil
    end
  end

  defp search([], _name, _imports, _trail, seen), do: seen
  defp search([name | _], name, _imports, trail, _seen), do: {:found, Enum.reverse(trail)}

  defp search([next | rest], name, imports, trail, seen) when is_map_key(seen, next),
    do: search(rest, name, imports, trail, seen)

  defp search([next | rest], name, imports, trail, seen) do
    case search(imports[next], name, imports, [next | trail], Map.put(seen, next, true)) do
      {:found, cycle} -> {:found, cycle}
      seen -> search(rest, name, imports, trail, seen)
    end
  end
end

Cycles.main(System.argv())
