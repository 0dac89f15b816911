defmodule BilldogEng.PackageTest do
  # The package as its users get it: unpacked from the tarball that bin/package makes, with a ready-made library
  # (that of this test run, in another's place), on a PATH that has Elixir and no cargo.
  use ExUnit.Case, async: true

  @moduletag :slow
  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @root Path.expand("..", __DIR__)
  @unix match?({:unix, _}, :os.type())
  @moduletag skip: !@unix && "the scripts are shell scripts"

  setup %{tmp_dir: dir} do
    package = Path.join(dir, "package")
    {output, 0} = System.cmd(Path.join(@root, "bin/package"), [package], stderr_to_stdout: true)
    File.rm_rf!(Path.join(package, "native/prebuilt"))
    {:ok, package: package, listed: String.split(output, "\n", trim: true)}
  end

  test "holds what a build needs, and nothing else", %{package: package} do
    files = for path <- tree(package), do: Path.relative_to(path, package)

    kept =
      ~w(Cargo.lock Cargo.toml .cargo/config.toml mix.exs mix/nif_compiler.exs .formatter.exs README.md CHANGELOG.md LICENSE) ++
        ~w(ARCHITECTURE.md CONTRIBUTING.md SECURITY.md native/billdogeng_nif/build.rs)

    assert kept -- files == []
    # Files that bin/nif packs, and that a checkout may lack.
    assert "native/prebuilt" in Mix.Project.config()[:package][:files]
    sources = for path <- tree(Path.join(@root, "lib")), do: Path.relative_to(path, @root)
    assert sources -- files == []

    for path <- files -- kept do
      assert path =~
               ~r{^(lib/.+\.ex|lib/billdogeng/collector/page/(index\.html|page\.css|(page|dom|details|charts)\.js)|mix/.+\.exs|guides/[\w-]+\.(md|livemd|cheatmd)|native/billdogeng(_nif)?/(Cargo\.toml|src/.+\.rs|src/flush/machine/cells\.txt)|THIRD-PARTY-LICENSES)$},
             path
    end
  end

  test "is a whole workspace to cargo", %{package: package} do
    cargo = System.find_executable("cargo") || flunk("no cargo to ask")

    {metadata, 0} =
      System.cmd(cargo, ~w(metadata --format-version 1 --no-deps --offline --locked), cd: package)

    for crate <- ~w(billdogeng billdogeng_nif), do: assert(metadata =~ ~s("name":"#{crate}"))
  end

  test "names the applications that it starts, and no others", %{package: package} = context do
    ready_made(package)
    assert {_, 0} = mix(context, package, ["compile"])
    {:ok, [{:application, :billdogeng, app}]} = :file.consult(app_file(Path.join(package, "_build/dev")))
    assert app[:applications] == [:kernel, :stdlib, :elixir, :logger]
    assert to_string(app[:vsn]) == Mix.Project.config()[:version]
  end

  test "serves an app as a path dependency", %{package: package} = context do
    ready_made(package)
    app = app(context, "by_path", ~s({:billdogeng, path: "../package"}))
    assert {output, 0} = mix(context, app, ["run", "-e", captures()])
    assert output =~ "delivered: 1"
    refute output =~ "warning:"
  end

  @tag skip: !System.find_executable("git") && "there is no git here"
  test "serves an app as a git dependency", %{package: package} = context do
    ready_made(package)
    git = fn arguments -> {_, 0} = System.cmd("git", arguments, cd: package, stderr_to_stdout: true) end
    git.(~w(init --quiet))
    git.(~w(add --all))
    git.(~w(-c user.name=a -c user.email=a@b.example commit --quiet --message all))

    app = app(context, "by_git", ~s({:billdogeng, git: "file://#{package}"}))
    assert {_, 0} = mix(context, app, ["deps.get"])
    assert {output, 0} = mix(context, app, ["run", "-e", captures()])
    assert output =~ "delivered: 1"
  end

  test "serves a child of an umbrella, built from the umbrella and from the child", context do
    ready_made(context.package)
    umbrella = Path.join(context.tmp_dir, "umbrella")
    write(umbrella, "mix.exs", project("Umbrella", ~s(apps_path: "apps", deps: [])))

    child =
      app(
        context,
        "umbrella/apps/child",
        ~s({:billdogeng, path: "../../../package"}),
        ~s(build_path: "../../_build", deps_path: "../../deps", lockfile: "../../mix.lock", )
      )

    assert {_, 0} = mix(context, umbrella, ["compile"])
    assert {output, 0} = mix(context, child, ["run", "-e", captures()])
    assert output =~ "delivered: 1"
  end

  test "serves a script by Mix.install", %{package: package, tmp_dir: dir} = context do
    ready_made(package)

    script =
      write(dir, "script.exs", "Mix.install([{:billdogeng, path: #{inspect(package)}}])\n" <> captures())

    assert {output, 0} = run(context, "elixir", [script], dir)
    assert output =~ "delivered: 1"
  end

  test "serves a release, which needs neither Mix nor the package", %{package: package} = context do
    ready_made(package)
    app = app(context, "released", ~s({:billdogeng, path: "../package"}))
    assert {_, 0} = mix(context, app, ["release", "--quiet"], %{"MIX_ENV" => "prod"})
    File.rm_rf!(package)
    moved = Path.join(context.tmp_dir, "moved")
    File.rename!(Path.join(app, "_build/prod/rel/released"), moved)
    assert {output, 0} = run(context, Path.join(moved, "bin/released"), ["eval", captures()], moved)
    assert output =~ "delivered: 1"
  end

  # ── an app ──

  defp captures do
    """
    {:ok, _} = Application.ensure_all_started(:billdogeng)
    {:ok, collector} = BilldogEng.Collector.start_link()
    {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: BilldogEng.Collector.url(collector))
    BilldogEng.Analytics.capture(client, "user-1", "adopted")
    :ok = BilldogEng.Analytics.shutdown(client)
    [%{"event_name" => "adopted"}] = BilldogEng.Collector.events(collector)
    IO.puts("delivered: \#{BilldogEng.Analytics.stats(client).delivered}")
    """
  end

  defp app(context, path, dependency, more \\ "") do
    name = Path.basename(path)
    app = Path.join(context.tmp_dir, path)
    module = Macro.camelize(name)
    write(app, "mix.exs", project(module, ~s(app: :#{name}, version: "1.0.0", #{more}deps: [#{dependency}])))
    write(app, "lib/#{name}.ex", "defmodule #{module} do\n  def it, do: :works\nend\n")
    app
  end

  defp project(module, config) do
    """
    defmodule #{module}.MixProject do
      use Mix.Project
      def project, do: [#{config}]
    end
    """
  end

  defp ready_made(package) do
    [library] = :billdogeng |> :code.priv_dir() |> Path.join("native/billdogeng_nif.*") |> Path.wildcard()
    library = File.read!(library)
    name = "billdogeng-#{Mix.Project.config()[:version]}-nif-2.15-#{target()}.so"
    write(package, "native/prebuilt/" <> name, library)
    sum = :crypto.hash(:sha256, library) |> Base.encode16(case: :lower)
    write(package, "native/prebuilt/#{name}.sha256", "#{sum}  #{name}\n")
  end

  defp target do
    case :erlang.system_info(:system_architecture) |> to_string() |> String.split("-") do
      [cpu | rest] ->
        if "linux" in rest, do: "#{cpu}-unknown-linux-#{List.last(rest)}", else: "#{cpu}-apple-darwin"
    end
  end

  # ── running it ──

  defp mix(context, folder, arguments, env \\ %{}), do: run(context, "mix", arguments, folder, env)

  defp run(context, command, arguments, folder, env \\ %{}) do
    env =
      Map.merge(
        %{
          "PATH" => bin(context),
          "MIX_ENV" => "dev",
          "MIX_INSTALL_DIR" => Path.join(context.tmp_dir, "installs"),
          "BILLDOGENG_NIF" => nil,
          "CARGO" => nil,
          "CARGO_BUILD_TARGET" => nil,
          "MIX_BUILD_PATH" => nil,
          "MIX_TARGET" => nil
        },
        env
      )

    command = if Path.type(command) == :absolute, do: command, else: Path.join(bin(context), command)
    System.cmd(command, arguments, cd: folder, env: env, stderr_to_stdout: true)
  end

  # The programs of Elixir, a release and git, without the cargo of the PATH.
  defp bin(context) do
    bin = Path.join(context.tmp_dir, "bin")

    unless File.exists?(bin) do
      File.mkdir_p!(bin)

      for tool <-
            ~w(mix elixir erl git sh bash sed grep awk cat cp rm cut tr dirname basename readlink uname env expr id od) do
        path = System.find_executable(tool)
        if path, do: File.ln_s!(path, Path.join(bin, tool))
      end
    end

    bin
  end

  defp tree(folder),
    do: folder |> Path.join("**") |> Path.wildcard(match_dot: true) |> Enum.filter(&File.regular?/1)

  defp app_file(build), do: Path.join(build, "lib/billdogeng/ebin/billdogeng.app") |> String.to_charlist()

  defp write(folder, path, text) do
    path = Path.join(folder, path)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, text)
    path
  end
end
