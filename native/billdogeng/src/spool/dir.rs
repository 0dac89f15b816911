//! The directory: made for its owner alone, held by one client of one process at a time.
//!
//! Between processes the holder has a lock on the file `lock`, which the system releases however a process ends. Within a
//! process it has its turn, see turns.rs.

use super::error::OpenError;
use super::files;
use super::platform::{self, DirBuilderExt, MetadataExt, OpenOptionsExt};
use super::turns::{Ask, DirId, Ticket, Turn};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between attempts to lock a directory that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A directory that is held. Dropping it releases it.
pub struct Dir {
    path: PathBuf,
    id: DirId,
    // Released before the turn: the next holder tries the lock once it has its turn.
    lock: File,
    /// Open all the time, so that a sync of it needs no file descriptor.
    handle: Arc<File>,
    _turn: Turn,
}

impl Dir {
    /// Makes the directory if there is none, and holds it. If another client of this process holds it, that one is asked
    /// to release it. Waits up to `patience` for it or for another process.
    pub fn hold(
        path: &Path,
        ask: Ask,
        patience: Duration,
        ticket: Ticket,
    ) -> Result<Self, OpenError> {
        if !platform::AVAILABLE {
            return Err(OpenError::Unavailable(std::env::consts::OS));
        }
        let failed = |what| move |error: io::Error| OpenError::io(what, path, &error);
        if !path.is_dir() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(path).map_err(failed("make"))?;
        }
        let path = path.canonicalize().map_err(failed("find"))?;
        let meta = fs::metadata(&path).map_err(failed("look at"))?;
        let user = platform::user().map_err(failed("find who owns"))?;
        // Any other owner could read the events, plant some, and replace files by links.
        if ![user, 0].contains(&meta.uid()) {
            return Err(OpenError::Foreign(path, meta.uid(), user));
        }
        if meta.mode() & 0o077 != 0 && is_ours(&path).map_err(failed("read"))? {
            // If that is refused, the check below decides.
            let _ = platform::set_mode(&path, 0o700);
        }
        let meta = fs::metadata(&path).map_err(failed("look at"))?;
        if meta.mode() & 0o022 != 0 {
            return Err(OpenError::Exposed(path));
        }
        let id = (meta.dev(), meta.ino());
        let handle = File::open(&path).map_err(|error| OpenError::io("open", &path, &error))?;
        let until = Instant::now() + patience;
        let turn = ticket.hold(id, ask, until);
        let turn = turn.ok_or_else(|| OpenError::InUse(path.clone()))?;
        Ok(Self {
            lock: lock(&path, until)?,
            path,
            id,
            handle: Arc::new(handle),
            _turn: turn,
        })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory as a file, for a sync of it.
    pub fn handle(&self) -> Arc<File> {
        Arc::clone(&self.handle)
    }

    /// Returns whether the path still leads to the directory.
    pub fn is_there(&self) -> io::Result<bool> {
        let meta = fs::metadata(&self.path)?;
        Ok((meta.dev(), meta.ino()) == self.id)
    }

    /// Checks that the path still leads to the directory, and to the lock that it is held by.
    ///
    /// # Errors
    /// It was removed or replaced: another directory in its place is not held.
    pub fn check(&self) -> io::Result<()> {
        let there = self.is_there()?;
        let lock = fs::symlink_metadata(self.path.join(files::LOCK))?;
        if there && self.lock.metadata()?.ino() == lock.ino() {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the directory was replaced",
            ))
        }
    }
}

/// Locks the directory. Another process that ends, or that starts another program, can have the lock for a moment.
fn lock(dir: &Path, until: Instant) -> Result<File, OpenError> {
    let path = dir.join(files::LOCK);
    let failed = |error: io::Error| OpenError::io("lock", &path, &error);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = files::open(&path, &mut options).map_err(failed)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::Held(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Returns whether the spool may set the permissions: there is nothing in the directory but a spool, and it is not one that
/// the whole system shares.
fn is_ours(path: &Path) -> io::Result<bool> {
    if fs::metadata(path)?.mode() & 0o1000 != 0 {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        if !files::is_known(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}
