defmodule BilldogEng.Telemetry.Metrics do
  @moduledoc false
  # The list of `BilldogEng.Telemetry.metrics/0`. `Telemetry.Metrics` is not a dependency of this library.

  alias Telemetry.Metrics

  @compile {:no_warn_undefined, Metrics}

  # Bytes have too many digits for a chart.
  @kilobytes {:byte, :kilobyte}

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
        description: "Duration of flushes, including retries"
      ),
      counter(:stop, "Flushes, by trigger and result", tags: [:client, :trigger, :result]),
      sum("billdogeng.flush.stop.events", "Events that the ingest accepted"),
      sum("billdogeng.flush.stop.attempts", "Requests"),
      sum("billdogeng.flush.stop.wire_bytes", "Size of the requests' bodies", unit: @kilobytes),
      sum("billdogeng.flush.missed.count", "Flushes that no handler received"),
      sum("billdogeng.event.dropped.count", "Dropped events", tags: [:client, :reason]),
      counter(:exception, "Flushes that ended in a panic"),
      last_value("billdogeng.queue.captured_per_second", "Events captured per second"),
      last_value("billdogeng.queue.delivered_per_second", "Events accepted by the ingest per second"),
      last_value("billdogeng.queue.queued", "Events not yet delivered"),
      last_value("billdogeng.queue.queued_bytes", "Size of their JSON", unit: @kilobytes),
      last_value("billdogeng.queue.in_flight", "Events of the batch that is being sent")
    ]
  end

  # Reporters convert tags with `to_string/1`, which fails for a pid or a tuple, and prints `Elixir.` before a module.
  def tag_values(%{client: client} = metadata), do: %{metadata | client: inspect(client)}

  # A counter is shown under the name of its measurement, and ignores the value. Its event has no measurement `count`.
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
