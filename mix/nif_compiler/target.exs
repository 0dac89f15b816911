defmodule BilldogEng.NifCompiler.Target do
  @moduledoc false
  # The machine that a build is for: its Rust target, and the NIF versions that its VM loads.

  # The crate requires this version of the VM (its `nif_version_2_15`). A newer VM of the same major loads it too.
  @oldest_nif {2, 15}

  @doc "NIF versions of libraries that this VM loads, newest first: `[\"2.16\", \"2.15\"]`."
  def nif_versions do
    {major, oldest} = @oldest_nif

    vm =
      :erlang.system_info(:nif_version) |> to_string() |> String.split(".") |> Enum.map(&String.to_integer/1)

    [vm_major, vm_minor] = vm
    if vm_major == major, do: for(minor <- vm_minor..oldest//-1, do: "#{major}.#{minor}"), else: []
  end

  @doc """
  Returns the Rust target triple that the library is built for, or nil if it is unknown.

  This machine's is derived from the VM's ("x86_64-pc-linux-gnu", "aarch64-apple-darwin23.1.0"), since rustc may
  not be installed.
  """
  def triple do
    case {System.get_env("CARGO_BUILD_TARGET", ""), cross?()} do
      {"", true} -> nil
      {"", false} -> :erlang.system_info(:system_architecture) |> to_string() |> from_vm()
      {given, _} -> given
    end
  end

  defp from_vm("win32"), do: "x86_64-pc-windows-msvc"

  defp from_vm(architecture) do
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

  @doc "Whether the build is for another machine than this one (`MIX_TARGET`, `CARGO_BUILD_TARGET`)."
  def cross? do
    System.get_env("CARGO_BUILD_TARGET", "") != "" or Mix.target() != :host
  end

  @doc "File extension of the library. `:erlang.load_nif/2` expects `.so` on macOS too."
  def extension, do: if((triple() || "") =~ "windows", do: ".dll", else: ".so")
end
