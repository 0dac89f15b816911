//! The ledger: the one record of the events in the segments that are removed (delivered, dropped or purged).
//!
//! ```text
//! file "ledger"   slot · slot, each of 8 KiB, written in turns
//! slot            "billdogeng gone\n" · version u32 · crc u32 · len u32 · entry of len bytes
//! entry           turn u64 · floor u64 · in doubt u32 · ranges: (u64, u64) each
//! ```
//!
//! All numbers are little-endian. The slot with the highest turn counts, so an entry that was only half written leaves the
//! one before it. All events below the floor are removed, and those in the ranges above it. The file has its full size
//! before there is a segment, so a full disk takes each later entry. There is room for [`MOST_RANGES`] ranges: events in
//! others are sent again after a restart.

use super::error::OpenError;
use super::files;
use super::format::{checksum, u32_at, u64_at, VERSION};
use super::platform::{FileExt, OpenOptionsExt};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 16] = b"billdogeng gone\n";
const SLOT: usize = 8 * 1024;
/// The bytes of a slot before its entry, and of an entry before its ranges.
const FRAME: usize = 28;
const FRONT: usize = 20;
/// A batch of 1,000 events of which every other one was refused has fewer.
pub const MOST_RANGES: usize = (SLOT - FRAME - FRONT) / 16;

/// The events that are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// All events below are removed.
    pub floor: u64,
    /// Those above the floor, in order.
    pub ranges: Vec<Range<u64>>,
}

impl Removed {
    /// Returns whether all these events are removed.
    pub fn covers(&self, numbers: &Range<u64>) -> bool {
        let within = |range: &Range<u64>| range.start <= numbers.start && numbers.end <= range.end;
        numbers.end <= self.floor || self.ranges.iter().any(within)
    }

    /// Returns the number after the last event that is removed.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(self.floor, |range| range.end)
    }
}

/// The contents of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub removed: Removed,
    /// The times in the segments can't be trusted.
    pub in_doubt: bool,
}

/// The ledger of a directory that is held.
pub struct Ledger {
    path: PathBuf,
    /// Open once it was written, so that a later write needs no file descriptor.
    file: Option<Arc<File>>,
    turn: u64,
    /// The entry that was written last; none if that is not known.
    written: Option<Entry>,
}

impl Ledger {
    /// Reads the ledger of a directory. Without one that is whole there is no entry.
    ///
    /// # Errors
    /// It can't be read for now, or is of another version.
    pub fn read(dir: &Path) -> Result<(Self, Option<Entry>), OpenError> {
        let path = dir.join(files::LEDGER);
        let failed = |error: io::Error| OpenError::io("read", &path, &error);
        let mut bytes = Vec::new();
        match files::open(&path, OpenOptions::new().read(true)) {
            Ok(file) => {
                let mut file = file.take(2 * SLOT as u64);
                file.read_to_end(&mut bytes).map_err(failed)?;
            }
            Err(error) if files::is_gone(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut latest = None;
        for slot in bytes.chunks(SLOT) {
            match read_slot(slot) {
                Slot::Entry(turn, entry) => {
                    if latest.as_ref().is_none_or(|(last, _)| turn > *last) {
                        latest = Some((turn, entry));
                    }
                }
                Slot::Foreign(version) => return Err(OpenError::Version(path, version)),
                Slot::Corrupted => {}
            }
        }
        let (turn, entry) = latest.unzip();
        let ledger = Self {
            path,
            file: None,
            turn: turn.unwrap_or(0),
            written: entry.clone(),
        };
        Ok((ledger, entry))
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether this entry was written last.
    pub fn has(&self, entry: &Entry) -> bool {
        self.written.as_ref() == Some(entry)
    }

    /// Returns the open file.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// Opens the file, and makes it where there is none.
    pub fn open(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = files::open(&self.path, &mut options)?;
        let len = file.metadata()?.len();
        if len < 2 * SLOT as u64 {
            file.write_all_at(&[0; 2 * SLOT][len as usize..], len)?;
        }
        self.file = Some(Arc::new(file));
        Ok(())
    }

    /// Writes an entry to the open file.
    pub fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let turn = self.turn + 1;
        let at = turn % 2 * SLOT as u64;
        file.write_all_at(&slot(turn, entry), at)?;
        self.turn = turn;
        self.written = Some(entry.clone());
        Ok(())
    }

    /// Closes the file after an error: its content on the disk is not known, so the next write repeats the entry.
    pub fn abandon(&mut self) {
        self.file = None;
        self.written = None;
    }
}

enum Slot {
    Entry(u64, Entry),
    Foreign(u32),
    Corrupted,
}

fn slot(turn: u64, entry: &Entry) -> Vec<u8> {
    let Removed { floor, ranges } = &entry.removed;
    let mut bytes = Vec::with_capacity(FRAME + FRONT + 16 * ranges.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&turn.to_le_bytes());
    bytes.extend_from_slice(&floor.to_le_bytes());
    bytes.extend_from_slice(&u32::from(entry.in_doubt).to_le_bytes());
    for range in ranges {
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&range.end.to_le_bytes());
    }
    let len = (bytes.len() - FRAME) as u32;
    bytes[24..28].copy_from_slice(&len.to_le_bytes());
    let crc = checksum(0, &[&bytes[16..20], &bytes[24..]]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_slot(bytes: &[u8]) -> Slot {
    if bytes.len() < FRAME || !bytes.starts_with(MAGIC) {
        return Slot::Corrupted;
    }
    let Some(entry) = bytes[FRAME..].get(..u32_at(bytes, 24) as usize) else {
        return Slot::Corrupted;
    };
    // The frame is the same in each version, so another version is not taken for corruption.
    if checksum(0, &[&bytes[16..20], &bytes[24..28], entry]) != u32_at(bytes, 20) {
        return Slot::Corrupted;
    }
    match u32_at(bytes, 16) {
        VERSION if entry.len() >= FRONT => {}
        version => return Slot::Foreign(version),
    }
    let ranges = entry[FRONT..].chunks_exact(16);
    let removed = Removed {
        floor: u64_at(entry, 8),
        ranges: ranges
            .map(|range| u64_at(range, 0)..u64_at(range, 8))
            .collect(),
    };
    let in_doubt = u32_at(entry, 16) != 0;
    Slot::Entry(u64_at(entry, 0), Entry { removed, in_doubt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    fn entry(floor: u64, ranges: usize) -> Entry {
        let ranges = (1..=ranges as u64).map(|n| floor + 10 * n..floor + 10 * n + 1);
        Entry {
            removed: Removed {
                floor,
                ranges: ranges.collect(),
            },
            in_doubt: floor % 2 == 1,
        }
    }

    fn read(dir: &TempDir) -> Option<Entry> {
        Ledger::read(dir.path()).unwrap().1
    }

    #[test]
    fn the_entry_that_was_written_last_is_read_and_the_file_keeps_its_size() {
        let dir = TempDir::new().unwrap();
        for n in 0..5 {
            let (mut ledger, _) = Ledger::read(dir.path()).unwrap();
            ledger.open().unwrap();
            for n in [10 * n, 10 * n + 1] {
                let entry = entry(n, [0, 1, MOST_RANGES][n as usize % 3]);
                assert!(!ledger.has(&entry));
                ledger.write(&entry).unwrap();
                assert!(ledger.has(&entry));
                assert_eq!(read(&dir), Some(entry));
            }
            let len = fs::metadata(ledger.path()).unwrap().len();
            assert_eq!(len, 2 * SLOT as u64);
        }
    }

    #[test]
    fn a_corrupted_entry_leaves_the_one_before_it() {
        let dir = TempDir::new().unwrap();
        let (mut ledger, none) = Ledger::read(dir.path()).unwrap();
        assert_eq!(none, None);
        ledger.open().unwrap();
        assert_eq!(read(&dir), None, "it has no entry yet");
        (1..=2).for_each(|n| ledger.write(&entry(n, 3)).unwrap());
        let whole = fs::read(ledger.path()).unwrap();
        let len = FRAME + FRONT + 3 * 16;
        for bit in 0..8 * len {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(ledger.path(), &bytes).unwrap();
            assert_eq!(read(&dir), Some(entry(1, 3)), "bit {bit}");
        }
        fs::write(ledger.path(), &whole[..len - 1]).unwrap();
        assert_eq!(read(&dir), None, "neither is whole");
    }

    #[test]
    fn a_ledger_of_another_version_is_an_error() {
        let dir = TempDir::new().unwrap();
        let mut bytes = slot(7, &entry(1, 1));
        bytes[16] = 3;
        let crc = checksum(0, &[&bytes[16..20], &bytes[24..]]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        let path = dir.path().join(files::LEDGER);
        fs::write(&path, bytes).unwrap();
        let error = Ledger::read(dir.path()).err();
        assert_eq!(error, Some(OpenError::Version(path, 3)));
    }

    #[test]
    fn a_run_of_events_is_covered_by_the_floor_or_by_one_range() {
        let removed = entry(5, 2).removed;
        assert_eq!((removed.end(), Removed::default().end()), (26, 0));
        for (numbers, covered) in [(0..5, true), (15..16, true), (4..6, false), (15..26, false)] {
            assert_eq!(removed.covers(&numbers), covered, "{numbers:?}");
        }
    }
}
