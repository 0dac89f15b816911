//! Reads a directory at a start: the ledger, then each segment from the first to the last.
//!
//! A corrupted payload loses the events of its record, a corrupted header the rest of its segment. The loss is logged once:
//! the ledger lists the first as removed, and the segment is cut off at the second. Nothing is changed before all
//! files have been read, so a file that can't be read for now costs nothing.

use super::dir::Dir;
use super::error::{OpenError, Problem};
use super::files;
use super::ledger::{Entry, Ledger};
use super::live::{Live, Ranges};
use super::log::{Bounds, Log, Segment};
use super::platform::MetadataExt;
use super::segment::{self, Opening, Records, SEGMENT_HEADER};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The content of a directory.
pub struct Recovery {
    pub log: Log,
    pub live: Live,
    pub problems: Vec<Problem>,
    /// The number after the event that was written last, as far as is known.
    written: Option<u64>,
    /// Events that were written, and can't be read.
    lost: Ranges,
    /// Segments, and how many bytes of them to keep.
    cuts: Vec<(PathBuf, u64)>,
}

/// Reads the content of a directory.
pub fn recover(dir: Dir, bounds: Bounds) -> Result<Recovery, OpenError> {
    let mut problems = Vec::new();
    let (ids, next_id) = segment_ids(dir.path(), &mut problems)?;
    let (ledger, entry) = Ledger::read(dir.path())?;
    if entry.is_none() && !ids.is_empty() {
        problems.push(Problem::NoLedger(ledger.path().to_owned()));
    }
    // Without a ledger it is not known whether the times can be trusted.
    let entry = entry.unwrap_or_else(|| Entry {
        in_doubt: !ids.is_empty(),
        ..Entry::default()
    });
    let mut found = Recovery {
        log: Log::new(dir, (ledger, entry), next_id, bounds),
        live: Live::default(),
        problems,
        written: None,
        lost: Ranges::default(),
        cuts: Vec::new(),
    };
    for id in ids {
        found.segment(id)?;
    }
    found.finish();
    Ok(found)
}

/// Returns the ids of the segments, in order, and the id of the next one.
fn segment_ids(dir: &Path, problems: &mut Vec<Problem>) -> Result<(Vec<u64>, u64), OpenError> {
    let failed = |error: io::Error| OpenError::io("read", dir, &error);
    let (mut ids, mut next) = (Vec::new(), 0);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(id) = files::segment_id(&entry.file_name()) {
            next = next.max(id + 1);
            match entry.file_type().map_err(failed)?.is_file() {
                true => ids.push(id),
                false => problems.push(Problem::Skipped(entry.path())),
            }
        }
    }
    ids.sort_unstable();
    Ok((ids, next))
}

impl Recovery {
    fn segment(&mut self, id: u64) -> Result<(), OpenError> {
        let path = self.log.path(id);
        let failed = |error: io::Error| OpenError::io("read", &path, &error);
        let file = files::open(&path, OpenOptions::new().read(true)).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let mut opening = Vec::new();
        let mut header = (&file).take(SEGMENT_HEADER);
        header.read_to_end(&mut opening).map_err(failed)?;
        match segment::read_opening(&opening, id) {
            Opening::Segment(next) => self.expect(next),
            Opening::Foreign(version) => return Err(OpenError::Version(path, version)),
            Opening::Corrupted => {
                self.problems
                    .push(Problem::Corrupted(path.clone(), meta.len()));
                self.cuts.push((path, 0));
                return Ok(());
            }
        }
        let mut records = Records::new(&file, id, SEGMENT_HEADER, meta.len()).map_err(failed)?;
        // Times need not ascend where the system's clock was set.
        let mut newest = self.log.segments.back().map_or(0, |last| last.times.1);
        let first = self.written.unwrap_or(0);
        let (mut end, mut corrupted) = (SEGMENT_HEADER, 0);
        while let Some(record) = records.header().map_err(failed)? {
            if record.numbers.start < self.written.unwrap_or(0) {
                // Numbers ascend, so the header is not what was written.
                break;
            }
            end = record.place.end;
            let numbers = record.numbers.clone();
            self.written = Some(numbers.end);
            self.live.append(numbers.clone());
            newest = newest.max(self.log.clock.time_of(record.time));
            let whole = records.payload(&record).map_err(failed)?.is_some();
            if !whole && !self.log.entry.removed.covers(&numbers) {
                corrupted += record.place.end - record.place.start;
                self.lost.insert(numbers);
            }
        }
        if end < meta.len() {
            corrupted += meta.len() - end;
            self.cuts.push((path.clone(), end));
        }
        if corrupted > 0 {
            self.problems.push(Problem::Corrupted(path, corrupted));
        }
        self.log.segments.push_back(Segment {
            id,
            size: end,
            numbers: first..self.written.unwrap_or(0),
            file: (meta.dev(), meta.ino()),
            times: (newest, newest),
        });
        Ok(())
    }

    /// Events below this number were written before the segment that comes.
    fn expect(&mut self, next: u64) {
        let written = self.written.unwrap_or(next);
        let gap = written..next.max(written);
        self.written = Some(gap.end);
        self.live.append(gap.clone());
        self.lost.insert(gap);
    }

    /// Removes events, reports those that are lost, and cuts off what can't be read of the segments.
    fn finish(&mut self) {
        let removed = std::mem::take(&mut self.log.entry.removed);
        // No number is used twice, not even that of an event that is lost.
        let next = self.written.unwrap_or(0).max(removed.end());
        self.live.append(next..next);
        self.live.remove(&(0..removed.floor));
        for range in &removed.ranges {
            self.live.remove(range);
        }
        let lost = self.lost.within(&(0..next));
        let count = lost.map(|range| self.live.remove(&range)).sum();
        if count > 0 {
            self.problems.push(Problem::Missing(count));
        }
        for (path, keep) in self.cuts.drain(..) {
            // If this fails, the next start reports it again.
            let _ = match keep {
                0 => fs::remove_file(&path),
                _ => files::open(&path, OpenOptions::new().write(true))
                    .and_then(|file| file.set_len(keep).and_then(|()| file.sync_all())),
            };
        }
        self.log.next = next;
        self.log.entry.removed = self.live.removed(|_| false);
        // If this fails, the thread tries again.
        let _ = self.log.write_ledger();
        self.log.delete_removed();
    }
}
