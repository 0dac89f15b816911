defmodule BilldogEng.LiveDashboard.Drops do
  @moduledoc false
  # The meaning of each drop reason, and the remedy. `guides/delivery.md` has the same meanings; a test compares them.

  @reasons %{
    queue_full:
      {"the queue reached `:max_queue_size` or `:max_queue_bytes`; the oldest events are dropped first",
       "Raise the limit, or set `:spool_dir`."},
    too_large:
      {"it is larger than `:max_event_bytes`, or the ingest refused it alone with 413",
       "Send less in one event; the log names the place."},
    rejected:
      {"the ingest refused it alone and accepted other events",
       "Correct the event: the last error has the ingest's message."},
    quota: {"the project's quota is used up", "Raise the project's quota, or wait for its next period."},
    before_send: {"`:before_send` returned nil, or failed", "Check the function, if this was not intended."},
    in_hook: {"a hook of the client captured it to the same client", "Capture outside of the hook."},
    failed:
      {"code of the app or of this library raised during the capture",
       "Check the app's String.Chars, Jason.Encoder and Inspect implementations."},
    stopped:
      {"the client's process had ended, and `:shutdown_timeout` was over",
       "Raise `:shutdown_timeout`, or set `:spool_dir`."},
    purged: {"`purge/1` was called", "Nothing."},
    disabled: {"the client's mode is `:disabled`", "Set the mode to `:live` to send events."},
    unowned: {"it belongs to no test (`mode: :test` only)", "See BilldogEng.Test."},
    spool_full:
      {"the spool reached `:max_spool_bytes`; the oldest events are dropped first",
       "Raise `:max_spool_bytes`, or restore the ingest."},
    expired:
      {"it was in the spool for longer than `:max_spool_age`",
       "Raise `:max_spool_age`, or restore the ingest."},
    spool_lost: {"its file in the spool could not be read back", "Check the disk of `:spool_dir`."}
  }

  @doc false
  # Returns `{meaning, remedy}` of each reason.
  def reasons, do: @reasons

  @doc false
  # Returns the meaning and the remedy of a reason. A client of another version can have others.
  def explain(reason), do: Map.get(@reasons, reason, {"", ""})
end
