defmodule Bench.PostHog do
  @moduledoc false
  # posthog-elixir, to measure against: the compiled modules of an app that depends on it. BENCH_POSTHOG names the folder
  # that has a folder for each of them (`_build/prod/lib` of that app). It takes Elixir 1.17.

  @name Bench.PostHog.Instance

  # Its name and version; nil if there is none, and a line with the reason.
  def find do
    case System.get_env("BENCH_POSTHOG", "") do
      "" -> skipped("BENCH_POSTHOG names no folder of its modules")
      lib -> load(Path.wildcard(Path.join(lib, "*/ebin")))
    end
  end

  defp load(folders) do
    Code.prepend_paths(folders)
    Application.put_env(:posthog, :enable, false)

    case Application.ensure_all_started(:posthog) do
      {:ok, _} -> "posthog-elixir #{Application.spec(:posthog, :vsn)}"
      {:error, reason} -> skipped("it does not start: #{inspect(reason)}")
    end
  end

  defp skipped(why) do
    IO.puts(:stderr, "posthog-elixir is left out: #{why}")
    nil
  end

  def start_link(opts) do
    [api_key: opts[:api_key], api_host: opts[:host], supervisor_name: @name]
    |> config()
    |> Map.merge(%{max_batch_events: opts[:flush_at], max_batch_time_ms: 3_600_000})
    |> supervisor()
  end

  # Called by name: the project does not depend on it.
  defp config(options), do: apply(PostHog.Config, :validate!, [options])
  defp supervisor(config), do: apply(PostHog.Supervisor, :start_link, [config])

  def capture(_pid, id, name, properties), do: apply(PostHog, :bare_capture, [@name, name, id, properties])

  # It has no function for that: each sender gets the message of its timer, as after the longest time of a batch.
  def flush(pid) do
    for sender <- senders(pid) do
      with %{num_events: count, timer_ref: timer} when count > 0 <- :sys.get_state(sender, :infinity) do
        send(sender, {:timeout, timer, :batch_time_reached})
        :sys.get_state(sender, :infinity)
      end
    end

    :ok
  end

  # Between 1,000 and 2,000 messages wait, as with the original's kind.
  def pace(pid, state) do
    senders = state || senders(pid)
    waiting = Enum.sum(for sender <- senders, do: elem(Process.info(sender, :message_queue_len), 1))

    if waiting > 2_000 do
      Process.sleep(1)
      pace(pid, senders)
    else
      senders
    end
  end

  def dropped(_pid), do: 0

  defp senders(pid) do
    for {{PostHog.Sender, _}, sender, _, _} <- Supervisor.which_children(pid), do: sender
  end
end
