defmodule BilldogEng.NifCompiler.Cargo do
  @moduledoc false
  # Builds the native library with cargo. Errors name what is missing.

  alias BilldogEng.NifCompiler.Target

  @name "billdogeng_nif"
  @root Path.expand("../..", __DIR__)
  @oldest_rust {1, 91}

  @doc "Returns `{:ok, path}` of the library that cargo built, or `{:error, message}`."
  def build do
    with {:ok, cargo} <- cargo(), do: build(cargo)
  end

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
      :error -> {:error, "cargo's messages name no #{@name} that it built"}
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
      [major, minor, _] = version |> String.split(".") |> Enum.map(&String.to_integer/1)
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

    if flags != "" and (Target.triple() || "") =~ "musl" and not (flags =~ "crt-static"),
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

  # Where there are ready-made ones, and none of them is taken, that is what a user has to know.
  defp none_ready_made do
    case Path.wildcard(Path.join(@root, "native/prebuilt/billdogeng-*{.so,.dll}")) do
      [] ->
        ""

      others ->
        versions = Target.nif_versions()

        "Of the ready-made ones in native/prebuilt (#{Enum.map_join(others, ", ", &Path.basename/1)}) none is for " <>
          "version #{Mix.Project.config()[:version]}, NIF #{List.last(versions)} to #{List.first(versions)} and " <>
          "#{Target.triple() || "the machine that MIX_TARGET means (CARGO_BUILD_TARGET names it)"}. "
    end
  end
end
