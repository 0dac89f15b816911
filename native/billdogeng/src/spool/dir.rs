//! The directory: made for its owner alone, held by one client of one process at a time.
//!
//! Between processes that is a lock on the file `lock`, which the system lets go of however a process
//! ends. Within a process it is a table of holders, so that a client whose owner has ended can be asked
//! for its directory, and the next one waits for it.

use super::error::OpenError;
use super::files;
use super::platform::{self, DirBuilderExt, MetadataExt, OpenOptionsExt};
use super::ticket::Ticket;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between attempts to lock a directory that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Asks a holder for its directory.
pub type Ask = Arc<dyn Fn() + Send + Sync>;

/// By device and inode, so that no link or second spelling makes two of one directory.
type Id = (u64, u64);

/// Who has a directory, and who waits for it, in the order in which they came: what a client whose owner has ended
/// brings into it is older than what the next one's captures are.
#[derive(Default)]
struct Turns {
    holder: Option<Ask>,
    line: VecDeque<Ask>,
}

static TURNS: Mutex<Option<HashMap<Id, Turns>>> = Mutex::new(None);
/// A holder, or the line, is another one.
static MOVED: Condvar = Condvar::new();

/// A held directory. Dropping it lets go.
pub struct Dir {
    path: PathBuf,
    id: Id,
    lock: Option<File>,
    /// Open all along, so that a sync of it needs no file descriptor then.
    handle: Arc<File>,
}

impl Dir {
    /// Makes the directory where there is none, and holds it; where another client of this process does,
    /// that one is asked, and waited for; another process is waited for alone.
    pub fn hold(
        path: &Path,
        ask: Ask,
        patience: Duration,
        ticket: Option<Ticket>,
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
        let user = files::user().map_err(failed("find who owns"))?;
        // Any other owner could read the events, plant some, and put links in the files' places.
        if ![user, 0].contains(&meta.uid()) {
            return Err(OpenError::Foreign(path, meta.uid(), user));
        }
        if meta.mode() & 0o077 != 0 && is_ours(&path).map_err(failed("read"))? {
            // Where that is refused, what others may do decides below.
            let _ = platform::set_mode(&path, 0o700);
        }
        let meta = fs::metadata(&path).map_err(failed("look at"))?;
        if meta.mode() & 0o022 != 0 {
            return Err(OpenError::Exposed(path));
        }
        let id = (meta.dev(), meta.ino());
        let handle =
            Arc::new(files::open_dir(&path).map_err(|error| OpenError::io("open", &path, &error))?);
        let until = Instant::now() + patience;
        if let Some(ticket) = &ticket {
            ticket.wait(until);
        }
        register(id, ask, until, ticket).map_err(|()| OpenError::InUse(path.clone()))?;
        // From here on letting go is the drop's.
        let mut dir = Self {
            path,
            id,
            lock: None,
            handle,
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

    /// The directory as a file, for it to be synced.
    pub fn handle(&self) -> Arc<File> {
        Arc::clone(&self.handle)
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
        let mut all = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        leave(&mut all, self.id, |turns| turns.holder = None);
    }
}

/// Takes somebody out of a place, which is forgotten once nobody is left there.
fn leave(all: &mut Option<HashMap<Id, Turns>>, id: Id, leave: impl FnOnce(&mut Turns)) {
    let all = all.get_or_insert_default();
    if let Some(turns) = all.get_mut(&id) {
        leave(turns);
        if turns.holder.is_none() && turns.line.is_empty() {
            all.remove(&id);
        }
    }
    MOVED.notify_all();
}

/// Empty, or with nothing in it but a spool: then its permissions are this module's to set. A directory
/// that the whole system shares is never that.
fn is_ours(path: &Path) -> io::Result<bool> {
    if fs::metadata(path)?.mode() & 0o1000 != 0 {
        return Ok(false);
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let others = [
            "lock",
            super::log::DOUBT,
            super::client::NAME,
            super::note::NAME,
        ];
        if !others.iter().any(|other| name == *other)
            && super::log::segment_id(Path::new(&name)).is_none()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn register(id: Id, ask: Ask, until: Instant, ticket: Option<Ticket>) -> Result<(), ()> {
    let mut asked: Option<Ask> = None;
    let mut all = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let turns = all.get_or_insert_default().entry(id).or_default();
    turns.line.push_back(Arc::clone(&ask));
    // It has its place in the line.
    drop(ticket);
    loop {
        let turns = all.get_or_insert_default().entry(id).or_default();
        if let Some(holder) = turns.holder.clone() {
            // Each holder is asked once, and not under the table's lock.
            if !asked.is_some_and(|asked| Arc::ptr_eq(&asked, &holder)) {
                drop(all);
                holder();
                all = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
                asked = Some(holder);
                continue;
            }
            asked = Some(holder);
        } else if turns
            .line
            .front()
            .is_some_and(|next| Arc::ptr_eq(next, &ask))
        {
            turns.line.pop_front();
            turns.holder = Some(ask);
            // Those behind are to ask the new one.
            MOVED.notify_all();
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            leave(&mut all, id, |turns| {
                turns.line.retain(|waiting| !Arc::ptr_eq(waiting, &ask));
            });
            return Err(());
        }
        all = MOVED
            .wait_timeout(all, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;
    use tempfile::TempDir;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn who_came_first_has_it_first_and_is_asked_by_those_behind() {
        let temp = TempDir::new().expect("a directory");
        let first = Dir::hold(temp.path(), Arc::new(|| ()), LONG, None).expect("it is free");
        let id = first.id;
        let (tell, told) = channel();
        let threads: Vec<_> = (0..5)
            .map(|n| {
                let (path, tell) = (temp.path().to_owned(), tell.clone());
                let thread = thread::spawn(move || {
                    let (ask, asked) = channel();
                    let ask = Arc::new(move || {
                        let _ = ask.send(());
                    });
                    let dir = Dir::hold(&path, ask, LONG, None).expect("it is let go of");
                    tell.send(n).expect("the test hears it");
                    if n < 4 {
                        asked.recv_timeout(LONG).expect("others want it");
                    }
                    drop(dir);
                });
                let waiting = || {
                    let all = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
                    let turns = all.as_ref().and_then(|all| all.get(&id));
                    turns.map_or(0, |turns| turns.line.len())
                };
                while waiting() <= n {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        drop(first);
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let all = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!all.as_ref().is_some_and(|all| all.contains_key(&id)));
    }
}
