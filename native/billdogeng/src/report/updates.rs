//! The updates of the flush thread, kept until the owner takes them.
//!
//! At most one wake-up is outstanding, and notices are a bounded ring, so a slow listener costs
//! neither memory nor the flush thread's time. Replies are bounded by the calls that wait for them.

use crate::error::Error;
use crate::protocol::{Notice, Reply, Updates};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Replies, and different bodies in them, that are taken at once: of each a process has to make terms.
const MOST_REPLIES: usize = 256;
const MOST_BODIES: usize = 4;
/// Values that bodies may have to be made terms of at once.
const SHORT_BODIES: usize = 1_000;

/// Notices kept; older ones make room, and are counted.
const MOST_NOTICES: usize = 256;

/// Those that were seen in a row of replies. Callers of one flush share theirs.
#[derive(Default)]
struct Bodies {
    last: Option<*const Error>,
    count: usize,
}

impl Bodies {
    /// Returns the reply's, unless it is that of the reply before.
    fn see<'a>(&mut self, reply: &'a Reply) -> Option<&'a Value> {
        let Reply::Flushed(_, Err(error)) = reply else {
            return None;
        };
        let this = Some(Arc::as_ptr(error));
        if std::mem::replace(&mut self.last, this) == this {
            return None;
        }
        self.count += usize::from(error.body.is_some());
        error.body.as_ref()
    }
}

/// Whether a value has more than so many bytes and values. Looks at no more of it.
fn is_longer(value: &Value, left: &mut usize) -> bool {
    let own = match value {
        Value::String(text) => 1 + text.len() / 64,
        Value::Number(number) => 1 + number.as_str().len(),
        _ => 1,
    };
    match left.checked_sub(own) {
        Some(rest) => *left = rest,
        None => return true,
    }
    match value {
        Value::Array(values) => values.iter().any(|value| is_longer(value, left)),
        Value::Object(members) => members.values().any(|value| is_longer(value, left)),
        _ => false,
    }
}

#[derive(Default)]
pub(crate) struct Pending {
    notices: VecDeque<Notice>,
    missed: u64,
    sleep: Option<(u64, Duration)>,
    replies: VecDeque<Reply>,
    /// Replies that the listener may not see yet.
    held: Vec<Reply>,
    woken: bool,
}

impl Pending {
    pub fn notice(&mut self, notice: Notice) {
        if self.notices.len() == MOST_NOTICES {
            self.notices.pop_front();
            self.missed += 1;
        }
        self.notices.push_back(notice);
    }

    /// They can be taken from the next [`Pending::must_wake`] on: by then the client's status is the one after them.
    pub fn reply(&mut self, replies: Vec<Reply>) {
        self.held.extend(replies);
    }

    pub fn sleep(&mut self, id: u64, delay: Duration) {
        self.sleep = Some((id, delay));
    }

    pub fn notices(&self) -> usize {
        self.notices.len()
    }

    /// Whether the listener is to be woken now: there is something to take, and no wake-up is outstanding.
    pub fn must_wake(&mut self) -> bool {
        self.replies.extend(self.held.drain(..));
        let any = !self.notices.is_empty() || self.sleep.is_some() || !self.replies.is_empty();
        any && !std::mem::replace(&mut self.woken, true)
    }

    pub fn take(&mut self) -> Updates {
        let next = self.next().count();
        let replies = self.replies.drain(..next).collect();
        let more = !self.replies.is_empty();
        self.woken = more;
        Updates {
            notices: self.notices.drain(..).collect(),
            missed: std::mem::take(&mut self.missed),
            sleep: self.sleep.take(),
            replies,
            more,
        }
    }

    /// The replies to be taken next: a bounded number, with a bounded number of bodies between them.
    fn next(&self) -> impl Iterator<Item = &Reply> {
        let mut bodies = Bodies::default();
        let replies = self.replies.iter().take(MOST_REPLIES);
        replies.take_while(move |reply| {
            bodies.see(reply);
            bodies.count <= MOST_BODIES
        })
    }

    /// Whether there is much in the bodies of those.
    pub fn has_long_bodies(&self) -> bool {
        let (mut bodies, mut left) = (Bodies::default(), SHORT_BODIES);
        self.next().any(|reply| {
            let body = bodies.see(reply);
            body.is_some_and(|body| is_longer(body, &mut left))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_up_is_outstanding_at_most() {
        let mut pending = Pending::default();
        assert!(!pending.must_wake());
        pending.notice(Notice::Flushed(1));
        assert!(pending.must_wake());
        pending.notice(Notice::Flushed(2));
        assert!(!pending.must_wake());
        assert_eq!(
            pending.take().notices,
            [Notice::Flushed(1), Notice::Flushed(2)]
        );
        assert!(!pending.must_wake());
        pending.reply(vec![Reply::Settled(1, 0)]);
        assert!(pending.must_wake());
    }

    fn failed(id: u64, error: &Arc<Error>) -> Reply {
        Reply::Flushed(id, Err(Arc::clone(error)))
    }

    fn error(body: Value) -> Arc<Error> {
        Arc::new(Error {
            body: Some(body),
            ..Error::network("no")
        })
    }

    #[test]
    fn replies_are_taken_in_bounded_numbers_without_another_wake_up() {
        let mut pending = Pending::default();
        let shared = error(Value::Null);
        pending.reply((0..1000).map(|id| failed(id, &shared)).collect());
        assert!(pending.must_wake());
        let mut taken = Vec::new();
        loop {
            let updates = pending.take();
            assert!(updates.replies.len() <= MOST_REPLIES);
            taken.extend(updates.replies);
            if !updates.more {
                break;
            }
            assert!(!pending.must_wake(), "whoever takes them comes again");
        }
        assert_eq!(
            taken,
            (0..1000).map(|id| failed(id, &shared)).collect::<Vec<_>>()
        );
        pending.reply(vec![failed(0, &shared)]);
        assert!(pending.must_wake());
    }

    #[test]
    fn few_different_bodies_are_taken_at_once() {
        let mut pending = Pending::default();
        let errors: Vec<_> = (0..10).map(|n| error(Value::from(n))).collect();
        pending.reply(
            errors
                .iter()
                .flat_map(|error| [failed(1, error), failed(2, error)])
                .collect(),
        );
        assert!(pending.must_wake());
        let updates = pending.take();
        assert_eq!(
            (updates.replies.len(), updates.more),
            (2 * MOST_BODIES, true)
        );
    }

    #[test]
    fn a_body_is_long_for_its_values_or_its_text() {
        for (value, long) in [
            (Value::from(vec![0; 100]), false),
            (Value::from("x".repeat(60_000)), false),
            (Value::from(vec![0; 1_000]), true),
            (serde_json::json!({"a": [vec![0; 600], vec![0; 600]]}), true),
        ] {
            let mut pending = Pending::default();
            let error = error(value);
            pending.reply(vec![failed(1, &error), failed(2, &error)]);
            assert!(pending.must_wake());
            assert_eq!(pending.has_long_bodies(), long);
        }
    }

    #[test]
    fn notices_are_bounded_and_what_was_missed_is_counted() {
        let mut pending = Pending::default();
        (0..300).for_each(|n| pending.notice(Notice::Flushed(n)));
        let updates = pending.take();
        assert_eq!((updates.notices.len(), updates.missed), (MOST_NOTICES, 44));
        assert_eq!(updates.notices[0], Notice::Flushed(44));
    }
}
