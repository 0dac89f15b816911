//! A few bytes beside the segments: how often the oldest batch has failed, for the next start. If they are lost, the count
//! begins anew.

use super::files::{self, FAILING};
use super::platform::OpenOptionsExt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes of it that are read.
const LONGEST: u64 = 64;

/// Reads the note of a directory that is held; an empty one where there is none.
///
/// # Errors
/// It can't be read.
pub fn read(dir: &Path) -> io::Result<String> {
    let mut text = String::new();
    match files::open(&dir.join(FAILING), OpenOptions::new().read(true)) {
        Ok(file) => file.take(LONGEST).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(text)
}

/// Writes the note of a directory that is held.
///
/// # Errors
/// It can't be written.
pub fn write(dir: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    files::open(&dir.join(FAILING), &mut options)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_note_reads_back_and_follows_no_link() {
        let dir = TempDir::new().expect("a directory");
        assert_eq!(read(dir.path()).expect("none"), "");
        write(dir.path(), "12 5").expect("written");
        write(dir.path(), "3 4").expect("written");
        assert_eq!(read(dir.path()).expect("a note"), "3 4");
        std::fs::remove_file(dir.path().join(FAILING)).expect("it was there");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(FAILING)).expect("a link");
        assert!(read(dir.path()).is_err() && write(dir.path(), "1 1").is_err());
    }
}
