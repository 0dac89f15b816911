defmodule :telemetry do
  @moduledoc """
  Stands in for `:telemetry`, in tests: this library brings none. As with the real one, a handler that raises
  is detached for good.
  """

  @table __MODULE__

  def attach(id, event, function, config), do: attach_many(id, [event], function, config)

  def attach_many(id, events, function, config) when is_function(function, 4) do
    if Enum.any?(:ets.tab2list(table()), &match?({_, ^id, _, _}, &1)) do
      {:error, :already_exists}
    else
      for event <- events, do: :ets.insert(table(), {event, id, function, config})
      :ok
    end
  end

  def detach(id) do
    case :ets.select_delete(table(), [{{:_, id, :_, :_}, [], [true]}]) do
      0 -> {:error, :not_found}
      _ -> :ok
    end
  end

  def list_handlers(prefix) do
    for {event, id, function, config} <- :ets.tab2list(table()), List.starts_with?(event, prefix) do
      %{id: id, event_name: event, function: function, config: config}
    end
  end

  def execute(event, measurements, metadata \\ %{}) when is_map(measurements) and is_map(metadata) do
    for {_, id, function, config} <- :ets.lookup(table(), event) do
      try do
        function.(event, measurements, metadata, config)
      catch
        _, _ -> detach(id)
      end
    end

    :ok
  end

  # Of a process that outlives the test which is the first to come here.
  defp table do
    Agent.start(fn -> :ets.new(@table, [:duplicate_bag, :public, :named_table]) end, name: @table)
    @table
  end
end
