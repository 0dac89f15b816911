defmodule BilldogEng.DocsTest do
  use ExUnit.Case, async: true

  # Those that a user is shown: a module or function with `@doc false` is nobody's but ours.
  defp documented do
    {:ok, modules} = :application.get_key(:billdogeng, :modules)

    for module <- modules,
        not String.starts_with?(source(module), Path.expand("test")),
        {:docs_v1, _, :elixir, _, %{"en" => _}, _, docs} <- [Code.fetch_docs(module)],
        do: {module, docs}
  end

  defp source(module), do: to_string(module.module_info(:compile)[:source])

  # Of what this library doesn't bring: their examples can't run here.
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

  test "every public function has a spec" do
    without =
      for {module, docs} <- documented(),
          {:ok, specs} = Code.Typespec.fetch_specs(module),
          {{:function, name, arity}, _, _, %{}, _} <- docs,
          not List.keymember?(specs, {name, arity}, 0),
          do: Exception.format_mfa(module, name, arity)

    assert without == []
  end

  test "every example runs in some test" do
    tests = "test/**/*_test.exs" |> Path.wildcard() |> Enum.map_join(&File.read!/1)

    for {module, docs} <- documented(), Enum.any?(docs, &(inspect(&1) =~ "iex>")) do
      short = module |> Module.split() |> List.last()

      assert tests =~ ~r/doctest (#{inspect(module)}|#{short})(,.*)?$/m,
             "no test has `doctest #{inspect(module)}`"
    end
  end
end
