//! What callers, owners and the flush thread exchange: commands one way; notices, replies and reports the other.

use crate::error::Error;
use crate::event::place::Place;
use crate::queue::accounts::{Limit, Reason, Stats};
use crate::spool::{OpenError, Problem};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A command of the owner. The numbers come back in the [`Reply`].
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Flush everything captured so far, at once.
    Flush(u64),
    /// Reply once the flush that is due by now has ended.
    Settle(u64),
    /// Stop the timer, then as `Flush`.
    Shutdown(u64),
    /// The wait of this number, which the listener was asked for, is over.
    Slept(u64),
    /// Drop everything queued, on disk too, and the batch in flight.
    Purge(u64),
    /// Flush as the timer does.
    Tick,
    /// The owner has ended: send everything queued within the shutdown time-out, then end.
    Drain,
    /// For the tests of what a panic leaves behind.
    #[cfg(test)]
    Panic,
}

/// An event in the client's life that is worth a log line.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A flush delivered so many events.
    Flushed(u64),
    /// A flush failed; so many events are back in the queue.
    FlushFailed(u64, Arc<Error>),
    /// So many events were dropped since the last notice of this reason.
    Dropped(Reason, u64),
    /// The next events that are dropped for [`Reason::QueueFull`] were dropped for this limit.
    QueueFullBy(Limit),
    /// The next events that are dropped for [`Reason::Rejected`] were answered this status.
    RefusedWith(u16),
    /// The first value that was written in another form than its own; there may be more.
    Replaced(Place),
    /// The first event that was dropped for its size; there may be more.
    TooLarge(Place),
    /// The project's quota is used up: nothing is sent for so long, and new events are dropped.
    Suspended(Duration),
    /// The ingest takes events again; so many were dropped for its quota.
    Resumed(u64),
    /// The spool can't be opened for now: events are in memory alone.
    NoSpool(OpenError),
    /// It is open after all, with so many events.
    SpoolOpened(u64),
    /// So many events that it has were captured for another key or host.
    SpoolOfAnother(u64),
    /// Something about the spool's disk.
    Spool(Problem),
    /// The flush thread panicked, and goes on.
    Panicked,
}

/// An answer to a command that waited.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Of `Flush` and `Shutdown`.
    Flushed(u64, Result<(), Arc<Error>>),
    /// Of `Settle`: how many events are not yet delivered.
    Settled(u64, u64),
    /// Of `Purge`.
    Purged(u64, Result<(), Error>),
}

/// All that has come up since the last look.
#[derive(Default, Debug)]
pub struct Updates {
    /// Oldest first.
    pub notices: Vec<Notice>,
    /// Notices that made room for newer ones.
    pub missed: u64,
    /// A wait asked of the listener: its number, and how long.
    pub sleep: Option<(u64, Duration)>,
    /// To be passed on after the notices.
    pub replies: Vec<Reply>,
    /// There are more replies to take, without being woken for them.
    pub more: bool,
}

/// The cause of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// `flush_at` events were queued.
    #[default]
    Size,
    /// The timer.
    Interval,
    /// A caller that waits for it.
    Call,
    /// The client is shut down, or its owner has ended.
    Shutdown,
    /// A failed flush's pause was over.
    Retry,
}

/// One flush, among all of the VM.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The same in all reports of it.
    pub id: u64,
    /// Why it began.
    pub trigger: Trigger,
    /// When.
    pub began: Instant,
}

/// The outcome of a flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Events that the ingest accepted.
    pub events: u64,
    /// Bytes of their JSON.
    pub bytes: u64,
    /// Bytes of all bodies that were sent, compressed where they were.
    pub wire_bytes: u64,
    /// Requests that were made.
    pub attempts: u64,
    /// Of the last answer; 0 where none came.
    pub status: u16,
    /// Why it failed, or why an event of it was dropped. Without the answer's body, which may quote events.
    pub error: Option<Error>,
}

/// A report for telemetry.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A flush has something to send.
    Started(Span),
    /// It has ended, after so long.
    Stopped(Span, Duration, Box<Outcome>),
    /// The flush thread panicked in it.
    Panicked(Span, Duration),
    /// So many events were dropped.
    Dropped(Reason, u64),
}

/// The accounts of a client that has ended.
#[derive(Clone, Debug)]
pub struct LastWords {
    /// Events dropped because the time to send them was over.
    pub stopped: u64,
    /// The whole of it.
    pub stats: Stats,
    /// Drops that no log line has named, in the order of [`Reason::ALL`].
    pub unreported: [u64; Reason::ALL.len()],
}

/// The receiver of updates. All functions are called on the flush thread alone.
pub trait Listener: Send {
    /// There are updates to take.
    fn pending(&self);
    /// The spool that there was to be is open; or it isn't, for now, and the start need not wait for it.
    fn opened(&self) {}
    /// The client has ended.
    fn ended(&self, last: LastWords);
    /// For telemetry, if anybody wants it.
    fn report(&self, _report: Report) {}
}
