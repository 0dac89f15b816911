//! What lies in a segment: a header, then records one after the other, each with its own checksum.
//!
//! ```text
//! segment  "billdogeng spool" · version u32 · crc u32 · id u64
//! record   crc u32 · len u32 · kind u32 · count u32 · first u64 · time u64 · payload of len bytes
//!   events   first, count: their numbers · time: ms since 1970 · payload: count × u32, then the events
//!   removed  count ranges · payload: count × (u64, u64)
//! ```
//!
//! All numbers are little-endian. The checksum is CRC-32 of the segment's id and of all of the record
//! behind it, so that a record that strayed in from another segment is none.

use std::io::{self, Read};
use std::ops::Range;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER: u64 = 32;
/// Bytes of a record's header.
pub const HEADER: usize = 32;

const MAGIC: &[u8; 16] = b"billdogeng spool";
const VERSION: u32 = 1;
const EVENTS: u32 = 1;
const REMOVED: u32 = 2;

/// What a segment's header says.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// A segment of this version.
    Segment,
    /// Whole, but of a version that isn't known here.
    Foreign(u32),
    /// Nothing that can be trusted.
    Broken,
}

/// The header of a segment.
pub fn opening(id: u64) -> [u8; SEGMENT_HEADER as usize] {
    opening_of(VERSION, id)
}

/// The same of any version.
pub fn opening_of(version: u32, id: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut bytes = [0; SEGMENT_HEADER as usize];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&version.to_le_bytes());
    bytes[24..].copy_from_slice(&id.to_le_bytes());
    let crc = checksum(id, &[&bytes[..20]]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a segment's header.
pub fn read_opening(bytes: &[u8], id: u64) -> Opening {
    if bytes.len() < SEGMENT_HEADER as usize {
        return Opening::Broken;
    }
    let version = u32_at(bytes, 16);
    if bytes[..SEGMENT_HEADER as usize] != opening_of(version, id) {
        return Opening::Broken;
    }
    match version {
        VERSION => Opening::Segment,
        other => Opening::Foreign(other),
    }
}

/// Writes the front of a record of events to `out`: all of it but the events themselves.
pub fn events(out: &mut Vec<u8>, id: u64, first: u64, time: u64, lens: &[u32], events: &[u8]) {
    out.clear();
    header(
        out,
        EVENTS,
        lens.len(),
        first,
        time,
        4 * lens.len() + events.len(),
    );
    lens.iter()
        .for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
    seal(out, id, events);
}

/// Writes a record of removed ranges to `out`.
pub fn removed(out: &mut Vec<u8>, id: u64, ranges: &[Range<u64>]) {
    out.clear();
    header(out, REMOVED, ranges.len(), 0, 0, 16 * ranges.len());
    for range in ranges {
        out.extend_from_slice(&range.start.to_le_bytes());
        out.extend_from_slice(&range.end.to_le_bytes());
    }
    seal(out, id, &[]);
}

fn header(out: &mut Vec<u8>, kind: u32, count: usize, first: u64, time: u64, len: usize) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&time.to_le_bytes());
}

fn seal(out: &mut [u8], id: u64, rest: &[u8]) {
    let crc = checksum(id, &[&out[4..], rest]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
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
    },
    /// Ranges of events that are gone.
    Removed,
}

/// Reads the next record of segment `id`, of which `left` bytes are unread, its payload into `payload`.
/// `Ok(None)` is the end; `Err` what can't be read or isn't whole.
pub fn read(
    from: &mut impl Read,
    id: u64,
    left: u64,
    payload: &mut Vec<u8>,
) -> io::Result<Option<Record>> {
    if left == 0 {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    if left < HEADER as u64 {
        return Err(broken());
    }
    from.read_exact(&mut header)?;
    let len = u32_at(&header, 4) as usize;
    // Looked at before room is made: a broken length must not ask for 4 GiB.
    if len as u64 > left - HEADER as u64 {
        return Err(broken());
    }
    payload.resize(len, 0);
    from.read_exact(payload)?;
    if checksum(id, &[&header[4..], payload]) != u32_at(&header, 0) {
        return Err(broken());
    }
    let count = u32_at(&header, 12) as usize;
    let (first, time) = (u64_at(&header, 16), u64_at(&header, 24));
    match u32_at(&header, 8) {
        EVENTS if count > 0 && 4 * count <= len => {
            let stored: u64 = lens(payload, count).map(u64::from).sum();
            let end = first.checked_add(count as u64);
            match end {
                Some(end) if stored + 4 * count as u64 == len as u64 => Ok(Some(Record::Events {
                    numbers: first..end,
                    time,
                })),
                _ => Err(broken()),
            }
        }
        REMOVED if 16 * count == len => Ok(Some(Record::Removed)),
        _ => Err(broken()),
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

fn broken() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
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

    #[test]
    fn no_bit_of_a_record_can_change_unnoticed_nor_a_byte_be_cut_off() {
        let (mut record, mut payload) = (Vec::new(), Vec::new());
        events(&mut record, 7, 40, 1_000, &[2, 3], b"1,22,");
        record.extend_from_slice(b"1,22,");
        let mut read_of =
            |id, bytes: &[u8]| read(&mut &bytes[..], id, bytes.len() as u64, &mut payload);
        let whole = Record::Events {
            numbers: 40..42,
            time: 1_000,
        };
        assert_eq!(read_of(7, &record).unwrap(), Some(whole));
        assert!(read_of(8, &record).is_err());
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read_of(7, &changed).is_err(), "bit {bit}");
        }
        for len in 1..record.len() {
            assert!(read_of(7, &record[..len]).is_err(), "{len} bytes");
        }
        assert_eq!(read_of(7, &[]).unwrap(), None);
    }

    #[test]
    fn removed_ranges_read_as_they_were_written() {
        let (mut record, mut payload) = (Vec::new(), Vec::new());
        removed(&mut record, 1, &[0..3, 9..u64::MAX]);
        let len = record.len() as u64;
        assert_eq!(
            read(&mut &record[..], 1, len, &mut payload).unwrap(),
            Some(Record::Removed)
        );
        assert_eq!(ranges(&payload).collect::<Vec<_>>(), [0..3, 9..u64::MAX]);
    }

    #[test]
    fn a_later_version_is_told_from_a_broken_header() {
        assert_eq!(read_opening(&opening(3), 3), Opening::Segment);
        assert_eq!(read_opening(&opening(3), 4), Opening::Broken);
        assert_eq!(read_opening(&opening_of(2, 3), 3), Opening::Foreign(2));
        assert_eq!(read_opening(&opening(3)[..31], 3), Opening::Broken);
    }
}
