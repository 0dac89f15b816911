defmodule BilldogEng.DocsTest do
  use ExUnit.Case, async: true

  # The modules that the docs show, and their functions.
  defp documented do
    {:ok, modules} = :application.get_key(:billdogeng, :modules)

    for module <- modules,
        not String.starts_with?(source(module), Path.expand("test")),
        {:docs_v1, _, :elixir, _, %{"en" => _}, _, docs} <- [Code.fetch_docs(module)],
        do: {module, docs}
  end

  defp source(module), do: to_string(module.module_info(:compile)[:source])

  # The example needs a library that the tests do not have.
  @elsewhere ["BilldogEng.Telemetry.metrics/0"]

  test "every public function has a doc with an example" do
    without =
      for {module, docs} <- documented(),
          {{kind, name, arity}, _, _, doc, _} <- docs,
          kind in [:function, :macro],
          doc != :hidden,
          not (is_map(doc) and doc["en"] =~ "iex>"),
          do: Exception.format_mfa(module, name, arity)

    assert without == @elsewhere
  end

  # Markdown takes code that directly follows a list for text of its last item.
  test "no example directly follows a list" do
    behind =
      for {module, docs} <- documented(),
          {{_, name, arity}, _, _, %{"en" => doc}, _} <- [
            {{:module, :moduledoc, 0}, 0, [], moduledoc(module), %{}} | docs
          ],
          [before, example] <- doc |> String.split(~r/\n\n+/) |> Enum.chunk_every(2, 1, :discard),
          example =~ ~r/^    iex>/ and before =~ ~r/^  ( *)\* |^    (?! *iex>)/,
          do: Exception.format_mfa(module, name, arity)

    assert behind == []
  end

  test "every public function has a spec" do
    without =
      for {module, docs} <- documented(),
          {:ok, specs} = Code.Typespec.fetch_specs(module),
          {{:function, name, arity}, _, _, %{}, _} <- docs,
          not List.keymember?(specs, {name, arity}, 0),
          do: Exception.format_mfa(module, name, arity)

    assert without == []
  end

  test "the files directly in lib/billdogeng, and the tasks, are the documented modules" do
    public =
      ["lib/billdogeng.ex"] ++ Path.wildcard("lib/billdogeng/*.ex") ++ Path.wildcard("lib/mix/tasks/*.ex")

    sources = for {module, _} <- documented(), do: module |> source() |> Path.relative_to_cwd()
    assert Enum.sort(sources) == Enum.sort(public)
  end

  test "every documented module is in one group" do
    grouped = for {_, modules} <- pages()[:groups_for_modules], module <- modules, do: module
    # ExDoc lists the tasks by itself.
    task? = &String.starts_with?(Atom.to_string(&1), "Elixir.Mix.Tasks.")
    documented = for {module, _} <- documented(), not task?.(module), do: module
    assert Enum.sort(grouped) == Enum.sort(documented)
  end

  test "every public function is in a group that mix.exs orders" do
    groups = for {group, _} <- pages()[:groups_for_docs], do: group

    without =
      for {module, docs} <- documented(),
          {{kind, name, arity}, _, _, %{}, metadata} <- docs,
          kind in [:function, :macro],
          metadata[:group] not in groups,
          do: Exception.format_mfa(module, name, arity)

    assert without == []
  end

  test "every page is in the docs, guides first" do
    extras = for extra <- pages()[:extras], do: if(is_tuple(extra), do: elem(extra, 0), else: extra)
    assert ["README.md", "guides/" <> _ | _] = extras
    assert (Path.wildcard("*.md") ++ Path.wildcard("guides/*.md")) -- extras == []
    assert extras -- Enum.uniq(extras) == []
    for extra <- extras, do: assert(File.exists?(extra), "#{extra} does not exist")
  end

  defp pages, do: Mix.Project.config()[:docs]

  defp moduledoc(module), do: elem(Code.fetch_docs(module), 4)

  test "every example runs in some test" do
    tests = "test/**/*_test.exs" |> Path.wildcard() |> Enum.map_join(&File.read!/1)

    for {module, docs} <- documented(), Enum.any?(docs, &(inspect(&1) =~ "iex>")) do
      short = module |> Module.split() |> List.last()

      assert tests =~ ~r/doctest (#{inspect(module)}|#{short})(,.*)?$/m,
             "no test has `doctest #{inspect(module)}`"
    end
  end
end
