defmodule BilldogEng.ReadmeTest do
  use ExUnit.Case, async: true

  alias BilldogEng.{ClientCase, Collector}

  @readme File.read!("README.md")

  defp blocks(language) do
    for [_, block] <- Regex.scan(~r/^```#{language}\n(.*?)^```$/ms, @readme), do: block
  end

  test "its first lines lead to a page that has their event" do
    [first | _] = blocks("elixir")
    assert length(String.split(first, "\n", trim: true)) == 4
    {page, bindings} = Code.eval_string(first)
    %URI{scheme: "http", host: "127.0.0.1", port: port} = URI.parse(page)
    [{:collector, collector}, {:client, _}] = Enum.sort_by(bindings, &elem(&1, 0), :desc)
    ClientCase.eventually(fn -> Collector.count(collector) == 1 end)
    assert %{"event_name" => "signed_up", "user_id" => "user-1"} = hd(Collector.events(collector))

    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, "GET / HTTP/1.1\r\nhost: 127.0.0.1:#{port}\r\n\r\n")
    assert {:ok, "HTTP/1.1 200" <> _} = :gen_tcp.recv(socket, 0, 5_000)
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
    for page <- Path.wildcard("guides/*.*md") ++ (Path.wildcard("*.md") -- ["README.md"]),
        do: assert(@readme =~ "](#{page})", "no link to #{page}")
  end

  test "its scripts exist" do
    for [_, path] <- Regex.scan(~r{\b(bin/\w+)}, @readme), do: assert(File.exists?(path), path)
  end
end
