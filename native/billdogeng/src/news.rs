//! What the flush thread has to tell, kept until somebody fetches it.
//!
//! At most one wake-up is outstanding, and notices are a bounded ring, so a slow listener costs
//! neither memory nor the flush thread's time. Replies are bounded by the calls that wait for them.

use crate::error::Error;
use crate::flush_report::Report;
use crate::place::Place;
use crate::spool::{OpenError, Problem};
use crate::state::{Reason, Stats};
use std::collections::VecDeque;
use std::time::Duration;

/// Notices kept; older ones make room, and are counted.
const MOST_NOTICES: usize = 256;

/// Something worth a line in a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A flush delivered so many events.
    Flushed(u64),
    /// A flush failed; so many events are back in the queue.
    FlushFailed(u64, Error),
    /// So many events were given up since the last notice of this reason.
    Dropped(Reason, u64),
    /// The first value that was written in another form than its own; there may be more.
    Replaced(Place),
    /// The first event that was given up for its size; there may be more.
    TooLarge(Place),
    /// The project's quota is used up: nothing is sent for so long, and what comes is given up.
    Suspended(Duration),
    /// The ingest takes events again; so many were given up for its quota.
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
    Flushed(u64, Result<(), Error>),
    /// Of `Settle`: how many events are not yet delivered.
    Settled(u64, u64),
    /// Of `Purge`.
    Purged(u64, Result<(), Error>),
}

/// All that has come up since the last look.
#[derive(Default, Debug)]
pub struct Tidings {
    /// Oldest first.
    pub notices: Vec<Notice>,
    /// Notices that made room for newer ones.
    pub missed: u64,
    /// A wait asked of the listener: its number, and how long.
    pub sleep: Option<(u64, Duration)>,
    /// To be passed on after the notices.
    pub replies: Vec<Reply>,
}

#[derive(Default)]
pub(crate) struct News {
    notices: VecDeque<Notice>,
    missed: u64,
    sleep: Option<(u64, Duration)>,
    replies: Vec<Reply>,
    woken: bool,
}

impl News {
    pub fn notice(&mut self, notice: Notice) {
        if self.notices.len() == MOST_NOTICES {
            self.notices.pop_front();
            self.missed += 1;
        }
        self.notices.push_back(notice);
    }

    pub fn reply(&mut self, replies: Vec<Reply>) {
        self.replies.extend(replies);
    }

    pub fn sleep(&mut self, id: u64, delay: Duration) {
        self.sleep = Some((id, delay));
    }

    pub fn notices(&self) -> usize {
        self.notices.len()
    }

    /// Whether the listener is to be woken now: there is news, and no wake-up is outstanding.
    pub fn must_wake(&mut self) -> bool {
        let any = !self.notices.is_empty() || self.sleep.is_some() || !self.replies.is_empty();
        any && !std::mem::replace(&mut self.woken, true)
    }

    pub fn take(&mut self) -> Tidings {
        self.woken = false;
        Tidings {
            notices: self.notices.drain(..).collect(),
            missed: std::mem::take(&mut self.missed),
            sleep: self.sleep.take(),
            replies: std::mem::take(&mut self.replies),
        }
    }
}

/// The accounts of a client that has ended.
#[derive(Clone, Debug)]
pub struct LastWords {
    /// Events given up because the time to send them was over.
    pub stopped: u64,
    /// The whole of it.
    pub stats: Stats,
}

/// Who is told. All are called on the flush thread alone.
pub trait Listener: Send {
    /// There are tidings to take.
    fn news(&self);
    /// The spool that there was to be is open; or it isn't, for now, and the start need not wait for it.
    fn opened(&self) {}
    /// The client has ended.
    fn ended(&self, last: LastWords);
    /// For telemetry, if anybody wants it.
    fn report(&self, _report: Report) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_up_is_outstanding_at_most() {
        let mut news = News::default();
        assert!(!news.must_wake());
        news.notice(Notice::Flushed(1));
        assert!(news.must_wake());
        news.notice(Notice::Flushed(2));
        assert!(!news.must_wake());
        assert_eq!(
            news.take().notices,
            [Notice::Flushed(1), Notice::Flushed(2)]
        );
        assert!(!news.must_wake());
        news.reply(vec![Reply::Settled(1, 0)]);
        assert!(news.must_wake());
    }

    #[test]
    fn notices_are_bounded_and_what_was_missed_is_counted() {
        let mut news = News::default();
        (0..300).for_each(|n| news.notice(Notice::Flushed(n)));
        let tidings = news.take();
        assert_eq!((tidings.notices.len(), tidings.missed), (MOST_NOTICES, 44));
        assert_eq!(tidings.notices[0], Notice::Flushed(44));
    }
}
