//! The files in a spool's directory: their names, and how they are opened.
//!
//! Only regular files are opened, and no link is followed. The directory is its owner's alone, but files that were in it
//! before may be anything.

use super::format::MOST;
use super::platform::{OpenOptionsExt, O_NOFOLLOW, O_NONBLOCK};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Locked by the process that holds the directory.
pub const LOCK: &str = "lock";
/// Which events are removed.
pub const LEDGER: &str = "ledger";
/// A hash of the host and key that the events are for.
pub const CLIENT: &str = "client";
/// The batch that fails.
pub const FAILING: &str = "failing";

/// Returns the name of a segment's file.
pub fn segment_name(id: u64) -> String {
    format!("{id:016x}.spool")
}

/// Returns the id of the segment with this file name. Other spellings of an id are no names of segments.
pub fn segment_id(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let id = u64::from_str_radix(name.strip_suffix(".spool")?, 16).ok()?;
    (segment_name(id) == name && id <= MOST).then_some(id)
}

/// Returns whether a spool makes files with this name.
pub fn is_known(name: &OsStr) -> bool {
    [LOCK, LEDGER, CLIENT, FAILING]
        .iter()
        .any(|known| name == *known)
        || segment_id(name).is_some()
}

/// Opens a file with its options.
///
/// # Errors
/// Any error of the system, and an error for everything but a regular file.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Opening a device can have an effect, so the type is checked first. It is checked again because another file may
    // be there by then, and opening that one must not block.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(irregular());
    }
    let options = options.custom_flags(O_NOFOLLOW | O_NONBLOCK);
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(irregular())
    }
}

fn irregular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// Returns whether [`open`] refused something that is no regular file.
pub fn is_irregular(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

/// Returns whether an error means that a file does not exist.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
