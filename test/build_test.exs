defmodule BilldogEng.BuildTest do
  # The Mix compiler that brings the native library, run by `mix compile` in a folder that has the project's
  # own mix.exs, stub and manifests. Cargo is a script there, with the output of cargo
  # and what is made of its answers is tested here, and cargo itself by every build of the project.
  use ExUnit.Case, async: true

  @moduletag :slow
  @moduletag :tmp_dir
  @moduletag timeout: 180_000

  @root Path.expand("..", __DIR__)
  @unix match?({:unix, _}, :os.type())
  @moduletag skip: !@unix && "the stand-ins for cargo are shell scripts"

  setup %{tmp_dir: dir} do
    project = Path.join(dir, "project")
    bin = Path.join(dir, "bin")
    Enum.each([project, bin], &File.mkdir_p!/1)

    for path <-
          ~w(mix.exs mix/nif_compiler.exs mix/nif_compiler/cargo.exs mix/nif_compiler/target.exs Cargo.toml Cargo.lock .cargo/config.toml lib/billdogeng/client/native.ex) do
      File.mkdir_p!(Path.dirname(Path.join(project, path)))
      File.cp!(Path.join(@root, path), Path.join(project, path))
    end

    write(project, "native/billdogeng/src/lib.rs", "// Rust\n")
    # Elixir's own, and no more of the PATH, which has a cargo.
    for tool <- ~w(mix elixir erl sh sed cat cp rm dirname basename readlink uname env expr id) do
      path = System.find_executable(tool)
      if path, do: File.ln_s!(path, Path.join(bin, tool))
    end

    {:ok, project: project, bin: bin, library: library()}
  end

  describe "the library that BILLDOGENG_NIF names" do
    test "is taken, without any cargo, and once", %{library: library} = context do
      assert {output, 0} = compile(context, %{"BILLDOGENG_NIF" => library})
      refute output =~ "cargo"
      assert File.read!(installed(context)) == File.read!(library)

      before = File.stat!(installed(context))
      assert {_, 0} = compile(context, %{"BILLDOGENG_NIF" => library})
      assert File.stat!(installed(context)).inode == before.inode
    end

    test "is renamed into place, never written over the one that a VM may run",
         %{library: library} = context do
      {_, 0} = compile(context, %{"BILLDOGENG_NIF" => library})
      running = File.open!(installed(context))
      inode = File.stat!(installed(context)).inode

      copy = write(context.project, "other.so", File.read!(library))
      {_, 0} = compile(context, %{"BILLDOGENG_NIF" => copy})
      assert File.stat!(installed(context)).inode != inode
      assert IO.binread(running, :eof) == File.read!(library)
    end

    test "is an error if there is no such file", context do
      assert {output, 1} = compile(context, %{"BILLDOGENG_NIF" => "/nowhere/of.so"})
      assert output =~ "BILLDOGENG_NIF names /nowhere/of.so, and there is no such file"
    end

    # Debug information at a library's end is missed by nobody who loads it.
    @tag :stripped
    test "is an error with the reason if it doesn't load, again at every build",
         %{library: library} = context do
      half = library |> File.read!() |> then(&binary_part(&1, 0, div(byte_size(&1), 2)))
      truncated = write(context.project, "truncated.so", half)

      for _ <- 1..2 do
        assert {output, 1} = compile(context, %{"BILLDOGENG_NIF" => truncated})
        assert output =~ "the native library #{truncated} doesn't load"
        assert output =~ ~r/file too short|cannot|invalid|truncated/
        refute File.exists?(installed(context))
      end
    end

    test "is an error if it is no library of this system", context do
      foreign = write(context.project, "foreign.so", <<0xCF, 0xFA, 0xED, 0xFE, 0::size(4096)-unit(8)>>)
      assert {output, 1} = compile(context, %{"BILLDOGENG_NIF" => foreign})
      assert output =~ "doesn't load"
      assert output =~ "MIX_TARGET"
    end

    test "is taken untried, with a warning, by a build for another machine", context do
      foreign = write(context.project, "foreign.so", <<0xCF, 0xFA, 0xED, 0xFE, 0::size(4096)-unit(8)>>)

      assert {output, 0} = compile(context, %{"BILLDOGENG_NIF" => foreign, "MIX_TARGET" => "board"})
      assert output =~ "warning: here the native library"
      assert [_] = Path.wildcard(Path.join(context.project, "_build/*/lib/billdogeng/priv/native/*"))
    end
  end

  describe "a prebuilt library" do
    test "is taken if its name and its SHA-256 match", %{library: library} = context do
      prebuilt = prebuilt(context, library)
      assert {_, 0} = compile(context)
      assert File.read!(installed(context)) == File.read!(prebuilt)
    end

    test "is an error if its SHA-256 is another", %{library: library} = context do
      prebuilt = prebuilt(context, library)
      File.write!(prebuilt <> ".sha256", String.duplicate("0", 64) <> "  #{Path.basename(prebuilt)}\n")
      assert {output, 1} = compile(context)
      assert output =~ "isn't the library that its checksum file is for"
      assert output =~ String.duplicate("0", 64)
      refute File.exists?(installed(context))
    end

    test "is an error without a checksum", %{library: library} = context do
      prebuilt = prebuilt(context, library)
      File.rm!(prebuilt <> ".sha256")
      assert {output, 1} = compile(context)
      assert output =~ "has no checksum"
    end

    test "is an error with a flipped byte", %{library: library} = context do
      prebuilt = prebuilt(context, library)
      <<half::binary-size(4096), byte, rest::binary>> = File.read!(prebuilt)
      File.write!(prebuilt, <<half::binary, Bitwise.bxor(byte, 1), rest::binary>>)
      assert {output, 1} = compile(context)
      assert output =~ "isn't the library that its checksum file is for"
      refute File.exists?(installed(context))
    end

    test "is an error with the reason if it is for another processor, even if its name is right",
         %{library: library} = context do
      # The 19th byte of an ELF file is its processor; this one is S/390.
      <<head::binary-size(18), _, rest::binary>> = File.read!(library)
      prebuilt = prebuilt(context, write(context.project, "s390.so", <<head::binary, 22, rest::binary>>))
      assert {output, 1} = compile(context)
      assert output =~ "the native library #{prebuilt} doesn't load"
      assert output =~ "has to be built for this operating system, processor and libc"
      refute File.exists?(installed(context))
    end

    test "of another version or target is left alone, and an error without cargo names it",
         %{library: library} = context do
      prebuilt = prebuilt(context, library)
      other = String.replace(prebuilt, "billdogeng-", "billdogeng-9.")
      File.rename!(prebuilt, other)

      foreign =
        write(context.project, "native/prebuilt/billdogeng-1.0.0-nif-2.15-s390x-unknown-linux-gnu.so", "")

      assert {output, 1} = compile(context)
      assert output =~ "built by cargo"

      assert output =~
               "ready-made ones in native/prebuilt (#{Path.basename(foreign)}, #{Path.basename(other)})"

      assert output =~ target()
    end

    test "of an older NIF version that this VM runs is taken", %{library: library} = context do
      prebuilt = prebuilt(context, library, "2.15")
      assert {_, 0} = compile(context)
      assert File.read!(installed(context)) == File.read!(prebuilt)
    end

    test "for the machine that CARGO_BUILD_TARGET names is taken untried", context do
      foreign = write(context.project, "foreign.so", <<0x7F, "ELF", 0::size(4096)-unit(8)>>)
      prebuilt = prebuilt(context, foreign, "2.15", "aarch64-unknown-linux-musl")
      assert {output, 0} = compile(context, %{"CARGO_BUILD_TARGET" => "aarch64-unknown-linux-musl"})
      assert output =~ "warning: here the native library #{prebuilt}"
      assert File.read!(installed(context)) == File.read!(prebuilt)
    end

    test "is passed over for BILLDOGENG_NIF=cargo", %{library: library} = context do
      prebuilt(context, library)
      assert {output, 1} = compile(context, %{"BILLDOGENG_NIF" => "cargo"})
      assert output =~ "built by cargo"
    end
  end

  describe "cargo" do
    test "missing is an error that names the package to install", context do
      assert {output, 1} = compile(context)
      assert output =~ "there is none on this machine's PATH"
      assert output =~ "apt-get install cargo-web rustc-web"
      assert output =~ "rustup"
      assert output =~ "BILLDOGENG_NIF"
    end

    test "too old is an error that names the package to install", context do
      script(context, "cargo", ~s(echo "cargo 1.65.0"))
      assert {output, 1} = compile(context)
      assert output =~ "cargo 1.65.0 is too old"
      assert output =~ "apt-get install cargo-web rustc-web"
    end

    test "with a rustc that is too old is an error that names the package to install", context do
      script(context, "cargo", ~s([ "$1" = --version ] && echo "cargo 1.96.0" || exit 101))
      script(context, "rustc", ~s(echo "rustc 1.85.0 (4d91de4e4 2025-02-17\)"))
      assert {output, 1} = compile(context)
      assert output =~ "rustc 1.85.0 is too old"
      assert output =~ "BILLDOGENG_NIF"
    end

    test "that fails is an error, and its output is on the terminal", context do
      script(
        context,
        "cargo",
        ~s([ "$1" = --version ] && echo "cargo 1.96.0" || { echo "E0425" >&2; exit 101; })
      )

      script(context, "rustc", ~s(echo "rustc 1.96.0"))
      assert {output, 1} = compile(context)
      assert output =~ "E0425"
      assert output =~ "cargo could not build the native library"
    end

    test "is believed as to where the library lies", context do
      cargo(context, ~S(a place/with "quotes"/é))
      assert {_, 0} = compile(context)
      assert File.read!(installed(context)) == File.read!(context.library)
    end

    test "builds again for changed sources, and for nothing else", context do
      cargo(context, "target")
      {_, 0} = compile(context)
      assert runs(context) == 1

      {_, 0} = compile(context)
      File.touch!(Path.join(context.project, "native/billdogeng/src/lib.rs"), System.os_time(:second) + 60)
      File.touch!(Path.join(context.project, "Cargo.lock"), System.os_time(:second) + 60)
      {_, 0} = compile(context)
      assert runs(context) == 1

      for {path, number} <-
            Enum.with_index(
              ~w(native/billdogeng/src/lib.rs native/billdogeng/src/new.rs Cargo.toml Cargo.lock .cargo/config.toml),
              2
            ) do
        write(context.project, path, read(context.project, path) <> "\n# changed\n")
        assert {_, 0} = compile(context)
        assert runs(context) == number, "a change of #{path} went unnoticed"
      end
    end

    test "builds in one folder for every Mix environment, which CARGO_TARGET_DIR can name", context do
      cargo(context, "target")
      {_, 0} = compile(context, %{"MIX_ENV" => "dev"})
      {_, 0} = compile(context, %{"MIX_ENV" => "prod"})
      own = Path.join(context.tmp_dir, "own")
      {_, 0} = compile(context, %{"MIX_ENV" => "other", "CARGO_TARGET_DIR" => own})

      shared = Path.join(context.project, "_build/cargo")

      assert context.tmp_dir |> Path.join("folders") |> File.read!() |> String.split("\n", trim: true) ==
               [shared, shared, own]
    end
  end

  test "mix clean takes the library away, and the next build brings it back", %{library: library} = context do
    {_, 0} = compile(context, %{"BILLDOGENG_NIF" => library})
    {_, 0} = mix(context, ["clean"], %{"BILLDOGENG_NIF" => library})
    refute File.exists?(installed(context))
    {_, 0} = compile(context, %{"BILLDOGENG_NIF" => library})
    assert File.exists?(installed(context))
  end

  # ── helpers ──

  defp compile(context, env \\ %{}), do: mix(context, ["compile"], env)

  defp mix(context, arguments, env) do
    env =
      Map.merge(
        %{
          "PATH" => context.bin,
          "MIX_ENV" => "dev",
          "BILLDOGENG_NIF" => nil,
          "CARGO" => nil,
          "RUSTC" => nil,
          "CARGO_TARGET_DIR" => nil,
          "CARGO_BUILD_TARGET" => nil,
          "CARGO_BUILD_TARGET_DIR" => nil,
          "MIX_BUILD_PATH" => nil,
          "MIX_TARGET" => nil
        },
        env
      )

    System.cmd(Path.join(context.bin, "mix"), arguments, cd: context.project, env: env, stderr_to_stdout: true)
  end

  # The library of this very test run.
  defp library do
    [path] = :billdogeng |> :code.priv_dir() |> Path.join("native/billdogeng_nif.*") |> Path.wildcard()
    path
  end

  defp installed(context),
    do: Path.join([context.project, "_build/dev/lib/billdogeng/priv/native", Path.basename(context.library)])

  defp prebuilt(context, library, nif \\ :erlang.system_info(:nif_version), target \\ target()) do
    name = "billdogeng-#{Mix.Project.config()[:version]}-nif-#{nif}-#{target}#{Path.extname(library)}"
    path = write(context.project, "native/prebuilt/" <> name, File.read!(library))
    sum = :crypto.hash(:sha256, File.read!(library)) |> Base.encode16(case: :lower)
    File.write!(path <> ".sha256", "#{sum}  #{name}\n")
    path
  end

  defp target do
    case :erlang.system_info(:system_architecture) |> to_string() |> String.split("-") do
      [cpu | rest] ->
        if "linux" in rest, do: "#{cpu}-unknown-linux-#{List.last(rest)}", else: "#{cpu}-apple-darwin"
    end
  end

  # A cargo that "builds" the library of this test run into `folder`, and notes each run.
  defp cargo(context, folder) do
    place = Path.join([context.tmp_dir, folder, Path.basename(context.library)])
    File.mkdir_p!(Path.dirname(place))
    File.cp!(context.library, place)

    json = place |> String.replace("\\", "\\\\") |> String.replace("\"", "\\\"")

    messages =
      write(context.tmp_dir, "messages", """
      {"reason":"compiler-artifact","target":{"name":"billdogeng"},"filenames":["/elsewhere/libbilldogeng.rlib"],"fresh":true}
      {"reason":"build-script-executed","package_id":"ring","env":[["A","compiler-artifact"]]}
      {"reason":"compiler-artifact","target":{"kind":["cdylib"],"name":"billdogeng_nif"},"filenames":["#{json}"],"fresh":false}
      {"reason":"build-finished","success":true}
      """)

    script(context, "cargo", """
    [ "$1" = --version ] && echo "cargo 1.96.0" && exit
    echo "$CARGO_TARGET_DIR" >> "#{context.tmp_dir}/folders"
    cat "#{messages}"
    """)
  end

  defp runs(context),
    do: context.tmp_dir |> Path.join("folders") |> File.read!() |> String.split("\n", trim: true) |> length()

  defp script(context, name, text) do
    path = write(context.bin, name, "#!/bin/sh\n" <> text <> "\n")
    File.chmod!(path, 0o755)
  end

  defp read(folder, path) do
    case File.read(Path.join(folder, path)) do
      {:ok, text} -> text
      {:error, :enoent} -> ""
    end
  end

  defp write(folder, path, text) do
    path = Path.join(folder, path)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, text)
    path
  end
end
