//! Why a spool can't be opened, and problems of one that is open.

use super::format::VERSION;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a spool can't be opened. The client keeps events in memory and tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A spool does not run on this operating system (its name).
    Unavailable(&'static str),
    /// Another process holds the directory.
    Held(PathBuf),
    /// Another client of this process holds it, and did not release it in time.
    InUse(PathBuf),
    /// Others than its owner may write to the directory: they could plant events.
    Exposed(PathBuf),
    /// It belongs to another user (the second is this process's): that one could do as much.
    Foreign(PathBuf, u32, u32),
    /// A file has another version of the format. The directory is left alone.
    Version(PathBuf, u32),
    /// The system refused something: what, where, and its reason.
    Io(&'static str, PathBuf, io::ErrorKind, String),
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Io(what, path.into(), error.kind(), error.to_string())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::Unavailable(_) => Path::new("").display(),
            Self::Held(path) | Self::InUse(path) | Self::Exposed(path) => path.display(),
            Self::Foreign(path, ..) | Self::Version(path, _) | Self::Io(_, path, ..) => {
                path.display()
            }
        };
        match self {
            Self::Unavailable(system) => write!(
                f,
                "a spool is not available on {system}, only on Linux, macOS and other Unix systems"
            ),
            Self::Held(_) => write!(f, "{path} is held by another process"),
            Self::InUse(_) => write!(f, "{path} is held by another client"),
            Self::Exposed(_) => write!(f, "{path} can be written by others than its owner"),
            Self::Foreign(_, owner, user) => write!(
                f,
                "{path} belongs to user {owner}; it must be this VM's user's ({user}) or root's"
            ),
            Self::Version(_, version) => {
                let release = if *version < VERSION {
                    "an older"
                } else {
                    "a newer"
                };
                write!(
                    f,
                    "{path} was written by {release} release (format {version}, this one has {VERSION}) and is left \
                     alone; to send its events, run that release with this :spool_dir"
                )
            }
            Self::Io(what, _, _, reason) => write!(f, "can't {what} {path}: {reason}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// A file of events that are gone, which could not be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undeleted {
    /// The file.
    pub path: PathBuf,
    /// Why it can't be deleted.
    pub reason: String,
    /// The state after the failure.
    pub fate: Fate,
}

/// The state of files that can't be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They have no events any more.
    Emptied,
    /// They contain a mark that their events are gone.
    Marked,
    /// Nothing could be: they are what they were.
    Whole,
}

impl fmt::Display for Undeleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, reason, fate } = self;
        let path = path.display();
        write!(f, "can't delete {path}: {reason}; ")?;
        match fate {
            Fate::Emptied => write!(f, "it was emptied instead, its events are gone"),
            Fate::Marked => write!(
                f,
                "its events are marked as removed instead: no later start sends them, their bytes are still there"
            ),
            Fate::Whole => write!(
                f,
                "it can't be emptied or marked either: a later start may send its events"
            ),
        }
    }
}

/// A problem of the disk that is worth a log line. Each is logged once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// So many bytes of a segment are corrupted.
    Corrupted(PathBuf, u64),
    /// So many events can't be found in the segments, and the ledger does not list them as removed.
    Missing(u64),
    /// The ledger is missing or corrupted, though there are segments.
    NoLedger(PathBuf),
    /// Something that is no file has a segment's name: a directory, a link, a pipe.
    Skipped(PathBuf),
    /// Nothing can be written, for this reason. Events are in memory alone until [`Problem::Resumed`].
    Failed(String),
    /// Events go to the disk again.
    Resumed,
    /// The disk took too long: so many events are in memory alone.
    Slow(u64),
    /// A file can't be read for now, for this reason. Its events wait for that until [`Problem::Readable`].
    Unreadable(PathBuf, String),
    /// Files can be read again.
    Readable,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::Corrupted(path, _) | Self::NoLedger(path) => path.display(),
            Self::Skipped(path) | Self::Unreadable(path, _) => path.display(),
            _ => Path::new("").display(),
        };
        match self {
            Self::Corrupted(_, 0) => write!(f, "{path} is empty, what it may have had is lost"),
            Self::Corrupted(_, n) => write!(f, "{path} was corrupted, {n} bytes of it are skipped"),
            Self::Missing(n) => write!(f, "{n} event(s) are lost, for a file was corrupted or deleted"),
            Self::NoLedger(_) => write!(
                f,
                "{path} is corrupted or missing, events that were delivered or dropped may be sent again"
            ),
            Self::Skipped(_) => write!(f, "{path} is not a regular file, it is left alone"),
            Self::Failed(reason) => write!(f, "can't write, events are in memory alone: {reason}"),
            Self::Resumed => write!(f, "events go to the disk again"),
            Self::Unreadable(_, why) => write!(f, "can't read {path}, it is tried again: {why}"),
            Self::Readable => write!(f, "events can be read from the disk again"),
            Self::Slow(n) => write!(f, "the disk is too slow, {n} events are in memory alone"),
        }
    }
}
