defmodule BilldogEng.Telemetry.Ecto do
  @moduledoc false
  # Reads the slow queries of an Ecto repo.

  alias BilldogEng.Telemetry.Handler
  alias BilldogEng.Terms.ModuleName

  @times [queue_time: :queue_ms, query_time: :query_ms, decode_time: :decode_ms]

  def attach(client, repo, opts) do
    {own, opts} = Keyword.split(opts, [:event, :slower_than])
    ms = own[:slower_than]
    Handler.check!(:slower_than, is_number(ms) and ms >= 0, "milliseconds as a non-negative number", ms)
    name = own[:event] || "slow_query"
    Handler.check!(:event, is_binary(name) or is_atom(name), "an event's name", name)
    slower_than = System.convert_time_unit(round(ms * 1000), :microsecond, :native)
    event = prefix(repo) ++ [:query]

    Handler.attach(client, [event], {__MODULE__, %{name: name, slower_than: slower_than}}, opts)
  end

  def read(_event, %{total_time: total} = measurements, %{source: source} = metadata, options)
      when is_binary(source) and total > options.slower_than do
    unless library_query?(source, metadata[:options] || []) do
      properties = %{
        source: source,
        repo: ModuleName.shown(metadata[:repo]),
        command: command(metadata[:query]),
        result: result(metadata[:result]),
        duration_ms: Handler.ms(total)
      }

      times = for {time, key} <- @times, native = measurements[time], into: %{}, do: {key, Handler.ms(native)}
      {options.name, Map.merge(properties, times)}
    end
  end

  def read(_event, _measurements, _metadata, _options), do: nil

  # Returns whether Ecto's migrator or Oban made the query.
  defp library_query?("schema_migrations", _options), do: true
  defp library_query?("oban_" <> _, _options), do: true
  defp library_query?(_source, options), do: options[:schema_migration] == true or options[:oban_conf] != nil

  # Returns only the statement's first word, because the rest may contain values.
  defp command(query) when is_binary(query) do
    case Regex.run(~r/^\s*(SELECT|INSERT|UPDATE|DELETE|WITH|MERGE|REPLACE)\b/i, query) do
      [_, command] -> String.upcase(command)
      nil -> "other"
    end
  end

  defp command(_query), do: "other"

  defp result({:ok, _}), do: "ok"
  defp result(_error), do: "error"

  # Returns the prefix of the repo's events: the configured one, or Ecto's default.
  defp prefix(repo) do
    with true <- Code.ensure_loaded?(repo) and function_exported?(repo, :config, 0),
         [_ | _] = prefix <- repo.config()[:telemetry_prefix] do
      prefix
    else
      _ -> repo |> Module.split() |> Enum.map(&(&1 |> Macro.underscore() |> String.to_atom()))
    end
  end
end
