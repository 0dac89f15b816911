//! How segments go: dead ones from the front; dead ones behind what is in flight, where the bound in bytes wants it;
//! all of them, where nothing is alive.

use super::{is_gone, Log};
use crate::spool::error::{Fate, Undeleted};
use crate::spool::files;
use crate::spool::live::Live;
use crate::spool::record::SEGMENT_HEADER;
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between attempts to delete segments behind live ones.
const AGAIN: Duration = Duration::from_secs(1);

impl Log {
    /// Deletes segments from the front as long as all in them is below `floor`.
    pub fn delete_dead(&mut self, floor: u64) {
        while let Some(front) = self.segments.front() {
            let last = self.segments.len() == 1 && self.file.is_some();
            // One that stays keeps those behind it, which say what of it is gone.
            if floor < front.next || last || self.delete(front.id).is_err() {
                break;
            }
            self.segments.pop_front();
        }
        self.ages.forget_below(floor);
    }

    /// Deletes dead segments that stand behind a live one, until the files have no more than `max` bytes.
    ///
    /// Such a segment may be the one that says what of those before it is gone. So one record of all that is gone is
    /// written and synced first.
    ///
    /// # Errors
    /// That record could not be written or synced. Nothing is deleted then.
    pub fn delete_behind(&mut self, max: u64, live: &Live) -> io::Result<()> {
        if self.size() <= max || self.behind_again.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        let written_to = usize::from(self.file.is_some());
        let mut first = 0;
        let mut dead = Vec::new();
        for (at, segment) in self.segments.iter().enumerate() {
            let numbers = std::mem::replace(&mut first, segment.next)..segment.next;
            let behind = at > 0 && at + written_to < self.segments.len();
            if behind && live.count(&numbers) == 0 {
                dead.push(segment.id);
            }
        }
        if dead.is_empty() {
            return Ok(());
        }
        self.write_removed(&live.gone(0..self.next))?;
        if let Some(file) = &self.file {
            file.sync_data()?;
            self.dir.handle().sync_all()?;
        }
        for id in dead {
            if self.delete(id).is_ok() {
                self.segments.retain(|segment| segment.id != id);
            } else {
                self.behind_again = Some(Instant::now() + AGAIN);
            }
        }
        Ok(())
    }

    /// Deletes all segments, of which nothing is alive. One that can't be deleted is emptied, or marked.
    pub fn wipe(&mut self) -> Option<Undeleted> {
        self.file = None;
        self.cursor = None;
        self.ages.forget_below(self.next);
        // Else a power cut could bring them back, and with them events that are delivered.
        self.unsynced.files.clear();
        let mut refused = None;
        while let Some(front) = self.segments.front() {
            let id = front.id;
            self.unsynced.dir = Some(self.dir.handle());
            if let Err(error) = self.delete(id) {
                refused = Some((self.path(id), error.to_string()));
                break;
            }
            self.segments.pop_front();
        }
        let Some((path, reason)) = refused else {
            self.forget_doubt();
            return None;
        };
        let fate = self.wipe_what_stays();
        (!self.segments.is_empty()).then_some(Undeleted { path, reason, fate })
    }

    fn wipe_what_stays(&mut self) -> Fate {
        // In the last file, for all before it.
        let marked = self.write_floor(self.next).is_ok();
        let (mut emptied, mut left) = (true, 0);
        let segments = std::mem::take(&mut self.segments);
        let last = segments.len() - 1;
        for (at, mut segment) in segments.into_iter().enumerate() {
            // What says that the events of others are gone stays with those.
            let may_go = match marked {
                true => at < last || left == 0,
                false => emptied,
            };
            if may_go && self.delete(segment.id).is_ok() {
                continue;
            }
            match self.empty(segment.id) {
                Ok(()) => segment.size = segment.size.min(SEGMENT_HEADER),
                Err(_) => emptied = false,
            }
            left += 1;
            self.segments.push_back(segment);
        }
        match (emptied, marked) {
            (true, _) => Fate::Emptied,
            (false, true) => Fate::Marked,
            (false, false) => Fate::Whole,
        }
    }

    fn empty(&mut self, id: u64) -> io::Result<()> {
        let file = files::open(&self.path(id), OpenOptions::new().write(true))?;
        if file.metadata()?.len() > SEGMENT_HEADER {
            file.set_len(SEGMENT_HEADER)?;
            self.unsynced.note(&Arc::new(file));
        }
        Ok(())
    }

    /// With the last event the doubt about its time goes.
    fn forget_doubt(&mut self) {
        if self.doubt_noted && !self.clock.is_in_doubt() {
            self.doubt_noted = fs::remove_file(self.doubt()).is_err_and(|error| !is_gone(&error));
        }
    }

    fn delete(&self, id: u64) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if !is_gone(&error) => Err(error),
            // Not there is as good as deleted.
            _ => Ok(()),
        }
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// The number below which events have to go for the files to keep to `max` bytes, but for those in flight. The
    /// last segment is sealed if it is among them.
    pub fn excess(&mut self, max: u64, in_flight: &Range<u64>) -> Option<u64> {
        let held = |first: u64, next: u64| first < in_flight.end && in_flight.start < next;
        let (mut first, mut size, mut held_bytes) = (0, 0, 0);
        for segment in &self.segments {
            match held(std::mem::replace(&mut first, segment.next), segment.next) {
                true => held_bytes += segment.size,
                false => size += segment.size,
            }
        }
        // A batch that fills the bound by itself must not cost all others.
        let max = max.saturating_sub(held_bytes).max(max / 2);
        let (mut first, mut below) = (0, None);
        for segment in &self.segments {
            if size <= max {
                break;
            }
            if !held(std::mem::replace(&mut first, segment.next), segment.next) {
                size -= segment.size;
                below = Some(segment.next);
            }
        }
        if below.is_some_and(|below| below == self.next) {
            self.seal();
        }
        below
    }
}
