for file <- ~w(target cargo), do: Code.require_file("nif_compiler/#{file}.exs", __DIR__)

defmodule Mix.Tasks.Compile.BilldogengNif do
  @moduledoc false
  # Puts the native library where `BilldogEng.Client.Native` looks for it, `priv/native` of the compiled app.
  #
  #     BILLDOGENG_NIF=/path/to.so ──┐
  #     native/prebuilt/ ────────────┼─► staged in _build ─► loaded once in ─► renamed to
  #     cargo build --release ───────┘    (same disk)        a VM of its own   priv/native
  #
  # The first that there is, is taken; BILLDOGENG_NIF=cargo is for those who build whatever there is. A library
  # that doesn't load goes no further: the reason is an error of this build, and not a surprise of the next start.

  use Mix.Task.Compiler
  alias BilldogEng.NifCompiler.{Cargo, Target}
  alias Mix.Task.Compiler.Diagnostic

  @name "billdogeng_nif"
  @root Path.expand("..", __DIR__)

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
             "its SHA-256 is #{actual}, and #{Path.basename(path)}.sha256 has #{expected}. " <>
             "Fetch both again, or delete them to have cargo build the library"}
      end
    else
      _ ->
        {:error,
         "#{path} has no checksum: #{Path.basename(path)}.sha256 beside it is missing or empty. " <>
           "Fetch it, or delete the library to have cargo build one"}
    end
  end

  defp obtain(:cargo), do: Cargo.build()

  defp prebuilt do
    with target when is_binary(target) <- Target.triple(),
         names =
           for(
             nif <- Target.nif_versions(),
             do: "billdogeng-#{version()}-nif-#{nif}-#{target}#{Target.extension()}"
           ),
         path when is_binary(path) <-
           Enum.find_value(names, fn name ->
             path = Path.join([@root, "native", "prebuilt", name])
             if File.exists?(path), do: path
           end) do
      {:prebuilt, path}
    end
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
    case 'Elixir.BilldogEng.Client.Native':load_error() of
      nil -> halt(0);
      Reason -> io:put_chars(Reason), halt(3)
    end.
    """

    erl = Path.join([:code.root_dir(), "bin", "erl"])
    paths = [Path.join(:code.lib_dir(:elixir), "ebin"), Path.join([stage(), "billdogeng", "ebin"])]
    stub = Path.join([@root, "lib", "billdogeng", "client", "native.ex"])
    arguments = ["-noinput", "-pa"] ++ paths ++ ["-eval", to_string(script), "-extra", stub]
    # Flags for the user's own VM (a node name, a shell's settings) are not for this one.
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

  # A library for another machine can't be tried on this one. If it does not load there either, the start of a client
  # returns the reason.
  defp refuse(built, reason) do
    message = "the native library #{built} doesn't load: #{reason}"

    if Target.cross?() do
      Mix.shell().info(
        "warning: here " <> message <> ". As this build is for another machine, it is taken all the same"
      )

      :ok
    else
      {:error,
       message <>
         ". A library has to be built for this operating system, processor and libc; " <>
         "a build for another machine sets MIX_TARGET or CARGO_BUILD_TARGET"}
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
    Path.join([Mix.Project.app_path(), "priv", "native", @name <> Target.extension()])
  end

  defp version, do: Mix.Project.config()[:version]

  # Mix prints no diagnostics of a compiler that isn't its own.
  defp diagnostic(message) do
    Mix.shell().error("** billdogeng: " <> message)

    %Diagnostic{
      compiler_name: "billdogeng_nif",
      file: Path.join(@root, "mix/nif_compiler.exs"),
      position: nil,
      severity: :error,
      message: message
    }
  end
end
