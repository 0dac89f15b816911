defmodule Mix.Tasks.Billdogeng.Send do
  @shortdoc "Sends the events of files: NDJSON or CSV, plain or gzip"

  @moduledoc """
  Sends the events of files with the app's own configuration, and shows the progress.

      $ mix billdogeng.send events.ndjson
      events.ndjson
      read       1,000,000
      sent       1,000,000
      delivered  1,000,000
      rejected   0
      seconds    3.3

  A file has one JSON object per line: `event`, `distinct_id`, and optionally `timestamp` (ISO 8601 or integer
  milliseconds), `properties` and `groups`. It can be compressed by gzip. `-` is standard input.

    * `--map event=name,distinct_id=user.id` - the names that fields have in the file; a dot leads into an object
    * `--csv` - the files are CSV with a header. Other columns are properties
    * `--dry-run` - check every line, and send nothing
    * `--resume` - go on after the last line that an earlier run has settled
    * `--rate N` - events per second, at most
    * `--retry-for SECONDS` - how long to retry without any success, before the run ends; 300 by default
    * `--client MyApp.Analytics` - the module with `use BilldogEng`, if the app has several
    * `--host URL`, `--api-key KEY` - override the configured ones

  Lines that are no event, and events that the ingest refuses, go to `FILE.rejected` with their number and the reason. The
  other lines are sent. `FILE.resume` contains the state of a run until it has come to the end of its file: a run that was
  killed goes on with `--resume`, and sends at most one batch twice. See `BilldogEng.send_file/2` for the details.

  The exit status is 0 if every line of every file was delivered, else 1.
  """

  use Mix.Task

  alias BilldogEng.Client.Using
  alias BilldogEng.History.Report

  @switches [
    map: :string,
    csv: :boolean,
    dry_run: :boolean,
    resume: :boolean,
    rate: :integer,
    retry_for: :integer,
    client: :string,
    host: :string,
    api_key: :string
  ]

  @impl true
  def run(argv) do
    {given, paths, wrong} = OptionParser.parse(argv, strict: @switches)
    if wrong != [] or paths == [], do: Mix.raise(usage(wrong))
    Mix.Task.run("app.config")
    {:ok, _} = Application.ensure_all_started(:billdogeng)
    opts = options(given)

    complete = for path <- paths, do: send_file(path, opts)
    unless Enum.all?(complete), do: exit({:shutdown, 1})
  end

  # Values are not shown: one may be a key.
  defp usage(wrong) do
    names =
      Enum.map_join(@switches, ", ", fn {name, _} -> "--" <> String.replace(to_string(name), "_", "-") end)

    wrong = Enum.map_join(wrong, ", ", &elem(&1, 0))
    wrong = if wrong == "", do: "expected the paths of files", else: "can't use #{wrong}"
    "#{wrong}; the options are #{names}, see mix help billdogeng.send"
  end

  defp options(given) do
    seconds = given[:retry_for]

    given
    |> Keyword.drop([:client, :map, :retry_for])
    |> Keyword.merge(client(given[:client]))
    |> Keyword.merge(if(seconds, do: [retry_for: seconds * 1_000], else: []))
    |> Keyword.merge(if(given[:map], do: [map: mapping(given[:map])], else: []))
  end

  defp client(nil) do
    apps = Map.keys(Mix.Project.apps_paths() || %{Mix.Project.config()[:app] => "."})
    if module = Using.only_client(apps), do: [client: module], else: []
  rescue
    error in ArgumentError -> Mix.raise(Exception.message(error))
  end

  defp client(name), do: [client: Module.concat([name])]

  defp mapping(text) do
    for pair <- String.split(text, ",", trim: true) do
      with [field, name] <- String.split(pair, "=", parts: 2),
           {:ok, field} <- field(String.trim(field)) do
        {field, String.trim(name)}
      else
        _ ->
          Mix.raise(
            "--map takes pairs such as event=name, of event, distinct_id, timestamp, properties and groups, got: #{pair}"
          )
      end
    end
  end

  defp field(name) when name in ~w(event distinct_id timestamp properties groups),
    do: {:ok, String.to_atom(name)}

  defp field(_), do: :error

  defp send_file(path, opts) do
    label = if path == "-", do: "standard input", else: path
    Mix.shell().info(label)
    result = BilldogEng.send_file(path, [progress: Report.bar(label)] ++ opts)
    Report.clear()

    case result do
      {:ok, summary} ->
        for line <- Report.summary(summary, opts[:dry_run] == true), do: Mix.shell().info(line)
        for {line, reason} <- summary.examples, do: Mix.shell().error("line #{line}: #{reason}")
        explain(summary, path)
        summary.rejected == 0 and summary.error == nil

      {:error, error} ->
        Mix.shell().error("#{label}: #{error.message}")
        false
    end
  end

  defp explain(summary, path) do
    if file = summary.rejected_file, do: Mix.shell().error("the rejected lines, with their reasons: #{file}")

    if error = summary.error do
      kept = if summary.kept_from, do: "lines from #{summary.kept_from} on are kept: ", else: ""
      again = if summary.kept_from && path != "-", do: "; go on with --resume", else: ""
      Mix.shell().error("#{kept}#{reason(error)}#{again}")
    end
  end

  defp reason(%{status: 0, message: message}), do: message
  defp reason(%{status: status, message: message}), do: "the ingest answered #{status}: #{message}"
end
