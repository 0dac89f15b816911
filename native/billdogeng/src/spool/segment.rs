//! The format of a segment: a header, then records of events one after the other.
//!
//! ```text
//! segment  "billdogeng spool" · version u32 · crc u32 · id u64 · next u64
//! record   "\xfbrec" · head u32 · crc u32 · len u32 · count u32 · first u64 · time u64 · payload of len bytes
//! payload  count × u32, then the events
//! ```
//!
//! All numbers are little-endian; `first` and `count` are the events' numbers, `time` is in ms since 1970, and `next` is
//! the number after the event that was written before the segment was made. Each checksum covers the segment's id. `head`
//! covers the record's header alone: if it is right, a corrupted payload is skipped by its length. If it isn't, the rest of
//! the segment is lost.

use super::format::{checksum, u32_at, u64_at, MOST, VERSION};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER: u64 = 40;
/// Bytes of a record's header.
const HEADER: usize = 36;
const SEGMENT_MAGIC: &[u8; 16] = b"billdogeng spool";
const RECORD_MAGIC: &[u8; 4] = b"\xfbrec";

/// A segment's header, as it was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// Events below this number were written before the segment was made.
    Segment(u64),
    /// It is whole, but of a version that isn't known here.
    Foreign(u32),
    /// It is corrupted.
    Corrupted,
}

/// Returns the header of a segment.
pub fn opening(id: u64, next: u64) -> [u8; SEGMENT_HEADER as usize] {
    opening_of(VERSION, id, next)
}

/// Returns the header of a segment of any version.
pub fn opening_of(version: u32, id: u64, next: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut bytes = [0; SEGMENT_HEADER as usize];
    bytes[..16].copy_from_slice(SEGMENT_MAGIC);
    bytes[16..20].copy_from_slice(&version.to_le_bytes());
    bytes[24..32].copy_from_slice(&id.to_le_bytes());
    bytes[32..40].copy_from_slice(&next.to_le_bytes());
    let crc = checksum(id, &[&bytes[..20], &bytes[24..]]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a segment's header.
pub fn read_opening(bytes: &[u8], id: u64) -> Opening {
    if bytes.len() < SEGMENT_HEADER as usize {
        return Opening::Corrupted;
    }
    let (version, next) = (u32_at(bytes, 16), u64_at(bytes, 32));
    if next > MOST || bytes != opening_of(version, id, next) {
        Opening::Corrupted
    } else if version != VERSION {
        Opening::Foreign(version)
    } else {
        Opening::Segment(next)
    }
}

/// Writes the front of a record to `out`: everything but the events.
pub fn front(out: &mut Vec<u8>, id: u64, first: u64, time: u64, lens: &[u32], events: &[u8]) {
    out.clear();
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&[0; 8]);
    let len = (4 * lens.len() + events.len()) as u32;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(lens.len() as u32).to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&time.to_le_bytes());
    lens.iter()
        .for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
    let crc = checksum(id, &[&out[HEADER..], events]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    let head = checksum(id, &[&out[8..HEADER]]);
    out[4..8].copy_from_slice(&head.to_le_bytes());
}

/// A record whose header is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The numbers of its events.
    pub numbers: Range<u64>,
    /// When they were written, in ms since 1970.
    pub time: u64,
    /// Where the record is in the file.
    pub place: Range<u64>,
    crc: u32,
}

impl Record {
    fn read(header: &[u8; HEADER], id: u64, offset: u64) -> Option<Self> {
        let whole =
            header.starts_with(RECORD_MAGIC) && checksum(id, &[&header[8..]]) == u32_at(header, 4);
        let (len, count) = (u64::from(u32_at(header, 12)), u64::from(u32_at(header, 16)));
        let first = u64_at(header, 20);
        let end = first.checked_add(count).filter(|end| *end <= MOST)?;
        (whole && count > 0 && 4 * count <= len).then(|| Self {
            numbers: first..end,
            time: u64_at(header, 28),
            place: offset..offset + HEADER as u64 + len,
            crc: u32_at(header, 8),
        })
    }

    fn payload_len(&self) -> usize {
        (self.place.end - self.place.start) as usize - HEADER
    }
}

/// The events of a record.
pub struct Payload<'a> {
    lens: &'a [u8],
    /// The events, each followed by a comma.
    pub events: &'a [u8],
}

impl Payload<'_> {
    /// Returns the length of each event.
    pub fn lens(&self) -> impl Iterator<Item = u32> + '_ {
        self.lens.chunks_exact(4).map(|len| u32_at(len, 0))
    }
}

/// The records of a segment, in order.
pub struct Records<'a> {
    reader: BufReader<&'a File>,
    /// Where the reader is.
    position: u64,
    /// Where the next record is.
    offset: u64,
    id: u64,
    size: u64,
    payload: Vec<u8>,
}

impl<'a> Records<'a> {
    /// Reads the records from an offset on, of a segment of `size` bytes.
    pub fn new(file: &'a File, id: u64, offset: u64, size: u64) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        reader.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            reader,
            position: offset,
            offset,
            id,
            size,
            payload: Vec::new(),
        })
    }

    /// Reads the next record's header. Returns `None` at the end, and if the header is corrupted or its record goes beyond
    /// the end: then the rest of the segment is lost.
    ///
    /// # Errors
    /// The file can't be read for now. That does not prove anything about its records: they must not be taken for corrupted.
    pub fn header(&mut self) -> io::Result<Option<Record>> {
        self.reader
            .seek_relative(self.offset as i64 - self.position as i64)?;
        self.position = self.offset;
        let mut header = [0; HEADER];
        if self.offset + HEADER as u64 > self.size || !self.read(&mut header)? {
            return Ok(None);
        }
        let record = Record::read(&header, self.id, self.offset);
        // A corrupted length must not reserve memory for it.
        let record = record.filter(|record| record.place.end <= self.size);
        if let Some(record) = &record {
            self.offset = record.place.end;
        }
        Ok(record)
    }

    /// Reads the payload of the record that [`Records::header`] has just returned; `None` if it is corrupted.
    ///
    /// # Errors
    /// As for [`Records::header`].
    pub fn payload(&mut self, record: &Record) -> io::Result<Option<Payload<'_>>> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(record.payload_len(), 0);
        let read = self.read(&mut payload);
        self.payload = payload;
        if !read? || checksum(self.id, &[&self.payload]) != record.crc {
            return Ok(None);
        }
        let count = (record.numbers.end - record.numbers.start) as usize;
        let (lens, events) = self.payload.split_at(4 * count);
        let payload = Payload { lens, events };
        let sum: u64 = payload.lens().map(u64::from).sum();
        Ok((sum == events.len() as u64).then_some(payload))
    }

    /// Returns whether all bytes were there: a file that is too short is corrupted, any other error does not prove anything about
    /// its content.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.position += bytes.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.position = self.reader.stream_position()?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Returns the numbers of the records, each with whether its payload is whole, and where reading ended.
    fn read(id: u64, bytes: &[u8]) -> (Vec<(u64, bool)>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut records = Records::new(&file, id, 0, bytes.len() as u64).unwrap();
        let (mut read, mut end) = (Vec::new(), 0);
        while let Some(record) = records.header().unwrap() {
            let whole = records.payload(&record).unwrap().is_some();
            read.push((record.numbers.start, whole));
            end = record.place.end;
        }
        (read, end)
    }

    fn two_events(first: u64) -> Vec<u8> {
        let mut record = Vec::new();
        front(&mut record, 7, first, 1_000, &[2, 3], b"1,22,");
        record.extend_from_slice(b"1,22,");
        record
    }

    #[test]
    fn a_corrupted_payload_is_skipped_and_a_corrupted_header_ends_the_segment() {
        let records = [40, 42, 44].map(two_events);
        let len = records[0].len();
        assert_eq!(
            read(7, &records.concat()),
            (vec![(40, true), (42, true), (44, true)], 3 * len as u64)
        );
        assert_eq!(read(8, &records.concat()), (vec![], 0));
        assert_eq!(read(7, &[]), (vec![], 0));
        for bit in 0..len * 8 {
            let mut bytes = records.concat();
            bytes[len + bit / 8] ^= 1 << (bit % 8);
            let expected = match bit < HEADER * 8 {
                true => (vec![(40, true)], len as u64),
                false => (vec![(40, true), (42, false), (44, true)], 3 * len as u64),
            };
            assert_eq!(read(7, &bytes), expected, "bit {bit}");
        }
        for cut in 1..len {
            let bytes = &records.concat()[..len + cut];
            assert_eq!(read(7, bytes), (vec![(40, true)], len as u64), "{cut}");
        }
    }

    #[test]
    fn a_payload_that_is_not_read_is_skipped() {
        let bytes = [40, 42, 44].map(two_events).concat();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut records = Records::new(&file, 7, 0, bytes.len() as u64).unwrap();
        assert_eq!(records.header().unwrap().unwrap().numbers, 40..42);
        let second = records.header().unwrap().unwrap();
        assert_eq!((second.numbers.clone(), second.time), (42..44, 1_000));
        let payload = records.payload(&second).unwrap().unwrap();
        assert_eq!(
            (payload.lens().collect::<Vec<_>>(), payload.events),
            (vec![2, 3], &b"1,22,"[..])
        );
        assert_eq!(records.header().unwrap().unwrap().numbers, 44..46);
    }

    #[test]
    fn numbers_that_no_client_can_have_are_corruption() {
        for first in [u64::MAX - 1, u64::MAX - 2, 1 << 62] {
            assert_eq!(read(7, &two_events(first)).0, []);
        }
        assert_eq!(read(7, &two_events((1 << 62) - 2)).0.len(), 1);
        assert_eq!(read_opening(&opening(3, u64::MAX), 3), Opening::Corrupted);
    }

    #[test]
    fn another_version_is_not_taken_for_corruption() {
        assert_eq!(read_opening(&opening(3, 9), 3), Opening::Segment(9));
        assert_eq!(read_opening(&opening(3, 9), 4), Opening::Corrupted);
        for version in [1, 3] {
            let opening = opening_of(version, 3, 9);
            assert_eq!(read_opening(&opening, 3), Opening::Foreign(version));
        }
        assert_eq!(read_opening(&opening(3, 9)[..39], 3), Opening::Corrupted);
    }
}
