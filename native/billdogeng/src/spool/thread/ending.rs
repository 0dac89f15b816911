//! The end of a spool: the last sync, and that what is gone doesn't come back.

use super::{Mark, Thread};
use crate::spool::error::Fate;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Attempts to record what is gone, and how long after each the next one comes.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(20);

impl Thread {
    /// What was written last is on the disk before the directory is let go of.
    pub(super) fn last_sync(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        while let Some(mark) = self.syncing {
            if let Some(result) = inner.synced.take() {
                self.syncing = None;
                self.synced(&mut inner, result, mark);
                break;
            }
            let woken = shared.work.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let mark = Mark {
            next: inner.taken,
            asked: inner.syncs_asked,
            events: false,
        };
        drop(inner);
        let result = self.log.unsynced().sync();
        let result = self.checked(result);
        // Nobody looks after this one: what is said to be left has to be there.
        let missing = self.log.missing();
        let mut inner = shared.lock();
        self.synced(&mut inner, result, mark);
        self.lost(&mut inner, missing);
    }

    /// Records what was removed last, and what the client gave up while it waited for the last sync: nothing of it is
    /// to be sent by a later start. Those events that it leaves to that stay.
    pub(super) fn last_removals(&mut self) {
        for tried in 0..TRIES {
            let mut inner = self.shared.lock();
            self.removed.append(&mut inner.removed);
            let (floor, empty) = (inner.live.floor(), inner.live.is_empty());
            drop(inner);
            if self.removed.is_empty() && self.wipe_at.is_none() {
                break;
            }
            if tried > 0 {
                std::thread::sleep(BETWEEN);
            }
            if !empty {
                let _ = self.write_removed(floor);
            } else if self.log.wipe().is_none_or(|left| left.fate != Fate::Whole) {
                self.removed.clear();
                self.wipe_at = None;
            }
        }
        let _ = self.log.unsynced().sync();
    }
}
