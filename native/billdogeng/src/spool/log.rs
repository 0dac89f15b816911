//! The segment files: records are appended to the last, files leave from the front.
//!
//! ```text
//! 0000000000000003.spool    0000000000000004.spool    0000000000000005.spool
//! [events 90‥140][events…]  [events…][removed 0‥120]  [events…][removed…] ◀── appended, synced
//!  ▲ deleted as soon as nothing in it, or in front of it, is alive
//! ```
//!
//! No record is ever written over, and a segment of an earlier run is never appended to: what a crash can
//! tear is the end of the last file.

mod ages;
mod erase;
mod recover;

pub use ages::Ages;

use super::clock::{self, Clock};
use super::dir::Dir;
use super::files;
use super::record::{self, Record, Records, SEGMENT_HEADER};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The name of the file that says that the system's clock was wrong when events were written.
pub const DOUBT: &str = "clock";
/// No segment has a higher id.
const MOST: u64 = 1 << 62;

/// A run of events as they were appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The number of its first event; the others follow without a gap.
    pub first: u64,
    /// The bytes of each event, its comma included.
    pub lens: Vec<u32>,
    /// The events, each followed by a comma.
    pub bytes: Vec<u8>,
}

impl Page {
    /// The numbers of its events.
    pub fn numbers(&self) -> Range<u64> {
        self.first..self.next()
    }

    fn next(&self) -> u64 {
        self.first + self.lens.len() as u64
    }
}

struct Segment {
    id: u64,
    size: u64,
    /// The number after the newest event in it, or in front of it.
    next: u64,
    /// Its file, by device and inode.
    file: (u64, u64),
}

/// Where the last read ended: the record there has events from `number` on.
struct Cursor {
    id: u64,
    offset: u64,
    number: u64,
}

/// Why events can't be read.
#[derive(Debug)]
pub enum Unread {
    /// Their records are corrupted, or their file is gone.
    Lost(Range<u64>),
    /// The system refused, for now: that says nothing about the events.
    Failed(PathBuf, io::Error),
}

pub struct Log {
    dir: Dir,
    segments: VecDeque<Segment>,
    next_id: u64,
    next: u64,
    /// The last segment, while it is being written; shared with a sync of it.
    file: Option<Arc<File>>,
    /// What was written, made or deleted since the last [`Log::unsynced`].
    unsynced: Unsynced,
    segment_bytes: u64,
    front: Vec<u8>,
    cursor: Option<Cursor>,
    ages: Ages,
    clock: Clock,
    /// It is on disk that times of this spool are not to be trusted.
    doubt_noted: bool,
    /// Dead segments behind live ones could not be deleted: not tried again before.
    behind_again: Option<Instant>,
    /// The highest floor that was written over another, and how many were.
    floor: (u64, usize),
}

/// What a sync has to bring to the disk. It takes as long as the disk does, and needs no lock.
#[derive(Default)]
pub struct Unsynced {
    files: Vec<Arc<File>>,
    dir: Option<Arc<File>>,
}

impl Unsynced {
    fn note(&mut self, file: &Arc<File>) {
        if !self
            .files
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, file))
        {
            self.files.push(Arc::clone(file));
        }
    }

    pub fn sync(self) -> io::Result<()> {
        for file in self.files {
            file.sync_data()?;
        }
        match self.dir {
            Some(dir) => dir.sync_all(),
            None => Ok(()),
        }
    }
}

/// The id of a segment by its file's name.
pub fn segment_id(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".spool")?;
    let id = u64::from_str_radix(digits, 16).ok();
    // As this library spells it; and one that others can follow.
    id.filter(|id| format!("{id:016x}") == digits && *id <= MOST)
}

impl Log {
    /// Appends a record of ranges that are gone.
    pub fn write_removed(&mut self, ranges: &[Range<u64>]) -> io::Result<()> {
        let id = self.writable()?;
        let mut front = std::mem::take(&mut self.front);
        record::removed(&mut front, id, ranges);
        let written = self.append(&front, &[]);
        self.front = front;
        written
    }

    /// Appends a record of consecutive events.
    pub fn write_events(&mut self, first: u64, lens: &[u32], bytes: &[u8]) -> io::Result<()> {
        let id = self.writable()?;
        self.note_doubt();
        let mut front = std::mem::take(&mut self.front);
        let time = clock::wall();
        record::events(&mut front, id, self.next, first, time, lens, bytes);
        let written = self.append(&front, bytes);
        self.front = front;
        written?;
        self.next = first + lens.len() as u64;
        if let Some(segment) = self.segments.back_mut() {
            segment.next = self.next;
        }
        self.ages.note(self.clock.now(), self.next);
        Ok(())
    }

    /// Has a later start know that the system's clock was wrong when events were written. Tried again with the next
    /// ones where it fails.
    fn note_doubt(&mut self) {
        if !self.doubt_noted && self.clock.is_in_doubt() {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600);
            self.doubt_noted = files::open(&self.doubt(), &mut options).is_ok();
            self.unsynced.dir = Some(self.dir.handle());
        }
    }

    fn doubt(&self) -> PathBuf {
        self.dir.path().join(DOUBT)
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

    /// The id of the segment to write to: the last one while it has room, else a new one.
    fn writable(&mut self) -> io::Result<u64> {
        if let (Some(_), Some(last)) = (&self.file, self.segments.back()) {
            if last.size < self.segment_bytes {
                return Ok(last.id);
            }
            self.seal();
        }
        self.dir.check()?;
        let id = self.next_id;
        let path = self.path(id);
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(0o600);
        let file = files::open(&path, &mut options)?;
        let opening = record::opening(id, self.next);
        let made = file.write_all_at(&opening, 0);
        let meta = match made.and_then(|()| file.metadata()) {
            Ok(meta) => meta,
            Err(error) => {
                let _ = fs::remove_file(&path);
                return Err(error);
            }
        };
        self.unsynced.dir = Some(self.dir.handle());
        self.next_id += 1;
        self.file = Some(Arc::new(file));
        self.segments.push_back(Segment {
            id,
            size: SEGMENT_HEADER,
            next: self.next,
            file: (meta.dev(), meta.ino()),
        });
        Ok(id)
    }

    /// Notes that all events below are gone, over what was noted so before: a full disk takes that too.
    pub fn write_floor(&mut self, floor: u64) -> io::Result<()> {
        let floor = floor.min(self.next);
        let Some(segment) = self.segments.back().filter(|_| floor > self.floor.0) else {
            return Ok(());
        };
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let path = self.path(segment.id);
                Arc::new(files::open(&path, OpenOptions::new().write(true))?)
            }
        };
        let (bytes, at) = record::floor(segment.id, floor, self.floor.1);
        file.write_all_at(&bytes, at)?;
        self.unsynced.note(&file);
        self.floor = (floor, self.floor.1 + 1);
        Ok(())
    }

    /// Looks whether the files are still there, and answers the numbers of the events whose isn't.
    pub fn missing(&mut self) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        // An error that doesn't say so is no sign that a file is gone.
        let held = self.dir.is_there().unwrap_or_else(|error| !is_gone(&error));
        let mut first = 0;
        for segment in std::mem::take(&mut self.segments) {
            let numbers = first..segment.next;
            first = segment.next;
            let is_there = match fs::symlink_metadata(self.path(segment.id)) {
                Ok(meta) => (meta.dev(), meta.ino()) == segment.file && meta.len() >= segment.size,
                Err(error) => !is_gone(&error),
            };
            if held && is_there {
                self.segments.push_back(segment);
            } else {
                missing.push(numbers);
            }
        }
        if !missing.is_empty() {
            // What is written next must not go where nobody finds it.
            self.abandon();
        }
        missing
    }

    /// Ends the last segment; the next record opens another.
    pub fn seal(&mut self) {
        self.file = None;
    }

    /// What is not known to be on the disk, for whoever is to bring it there.
    pub fn unsynced(&mut self) -> Unsynced {
        std::mem::take(&mut self.unsynced)
    }

    /// Whether the segment that is written to is still where it was made.
    ///
    /// # Errors
    /// It was removed: such a file takes writes and syncs as if nothing were amiss.
    pub fn check(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if file.metadata()?.nlink() == 0 => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the directory was removed",
            )),
            _ => Ok(()),
        }
    }

    /// The number after the newest event that was written.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_synced(&self) -> bool {
        self.unsynced.files.is_empty() && self.unsynced.dir.is_none()
    }

    /// After an error nothing is appended to the segment any more: what a failed sync has left of it in
    /// the system's cache can't be known.
    pub fn abandon(&mut self) {
        self.file = None;
        self.unsynced = Unsynced::default();
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id:016x}.spool"))
    }

    /// The ages of the events in the files, by [`Log::clock`].
    pub fn ages(&self) -> &Ages {
        &self.ages
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Reads events of a run of live ones, from its start on: at least one where it can be read, at most
    /// `max_events`, and no more than `max_bytes` unless the first alone has more.
    pub fn read(
        &mut self,
        run: Range<u64>,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Page, Unread> {
        let mut page = Page {
            first: run.start,
            ..Page::default()
        };
        let Some(segment) = self.segments.iter().find(|s| s.next > run.start) else {
            return Err(Unread::Lost(run));
        };
        let mut lost = run.start..run.end.min(segment.next);
        let (id, size) = (segment.id, segment.size);
        let offset = match &self.cursor {
            Some(cursor) if cursor.id == id && cursor.number <= run.start => cursor.offset,
            _ => SEGMENT_HEADER,
        };
        let path = self.path(id);
        let file = match files::open(&path, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(error) if is_gone(&error) || files::is_irregular(&error) => {
                return Err(Unread::Lost(lost));
            }
            Err(error) => return Err(Unread::Failed(path, error)),
        };
        let mut records = match Records::new(&file, id, offset, size) {
            Ok(records) => records,
            Err(error) => return Err(Unread::Failed(path, error)),
        };
        let mut full = false;
        while !full && page.next() < run.end {
            let (place, record) = match records.read() {
                Ok(Some(read)) => read,
                Ok(None) => break,
                // What was read before it is whole.
                Err(_) if !page.lens.is_empty() => break,
                Err(error) => return Err(Unread::Failed(path, error)),
            };
            let Record::Events { numbers, .. } = record else {
                continue;
            };
            if numbers.start > page.next() {
                lost.end = numbers.start.min(lost.end);
                break;
            }
            if numbers.end > page.next() {
                self.cursor = Some(Cursor {
                    id,
                    offset: place.start,
                    number: numbers.start,
                });
                let payload = records.payload();
                full = take(&mut page, numbers, run.end, payload, max_events, max_bytes);
            }
        }
        if page.lens.is_empty() {
            Err(Unread::Lost(lost))
        } else {
            Ok(page)
        }
    }
}

/// Whether an error says that a file isn't there.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Takes what is wanted of a record; answers whether the page is full.
fn take(
    page: &mut Page,
    numbers: Range<u64>,
    end: u64,
    payload: &[u8],
    max_events: usize,
    max_bytes: usize,
) -> bool {
    let count = (numbers.end - numbers.start) as usize;
    let mut at = 4 * count;
    for (number, len) in numbers.zip(record::lens(payload, count)) {
        let event = &payload[at..at + len as usize];
        at += len as usize;
        if number < page.next() {
            continue;
        }
        let any = !page.lens.is_empty();
        let over = page.lens.len() >= max_events || page.bytes.len() + event.len() > max_bytes;
        if number == end || (any && over) {
            return true;
        }
        page.lens.push(len);
        page.bytes.extend_from_slice(event);
    }
    false
}
