//! The directory: made for its owner alone, held by one client of one process at a time.
//!
//! Between processes that is a lock on the file `lock`, which the system lets go of however a process
//! ends. Within a process it is a table of holders, so that a client whose owner has ended can be asked
//! for its directory, and the next one waits for it.

use super::error::OpenError;
use super::files;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between attempts to lock a directory that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Asks a holder for its directory.
pub type Ask = Arc<dyn Fn() + Send + Sync>;

/// By device and inode, so that no link or second spelling makes two of one directory.
type Id = (u64, u64);

static HOLDERS: Mutex<Option<HashMap<Id, Ask>>> = Mutex::new(None);
static RELEASED: Condvar = Condvar::new();

/// A held directory. Dropping it lets go.
pub struct Dir {
    path: PathBuf,
    id: Id,
    lock: Option<File>,
}

impl Dir {
    /// Makes the directory where there is none, and holds it; where another client of this process does,
    /// that one is asked, and waited for; another process is waited for alone.
    pub fn hold(path: &Path, ask: Ask, patience: Duration) -> Result<Self, OpenError> {
        let failed = |what| move |error: io::Error| OpenError::io(what, path, &error);
        if !path.is_dir() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(path).map_err(failed("make"))?;
        }
        let path = path.canonicalize().map_err(failed("find"))?;
        let meta = fs::metadata(&path).map_err(failed("look at"))?;
        let user = files::user().map_err(failed("find who owns"))?;
        // Any other owner could read the events, plant some, and put links in the files' places.
        if ![user, 0].contains(&meta.uid()) {
            return Err(OpenError::Foreign(path, meta.uid(), user));
        }
        if meta.mode() & 0o077 != 0 && is_ours(&path).map_err(failed("read"))? {
            // Where that is refused, what others may do decides below.
            let _ = fs::set_permissions(&path, Permissions::from_mode(0o700));
        }
        let meta = fs::metadata(&path).map_err(failed("look at"))?;
        if meta.mode() & 0o022 != 0 {
            return Err(OpenError::Exposed(path));
        }
        let id = (meta.dev(), meta.ino());
        let until = Instant::now() + patience;
        register(id, ask, until).map_err(|()| OpenError::InUse(path.clone()))?;
        // From here on letting go is the drop's.
        let mut dir = Self {
            path,
            id,
            lock: None,
        };
        dir.lock = Some(dir.lock_file(until)?);
        Ok(dir)
    }

    /// A process that is about to end, and one that is about to run another program, have it for a moment.
    fn lock_file(&self, until: Instant) -> Result<File, OpenError> {
        let path = self.path.join("lock");
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
                Err(TryLockError::WouldBlock) => return Err(OpenError::Held(self.path.clone())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the directory.
    pub fn is_there(&self) -> io::Result<bool> {
        let meta = fs::metadata(&self.path)?;
        Ok((meta.dev(), meta.ino()) == self.id)
    }

    /// Whether the path still leads to the directory, and to the lock that it is held by.
    ///
    /// # Errors
    /// It was removed, or another stands in its place: that one isn't held.
    pub fn check(&self) -> io::Result<()> {
        let there = self.is_there()?;
        let lock = fs::symlink_metadata(self.path.join("lock"))?;
        let held = self.lock.as_ref().map(File::metadata).transpose()?;
        if there && held.is_some_and(|held| held.ino() == lock.ino()) {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the directory was replaced",
            ))
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Unlocked first: who is woken below tries the lock once.
        drop(self.lock.take());
        let mut holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holders) = holders.as_mut() {
            holders.remove(&self.id);
        }
        RELEASED.notify_all();
    }
}

/// Empty, or with nothing in it but a spool: then its permissions are this module's to set. A directory
/// that the whole system shares is never that.
fn is_ours(path: &Path) -> io::Result<bool> {
    if fs::metadata(path)?.mode() & 0o1000 != 0 {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != "lock" && super::log::segment_id(Path::new(&name)).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn register(id: Id, ask: Ask, until: Instant) -> Result<(), ()> {
    let mut asked: Option<Ask> = None;
    let mut holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let table = holders.get_or_insert_default();
        let Some(holder) = table.get(&id).map(Arc::clone) else {
            table.insert(id, ask);
            return Ok(());
        };
        // Each holder is asked once, and not under the table's lock.
        if !asked
            .as_ref()
            .is_some_and(|asked| Arc::ptr_eq(asked, &holder))
        {
            drop(holders);
            holder();
            asked = Some(holder);
            holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(());
        }
        holders = RELEASED
            .wait_timeout(holders, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}
