Code.require_file("mix/nif_compiler.exs", __DIR__)

defmodule BilldogEng.MixProject do
  use Mix.Project

  @source_url "https://github.com/billdogeng/billdogeng-elixir"

  def project do
    [
      app: :billdogeng,
      version: version(),
      elixir: "~> 1.14",
      compilers: [:billdogeng_nif | Mix.compilers()],
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      test_ignore_filters: [~r{^test/(fixtures|support)/}],
      start_permanent: Mix.env() == :prod,
      deps: deps(Mix.env()),
      name: "BilldogEng",
      description:
        "An analytics client with a native core: captures cost microseconds, delivery is its own affair.",
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [
      mod: {BilldogEng.Client.Application, []},
      extra_applications: [:logger]
    ]
  end

  # `mix docs` (before Elixir 1.15 `MIX_ENV=docs mix docs`), in the one environment that has ex_doc.
  def cli, do: [preferred_envs: [docs: :docs]]

  # A dependency under `only: :docs` would still have every Mix command of every app that uses this one ask
  # for Hex.
  defp deps(:docs), do: [{:ex_doc, "~> 0.34", runtime: false}]
  defp deps(_), do: []

  # The crates have the same one: it is kept where they take it from.
  defp version do
    [_, version] = Regex.run(~r/^version = "(.+)"$/m, File.read!(Path.join(__DIR__, "Cargo.toml")))
    version
  end

  defp package do
    [
      licenses: ["MIT"],
      links: %{"Source" => @source_url},
      # The workspace whole, or cargo builds nothing from it; of `.cargo` the one file, for others may hold
      # credentials. `native/prebuilt` is what `bin/nif` has packed; `bin/package` makes the whole of it.
      files:
        ~w(lib native/billdogeng*/Cargo.toml native/billdogeng*/build.rs native/billdogeng*/src native/prebuilt) ++
          ~w(Cargo.toml Cargo.lock .cargo/config.toml mix mix.exs .formatter.exs) ++
          ~w(README.md guides CHANGELOG.md ARCHITECTURE.md SECURITY.md LICENSE THIRD-PARTY-LICENSES)
    ]
  end

  defp docs do
    [
      main: "readme",
      source_url: @source_url,
      source_ref: "v#{version()}",
      extras:
        ["README.md"] ++
          Path.wildcard("guides/*.md") ++ ["ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "LICENSE"],
      groups_for_extras: [Guides: ~r{^guides/}],
      groups_for_modules: [
        "Development and tests": [~r/^BilldogEng\.Collector/, ~r/^BilldogEng\.Test/]
      ]
    ]
  end
end
