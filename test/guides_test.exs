defmodule BilldogEng.GuidesTest do
  use ExUnit.Case, async: true

  @pages ["README.md" | Path.wildcard("guides/*.md")]

  # Application environments that snippets configure, and what may be configured there.
  defp options, do: [:in_app | BilldogEng.Client.Options.Schema.names()]

  defp blocks(page) do
    for [_, block] <- Regex.scan(~r/^```elixir\n(.*?)^```$/ms, File.read!(page)), do: block
  end

  # An opened block is one whose end is left to the reader.
  defp parsed(block) do
    with {:error, _} <- Code.string_to_quoted(block), do: Code.string_to_quoted(block <> "\nend")
  end

  for page <- @pages do
    test "the snippets of #{page} are Elixir, and their functions and options are there" do
      for block <- blocks(unquote(page)) do
        assert {:ok, code} = parsed(block), "this isn't Elixir:\n" <> block

        Macro.prewalk(code, fn
          {{:., _, [{:__aliases__, _, [:BilldogEng | _] = names}, function]}, _, arguments} = call
          when function != :{} ->
            assert_exported(Module.concat(names), function, length(arguments))
            call

          {:config, _, [_app, {:__aliases__, _, [:MyApp, :Analytics]}, given]} = call ->
            for {option, _} <- given, do: assert(option in options(), "there is no option #{option}")
            call

          node ->
            node
        end)
      end
    end

    test "what #{page} names in its text is there" do
      text = File.read!(unquote(page))

      for [_, module, function, arity] <- Regex.scan(~r{`(BilldogEng[\w.]*)\.(\w+)/(\d)`}, text) do
        assert_exported(Module.concat([module]), String.to_atom(function), String.to_integer(arity))
      end

      folder = Path.dirname(unquote(page))

      for [_, path] <- Regex.scan(~r/\]\(([^)h#][^)#]*)\)/, text),
          do: assert(File.exists?(Path.join(folder, path)), "#{path} isn't there")
    end
  end

  test "the log lines that guides/outage.md quotes are lines of guides/log-lines.md" do
    lines = File.read!("guides/log-lines.md")

    quoted =
      Regex.scan(~r/^    \[BilldogEng:analytics\] (.+)…$/m, File.read!("guides/outage.md"),
        capture: :all_but_first
      )

    assert length(quoted) == 3

    for [line] <- quoted,
        do: assert(lines =~ "| `" <> line, "no line of the log begins with #{inspect(line)}")
  end

  defp assert_exported(module, function, arity) do
    assert Code.ensure_loaded?(module), "there is no #{inspect(module)}"
    exported = module.__info__(:functions) ++ module.__info__(:macros)
    assert {function, arity} in exported, "there is no #{Exception.format_mfa(module, function, arity)}"
  end
end
