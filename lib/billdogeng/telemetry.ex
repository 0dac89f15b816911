defmodule BilldogEng.Telemetry do
  @moduledoc """
  What a client tells of itself by [`:telemetry`](https://hexdocs.pm/telemetry), where the app has it.

      :telemetry.attach("analytics", [:billdogeng, :flush, :stop], &MyApp.Telemetry.flushed/4, nil)

  ## Events

  | event | measurements | metadata |
  |---|---|---|
  | `[:billdogeng, :flush, :start]` | `monotonic_time`, `system_time` | `client`, `trigger`, `telemetry_span_context` |
  | `[:billdogeng, :flush, :stop]` | `duration`, `monotonic_time`, `events`, `bytes`, `wire_bytes`, `attempts` | as `:start`, and `result`, `status`, `error` |
  | `[:billdogeng, :flush, :exception]` | `duration`, `monotonic_time` | as `:start`, and `kind`, `reason`, `stacktrace` |
  | `[:billdogeng, :flush, :missed]` | `count` | `client` |
  | `[:billdogeng, :event, :dropped]` | `count` | `client`, `reason` |
  | `[:billdogeng, :queue]` | `queued`, `queued_bytes`, `in_flight`, `captured`, `delivered`, `dropped`, `retries`, `replaced` | `client` |

  A flush is told where there was something to send: from its first batch to its end, all its requests and
  the waits between them included. Its `:start` and its `:stop`, or its `:exception`, have the same
  `telemetry_span_context`.

    * `monotonic_time`, `system_time`, `duration` - native units
    * `events`, `bytes` - events that the ingest accepted in this flush, and bytes of their JSON; 0 where it
      accepted none
    * `attempts`, `wire_bytes` - requests that the flush made, accepted or not, and bytes of their bodies as they
      went over the wire, after gzip
    * `client` - the client's registered name, else its pid
    * `trigger` - what began the flush: `:size` (`:flush_at` was reached), `:interval` (the timer), `:call`
      (`flush/2`), `:shutdown` (`shutdown/1`, or the client's process has ended), `:retry` (the pause after a
      failed flush was over)
    * `result`, `error` - `:ok` and nil; or `:error` and a `BilldogEng.Error` where the flush failed, the ingest
      refused an event of it, or `BilldogEng.Analytics.purge/1` ended it. Its `body` is nil: an answer may quote
      events
    * `status` - of the last answer; 0 where none came
    * `kind`, `reason`, `stacktrace` - `:error`, a `BilldogEng.Error`, `[]`: the flush thread panicked, a defect
      of this library's. It goes on, and the events are kept
    * `reason` of `:dropped`, and `count` - as in `dropped` of `BilldogEng.Analytics.stats/1`, and how many
      events were given up for it since the last of these events. One for many events, not one for each
    * `count` of `:missed` - flushes that had no `:start` and no `:stop`, since handlers are slower than the
      flushes and a bound was reached. Drops are never left out
    * the measurements of `[:billdogeng, :queue]` - as in `BilldogEng.Analytics.stats/1`, `dropped` being the sum.
      `measure/1` emits it

  Handlers of all but the last run in a process of this library's own, soon after what they are told of: a slow
  one delays no capture, no flush and no call, only other handlers.

  Where the app has no `:telemetry`, or hasn't started it, nothing is emitted, at no cost.
  """

  alias BilldogEng.Analytics
  alias BilldogEng.Telemetry.{Emitter, Metrics}

  @doc """
  Emits `[:billdogeng, :queue]` with the accounts of `client`, in the calling process. Made for `telemetry_poller`:

      {:telemetry_poller, measurements: [{BilldogEng.Telemetry, :measure, [MyApp.Analytics]}], period: 10_000}

  Always `:ok`. Where there is no such client, for one that is about to be started again, it emits nothing:
  a poller drops for good what raises.

      iex> {:ok, client} = BilldogEng.Analytics.start_link(api_key: "key", host: "http://127.0.0.1:9", shutdown_timeout: 0)
      iex> BilldogEng.Telemetry.measure(client)
      :ok
  """
  @spec measure(Analytics.server()) :: :ok
  def measure(client) do
    if Emitter.telemetry() != false do
      stats = Analytics.stats(client)

      measurements = %{
        queued: stats.queued,
        queued_bytes: stats.queued_bytes,
        in_flight: stats.in_flight,
        captured: stats.captured,
        delivered: stats.delivered,
        dropped: stats.dropped |> Map.values() |> Enum.sum(),
        retries: stats.retries,
        replaced: stats.replaced
      }

      Emitter.execute([:billdogeng, :queue], measurements, %{client: label(client)})
    end

    :ok
  catch
    :exit, _ -> :ok
  end

  defp label(%BilldogEng{analytics: pid}), do: label(pid)

  defp label(pid) when is_pid(pid) and node(pid) == node() do
    case Process.info(pid, :registered_name) do
      {:registered_name, name} when is_atom(name) -> name
      _ -> pid
    end
  end

  defp label(server), do: server

  @doc """
  Metrics of the events above, for a reporter of [`Telemetry.Metrics`](https://hexdocs.pm/telemetry_metrics) or the
  metrics page of LiveDashboard:

      def metrics, do: [summary("phoenix.endpoint.stop.duration") | BilldogEng.Telemetry.metrics()]

  Raises where the app has no `telemetry_metrics`.
  """
  @spec metrics() :: [struct()]
  def metrics, do: Metrics.list()
end
