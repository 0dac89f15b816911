defmodule BilldogEng.GuidesTest do
  use ExUnit.Case, async: true

  @pages Path.wildcard("*.md") ++ Path.wildcard("guides/*.{md,livemd,cheatmd}")

  defmodule Client do
    use BilldogEng, otp_app: :my_app
  end

  # Functions that the app's module has of its own in a snippet.
  @own [:without_email, :{}]

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
    test "the snippets of #{page} are Elixir, and their functions and options exist" do
      for block <- blocks(unquote(page)) do
        assert {:ok, code} = parsed(block), "this isn't Elixir:\n" <> block

        Macro.prewalk(code, fn
          {{:., _, [{:__aliases__, _, [:BilldogEng | _] = names}, function]}, _, arguments} = call
          when function != :{} ->
            assert_exported(Module.concat(names), function, length(arguments))
            call

          {{:., _, [{:__aliases__, _, [:MyApp, :Analytics]}, function]}, _, arguments} = call
          when function not in @own ->
            assert_exported(Client, function, length(arguments))
            call

          {:config, _, [_app, {:__aliases__, _, [:MyApp, :Analytics]}, given]} = call ->
            for {option, _} <- given, do: assert(option in options(), "there is no option #{option}")
            call

          node ->
            node
        end)
      end
    end

    test "the modules and functions that #{page} names are documented" do
      text = File.read!(unquote(page))

      for [_, module, function, arity] <- Regex.scan(~r{`(BilldogEng[\w.]*)\.(\w+)/(\d)`}, text) do
        assert_exported(Module.concat([module]), String.to_atom(function), String.to_integer(arity))
      end

      for [_, module] <- Regex.scan(~r{`%?(BilldogEng[\w.]*?)(?:\.\w+[!?]?/\d|\{\})?`}, text) do
        assert {:docs_v1, _, _, _, %{"en" => _}, _, _} = Code.fetch_docs(Module.concat([module])),
               "#{module} has no page in the docs"
      end
    end

    test "the links of #{page} lead to a file and a heading" do
      for [_, link] <- Regex.scan(~r/\]\((?!https?:)([^)]+)\)/, File.read!(unquote(page))) do
        [path, anchor] = String.split(link <> "#", "#", parts: 2)
        path = if path == "", do: unquote(page), else: Path.join(Path.dirname(unquote(page)), path)
        path = path |> Path.expand() |> Path.relative_to_cwd()
        assert File.exists?(path), "#{path} does not exist"
        anchor = String.trim_trailing(anchor, "#")
        assert anchor == "" or anchor in anchors(path), "#{path} has no heading ##{anchor}"
      end
    end
  end

  # The anchors that are the same on GitHub and in the docs of ex_doc.
  defp anchors(path) do
    for [_, heading] <- Regex.scan(~r/^#+ (.+)$/m, File.read!(path)) do
      heading = String.downcase(heading)
      on_github = heading |> String.replace(~r/[^\w\- ]/u, "") |> String.replace(" ", "-")
      in_docs = heading |> String.replace(~r/\W+/u, "-") |> String.trim("-")
      if on_github == in_docs, do: on_github
    end
  end

  test "CONTRIBUTING.md names every folder of the sources, and only files that exist" do
    text = File.read!("CONTRIBUTING.md")

    folders =
      Enum.flat_map(
        ~w(lib/billdogeng lib/billdogeng/* lib/mix/tasks mix native/*/src native/*/src/*),
        &Path.wildcard/1
      )

    for folder <- folders, File.dir?(folder), folder != "native/billdogeng_nif/src/encode" do
      assert text =~ "- `#{folder}/`: ", "the tour lacks #{folder}"
    end

    for [_, path] <- Regex.scan(~r{`((?:lib|mix|native|test|bin|guides|bench|\.ci)/[\w./-]*)}, text) do
      # bin/nif makes this folder.
      assert File.exists?(path) or path == "native/prebuilt/", "#{path} does not exist"
    end
  end

  test "guides/delivery.md has a row for every drop reason" do
    [_, reasons] =
      Regex.run(~r/pub const ALL: .*? = \[(.*?)\];/s, File.read!("native/billdogeng/src/queue/accounts.rs"))

    reasons = for [_, reason] <- Regex.scan(~r/Reason::(\w+)/, reasons), do: Macro.underscore(reason)

    rows =
      for [_, reason] <- Regex.scan(~r/^\| `([a-z_]+)` \| /m, File.read!("guides/delivery.md")), do: reason

    assert Enum.sort(rows) == Enum.sort(reasons)
  end

  test "the log lines that guides/outage.md quotes are lines of guides/log-lines.md" do
    lines = File.read!("guides/log-lines.md")

    quoted =
      Regex.scan(~r/^\[BilldogEng:analytics\] (.+)…$/m, File.read!("guides/outage.md"),
        capture: :all_but_first
      )

    assert length(quoted) == 3

    for [line] <- quoted,
        do: assert(lines =~ "\n  `" <> line, "no line of the log begins with #{inspect(line)}")
  end

  defp assert_exported(module, function, arity) do
    assert Code.ensure_loaded?(module), "there is no #{inspect(module)}"
    exported = module.__info__(:functions) ++ module.__info__(:macros)
    assert {function, arity} in exported, "there is no #{Exception.format_mfa(module, function, arity)}"
  end
end
