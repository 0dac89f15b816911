//! How files of a spool are opened: regular ones alone, and none that a link leads to.
//!
//! Who may write to the directory is its owner alone; what stood in it before it was so may be anything.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens a file with its options.
///
/// # Errors
/// As any other, and where it is no regular file.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Looked at first, for to open a device can be to do something; and once more, for it may be another by now,
    // which must not hold this thread either.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(irregular());
    }
    let options = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(irregular())
    }
}

/// Opens a directory, for it to be synced.
///
/// # Errors
/// As any other.
pub fn open_dir(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn irregular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// Whether [`open`] has refused what is no regular file.
pub fn is_irregular(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

/// The user that this process makes files as: a pipe has an owner too, and needs no disk.
pub fn user() -> io::Result<u32> {
    let (pipe, _) = io::pipe()?;
    Ok(File::from(OwnedFd::from(pipe)).metadata()?.uid())
}
