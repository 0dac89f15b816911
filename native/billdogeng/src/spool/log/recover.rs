//! What a directory holds at a start: read once, from the first segment to the last.
//!
//! What is damaged costs the records that it is in. It is told once: damage at a segment's end is cut off, any other
//! filled with a byte that is passed over without a word, and events that are missing are removed as any other.

use super::{segment_id, Ages, Clock, Log, Segment, Unsynced, DOUBT};
use crate::spool::dir::Dir;
use crate::spool::error::{OpenError, Problem};
use crate::spool::files;
use crate::spool::live::{Live, Ranges};
use crate::spool::record::{self, Opening, Record, Records, SEGMENT_HEADER};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

/// What was found in a directory.
pub struct Found {
    pub log: Log,
    pub live: Live,
    pub problems: Vec<Problem>,
    /// Bytes of the live events.
    pub bytes: u64,
}

struct Recovery {
    segments: VecDeque<Segment>,
    live: Live,
    problems: Vec<Problem>,
    ages: Ages,
    clock: Clock,
    records: VecDeque<Lens>,
    /// The number after the event that was written last, as far as is known.
    written: Option<u64>,
    /// Numbers that were written, and are in no record.
    gaps: Vec<Range<u64>>,
    /// Numbers that were removed, those in the gaps among them.
    removed: Ranges,
}

/// The number of a record's first event, and the bytes of each.
type Lens = (u64, Vec<u32>);

impl Log {
    /// Reads what a directory holds.
    pub fn recover(dir: Dir, segment_bytes: u64, age_step: u64) -> Result<Found, OpenError> {
        let failed = |error: io::Error| OpenError::io("read", dir.path(), &error);
        let (mut ids, mut next_id) = (Vec::new(), 0);
        let in_doubt = fs::symlink_metadata(dir.path().join(DOUBT)).is_ok();
        let mut found = Recovery::new(age_step, Clock::new(in_doubt));
        for entry in fs::read_dir(dir.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(id) = segment_id(&entry.path()) else {
                continue;
            };
            next_id = next_id.max(id + 1);
            if entry.file_type().map_err(failed)?.is_file() {
                ids.push(id);
            } else {
                found.problems.push(Problem::Skipped(entry.path()));
            }
        }
        ids.sort_unstable();
        let mut log = Log {
            dir,
            segments: VecDeque::new(),
            next_id,
            next: 0,
            file: None,
            unsynced: Unsynced::default(),
            segment_bytes,
            front: Vec::new(),
            cursor: None,
            ages: Ages::new(age_step),
            clock: Clock::new(in_doubt),
            doubt_noted: in_doubt,
            behind_again: None,
            floor: (0, 0),
        };
        for id in ids {
            found.segment(&log, id)?;
        }
        // No number is used twice, not those of events that are missing either.
        let next = found.written.unwrap_or(0).max(found.live.next());
        found.live.append(next..next);
        log.next = next;
        std::mem::swap(&mut log.segments, &mut found.segments);
        std::mem::swap(&mut log.ages, &mut found.ages);
        found.tell_missing(&mut log);
        log.delete_dead(found.live.floor());
        Ok(Found {
            log,
            bytes: found.bytes(),
            live: found.live,
            problems: found.problems,
        })
    }
}

impl Recovery {
    fn new(age_step: u64, clock: Clock) -> Self {
        Self {
            segments: VecDeque::new(),
            live: Live::default(),
            problems: Vec::new(),
            ages: Ages::new(age_step),
            clock,
            records: VecDeque::new(),
            written: None,
            gaps: Vec::new(),
            removed: Ranges::default(),
        }
    }

    fn segment(&mut self, log: &Log, id: u64) -> Result<(), OpenError> {
        let path = log.path(id);
        let failed = |error: io::Error| OpenError::io("read", &path, &error);
        let file = files::open(&path, OpenOptions::new().read(true).write(true));
        let file = file.map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let mut opening = Vec::new();
        let mut header = (&file).take(SEGMENT_HEADER);
        header.read_to_end(&mut opening).map_err(failed)?;
        let (opened, floor) = match record::read_opening(&opening, id) {
            Opening::Segment { next, floor } => (Some(next), floor),
            Opening::Foreign(version) => return Err(OpenError::Version(path, version)),
            Opening::Broken => (None, 0),
        };
        opened.into_iter().for_each(|next| self.expect(next));
        let mut next = self.written;
        let mut records = Records::new(&file, id, SEGMENT_HEADER, meta.len()).map_err(failed)?;
        while let Some((place, record)) = records.read().map_err(failed)? {
            if let Record::Events { after, .. } = record {
                next = next.or(Some(after));
            }
            if !self.record(record, records.payload()) {
                records.refuse(place);
            }
        }
        self.remove(0..floor);
        let damaged = records.into_damaged();
        let mut bytes: u64 = damaged.iter().map(|range| range.end - range.start).sum();
        if opened.is_none() {
            bytes += meta.len().min(SEGMENT_HEADER);
        }
        if opened.is_none() || !damaged.is_empty() {
            self.problems.push(Problem::Damaged(path.clone(), bytes));
            let Some(next) = next else {
                // In front of all others, and nothing in it: as one whose events are delivered.
                let _ = fs::remove_file(&path);
                return Ok(());
            };
            let opening = opened.is_none().then(|| record::opening(id, next));
            // Where that can't be done it is told once more.
            let _ = mend(&file, opening, damaged);
        }
        self.segments.push_back(Segment {
            id,
            size: file.metadata().map_err(failed)?.len(),
            next: self.live.next(),
            file: (meta.dev(), meta.ino()),
        });
        Ok(())
    }

    /// Takes in a record, if it can be what it says: numbers ascend.
    fn record(&mut self, record: Record, payload: &[u8]) -> bool {
        match record {
            Record::Events { numbers, .. } if numbers.start < self.live.next() => return false,
            Record::Events {
                numbers,
                time,
                after,
            } => {
                self.expect(after);
                self.written = Some(numbers.end);
                let count = (numbers.end - numbers.start) as usize;
                let lens = record::lens(payload, count).collect();
                self.records.push_back((numbers.start, lens));
                self.ages.note(self.clock.time_of(time), numbers.end);
                self.live.append(numbers);
            }
            Record::Removed => record::ranges(payload).for_each(|range| self.remove(range)),
        }
        true
    }

    fn remove(&mut self, range: Range<u64>) {
        self.live.remove(range.clone());
        self.removed.insert(range);
        let floor = self.live.floor();
        let dead = |(first, lens): &Lens| first + lens.len() as u64 <= floor;
        while self.records.front().is_some_and(dead) {
            self.records.pop_front();
        }
    }

    /// Events below this number were written before what comes.
    fn expect(&mut self, after: u64) {
        let written = self.written.unwrap_or(after);
        if written < after {
            self.gaps.push(written..after);
        }
        self.written = Some(written.max(after));
    }

    /// Tells of events that are in no record, though no record says that they are gone; and has one say so.
    fn tell_missing(&mut self, log: &mut Log) {
        let mut missing = Vec::new();
        for gap in &self.gaps {
            let mut start = gap.start;
            for removed in self.removed.within(gap) {
                missing.push(start..removed.start);
                start = removed.end;
            }
            missing.push(start..gap.end);
        }
        missing.retain(|range| !range.is_empty());
        let count = missing.iter().map(|range| range.end - range.start).sum();
        if count == 0 {
            return;
        }
        self.problems.push(Problem::Missing(count));
        // Where nothing is alive, all that is left is deleted.
        if !self.live.is_empty() && log.write_removed(&missing).is_err() {
            log.abandon();
        }
    }

    fn bytes(&self) -> u64 {
        let mut bytes = 0;
        for (first, lens) in &self.records {
            for run in self.live.runs(&(*first..first + lens.len() as u64)) {
                let run = (run.start - first) as usize..(run.end - first) as usize;
                bytes += lens[run].iter().copied().map(u64::from).sum::<u64>();
            }
        }
        bytes
    }
}

/// Has a segment be whole again, but for what was damaged.
fn mend(
    file: &File,
    opening: Option<[u8; SEGMENT_HEADER as usize]>,
    damaged: Vec<Range<u64>>,
) -> io::Result<()> {
    let fill = [record::FILL; 4096];
    let mut size = file.metadata()?.len();
    for range in damaged.into_iter().rev() {
        if range.end == size {
            size = range.start;
            file.set_len(size)?;
            continue;
        }
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(fill.len() as u64);
            file.write_all_at(&fill[..len as usize], at)?;
            at += len;
        }
    }
    if let Some(opening) = opening {
        file.write_all_at(&opening, 0)?;
    }
    file.sync_all()
}
