//! The end of a spool: the last sync, and the last entry of the ledger.

use super::{Mark, Thread};
use crate::spool::error::Fate;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Attempts to write the ledger, and the time between two of them.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(20);

impl Thread {
    /// Syncs what was written last, before the directory is released.
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
        // No later look follows: events that are reported as left must be there.
        let missing = self.log.missing();
        let mut inner = shared.lock();
        self.synced(&mut inner, result, mark);
        self.lost(&mut inner, missing);
    }

    /// Writes down which events were removed last, also those that the client dropped while it waited for the last sync: no
    /// later start may send them.
    pub(super) fn last_removals(&mut self) {
        for tried in 0..TRIES {
            let mut inner = self.shared.lock();
            let (removed, empty) = (inner.take_removed(), inner.live.is_empty());
            drop(inner);
            if let Some(removed) = removed {
                self.log.entry.removed = removed;
            }
            if tried > 0 {
                std::thread::sleep(BETWEEN);
            }
            let done = match empty {
                true => self.log.wipe().is_none_or(|left| left.fate != Fate::Whole),
                false => self.log.write_ledger().is_ok(),
            };
            if done {
                break;
            }
        }
        let _ = self.log.unsynced().sync();
    }
}
