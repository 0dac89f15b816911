defmodule BilldogEng.ReadmeTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  @readme File.read!("README.md")

  defp blocks(language) do
    for [_, block] <- Regex.scan(~r/^```#{language}\n(.*?)^```$/ms, @readme), do: block
  end

  test "its first lines print the block below them" do
    [first | _] = blocks("elixir")
    [printed | _] = blocks("text")
    assert length(String.split(first, "\n", trim: true)) == 5
    assert capture_io(fn -> Code.eval_string(first) end) == printed
  end

  test "it names this version" do
    version = Mix.Project.config()[:version]
    assert @readme =~ ~s(tag: "v#{version}")
    [major, minor, _] = String.split(version, ".")
    assert @readme =~ ~s({:billdogeng, "~> #{major}.#{minor}"})
    assert File.read!("CHANGELOG.md") =~ "## [#{version}]"
  end

  test "it has at most 250 lines" do
    assert length(String.split(@readme, "\n")) <= 250
  end

  test "it links every guide and every page of the project" do
    for page <- Path.wildcard("guides/*.md") ++ (Path.wildcard("*.md") -- ["README.md"]),
        do: assert(@readme =~ "](#{page})", "no link to #{page}")
  end

  test "its scripts exist" do
    for [_, path] <- Regex.scan(~r{\b(bin/\w+)}, @readme), do: assert(File.exists?(path), path)
  end
end
