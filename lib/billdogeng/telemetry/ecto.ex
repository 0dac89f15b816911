defmodule BilldogEng.Telemetry.Ecto do
  @moduledoc false
  # Queries of a repo that take longer than a bound: one event a query would be a bill, not analytics.

  alias BilldogEng.Telemetry.Handler
  alias BilldogEng.Terms.ModuleName

  @doc false
  def attach(client, repo, opts) do
    {own, opts} = Keyword.split(opts, [:event, :slower_than])
    ms = own[:slower_than]
    Handler.must(:slower_than, is_number(ms) and ms >= 0, "milliseconds, a number from 0, and has no default")
    name = own[:event] || "slow_query"
    Handler.must(:event, is_binary(name) or is_atom(name), "a name")
    slower_than = System.convert_time_unit(round(ms * 1000), :microsecond, :native)
    event = prefix(repo) ++ [:query]

    Handler.attach(client, [event], {__MODULE__, %{name: name, slower_than: slower_than}}, opts)
  end

  @doc false
  def read(_event, %{total_time: total} = measurements, %{source: source} = metadata, options)
      when is_binary(source) and total > options.slower_than do
    unless of_a_library?(source, metadata[:options] || []) do
      properties = %{
        source: source,
        repo: ModuleName.shown(metadata[:repo]),
        command: command(metadata[:query]),
        result: result(metadata[:result]),
        duration_ms: Handler.ms(total)
      }

      times =
        for time <- [:queue_time, :query_time, :decode_time], native = measurements[time], do: {time, native}

      {options.name, Enum.reduce(times, properties, &put_time/2)}
    end
  end

  def read(_event, _measurements, _metadata, _options), do: nil

  # Migrations, and the tables in which Oban has its jobs and its peers.
  defp of_a_library?("schema_migrations", _options), do: true
  defp of_a_library?("oban_" <> _, _options), do: true
  defp of_a_library?(_source, options), do: options[:schema_migration] == true or options[:oban_conf] != nil

  # Of the statement its first word: the rest may have values written into it.
  defp command(query) when is_binary(query) do
    case Regex.run(~r/^\s*(SELECT|INSERT|UPDATE|DELETE|WITH|MERGE|REPLACE)\b/i, query) do
      [_, command] -> String.upcase(command)
      nil -> "other"
    end
  end

  defp command(_query), do: "other"

  defp result({:ok, _}), do: "ok"
  defp result(_error), do: "error"

  defp put_time({:queue_time, native}, properties), do: Map.put(properties, :queue_ms, Handler.ms(native))
  defp put_time({:query_time, native}, properties), do: Map.put(properties, :query_ms, Handler.ms(native))
  defp put_time({:decode_time, native}, properties), do: Map.put(properties, :decode_ms, Handler.ms(native))

  # As Ecto has it in the repo's configuration, which may say another.
  defp prefix(repo) do
    with true <- Code.ensure_loaded?(repo) and function_exported?(repo, :config, 0),
         [_ | _] = prefix <- repo.config()[:telemetry_prefix] do
      prefix
    else
      _ -> repo |> Module.split() |> Enum.map(&(&1 |> Macro.underscore() |> String.to_atom()))
    end
  end
end
