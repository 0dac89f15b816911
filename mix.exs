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
      test_ignore_filters: [~r{^test/(browser|fixtures|support)/}],
      start_permanent: Mix.env() == :prod,
      deps: deps(Mix.env()),
      name: "BilldogEng",
      description:
        "An analytics client: captures take about a microsecond, and a native thread delivers the events.",
      package: package(),
      docs: docs()
    ]
  end

  def application, do: [mod: {BilldogEng.Client.Application, []}, extra_applications: [:logger]]

  # `mix docs`, in the one environment that has ex_doc, takes Elixir 1.15 or later.
  def cli, do: [preferred_envs: [docs: :docs]]

  # With a dependency under `only: :docs`, every Mix command of every app that uses this one would ask for Hex.
  defp deps(:docs), do: [{:ex_doc, "~> 0.40", runtime: false}]
  defp deps(_), do: []

  # The crates read the same version there.
  defp version do
    [_, version] = Regex.run(~r/^version = "(.+)"$/m, File.read!(Path.join(__DIR__, "Cargo.toml")))
    version
  end

  defp package do
    [
      licenses: ["MIT"],
      links: %{"Source" => @source_url},
      # cargo builds from the whole workspace only. Other files of `.cargo` may contain credentials. `bin/nif` packs
      # `native/prebuilt`, and `bin/package` makes the package.
      files:
        ~w(lib native/billdogeng*/Cargo.toml native/billdogeng*/build.rs native/billdogeng*/src native/prebuilt) ++
          ~w(Cargo.toml Cargo.lock .cargo/config.toml mix mix.exs .formatter.exs) ++
          ~w(README.md guides/*.*md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md SECURITY.md LICENSE THIRD-PARTY-LICENSES)
    ]
  end

  # The pages in the order in which a reader needs them; the modules by use.
  defp docs do
    [
      main: "readme",
      api_reference: false,
      source_url: @source_url,
      source_ref: "v#{version()}",
      # README and the guides link to them from different folders.
      assets: %{"guides/images" => "images", "./guides/images" => "guides/images"},
      extras: [{"README.md", title: "Overview"} | Enum.flat_map(pages(), &elem(&1, 1))],
      groups_for_extras: pages(),
      groups_for_modules: [
        Client: [BilldogEng, BilldogEng.Analytics, BilldogEng.Stats, BilldogEng.Transport, BilldogEng.Error],
        Phoenix: [
          BilldogEng.Plug,
          BilldogEng.LiveView,
          BilldogEng.Visitor,
          BilldogEng.Context,
          BilldogEng.LiveDashboard
        ],
        Telemetry: [BilldogEng.Telemetry, BilldogEng.LoggerHandler],
        Testing: [BilldogEng.Test],
        Development: [BilldogEng.Collector]
      ],
      groups_for_docs: for(group <- doc_groups(), do: {group, &(&1[:group] == group)})
    ]
  end

  defp pages do
    [
      Start:
        ~w(guides/tour.livemd guides/cheatsheet.cheatmd guides/phoenix.md guides/collector.md) ++
          ~w(guides/configuration.md guides/testing.md guides/history.md guides/migrating.md),
      Delivery: ~w(guides/delivery.md guides/spool.md guides/outage.md guides/log-lines.md),
      Operation: ~w(guides/deploying.md guides/telemetry.md guides/privacy.md guides/performance.md),
      Project: ~w(ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md SECURITY.md)
    ]
  end

  # In a module's page in this order: `@doc group: "Captures"`.
  defp doc_groups do
    ["Start", "Captures", "Users and groups", "Delivery", "State", "Requests"] ++
      ["Handlers", "Metrics", "Asserts", "Events", "Processes", "Responses"]
  end
end
