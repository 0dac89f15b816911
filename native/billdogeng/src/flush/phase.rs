//! The phases of a client, the events that it reacts to, and the actions that follow.
//!
//! ```text
//!         due, timer, flush/1         attempt failed, attempts left
//!   Idle ─────────────────────▶ InFlight ──────────────────────────▶ Waiting
//!    ▲ ▲                         │ │  ▲                                 │
//!    │ └── all is delivered ─────┘ │  └── the wait is over, or flush/1 ─┘
//!    │                             ├── flush failed ──▶ BackingOff ── its time, or flush/1 ──▶ InFlight
//!    └── its time ── Suspended ◀───┘ quota used up
//! ```
//!
//! `Drain` leads from each phase to `Draining`, which flushes until the queue is empty or its time is over: `Ended`.
//!
//! The worker reports what happened as an [`Event`], carries out the [`Action`]s that it gets for it in their order, and
//! reports their results as events. See [`Machine::handle`](super::machine::Machine::handle) for the transitions.

use crate::config::Config;
use crate::error::Error;
use crate::flush::timer::Timer;
use crate::http::policy;
use crate::protocol::Reply;
use crate::protocol::Trigger;
use crate::report::status::{PhaseName, WaitsFor};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A flush that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// The number after the newest event that it is to deliver.
    pub target: u64,
    /// Attempts that an automatic flush may still make; 0 where only calls want more.
    pub attempts_left: u32,
    /// Failed attempts of the request since the last that was made at once.
    pub failed: u32,
    pub stage: Stage,
}

/// The next step of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// To take the next batch from the queue.
    Take,
    /// To read the next batch from the disk, which goes on.
    Read,
    /// To send the next part of the batch.
    Send,
    /// To receive the response to that part.
    Receive,
}

/// The end of a wait between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Until(Instant),
    /// The listener reports the end of this wait: `:sleep_fn`.
    Listener(u64),
}

/// The activity of the flush thread. See the diagram above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Idle,
    InFlight(Flush),
    Waiting(Flush, Wait),
    /// The last flush failed: the next automatic one comes at this time.
    BackingOff(Instant),
    /// The quota is used up: nothing is sent before this time.
    Suspended(Instant),
    /// The owner has ended: the client ends at this time, whatever is left.
    Draining(Instant, Drain),
    Ended,
}

/// The activity of a draining client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    Idle,
    InFlight(Flush),
    Waiting(Flush, Wait),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A call waits for all events below `target`; `carried` is true if the part in flight is all of these.
    Flush {
        id: u64,
        target: u64,
        carried: bool,
        shutdown: bool,
    },
    /// A call waits for the flush that is due.
    Settle { id: u64, target: u64 },
    /// A wait that the listener makes is over.
    Slept(u64),
    /// An automatic flush was asked for.
    Tick,
    /// Everything queued is about to be dropped.
    Purge,
    /// The owner has ended.
    Drain,
    /// The worker has nothing else to report: the queue and the spool are in this state.
    Look(Facts),
    /// [`Action::Begin`] was carried out; the flush is to deliver everything below this number.
    Begun(u64),
    /// A batch was taken, or has been read from the disk.
    Batch,
    /// The batch is being read from the disk.
    Reading,
    /// The disk had nothing of what it was asked for.
    NotRead,
    /// Nothing of the flush is left in the queue, whose oldest event has this number.
    Nothing(u64),
    /// The ingest accepted a part.
    Accepted,
    /// The part was answered, and so the next one follows: of another batch if `done`.
    Next { done: bool },
    /// An attempt failed, or reading a batch.
    Failed(Failed),
    /// The quota is used up.
    QuotaLimited,
    /// The worker panicked.
    Panicked(Arc<Error>),
    /// [`Action::Close`] was carried out, and nothing was left.
    Closed,
}

/// A failed attempt.
#[derive(Clone, Debug)]
pub struct Failed {
    pub error: Arc<Error>,
    /// The same request may succeed later.
    pub retryable: bool,
    /// The ingest asks for this wait.
    pub retry_after: Option<Duration>,
    /// No server can be there: a draining client need not try again.
    pub nobody: bool,
}

/// The state of the queue and the spool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// The queue has reached `flush_at`.
    pub due: bool,
    pub empty: bool,
    /// Flushes wait for the spool to open.
    pub held: bool,
    /// Another client waits for the spool's directory: a draining one receives its response until then.
    pub handover: Option<Instant>,
}

/// Something for the worker to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Begin a flush. Then report [`Event::Begun`].
    Begin(Trigger),
    /// Take the next batch, if any event of the flush is left. Then report `Batch`, `Reading` or `Nothing`.
    Take,
    /// Send the next part of the batch.
    Send,
    /// Have the listener wait.
    Sleep(u64, Duration),
    /// Count an attempt after the first.
    CountRetry,
    /// End the flush: all of it is delivered.
    EndFlush,
    /// End the flush: what is left of the batch goes back to the queue.
    FailFlush(Arc<Error>),
    /// End the flush: what is left of the batch is dropped because of a purge.
    PurgeFlush,
    /// End the flush: the batch and the queue are dropped because of the quota, and so is what is captured from now on.
    Suspend,
    /// Take events again.
    Resume,
    /// Pass these on.
    Reply(Vec<Reply>),
    /// Reply to the calls that [`Machine::settled`] returns.
    Settle,
    /// End the client if nothing is queued. Then report [`Event::Closed`].
    Close,
    /// End the client.
    End,
}

/// The options that the machine depends on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Attempts of one request.
    pub attempts: u32,
    pub flush_interval: Duration,
    /// The listener makes the waits between attempts.
    pub external_sleep: bool,
    pub shutdown_timeout: Duration,
    pub suspension: Duration,
    /// Spreads a delay at random.
    pub jitter: fn(Duration) -> Duration,
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self {
            attempts: config.http.max_retries.saturating_add(1),
            flush_interval: config.flush_interval,
            external_sleep: config.external_sleep,
            shutdown_timeout: config.shutdown_timeout,
            suspension: config.suspension,
            jitter: policy::jitter,
        }
    }
}

impl Phase {
    /// Returns the flush that has begun, and what it waits for before its next attempt.
    pub fn flush(&self) -> Option<(Flush, Option<Wait>)> {
        match *self {
            Self::InFlight(flush) | Self::Draining(_, Drain::InFlight(flush)) => {
                Some((flush, None))
            }
            Self::Waiting(flush, wait) | Self::Draining(_, Drain::Waiting(flush, wait)) => {
                Some((flush, Some(wait)))
            }
            _ => None,
        }
    }

    /// Returns the same to be changed.
    pub fn flush_mut(&mut self) -> Option<&mut Flush> {
        match self {
            Self::InFlight(flush)
            | Self::Waiting(flush, _)
            | Self::Draining(_, Drain::InFlight(flush) | Drain::Waiting(flush, _)) => Some(flush),
            _ => None,
        }
    }

    /// Returns when a draining client ends.
    pub fn drains_until(&self) -> Option<Instant> {
        match self {
            Self::Draining(until, _) => Some(*until),
            _ => None,
        }
    }

    /// Returns the number after the newest event that the flush is to deliver, unless it is to deliver all: a draining
    /// client's.
    pub fn target(&self) -> Option<u64> {
        match self.drains_until() {
            Some(_) => None,
            None => Some(self.flush()?.0.target),
        }
    }

    /// Returns the phase that follows when `next` is entered: a draining client stays one.
    pub fn then(&self, next: Self) -> Self {
        match (*self, next) {
            (Self::Draining(until, _), Self::InFlight(flush)) => {
                Self::Draining(until, Drain::InFlight(flush))
            }
            (Self::Draining(until, _), Self::Waiting(flush, wait)) => {
                Self::Draining(until, Drain::Waiting(flush, wait))
            }
            (Self::Draining(until, _), Self::Idle | Self::BackingOff(_) | Self::Suspended(_)) => {
                Self::Draining(until, Drain::Idle)
            }
            (_, next) => next,
        }
    }

    /// Returns the name that `stats/1` shows.
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Idle => PhaseName::Idle,
            Self::InFlight(_) => PhaseName::InFlight,
            Self::Waiting(..) => PhaseName::Waiting,
            Self::BackingOff(_) => PhaseName::BackingOff,
            Self::Suspended(_) => PhaseName::Suspended,
            Self::Draining(..) | Self::Ended => PhaseName::Draining,
        }
    }

    /// Returns the time of the next attempt, if one is planned.
    pub fn next_attempt(&self, timer: &Timer) -> Option<Instant> {
        match (self, self.flush()) {
            (_, Some((_, Some(Wait::Until(until))))) => Some(until),
            (Self::BackingOff(until) | Self::Suspended(until), _) => Some(*until),
            (Self::Idle, _) => timer.next(),
            _ => None,
        }
    }

    /// Returns what the client waits for; `held` is true while flushes wait for the spool to open.
    pub fn waits_for(&self, timer: &Timer, held: bool) -> WaitsFor {
        match (self, self.flush()) {
            (_, Some((_, Some(Wait::Until(_))))) => WaitsFor::Retry,
            (_, Some((_, Some(Wait::Listener(_))))) => WaitsFor::SleepFn,
            (_, Some((flush, None))) if flush.stage == Stage::Read => WaitsFor::Disk,
            (_, Some((_, None))) => WaitsFor::Response,
            (Self::Suspended(_), _) => WaitsFor::Quota,
            _ if held => WaitsFor::Spool,
            (Self::BackingOff(_), _) => WaitsFor::Backoff,
            _ if timer.next().is_some() => WaitsFor::Timer,
            _ => WaitsFor::Events,
        }
    }
}
