# The script behind bin/licenses, run in the project's folder: see there.
#
#     deny.toml: targets ─► cargo tree, of each ─► crates ─┐
#                           cargo metadata: where they lie ┴─► the license files in there, each text once
#
# The crates that are linked, on any target: neither what tests or builds need, nor macros, which run in the compiler.

defmodule Licenses do
  @file_name "THIRD-PARTY-LICENSES"
  @names ~r/^(licen[sc]e|copying|copyright|notice|unlicense)/i
  # Left out where the crate may be had under MIT, whose text lies beside them.
  @other_choices ~r/^(license-(apache|isc|zlib)|unlicense|copying$)/i

  def main(["--check"]) do
    if File.read(@file_name) != {:ok, text()} do
      IO.puts(:stderr, "bin/licenses: #{@file_name} isn't what it would be made of today: run bin/licenses")
      System.halt(1)
    end
  end

  def main([]), do: File.write!(@file_name, text())

  defp text do
    crates = Enum.map(linked(), &Map.merge(&1, %{texts: texts(&1)})) ++ [standard_library()]
    width = crates |> Enum.map(&String.length(label(&1))) |> Enum.max()

    table =
      for crate <- crates,
          do: "    #{String.pad_trailing(label(crate), width)}  #{crate.license}"

    by_text =
      for(crate <- crates, {file, text} <- crate.texts, do: {text, {crate, file}})
      |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
      |> Enum.sort_by(fn {text, [{crate, file} | _]} -> {String.downcase(label(crate)), file, text} end)

    sections =
      for {text, of} <- by_text do
        heads = for {crate, file} <- of, do: "#{label(crate)}: #{file}"
        [String.duplicate("=", 80), "\n", Enum.join(heads, "\n"), "\n\n", text, "\n\n"]
      end

    IO.iodata_to_binary([
      """
      What the native library is linked from besides its own code, on all systems that it is built for, and the
      terms of each. Where a crate leaves the choice, MIT is chosen. Made by bin/licenses.

      #{Enum.join(table, "\n")}

      """,
      sections
    ])
    |> String.trim_trailing()
    |> Kernel.<>("\n")
  end

  defp label(crate), do: String.trim("#{crate.name} #{crate.version}")

  # ── which crates ──

  defp linked do
    packages = Map.new(metadata()["packages"], &{{&1["name"], &1["version"]}, &1})

    for target <- targets(), crate <- tree(target), uniq: true do
      crate
    end
    |> Enum.sort()
    |> Enum.map(&Map.fetch!(packages, &1))
    # Ours.
    |> Enum.reject(&(&1["source"] == nil))
    |> Enum.map(fn package ->
      %{
        name: package["name"],
        version: package["version"],
        license: String.replace(package["license"] || "see below", "/", " OR "),
        authors: package["authors"],
        folder: Path.dirname(package["manifest_path"])
      }
    end)
  end

  defp targets do
    [_, list] = Regex.run(~r/^targets = \[(.*?)\]/ms, File.read!("deny.toml"))
    for [_, target] <- Regex.scan(~r/"([^"]+)"/, list), do: target
  end

  defp tree(target) do
    arguments =
      ~w(tree --locked --package billdogeng_nif --edges normal,no-proc-macro --prefix none --format {p})

    for line <- String.split(cargo(arguments ++ ["--target", target]), "\n", trim: true) do
      [name, "v" <> version | _] = String.split(line)
      {name, version}
    end
  end

  defp metadata do
    decode(cargo(~w(metadata --locked --format-version 1)))
  end

  # Nothing of the project needs to be compiled for this: OTP has a decoder since 27, Debian has erlang-jiffy.
  defp decode(json) do
    cond do
      Code.ensure_loaded?(:json) ->
        {metadata, _, ""} = apply(:json, :decode, [json, nil, %{null: nil}])
        metadata

      Code.ensure_loaded?(:jiffy) ->
        apply(:jiffy, :decode, [json, [:return_maps, :use_nil]])

      true ->
        IO.puts(:stderr, "bin/licenses: needs OTP 27, or Debian's erlang-jiffy, to read what cargo writes")
        System.halt(1)
    end
  end

  defp cargo(arguments) do
    case System.cmd("cargo", arguments) do
      {out, 0} -> out
      # It has printed the reason.
      {_, status} -> System.halt(status)
    end
  end

  # Of no version: it is the compiler's.
  defp standard_library do
    text = mit("The Rust Project Contributors (https://thanks.rust-lang.org)")
    %{name: "Rust's standard library", version: "", license: "MIT OR Apache-2.0", texts: [{"MIT", text}]}
  end

  # ── their texts ──

  # At any depth: some hold C or parts of other projects, with terms of their own.
  defp texts(crate) do
    files =
      Path.wildcard(Path.join(crate.folder, "**"))
      |> Enum.filter(&(Path.basename(&1) =~ @names and Path.extname(&1) in ["", ".txt", ".md", ".0"]))
      |> Enum.filter(&File.regular?/1)
      |> Enum.map(&Path.relative_to(&1, crate.folder))
      |> Enum.sort()

    case chosen(files, crate.license) do
      [] -> [unwritten(crate)]
      files -> for file <- files, do: {file, tidy(File.read!(Path.join(crate.folder, file)))}
    end
  end

  # The choice is of the crate's own files: what lies deeper is somebody else's.
  defp chosen(files, license) do
    choice? = "MIT" in String.split(license, " OR ")

    if choice? and Enum.any?(files, &(&1 =~ ~r/^license-mit/i)),
      do: Enum.reject(files, &(&1 =~ @other_choices)),
      else: files
  end

  # Named in its Cargo.toml, and no file of it in the crate.
  defp unwritten(crate) do
    if "MIT" in String.split(crate.license, " OR ") and crate.authors != [] do
      {"MIT", mit(Enum.join(crate.authors, ", "))}
    else
      IO.puts(:stderr, "bin/licenses: #{label(crate)} (#{crate.license}) comes without a license file")
      System.halt(1)
    end
  end

  defp tidy(text) do
    text
    |> String.replace("\r\n", "\n")
    |> String.replace(~r/[ \t\f]+$/m, "")
    |> String.trim("\n")
  end

  defp mit(holder) do
    """
    Copyright (c) #{holder}

    Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
    documentation files (the "Software"), to deal in the Software without restriction, including without
    limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
    the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
    conditions:

    The above copyright notice and this permission notice shall be included in all copies or substantial
    portions of the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
    TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
    THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
    CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
    DEALINGS IN THE SOFTWARE.
    """
    |> String.trim()
  end
end

Licenses.main(System.argv())
