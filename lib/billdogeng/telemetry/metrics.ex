defmodule BilldogEng.Telemetry.Metrics do
  @moduledoc false
  # The list of `BilldogEng.Telemetry.metrics/0`. The functions of `Telemetry.Metrics` are called by name at
  # run time: this library doesn't bring it.

  alias Telemetry.Metrics

  @compile {:no_warn_undefined, Metrics}

  # Charts have no room for the digits of bytes.
  @kilobytes {:byte, :kilobyte}

  @doc false
  def list do
    unless Code.ensure_loaded?(Metrics) do
      raise "BilldogEng.Telemetry.metrics/0 needs the package telemetry_metrics: " <>
              ~s(add {:telemetry_metrics, "~> 1.0"} to the app's deps)
    end

    [
      Metrics.summary("billdogeng.flush.stop.duration",
        unit: {:native, :millisecond},
        tags: [:client, :result],
        tag_values: &__MODULE__.tag_values/1,
        description: "How long flushes take, retries included"
      ),
      counter(:stop, "Flushes, by trigger and result", tags: [:client, :trigger, :result]),
      sum("billdogeng.flush.stop.events", "Events that the ingest accepted"),
      sum("billdogeng.flush.stop.attempts", "Requests"),
      sum("billdogeng.flush.stop.wire_bytes", "Size of the requests' bodies", unit: @kilobytes),
      sum("billdogeng.flush.missed.count", "Flushes that were told to no handler"),
      sum("billdogeng.event.dropped.count", "Events given up", tags: [:client, :reason]),
      counter(:exception, "Flushes that ended in a panic"),
      last_value("billdogeng.queue.captured_per_second", "Events captured per second"),
      last_value("billdogeng.queue.delivered_per_second", "Events accepted by the ingest per second"),
      last_value("billdogeng.queue.queued", "Events not yet delivered"),
      last_value("billdogeng.queue.queued_bytes", "Size of their JSON", unit: @kilobytes),
      last_value("billdogeng.queue.in_flight", "Events of the batch that is being sent")
    ]
  end

  @doc false
  # Reporters make text of tags: of a pid or a tuple they can't, and of a module it begins with `Elixir.`.
  def tag_values(%{client: client} = metadata), do: %{metadata | client: inspect(client)}

  # A counter ignores its measurement, but is shown by its name. Its event has none of the name `count`.
  defp counter(suffix, description, opts \\ []) do
    opts = [event_name: [:billdogeng, :flush, suffix], measurement: :duration] ++ opts
    Metrics.counter("billdogeng.flush.#{suffix}.count", common(description, opts))
  end

  defp sum(name, description, opts \\ []), do: Metrics.sum(name, common(description, opts))
  defp last_value(name, description, opts \\ []), do: Metrics.last_value(name, common(description, opts))

  defp common(description, opts) do
    Keyword.merge([tags: [:client], tag_values: &__MODULE__.tag_values/1, description: description], opts)
  end
end
