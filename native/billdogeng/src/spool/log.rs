//! The files of a spool: segments of events, and the ledger of removed events.
//!
//! ```text
//! ledger      0000000000000003.spool    0000000000000004.spool    0000000000000005.spool
//! floor 120   [events 90‥140][events…]  [events…]                 [events…] ◀── appended, synced
//! + ranges     ▲ deleted once all events in it are removed
//! ```
//!
//! No record is ever overwritten, and a segment of an earlier run is never appended to, so a crash can tear only the end of
//! the last segment.

mod bounds;
mod reading;

use super::clock::{self, Clock};
use super::dir::Dir;
use super::error::{Fate, Undeleted};
use super::files;
use super::ledger::{Entry, Ledger};
use super::platform::{FileExt, MetadataExt, OpenOptionsExt};
use super::segment::{self, SEGMENT_HEADER};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A segment's file.
pub struct Segment {
    pub id: u64,
    pub size: u64,
    /// The numbers of its events, and numbers before them that are in no segment.
    pub numbers: Range<u64>,
    /// Its device and inode.
    pub file: (u64, u64),
    /// When the first and the newest of its events were written, by the [`Clock`].
    pub times: (u64, u64),
}

/// How much a read may return.
#[derive(Clone, Copy)]
pub struct Limits {
    pub max_events: usize,
    /// The first event may have more.
    pub max_bytes: usize,
}

/// Why events can't be read.
#[derive(Debug)]
pub enum Unread {
    /// Their records are corrupted, or their file is gone.
    Lost(Range<u64>),
    /// The system refused, for now: that does not prove anything about the events.
    Failed(PathBuf, io::Error),
}

/// The bounds that the files keep to.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Bytes of all segments.
    pub max_bytes: u64,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// How long events are kept, in ms.
    pub max_age: u64,
}

/// The files of a directory that is held.
pub struct Log {
    pub(super) dir: Dir,
    pub(super) segments: VecDeque<Segment>,
    ledger: Ledger,
    /// The contents that the ledger must have.
    pub(super) entry: Entry,
    next_id: u64,
    /// The number after the newest event that was written.
    pub(super) next: u64,
    pub(super) clock: Clock,
    bounds: Bounds,
    /// The last segment, while it is being written; shared with a sync of it.
    file: Option<Arc<File>>,
    /// The files written, made or deleted since the last [`Log::unsynced`].
    unsynced: Unsynced,
    front: Vec<u8>,
}

/// The changes that a sync brings to the disk. It takes as long as the disk does, and needs no lock.
#[derive(Default)]
pub struct Unsynced {
    files: Vec<Arc<File>>,
    dir: Option<Arc<File>>,
}

impl Unsynced {
    fn note(&mut self, file: &Arc<File>) {
        if !self.files.iter().any(|noted| Arc::ptr_eq(noted, file)) {
            self.files.push(Arc::clone(file));
        }
    }

    pub fn sync(self) -> io::Result<()> {
        for file in self.files {
            file.sync_data()?;
        }
        self.dir.map_or(Ok(()), |dir| dir.sync_all())
    }
}

impl Log {
    /// Begins without segments.
    pub fn new(dir: Dir, (ledger, entry): (Ledger, Entry), next_id: u64, bounds: Bounds) -> Self {
        Self {
            dir,
            segments: VecDeque::new(),
            ledger,
            clock: Clock::new(entry.in_doubt),
            entry,
            next_id,
            next: 0,
            bounds,
            file: None,
            unsynced: Unsynced::default(),
            front: Vec::new(),
        }
    }

    // ── the ledger ──

    /// Returns whether the ledger has other contents than it must have.
    pub fn is_behind(&self) -> bool {
        let any = self.segments.iter().any(|s| s.size > SEGMENT_HEADER);
        any && !self.ledger.has(&self.entry)
    }

    /// Writes the ledger if its contents changed. Without events in segments it is not needed.
    pub fn write_ledger(&mut self) -> io::Result<()> {
        self.entry.in_doubt |= self.clock.is_in_doubt();
        if self.is_behind() {
            self.write_entry()?;
        }
        Ok(())
    }

    fn write_entry(&mut self) -> io::Result<()> {
        if self.ledger.file().is_none() {
            // Another directory in its place is not ours to write to.
            self.dir.check()?;
            self.ledger.open()?;
            self.unsynced.dir = Some(self.dir.handle());
        }
        self.ledger.write(&self.entry)?;
        if let Some(file) = self.ledger.file() {
            self.unsynced.note(file);
        }
        Ok(())
    }

    // ── writing ──

    /// Appends a record of consecutive events.
    pub fn write_events(&mut self, first: u64, lens: &[u32], bytes: &[u8]) -> io::Result<()> {
        let id = self.writable()?;
        let mut front = std::mem::take(&mut self.front);
        segment::front(&mut front, id, first, clock::wall(), lens, bytes);
        let written = self.append(&front, bytes);
        self.front = front;
        written?;
        self.next = first + lens.len() as u64;
        if let Some(segment) = self.segments.back_mut() {
            segment.numbers.end = self.next;
            segment.times.1 = self.clock.now();
        }
        Ok(())
    }

    fn append(&mut self, front: &[u8], rest: &[u8]) -> io::Result<()> {
        let (Some(shared), Some(segment)) = (&self.file, self.segments.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.unsynced.note(shared);
        let (size, end) = (segment.size, segment.size + front.len() as u64);
        let written = shared.write_all_at(front, size);
        match written.and_then(|()| shared.write_all_at(rest, end)) {
            Ok(()) => {
                segment.size = end + rest.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a record must not stand in front of a whole one.
                if shared.set_len(size).is_err() {
                    self.file = None;
                }
                Err(error)
            }
        }
    }

    /// Returns the id of the segment to write to: the last one while it has room, else a new one.
    fn writable(&mut self) -> io::Result<u64> {
        let now = self.clock.now();
        if let (Some(_), Some(last)) = (&self.file, self.segments.back()) {
            // The events of a segment expire together.
            let is_young = now < last.times.0 + (self.bounds.max_age / 128).max(1);
            if last.size < self.bounds.segment_bytes && is_young {
                return Ok(last.id);
            }
            self.file = None;
        }
        self.dir.check()?;
        if !self.ledger.has(&self.entry) || self.ledger.file().is_none() {
            // Without it no removal from the segment could be noted.
            self.write_entry()?;
        }
        // Also if what follows fails: a file that can't be deleted then must not stand in the way of the next one.
        let id = self.next_id;
        self.next_id += 1;
        let path = self.path(id);
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(0o600);
        let file = files::open(&path, &mut options)?;
        let opening = segment::opening(id, self.next);
        let made = file.write_all_at(&opening, 0);
        let meta = match made.and_then(|()| file.metadata()) {
            Ok(meta) => meta,
            Err(error) => {
                let _ = fs::remove_file(&path);
                return Err(error);
            }
        };
        self.unsynced.dir = Some(self.dir.handle());
        self.file = Some(Arc::new(file));
        self.segments.push_back(Segment {
            id,
            size: SEGMENT_HEADER,
            numbers: self.next..self.next,
            file: (meta.dev(), meta.ino()),
            times: (now, now),
        });
        Ok(id)
    }

    /// Takes what is not known to be on the disk, for the thread that syncs it.
    pub fn unsynced(&mut self) -> Unsynced {
        std::mem::take(&mut self.unsynced)
    }

    pub fn is_synced(&self) -> bool {
        self.unsynced.files.is_empty() && self.unsynced.dir.is_none()
    }

    /// Stops using the open files after an error: what a failed sync has left of them in the system's cache is not known.
    pub fn abandon(&mut self) {
        self.file = None;
        self.ledger.abandon();
        self.unsynced = Unsynced::default();
    }

    // ── losses ──

    /// Checks that the files that are written to are still in the directory.
    ///
    /// # Errors
    /// One was removed: such a file takes writes and syncs without an error.
    pub fn check(&self) -> io::Result<()> {
        for file in self.file.iter().chain(self.ledger.file()) {
            if file.metadata()?.nlink() == 0 {
                let message = "its files were removed";
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
        }
        Ok(())
    }

    /// Looks whether the segments are still there, and returns the numbers of the events in the others.
    pub fn missing(&mut self) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        // Any other error does not mean that a file is gone.
        let there = self.dir.is_there();
        let held = there.unwrap_or_else(|error| !files::is_gone(&error));
        for segment in std::mem::take(&mut self.segments) {
            let is_there = match fs::symlink_metadata(self.path(segment.id)) {
                Ok(meta) => (meta.dev(), meta.ino()) == segment.file && meta.len() >= segment.size,
                Err(error) => !files::is_gone(&error),
            };
            if held && is_there {
                self.segments.push_back(segment);
            } else {
                missing.push(segment.numbers);
            }
        }
        if !missing.is_empty() {
            // The next events must not go to a file that is no longer in the directory.
            self.abandon();
        }
        missing
    }

    // ── deleting ──

    /// Deletes segments of which all events are removed, except the one that is written to.
    pub fn delete_removed(&mut self) {
        let removed = &self.entry.removed;
        // Behind a live segment a gap would look like lost events, unless the ledger explains it.
        let ledger = !self.is_behind();
        let last = self.segments.back().filter(|_| self.file.is_some());
        let writing = last.map(|segment| segment.id);
        let mut segments = std::mem::take(&mut self.segments);
        segments.retain(|Segment { id, numbers, .. }| {
            let dead = numbers.end <= removed.floor || (ledger && removed.covers(numbers));
            !dead || writing == Some(*id) || self.delete(*id).is_err()
        });
        self.segments = segments;
    }

    /// Deletes all segments, of which all events are removed. A segment that can't be deleted is emptied.
    pub fn wipe(&mut self) -> Option<Undeleted> {
        self.file = None;
        if !self.segments.is_empty() {
            self.unsynced.dir = Some(self.dir.handle());
        }
        let (mut refused, mut emptied) = (None, true);
        for mut segment in std::mem::take(&mut self.segments) {
            let Err(error) = self.delete(segment.id) else {
                continue;
            };
            refused.get_or_insert((self.path(segment.id), error.to_string()));
            match self.empty(segment.id) {
                Ok(()) => segment.size = segment.size.min(SEGMENT_HEADER),
                Err(_) => emptied = false,
            }
            self.segments.push_back(segment);
        }
        let Some((path, reason)) = refused else {
            self.entry.in_doubt = false;
            self.unsynced.files.clear();
            return None;
        };
        let fate = match (self.write_ledger(), emptied) {
            (_, true) => Fate::Emptied,
            (Ok(()), false) => Fate::Marked,
            (Err(_), false) => Fate::Whole,
        };
        Some(Undeleted { path, reason, fate })
    }

    fn empty(&mut self, id: u64) -> io::Result<()> {
        let file = files::open(&self.path(id), OpenOptions::new().write(true))?;
        if file.metadata()?.len() > SEGMENT_HEADER {
            file.set_len(SEGMENT_HEADER)?;
            self.unsynced.note(&Arc::new(file));
        }
        Ok(())
    }

    fn delete(&self, id: u64) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if !files::is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
