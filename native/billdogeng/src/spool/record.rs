//! What lies in a segment: a header, then records one after the other, each with its own checksums.
//!
//! ```text
//! segment  "billdogeng spool" · version u32 · crc u32 · id u64 · next u64 · 2 × (floor u64 · crc u32)
//! record   "\xfbrec" · head u32 · crc u32 · len u32 · kind u32 · count u32 · first u64 · time u64 · after u64
//!          · payload of len bytes
//!   events   first, count: their numbers · time: ms since 1970 · after: the number after the event that was
//!            written before them · payload: count × u32, then the events
//!   removed  count ranges · payload: count × (u64, u64)
//! ```
//!
//! All numbers are little-endian. Checksums are CRC-32, of the segment's id too, so that a record that strayed in
//! from another segment is none. `head` is that of the record's header alone: where it is right the next record is
//! found behind a payload that isn't whole, and where it isn't, by its first bytes, which no JSON has in it.
//! `next` is as `after` of the segment's first record would be; a floor is written over where the disk takes
//! nothing else, the two in turns, and all events below it are gone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER: u64 = 64;
/// Bytes of a record's header.
pub const HEADER: usize = 48;
/// What stands in place of what was damaged, once that is told. No record begins with it.
pub const FILL: u8 = 0xfe;

const SEGMENT_MAGIC: &[u8; 16] = b"billdogeng spool";
const VERSION: u32 = 1;
const RECORD_MAGIC: &[u8; 4] = b"\xfbrec";
const EVENTS: u32 = 1;
const REMOVED: u32 = 2;
/// No event has this number or a higher one, which leaves a client as many as it can ever use.
const MOST: u64 = 1 << 62;
/// Where the floors are.
const FLOORS: [usize; 2] = [40, 52];
/// Bytes that are searched for a record behind damage: far more than a segment has.
const FURTHEST: u64 = 64 * 1024 * 1024;
/// Bytes that are looked at there in one go, at first and at most: many small damages must not cost a large one each.
const WINDOWS: (u64, u64) = (512, 64 * 1024);

/// What a segment's header says.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// A segment of this version, before which events below `next` were written; those below `floor` are gone.
    Segment { next: u64, floor: u64 },
    /// Whole, but of a version that isn't known here.
    Foreign(u32),
    /// Nothing that can be trusted.
    Broken,
}

/// The header of a segment.
pub fn opening(id: u64, next: u64) -> [u8; SEGMENT_HEADER as usize] {
    opening_of(VERSION, id, next)
}

/// The same of any version.
pub fn opening_of(version: u32, id: u64, next: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut bytes = [0; SEGMENT_HEADER as usize];
    bytes[..16].copy_from_slice(SEGMENT_MAGIC);
    bytes[16..20].copy_from_slice(&version.to_le_bytes());
    bytes[24..32].copy_from_slice(&id.to_le_bytes());
    bytes[32..40].copy_from_slice(&next.to_le_bytes());
    let crc = checksum(id, &[&bytes[..20], &bytes[24..40]]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a segment's header.
pub fn read_opening(bytes: &[u8], id: u64) -> Opening {
    if bytes.len() < SEGMENT_HEADER as usize {
        return Opening::Broken;
    }
    let (version, next) = (u32_at(bytes, 16), u64_at(bytes, 32));
    if next > MOST || bytes[..40] != opening_of(version, id, next)[..40] {
        return Opening::Broken;
    }
    match version {
        VERSION => Opening::Segment {
            next,
            floor: floor_in(bytes, id),
        },
        other => Opening::Foreign(other),
    }
}

/// A floor as it is written over, and where: for the `turn`th time.
pub fn floor(id: u64, floor: u64, turn: usize) -> ([u8; 12], u64) {
    let (mut bytes, floor) = ([0; 12], floor.to_le_bytes());
    bytes[..8].copy_from_slice(&floor);
    bytes[8..].copy_from_slice(&checksum(id, &[&floor]).to_le_bytes());
    (bytes, FLOORS[turn % 2] as u64)
}

fn floor_in(bytes: &[u8], id: u64) -> u64 {
    let whole = |at: &usize| checksum(id, &[&bytes[*at..at + 8]]) == u32_at(bytes, at + 8);
    let floors = FLOORS.into_iter().filter(whole);
    floors.map(|at| u64_at(bytes, at)).max().unwrap_or(0)
}

/// Writes the front of a record of events to `out`: all of it but the events themselves.
pub fn events(
    out: &mut Vec<u8>,
    id: u64,
    after: u64,
    first: u64,
    time: u64,
    lens: &[u32],
    events: &[u8],
) {
    let header = Header {
        kind: EVENTS,
        count: lens.len() as u32,
        len: (4 * lens.len() + events.len()) as u32,
        first,
        time,
        after,
        crc: 0,
    };
    header.write(out);
    lens.iter()
        .for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
    seal(out, id, events);
}

/// Writes a record of removed ranges to `out`.
pub fn removed(out: &mut Vec<u8>, id: u64, ranges: &[Range<u64>]) {
    let header = Header {
        kind: REMOVED,
        count: ranges.len() as u32,
        len: 16 * ranges.len() as u32,
        ..Header::default()
    };
    header.write(out);
    for range in ranges {
        out.extend_from_slice(&range.start.to_le_bytes());
        out.extend_from_slice(&range.end.to_le_bytes());
    }
    seal(out, id, &[]);
}

#[derive(Default)]
struct Header {
    crc: u32,
    len: u32,
    kind: u32,
    count: u32,
    first: u64,
    time: u64,
    after: u64,
}

impl Header {
    fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(RECORD_MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.after.to_le_bytes());
    }

    /// A header that is whole, and says what can be.
    fn read(bytes: &[u8], id: u64) -> Option<Self> {
        if !bytes.starts_with(RECORD_MAGIC) || checksum(id, &[&bytes[8..]]) != u32_at(bytes, 4) {
            return None;
        }
        let header = Self {
            crc: u32_at(bytes, 8),
            len: u32_at(bytes, 12),
            kind: u32_at(bytes, 16),
            count: u32_at(bytes, 20),
            first: u64_at(bytes, 24),
            time: u64_at(bytes, 32),
            after: u64_at(bytes, 40),
        };
        let (len, count) = (u64::from(header.len), u64::from(header.count));
        let sound = match header.kind {
            EVENTS => {
                let end = header.first.checked_add(count);
                count > 0
                    && 4 * count <= len
                    && header.after <= header.first
                    && end.is_some_and(|end| end <= MOST)
            }
            REMOVED => 16 * count == len,
            _ => false,
        };
        sound.then_some(header)
    }

    /// Whether the payload is this header's.
    fn fits(&self, header: &[u8], payload: &[u8], id: u64) -> bool {
        if checksum(id, &[&header[12..], payload]) != self.crc {
            return false;
        }
        let count = self.count as usize;
        let stored = |lens: u64| lens + 4 * count as u64 == payload.len() as u64;
        self.kind == REMOVED || stored(lens(payload, count).map(u64::from).sum())
    }

    fn record(&self) -> Record {
        match self.kind {
            EVENTS => Record::Events {
                numbers: self.first..self.first + u64::from(self.count),
                time: self.time,
                after: self.after,
            },
            _ => Record::Removed,
        }
    }
}

fn seal(out: &mut [u8], id: u64, rest: &[u8]) {
    let crc = checksum(id, &[&out[12..], rest]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    let head = checksum(id, &[&out[8..HEADER]]);
    out[4..8].copy_from_slice(&head.to_le_bytes());
}

/// A record that was read, its payload still in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// Events of consecutive numbers.
    Events {
        /// Their numbers.
        numbers: Range<u64>,
        /// When they were written, in ms since 1970.
        time: u64,
        /// The number after the event that was written before them.
        after: u64,
    },
    /// Ranges of events that are gone.
    Removed,
}

/// The records of a segment, one after the other: what is damaged is passed over, at the cost of the record that it
/// is in. The work grows with the bytes, whatever they are.
pub struct Records<'a> {
    file: &'a File,
    reader: BufReader<&'a File>,
    /// Where the reader stands, if that is known.
    position: Option<u64>,
    id: u64,
    /// Where the next record is.
    offset: u64,
    size: u64,
    payload: Vec<u8>,
    damaged: Vec<Range<u64>>,
}

impl<'a> Records<'a> {
    /// Those from an offset on, of a segment of so many bytes.
    pub fn new(file: &'a File, id: u64, offset: u64, size: u64) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(WINDOWS.1 as usize, file);
        reader.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            file,
            reader,
            position: Some(offset),
            id,
            offset,
            size,
            payload: Vec::new(),
            damaged: Vec::new(),
        })
    }

    /// Returns the next whole record and its place.
    ///
    /// # Errors
    /// The file can't be read for now. That says nothing about its records: they must not be taken for corrupted.
    pub fn read(&mut self) -> io::Result<Option<(Range<u64>, Record)>> {
        loop {
            self.skip_fill()?;
            if self.offset >= self.size {
                return Ok(None);
            }
            let mut bytes = [0; HEADER];
            let Some(header) = self.header(&mut bytes)? else {
                let next = self.search(self.offset + 1)?;
                self.give_up(next)?;
                continue;
            };
            let place = self.offset..self.offset + HEADER as u64 + u64::from(header.len);
            self.payload.resize(header.len as usize, 0);
            let whole = is_whole(self.reader.read_exact(&mut self.payload))?;
            self.position = whole.then_some(place.end);
            if whole && header.fits(&bytes, &self.payload, self.id) {
                self.offset = place.end;
                return Ok(Some((place, header.record())));
            }
            self.give_up(place.end)?;
        }
    }

    /// The payload of the record that was read last.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// That record can't be what it says: it is damage as any other.
    pub fn refuse(&mut self, place: Range<u64>) {
        match self.damaged.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => self.damaged.push(place),
        }
    }

    /// Where what was passed over is, in order.
    pub fn into_damaged(self) -> Vec<Range<u64>> {
        self.damaged
    }

    fn skip_fill(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let left = self.size.saturating_sub(self.offset) as usize;
            let filled = buffer.iter().take(left);
            let filled = filled.take_while(|byte| **byte == FILL).count();
            if filled == 0 {
                return Ok(());
            }
            self.reader.consume(filled);
            self.offset += filled as u64;
            self.position = Some(self.offset);
        }
    }

    fn header(&mut self, bytes: &mut [u8; HEADER]) -> io::Result<Option<Header>> {
        let Some(left) = (self.size - self.offset).checked_sub(HEADER as u64) else {
            return Ok(None);
        };
        let whole = is_whole(self.reader.read_exact(bytes))?;
        self.position = whole.then_some(self.offset + HEADER as u64);
        // Its length is looked at before room is made: a broken one must not ask for 4 GiB.
        let header = whole.then(|| Header::read(bytes, self.id)).flatten();
        Ok(header.filter(|header| u64::from(header.len) <= left))
    }

    /// Returns where the next whole header is, or the end.
    fn search(&self, from: u64) -> io::Result<u64> {
        let end = self.size.min(from.saturating_add(FURTHEST));
        let (mut at, mut window, mut most) = (from, Vec::new(), WINDOWS.0);
        while at + HEADER as u64 <= end {
            window.resize((end - at).min(most) as usize, 0);
            most = WINDOWS.1.min(2 * most);
            if !is_whole(self.file.read_exact_at(&mut window, at))? {
                break;
            }
            let found = window.windows(HEADER).enumerate().find(|(start, bytes)| {
                let left = self.size - at - (start + HEADER) as u64;
                let fits = |header: &Header| u64::from(header.len) <= left;
                Header::read(bytes, self.id).as_ref().is_some_and(fits)
            });
            if let Some((start, _)) = found {
                return Ok(at + start as u64);
            }
            at += (window.len() - HEADER + 1) as u64;
        }
        Ok(self.size)
    }

    fn give_up(&mut self, to: u64) -> io::Result<()> {
        self.refuse(self.offset..to);
        self.offset = to;
        match self.position {
            // What is in the buffer stays there.
            Some(position) => self.reader.seek_relative(to as i64 - position as i64)?,
            None => drop(self.reader.seek(SeekFrom::Start(to))?),
        }
        self.position = Some(to);
        Ok(())
    }
}

/// Whether all bytes were there: a file that is too short is corrupted, any other error says nothing about it.
fn is_whole(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The lengths of the `count` events in a payload.
pub fn lens(payload: &[u8], count: usize) -> impl Iterator<Item = u32> + '_ {
    payload[..4 * count]
        .chunks_exact(4)
        .map(|len| u32_at(len, 0))
}

/// The ranges in a payload of a [`Record::Removed`].
pub fn ranges(payload: &[u8]) -> impl Iterator<Item = Range<u64>> + '_ {
    payload
        .chunks_exact(16)
        .map(|range| u64_at(range, 0)..u64_at(range, 8))
}

fn checksum(id: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What is read of a segment's records, and what of them is damaged.
    fn read(id: u64, bytes: &[u8]) -> (Vec<Record>, Vec<u8>, Vec<(u64, u64)>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut records = Records::new(&file, id, 0, bytes.len() as u64).unwrap();
        let read =
            std::iter::from_fn(|| records.read().unwrap().map(|(_, record)| record)).collect();
        let payload = records.payload().to_vec();
        let damaged = records.into_damaged().into_iter();
        let damaged = damaged.map(|range| (range.start, range.end)).collect();
        (read, payload, damaged)
    }

    fn two_events(first: u64) -> Vec<u8> {
        let mut record = Vec::new();
        events(&mut record, 7, first, first, 1_000, &[2, 3], b"1,22,");
        record.extend_from_slice(b"1,22,");
        record
    }

    #[test]
    fn no_bit_of_a_record_can_change_unnoticed_nor_a_byte_be_cut_off() {
        let record = two_events(40);
        let whole = Record::Events {
            numbers: 40..42,
            time: 1_000,
            after: 40,
        };
        assert_eq!(read(7, &record).0, [whole]);
        assert_eq!(read(8, &record).0, []);
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (records, _, damaged) = read(7, &changed);
            assert_eq!((records, damaged), (vec![], vec![(0, 61)]), "bit {bit}");
        }
        for len in 1..record.len() {
            let (records, _, damaged) = read(7, &record[..len]);
            assert_eq!((records, damaged), (vec![], vec![(0, len as u64)]), "{len}");
        }
        assert_eq!(read(7, &[]), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_damaged_record_costs_neither_the_one_in_front_of_it_nor_the_one_behind() {
        let one = two_events(40);
        for bit in 0..one.len() * 8 {
            let mut damaged = two_events(42);
            damaged[bit / 8] ^= 1 << (bit % 8);
            let all = [&one[..], &damaged, &two_events(44)].concat();
            let (records, _, lost) = read(7, &all);
            assert_eq!((records.len(), lost), (2, vec![(61, 122)]), "bit {bit}");
        }
        for garbage in [&b"x"[..], &[0; 300], RECORD_MAGIC, &one[..40]] {
            let all = [&one[..], garbage, &two_events(44)].concat();
            let (records, _, lost) = read(7, &all);
            assert_eq!(
                (records.len(), lost),
                (2, vec![(61, 61 + garbage.len() as u64)])
            );
        }
        let filled = [&one[..], &[FILL; 5], &two_events(44), &[FILL]].concat();
        let (records, _, lost) = read(7, &filled);
        assert_eq!((records.len(), lost), (2, vec![]));
    }

    #[test]
    fn numbers_that_no_client_can_have_are_damage() {
        for first in [u64::MAX - 1, u64::MAX - 2, 1 << 62] {
            assert_eq!(read(7, &two_events(first)).0, []);
        }
        assert_eq!(read(7, &two_events((1 << 62) - 2)).0.len(), 1);
        assert_eq!(read_opening(&opening(3, u64::MAX), 3), Opening::Broken);
    }

    #[test]
    fn removed_ranges_read_as_they_were_written() {
        let mut record = Vec::new();
        removed(&mut record, 1, &[0..3, 9..u64::MAX]);
        let (records, payload, _) = read(1, &record);
        assert_eq!(records, [Record::Removed]);
        assert_eq!(ranges(&payload).collect::<Vec<_>>(), [0..3, 9..u64::MAX]);
    }

    #[test]
    fn a_later_version_is_told_from_a_broken_header() {
        let fresh = Opening::Segment { next: 9, floor: 0 };
        assert_eq!(read_opening(&opening(3, 9), 3), fresh);
        assert_eq!(read_opening(&opening(3, 9), 4), Opening::Broken);
        assert_eq!(read_opening(&opening_of(2, 3, 9), 3), Opening::Foreign(2));
        assert_eq!(read_opening(&opening(3, 9)[..63], 3), Opening::Broken);
    }

    #[test]
    fn of_two_floors_the_higher_counts_and_one_that_is_torn_leaves_the_other() {
        let mut bytes = opening(3, 9);
        let floor_of = |bytes: &[u8]| match read_opening(bytes, 3) {
            Opening::Segment { floor, .. } => floor,
            other => panic!("{other:?}"),
        };
        for (turn, number) in [5, 7, 8].into_iter().enumerate() {
            let (floor, at) = floor(3, number, turn);
            bytes[at as usize..][..6].copy_from_slice(&floor[..6]);
            assert_eq!(floor_of(&bytes), [0, 5, 7][turn], "torn");
            bytes[at as usize..][..12].copy_from_slice(&floor);
            assert_eq!(floor_of(&bytes), number);
        }
    }
}
