defmodule BilldogEng.Stats do
  @moduledoc """
  The counters and the state of a client, as `BilldogEng.Analytics.stats/1` returns them.

  Every captured event is in one of three places: `captured = delivered + dropped + queued`.

    * `:mode` - `:live`, or `:test` or `:disabled`, in which nothing is sent. It follows
      `BilldogEng.Analytics.set_mode/2`
    * `:captured`, `:delivered` - events that were captured, and that the ingest accepted. Events that a spool had at
      the start count as captured
    * `:queued`, `:queued_bytes` - events not yet delivered, including those in flight, and their bytes of JSON in
      memory
    * `:in_flight` - events of the batch that is being sent
    * `:retries` - attempts after the first one of a batch
    * `:replaced` - values written in another form than their own
    * `:dropped` - dropped events, by reason: `:queue_full`, `:too_large`, `:rejected`, `:quota`,
      `:before_send`, `:in_hook`, `:failed`, `:stopped`, `:purged`; with a spool also `:spool_full`, `:expired`,
      `:spool_lost`; in a client that sends nothing also `:disabled`, and `:unowned` (see `BilldogEng.Test`).
      [Delivery guarantees](delivery.md) has the cause of each
    * `:state` - see `t:state/0`
    * `:next_attempt_in` - ms until the next attempt, or nil if none is planned
    * `:last_error` - the last attempt that failed, or nil, see `t:last_error/0`
    * `:last_success` - when the ingest last accepted a request, a `DateTime` or nil
    * `:person_updates` - the same counters, except `:mode`, for `BilldogEng.Analytics.set_person_properties/3`
  """

  @typedoc "The counters of a client. Those of its person updates lack `:mode` and `:person_updates`."
  @type t :: %{
          optional(:mode) => :live | :test | :disabled,
          optional(:person_updates) => t(),
          captured: non_neg_integer(),
          delivered: non_neg_integer(),
          queued: non_neg_integer(),
          queued_bytes: non_neg_integer(),
          in_flight: non_neg_integer(),
          retries: non_neg_integer(),
          replaced: non_neg_integer(),
          dropped: %{optional(atom()) => pos_integer()},
          state: state(),
          next_attempt_in: non_neg_integer() | nil,
          last_error: last_error() | nil,
          last_success: DateTime.t() | nil
        }

  @typedoc """
  What a client does now.

    * `:idle` - nothing is due
    * `:in_flight` - a request is being made
    * `:waiting` - between two attempts of a flush
    * `:backing_off` - the last flush failed, so automatic ones are delayed
    * `:suspended` - the project's quota is used up
    * `:draining` - the client's process has ended
  """
  @type state :: :idle | :in_flight | :waiting | :backing_off | :suspended | :draining

  @typedoc "Why an attempt failed, and when. `:message`, `:status` and `:code` are those of `BilldogEng.Error`."
  @type last_error :: %{
          message: String.t(),
          status: non_neg_integer(),
          code: String.t() | nil,
          time: DateTime.t()
        }
end
