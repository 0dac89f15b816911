//! The format of a spool's files: its version, checksums and numbers.

/// The version of the format. A directory with files of another version is left alone.
pub const VERSION: u32 = 2;
/// No event and no segment has a higher number, so arithmetic on numbers cannot overflow.
pub const MOST: u64 = 1 << 62;

/// Returns the CRC-32 of a file's id and the parts. With the id, a record of another file is not valid.
pub fn checksum(id: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Reads a little-endian number.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// Reads a little-endian number.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
