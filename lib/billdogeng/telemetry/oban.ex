defmodule BilldogEng.Telemetry.Oban do
  @moduledoc false
  # Reads Oban's jobs: those that succeeded, and each attempt that failed.

  alias BilldogEng.Context
  alias BilldogEng.Telemetry.Handler

  @stop [:oban, :job, :stop]
  @exception [:oban, :job, :exception]
  @sources [job_completed: @stop, job_failed: @exception]

  def attach(client, opts) do
    {own, opts} = Keyword.split(opts, [:events])
    names = Handler.names(own[:events], Keyword.keys(@sources))
    events = for {kind, event} <- @sources, names[kind], do: event
    opts = Keyword.put_new(opts, :distinct_id, &__MODULE__.distinct_id/2)
    Handler.attach(client, events, {__MODULE__, %{names: names}}, opts)
  end

  # Returns the distinct ID in the job's `meta`, else that of the process: a job may run inline in the process of a user.
  def distinct_id(_measurements, %{job: job}) do
    case job do
      %{meta: %{"distinct_id" => id}} when id not in [nil, ""] -> id
      _ -> Context.distinct_id()
    end
  end

  # Jobs that were cancelled, discarded or snoozed emit a stop with another state.
  def read(@stop, measurements, %{state: :success, job: job}, options) do
    {options.names.job_completed, properties(job, measurements)}
  end

  def read(@exception, measurements, %{job: job} = metadata, options) do
    more = %{state: to_string(metadata[:state] || :failure), error: Handler.error(metadata)}
    {options.names.job_failed, job |> properties(measurements) |> Map.merge(more)}
  end

  def read(_event, _measurements, _metadata, _options), do: nil

  defp properties(job, measurements) do
    %{
      worker: job.worker,
      queue: job.queue,
      attempt: job.attempt,
      max_attempts: job.max_attempts,
      duration_ms: Handler.ms(measurements.duration),
      queue_ms: Handler.ms(measurements[:queue_time] || 0)
    }
  end
end
