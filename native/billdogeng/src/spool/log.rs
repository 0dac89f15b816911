//! The segment files: records are appended to the last, files leave from the front.
//!
//! ```text
//! 0000000000000003.spool    0000000000000004.spool    0000000000000005.spool
//! [events 90‥140][events…]  [events…][removed 0‥120]  [events…][removed…] ◀── appended, synced
//!  ▲ deleted as soon as nothing in it, or in front of it, is alive
//! ```
//!
//! Nothing is ever written over, and a segment of an earlier run is never appended to: what a crash can
//! tear is the end of the last file.

use super::dir::Dir;
use super::error::{OpenError, Problem};
use super::live::Live;
use super::record::{self, Opening, Record, SEGMENT_HEADER};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
}

/// Where the last read ended: the record there has events from `number` on.
struct Cursor {
    id: u64,
    offset: u64,
    number: u64,
}

pub struct Log {
    dir: Dir,
    segments: VecDeque<Segment>,
    next_id: u64,
    next: u64,
    /// The last segment, while it is being written.
    file: Option<File>,
    segment_bytes: u64,
    front: Vec<u8>,
    cursor: Option<Cursor>,
    ages: Ages,
}

/// What was found in a directory.
pub struct Found {
    pub log: Log,
    pub live: Live,
    pub problems: Vec<Problem>,
    /// Bytes of the live events.
    pub bytes: u64,
}

/// The id of a segment by its file's name.
pub fn segment_id(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".spool")?;
    let hex = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u64::from_str_radix(digits, 16).ok())?
}

impl Log {
    /// Reads what a directory holds. What is damaged is cut off, so that it is told of but once.
    pub fn recover(
        dir: Dir,
        segment_bytes: u64,
        age_step: u64,
        now: u64,
    ) -> Result<Found, OpenError> {
        let failed = |error: io::Error| OpenError::io("read", dir.path(), &error);
        let mut ids = Vec::new();
        for entry in fs::read_dir(dir.path()).map_err(failed)? {
            ids.extend(segment_id(&entry.map_err(failed)?.path()));
        }
        ids.sort_unstable();
        let mut found = Found {
            log: Log {
                dir,
                segments: VecDeque::new(),
                next_id: ids.last().map_or(0, |id| id + 1),
                next: 0,
                file: None,
                segment_bytes,
                front: Vec::new(),
                cursor: None,
                ages: Ages::new(age_step),
            },
            live: Live::default(),
            problems: Vec::new(),
            bytes: 0,
        };
        let mut records = VecDeque::new();
        for id in ids {
            found.recover_segment(id, now, &mut records)?;
        }
        for (first, lens) in records {
            for run in found.live.runs(&(first..first + lens.len() as u64)) {
                let run = (run.start - first) as usize..(run.end - first) as usize;
                found.bytes += lens[run].iter().copied().map(u64::from).sum::<u64>();
            }
        }
        found.log.next = found.live.next();
        found.log.delete_dead(found.live.floor());
        Ok(found)
    }

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
    pub fn write_events(
        &mut self,
        first: u64,
        time: u64,
        lens: &[u32],
        bytes: &[u8],
    ) -> io::Result<()> {
        let id = self.writable()?;
        let mut front = std::mem::take(&mut self.front);
        record::events(&mut front, id, first, time, lens, bytes);
        let written = self.append(&front, bytes);
        self.front = front;
        written?;
        self.next = first + lens.len() as u64;
        if let Some(segment) = self.segments.back_mut() {
            segment.next = self.next;
        }
        self.ages.note(time, self.next);
        Ok(())
    }

    fn append(&mut self, front: &[u8], rest: &[u8]) -> io::Result<()> {
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        match file.write_all(front).and_then(|()| file.write_all(rest)) {
            Ok(()) => {
                segment.size += (front.len() + rest.len()) as u64;
                Ok(())
            }
            Err(error) => {
                // Half a record must not stand in front of a whole one.
                let size = segment.size;
                if file.set_len(size).is_err() {
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
            self.seal()?;
        }
        self.dir.check()?;
        let id = self.next_id;
        let path = self.path(id);
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).mode(0o600);
        let mut file = options.open(&path)?;
        let opened = file
            .write_all(&record::opening(id))
            .and_then(|()| self.sync_dir());
        if let Err(error) = opened {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.next_id += 1;
        self.file = Some(file);
        self.segments.push_back(Segment {
            id,
            size: SEGMENT_HEADER,
            next: self.next,
        });
        Ok(id)
    }

    /// Ends the last segment; the next record opens another.
    pub fn seal(&mut self) -> io::Result<()> {
        let synced = self.sync();
        self.file = None;
        synced
    }

    /// Has everything that was appended on the disk when it returns.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.sync_data()?;
        // A removed file takes writes and syncs as if nothing were amiss.
        if file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the directory was removed",
            ));
        }
        Ok(())
    }

    /// After an error nothing is appended to the segment any more: what a failed sync has left of it in
    /// the system's cache can't be known.
    pub fn abandon(&mut self) {
        self.file = None;
    }

    /// Deletes segments from the front as long as all in them is below `floor`.
    pub fn delete_dead(&mut self, floor: u64) {
        while self
            .segments
            .front()
            .is_some_and(|segment| floor >= segment.next)
            && (self.segments.len() > 1 || self.file.is_none())
        {
            self.delete_front();
        }
        self.ages.forget_below(floor);
    }

    /// Deletes all segments.
    pub fn wipe(&mut self) -> io::Result<()> {
        if self.segments.is_empty() {
            return Ok(());
        }
        self.file = None;
        while !self.segments.is_empty() {
            self.delete_front();
        }
        self.ages.forget_below(self.next);
        // Else a power cut could bring them back, and with them events that are delivered.
        self.sync_dir()
    }

    fn delete_front(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            // Not there is as good as deleted, and what can't be deleted is full of dead events.
            let _ = fs::remove_file(self.path(segment.id));
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(self.dir.path())?.sync_all()
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id:016x}.spool"))
    }

    /// The number below which events have to go for the files to keep to `max` bytes. The last segment
    /// is sealed if it is among them.
    pub fn excess(&mut self, max: u64) -> Option<u64> {
        let mut size: u64 = self.segments.iter().map(|segment| segment.size).sum();
        let mut below = None;
        for segment in &self.segments {
            if size <= max {
                break;
            }
            size -= segment.size;
            below = Some(segment.next);
        }
        if below.is_some_and(|below| below == self.next) {
            let _ = self.seal();
        }
        below
    }

    /// The ages of the events in the files.
    pub fn ages(&self) -> &Ages {
        &self.ages
    }

    /// Reads events of a run of live ones, from its start on: at least one where it can be read, at most
    /// `max_events`, and no more than `max_bytes` unless the first alone has more. `Err` is a range that
    /// can't be read.
    pub fn read(
        &mut self,
        run: Range<u64>,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Page, Range<u64>> {
        let mut page = Page {
            first: run.start,
            ..Page::default()
        };
        let Some(segment) = self.segments.iter().find(|s| s.next > run.start) else {
            return Err(run);
        };
        let mut lost = run.start..run.end.min(segment.next);
        let (id, size) = (segment.id, segment.size);
        let mut offset = match &self.cursor {
            Some(cursor) if cursor.id == id && cursor.number <= run.start => cursor.offset,
            _ => SEGMENT_HEADER,
        };
        let Ok(mut file) = File::open(self.path(id)) else {
            return Err(lost);
        };
        if file.seek(SeekFrom::Start(offset)).is_err() {
            return Err(lost);
        }
        let mut file = BufReader::with_capacity(64 * 1024, file);
        let mut payload = Vec::new();
        let mut full = false;
        while !full && page.next() < run.end {
            let Ok(Some(record)) = record::read(&mut file, id, size - offset, &mut payload) else {
                break;
            };
            if let Record::Events { numbers, .. } = record {
                if numbers.start > page.next() {
                    lost.end = numbers.start.min(lost.end);
                    break;
                }
                if numbers.end > page.next() {
                    self.cursor = Some(Cursor {
                        id,
                        offset,
                        number: numbers.start,
                    });
                    full = take(&mut page, numbers, run.end, &payload, max_events, max_bytes);
                }
            }
            offset += (record::HEADER + payload.len()) as u64;
        }
        if page.lens.is_empty() {
            Err(lost)
        } else {
            Ok(page)
        }
    }
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

/// The number of a record's first event, and the bytes of each.
type Lens = (u64, Vec<u32>);

impl Found {
    fn recover_segment(
        &mut self,
        id: u64,
        now: u64,
        records: &mut VecDeque<Lens>,
    ) -> Result<(), OpenError> {
        let path = self.log.path(id);
        let failed = |error: io::Error| OpenError::io("read", &path, &error);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::with_capacity(256 * 1024, &file);
        let mut payload = Vec::new();
        let mut header = (&mut reader).take(SEGMENT_HEADER);
        header.read_to_end(&mut payload).map_err(failed)?;
        let mut good = match record::read_opening(&payload, id) {
            Opening::Segment => SEGMENT_HEADER,
            Opening::Foreign(version) => return Err(OpenError::Version(path, version)),
            Opening::Broken => 0,
        };
        while good > 0 {
            // What can't be read is as good as not there.
            let Ok(Some(record)) = record::read(&mut reader, id, size - good, &mut payload) else {
                break;
            };
            match record {
                Record::Events { numbers, .. } if numbers.start < self.live.next() => break,
                Record::Events { numbers, time } => {
                    let count = (numbers.end - numbers.start) as usize;
                    let lens = record::lens(&payload, count).collect();
                    records.push_back((numbers.start, lens));
                    // A clock that was ahead then must not keep events for ever.
                    self.log.ages.note(time.min(now), numbers.end);
                    self.live.append(numbers);
                }
                Record::Removed => {
                    for range in record::ranges(&payload) {
                        self.live.remove(range);
                    }
                    let floor = self.live.floor();
                    while records
                        .front()
                        .is_some_and(|(first, lens)| first + lens.len() as u64 <= floor)
                    {
                        records.pop_front();
                    }
                }
            }
            good += (record::HEADER + payload.len()) as u64;
        }
        if good < size {
            let damaged = Problem::Damaged(path.clone(), size - good);
            self.problems.push(damaged);
            let cut = file.set_len(good).and_then(|()| file.sync_all());
            cut.map_err(failed)?;
        }
        self.log.segments.push_back(Segment {
            id,
            size: good,
            next: self.live.next(),
        });
        Ok(())
    }
}

/// When events were written, in groups, so that a week of them needs but a few.
pub struct Ages {
    step: u64,
    groups: VecDeque<Group>,
}

/// Events that were written within a step.
struct Group {
    oldest: u64,
    newest: u64,
    /// The number after the last of them.
    end: u64,
}

impl Ages {
    fn new(step: u64) -> Self {
        Self {
            step: step.max(1),
            groups: VecDeque::new(),
        }
    }

    fn note(&mut self, time: u64, end: u64) {
        // A clock that was set back makes events look younger than they are, by no more than that.
        let time = time.max(self.groups.back().map_or(0, |group| group.newest));
        match self.groups.back_mut() {
            Some(group) if time < group.oldest.saturating_add(self.step) => {
                group.newest = time;
                group.end = end;
            }
            _ => self.groups.push_back(Group {
                oldest: time,
                newest: time,
                end,
            }),
        }
    }

    fn forget_below(&mut self, number: u64) {
        while self.groups.front().is_some_and(|group| group.end <= number) {
            self.groups.pop_front();
        }
    }

    /// The number below which all events were written at `time` or before.
    pub fn older_than(&self, time: u64) -> Option<u64> {
        let old = self.groups.iter().take_while(|group| group.newest <= time);
        old.last().map(|group| group.end)
    }

    /// When the oldest events from `number` on, and those of their group, were written at the latest.
    pub fn next_after(&self, number: u64) -> Option<u64> {
        let next = self.groups.iter().find(|group| group.end > number);
        next.map(|group| group.newest)
    }
}
