defmodule BilldogEng.Installer.Plan do
  @moduledoc false
  # The files of an app as they are and as they will be, and an outcome for each change that was asked for.

  alias BilldogEng.Installer.Source

  # `files` are the files as they will be, path => text. `outcomes` are `{path, :present | :changed}` and
  # `{path, :manual, place, lines}`, newest first.
  defstruct before: %{}, files: %{}, outcomes: []

  def new(files), do: %__MODULE__{before: files, files: files}

  # Returns the code of each file, path => code. Files that do not parse are left out.
  def codes(plan) do
    for {path, source} <- plan.files, {:ok, code} <- [Source.parse(source)], into: %{}, do: {path, code}
  end

  def create(plan, path, text) do
    %{plan | files: Map.put(plan.files, path, text)} |> outcome({path, :changed})
  end

  def present(plan, path), do: outcome(plan, {path, :present})
  def manual(plan, path, place, lines), do: outcome(plan, {path, :manual, place, lines})

  # Changes a file by `insert`, which receives its source and code, and returns `{:ok, edits}`, `:present` or `:error`. The new
  # file must parse, and `insert` must find the change in it. Otherwise the file stays as it is, and the user gets
  # `lines` with the words of `place`.
  def edit(plan, path, place, lines, insert) do
    source = plan.files[path]

    with {:ok, code} <- parsed(source),
         {:ok, edits} <- insert.(source, code),
         now = Source.apply_edits(source, edits),
         {:ok, code} <- parsed(now),
         :present <- insert.(now, code) do
      %{plan | files: Map.put(plan.files, path, now)} |> outcome({path, :changed})
    else
      :present -> present(plan, path)
      {:no_code, line} -> manual(plan, path, "it has a syntax error in line #{line}; " <> place, lines)
      _ -> manual(plan, path, place, lines)
    end
  end

  defp parsed(source) do
    case Source.parse(source) do
      {:ok, code} -> {:ok, code}
      {:error, {meta, _, _}} -> {:no_code, if(is_list(meta), do: meta[:line], else: meta)}
    end
  end

  defp outcome(plan, outcome), do: %{plan | outcomes: [outcome | plan.outcomes]}

  # Returns the steps in the order of the changes, one for each file, and one for each change that the user has to make:
  # `{:create, path, text}`, `{:change, path, before, now}`, `{:present, path}` or `{:manual, path, place, lines}`.
  def steps(plan) do
    outcomes = Enum.reverse(plan.outcomes)
    changed = for {path, :changed} <- outcomes, do: path

    outcomes
    |> Enum.uniq()
    |> Enum.flat_map(fn
      {path, :changed} -> [step(path, plan.before[path], plan.files[path])]
      {path, :present} -> if path in changed, do: [], else: [{:present, path}]
      {path, :manual, place, lines} -> [{:manual, path, place, lines}]
    end)
  end

  defp step(path, nil, now), do: {:create, path, now}
  defp step(path, before, now), do: {:change, path, before, now}
end
