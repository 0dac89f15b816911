defmodule Mix.Tasks.Compile.BilldogengNif do
  @moduledoc false
  # Puts the native library where `BilldogEng.Native` looks for it, `priv/native` of the compiled app.
  #
  #     BILLDOGENG_NIF=/path/to.so ──┐
  #     native/prebuilt/ ────────────┼─► staged in _build ─► loaded once in ─► renamed to
  #     cargo build --release ───────┘    (same disk)        a VM of its own   priv/native
  #
  # The first that there is, is taken; BILLDOGENG_NIF=cargo is for those who build whatever there is. A library
  # that doesn't load goes no further: the reason is an error of this build, and not a surprise of the next start.

  use Mix.Task.Compiler
  alias Mix.Task.Compiler.Diagnostic

  @name "billdogeng_nif"
  @root __DIR__
  @oldest_rust {1, 91}
  # What the crate asks of the VM (its `nif_version_2_15`); a newer VM of the same major runs it too.
  @oldest_nif {2, 15}

  @impl true
  def run(argv) do
    # Since 1.15 Mix takes from the code path what the project doesn't name; before, there is no such function.
    if function_exported?(Mix, :ensure_application!, 1), do: apply(Mix, :ensure_application!, [:crypto])
    source = source()
    key = key(source)

    if "--force" not in argv and fresh?(key) do
      {:noop, []}
    else
      case fetch(source, key) do
        :ok -> {:ok, []}
        {:error, message} -> {:error, [diagnostic(message)]}
      end
    end
  end

  @impl true
  def manifests, do: [manifest()]

  # Only what this environment holds: cargo's folder serves the others as well.
  @impl true
  def clean do
    File.rm(manifest())
    File.rm(library())
    File.rm_rf!(stage())
    :ok
  end

  # ── where the library comes from ──

  defp source do
    case System.get_env("BILLDOGENG_NIF", "") do
      "" -> prebuilt() || :cargo
      "cargo" -> :cargo
      path -> {:named, Path.expand(path)}
    end
  end

  defp fetch(source, key) do
    with {:ok, built} <- obtain(source),
         {:ok, staged} <- stage(built),
         :ok <- check(staged, built) do
      install(staged, key)
    end
  end

  defp obtain({:named, path}) do
    if File.regular?(path),
      do: {:ok, path},
      else: {:error, "BILLDOGENG_NIF names #{path}, and there is no such file"}
  end

  # No fall back to cargo: a file that isn't what its publisher made wants a person's look.
  defp obtain({:prebuilt, path}) do
    with {:ok, text} <- File.read(path <> ".sha256"),
         [expected | _] <- String.split(text) do
      case digest(File.read!(path)) do
        actual when actual == expected ->
          {:ok, path}

        actual ->
          {:error,
           "#{path} isn't the library that its checksum file is for: " <>
             "its SHA-256 is #{actual}, and #{Path.basename(path)}.sha256 says #{expected}. " <>
             "Fetch both again, or delete them to have cargo build the library"}
      end
    else
      _ ->
        {:error,
         "#{path} has no checksum: #{Path.basename(path)}.sha256 beside it is missing or empty. " <>
           "Fetch it, or delete the library to have cargo build one"}
    end
  end

  defp obtain(:cargo) do
    with {:ok, cargo} <- cargo(), do: build(cargo)
  end

  defp prebuilt do
    with target when is_binary(target) <- target(),
         names =
           for(nif <- nif_versions(), do: "billdogeng-#{version()}-nif-#{nif}-#{target}#{extension(target)}"),
         path when is_binary(path) <-
           Enum.find_value(names, fn name ->
             path = Path.join([@root, "native", "prebuilt", name])
             if File.exists?(path), do: path
           end) do
      {:prebuilt, path}
    end
  end

  # Where there are ready-made ones, and none of them is taken, that is what a user has to know.
  defp none_ready_made do
    case Path.wildcard(Path.join(@root, "native/prebuilt/billdogeng-*{.so,.dll}")) do
      [] ->
        ""

      others ->
        versions = nif_versions()

        "Of the ready-made ones in native/prebuilt (#{Enum.map_join(others, ", ", &Path.basename/1)}) none is for " <>
          "version #{version()}, NIF #{List.last(versions)} to #{List.first(versions)} and " <>
          "#{target() || "the machine that MIX_TARGET means (CARGO_BUILD_TARGET names it)"}. "
    end
  end

  # "2.16", "2.15": the newest first.
  defp nif_versions do
    {major, oldest} = @oldest_nif
    [vm_major, vm_minor] = :erlang.system_info(:nif_version) |> to_string() |> numbers()
    if vm_major == major, do: for(minor <- vm_minor..oldest//-1, do: "#{major}.#{minor}"), else: []
  end

  # Rust's name of the machine that the library is for. This one's comes from the VM's own ("x86_64-pc-linux-gnu",
  # "aarch64-apple-darwin23.1.0"), for there may be no rustc to ask.
  defp target do
    case {System.get_env("CARGO_BUILD_TARGET", ""), elsewhere?()} do
      {"", true} -> nil
      {"", false} -> :erlang.system_info(:system_architecture) |> to_string() |> triple()
      {given, _} -> given
    end
  end

  defp triple("win32"), do: "x86_64-pc-windows-msvc"

  defp triple(architecture) do
    cpu =
      architecture
      |> String.split("-")
      |> hd()
      |> String.replace("amd64", "x86_64")
      |> String.replace("arm64", "aarch64")

    cond do
      architecture =~ "darwin" -> cpu <> "-apple-darwin"
      architecture =~ "linux" and architecture =~ "musl" -> cpu <> "-unknown-linux-" <> abi(architecture)
      architecture =~ "linux" -> cpu <> "-unknown-linux-" <> abi(architecture)
      true -> nil
    end
  end

  defp abi(architecture), do: architecture |> String.split("-") |> List.last()

  # Whether the build says that it is for another machine than this one.
  defp elsewhere? do
    System.get_env("CARGO_BUILD_TARGET", "") != "" or Mix.target() != :host
  end

  # ── cargo ──

  defp cargo do
    case System.find_executable(System.get_env("CARGO", "cargo")) do
      nil ->
        {:error,
         "the native library is built by cargo, and there is none on this machine's PATH. " <>
           none_ready_made() <> advice()}

      cargo ->
        case rust_version(cargo) do
          {:old, version} -> {:error, "cargo #{version} is too old for the native library. " <> advice()}
          _ -> {:ok, cargo}
        end
    end
  end

  defp build(cargo) do
    Mix.shell().info(
      "Compiling the native library (cargo build --release; the first time takes about a minute)"
    )

    # In our folder, for cargo reads `.cargo/config.toml` of where it is run. Its progress goes to stderr, and
    # so past us to the terminal.
    {messages, status} =
      System.cmd(
        cargo,
        ~w(build --locked --release --package #{@name} --message-format=json-render-diagnostics),
        cd: @root,
        env: [{"CARGO_TARGET_DIR", target_dir()} | rust_flags()]
      )

    with 0 <- status, {:ok, built} <- artifact(messages) do
      {:ok, built}
    else
      :error -> {:error, "cargo built no #{@name} that its messages tell of"}
      _ -> {:error, why_cargo_failed()}
    end
  end

  # Asked only after a failure: a build where everything is up to date runs no rustc.
  defp why_cargo_failed do
    rustc = System.get_env("RUSTC", "rustc")

    case (path = System.find_executable(rustc)) && rust_version(path) do
      nil -> "cargo found no rustc to build the native library with. " <> advice()
      {:old, version} -> "rustc #{version} is too old for the native library. " <> advice()
      _ -> "cargo could not build the native library (its own words are above)"
    end
  end

  defp rust_version(command) do
    with {text, 0} <- System.cmd(command, ["--version"], cd: @root, stderr_to_stdout: true),
         [_, version] <- Regex.run(~r/^\w+ (\d+\.\d+\.\d+)/m, text) do
      [major, minor, _] = numbers(version)
      if {major, minor} < @oldest_rust, do: {:old, version}, else: :recent
    else
      _ -> :unknown
    end
  end

  defp advice do
    {major, minor} = @oldest_rust

    "Rust #{major}.#{minor} or newer is needed: on Debian 12 and 13 `apt-get install cargo-web rustc-web`, " <>
      "on Debian testing `apt-get install cargo rustc`, on macOS and elsewhere https://rustup.rs. " <>
      "Or set BILLDOGENG_NIF to the path of a library built on a like machine, and none is needed here"
  end

  # One folder for every Mix environment, or each would build the whole for itself; and in the `_build` of the
  # app that is being built, not beside our sources, which as a dependency may be read-only or shared by apps
  # that build with other toolchains. MIX_BUILD_PATH may be a folder anywhere: nothing is put beside that.
  defp target_dir do
    with nil <- given("CARGO_TARGET_DIR"), nil <- given("CARGO_BUILD_TARGET_DIR") do
      build = Mix.Project.build_path()
      above = if given("MIX_BUILD_PATH"), do: build, else: Path.dirname(build)
      Path.expand("cargo", above)
    else
      # Cargo would take it from our folder, in which it runs; the user meant their own.
      dir -> Path.expand(dir)
    end
  end

  defp given(variable) do
    value = System.get_env(variable, "")
    if value != "", do: value
  end

  # RUSTFLAGS replaces the flags of `.cargo/config.toml`, without which musl's rustc makes no shared object.
  defp rust_flags do
    flags = System.get_env("RUSTFLAGS", "")

    if flags != "" and (target() || "") =~ "musl" and not (flags =~ "crt-static"),
      do: [{"RUSTFLAGS", flags <> " -C target-feature=-crt-static"}],
      else: []
  end

  # Where cargo put the library, in its own words: a user's configuration may move the folder, or put the
  # target's name into the path. One JSON object a line; of ours only the file names are needed.
  defp artifact(messages) do
    messages
    |> String.split("\n")
    |> Enum.filter(&(&1 =~ ~s("reason":"compiler-artifact") and &1 =~ ~s("name":"#{@name}")))
    |> Enum.flat_map(fn line ->
      case Regex.run(~r/"filenames":\[((?:"(?:[^"\\]|\\.)*",?)*)\]/, line) do
        [_, names] ->
          ~r/"((?:[^"\\]|\\.)*)"/ |> Regex.scan(names) |> Enum.map(fn [_, name] -> unescape(name) end)

        nil ->
          []
      end
    end)
    |> Enum.find(&(Path.extname(&1) in ~w(.so .dylib .dll)))
    |> case do
      nil -> :error
      path -> {:ok, path}
    end
  end

  defp unescape(text) do
    Regex.replace(~r/\\(u[0-9a-fA-F]{4}|.)/, text, fn
      _, "u" <> hex -> <<String.to_integer(hex, 16)::utf8>>
      _, one -> one
    end)
  end

  # ── from the artifact to priv ──

  # A folder that looks like the app's to `:code.priv_dir/1`, so that the stub finds the candidate there.
  defp stage(built) do
    staged = Path.join([stage(), "billdogeng", "priv", "native", Path.basename(library())])
    File.rm_rf!(stage())
    File.mkdir_p!(Path.join([stage(), "billdogeng", "ebin"]))
    File.mkdir_p!(Path.dirname(staged))

    case File.cp(built, staged) do
      :ok -> {:ok, staged}
      {:error, reason} -> {:error, "#{built} can't be copied to #{staged}: #{:file.format_error(reason)}"}
    end
  end

  # Loads it through the real stub, so that a library of another version is found out too. In a VM of its own:
  # one that crashes while loading must not take Mix with it, and Mix's must load it from its final place.
  defp check(staged, built) do
    script = ~c"""
    {ok, _} = application:ensure_all_started(elixir),
    [Stub] = init:get_plain_arguments(),
    'Elixir.Code':compile_file(unicode:characters_to_binary(Stub)),
    case 'Elixir.BilldogEng.Native':load_error() of
      nil -> halt(0);
      Reason -> io:put_chars(Reason), halt(3)
    end.
    """

    erl = Path.join([:code.root_dir(), "bin", "erl"])
    paths = [Path.join(:code.lib_dir(:elixir), "ebin"), Path.join([stage(), "billdogeng", "ebin"])]
    stub = Path.join([@root, "lib", "billdogeng", "native.ex"])
    arguments = ["-noinput", "-pa"] ++ paths ++ ["-eval", to_string(script), "-extra", stub]
    # What the user's own VM is given (a node name, a shell's settings) isn't for this one.
    env = for name <- ~w(ERL_FLAGS ERL_AFLAGS ERL_ZFLAGS ERL_LIBS), do: {name, nil}

    case System.cmd(erl, arguments, env: env, stderr_to_stdout: true) do
      {_, 0} ->
        :ok

      {output, 3} ->
        refuse(built, String.replace(output, staged, built))

      {output, status} ->
        refuse(built, "the VM that tried it ended with status #{status}: #{String.trim(output)}")
    end
  end

  # What is meant for another machine can't be tried on this one; should it not load there either, a client's
  # start says why.
  defp refuse(built, reason) do
    message = "the native library #{built} doesn't load: #{reason}"

    if elsewhere?() do
      Mix.shell().info(
        "warning: here " <> message <> ". As this build is for another machine, it is taken all the same"
      )

      :ok
    else
      {:error,
       message <>
         ". A library has to be built for this operating system, processor and libc; " <>
         "a build for another machine says so with MIX_TARGET or CARGO_BUILD_TARGET"}
    end
  end

  # By a rename, for a VM that runs an older one has it mapped, and to write into that file would crash it.
  defp install(staged, key) do
    File.mkdir_p!(Path.dirname(library()))
    File.rename!(staged, library())
    File.rm_rf!(stage())
    File.mkdir_p!(Path.dirname(manifest()))
    File.write!(manifest(), key)
    :ok
  end

  # ── what has to be done again ──

  defp fresh?(key), do: File.read(manifest()) == {:ok, key} and File.exists?(library())

  # By content: a checkout or a cache that is restored gives files new times, and a build takes a minute.
  defp key(:cargo) do
    inputs =
      (~w(Cargo.toml Cargo.lock .cargo/config.toml) ++
         ~w(native/billdogeng*/Cargo.toml native/billdogeng*/build.rs native/billdogeng*/src/**/*.rs))
      |> Enum.flat_map(&Path.wildcard(Path.join(@root, &1), match_dot: true))

    files = for path <- Enum.sort(inputs), do: [Path.relative_to(path, @root), 0, digest(File.read!(path))]
    key("cargo", [files, 0, System.get_env("CARGO_BUILD_TARGET", "")])
  end

  defp key({kind, path}) do
    case File.read(path) do
      {:ok, library} -> key("#{kind} #{path}", [library, sums(kind, path)])
      {:error, _} -> "none"
    end
  end

  defp key(what, contents), do: what <> "\n" <> digest([version(), 0, contents])

  defp sums(:prebuilt, path), do: [(File.exists?(path <> ".sha256") && File.read!(path <> ".sha256")) || ""]
  defp sums(_, _), do: []

  defp digest(contents), do: :crypto.hash(:sha256, contents) |> Base.encode16(case: :lower)

  # ── small things ──

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.billdogeng_nif")
  defp stage, do: Path.join(Mix.Project.app_path(), ".native_candidate")

  defp library do
    Path.join([Mix.Project.app_path(), "priv", "native", @name <> extension(target())])
  end

  # `:erlang.load_nif/2` asks for .so on macOS too.
  defp extension(nil), do: ".so"
  defp extension(target), do: if(target =~ "windows", do: ".dll", else: ".so")

  defp version, do: Mix.Project.config()[:version]
  defp numbers(text), do: text |> String.split(".") |> Enum.map(&String.to_integer/1)

  # Mix prints no diagnostics of a compiler that isn't its own.
  defp diagnostic(message) do
    Mix.shell().error("** billdogeng: " <> message)

    %Diagnostic{
      compiler_name: "billdogeng_nif",
      file: Path.join(@root, "mix.exs"),
      position: nil,
      severity: :error,
      message: message
    }
  end
end

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
      mod: {BilldogEng.Application, []},
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
          ~w(Cargo.toml Cargo.lock .cargo/config.toml mix.exs .formatter.exs) ++
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
