//! The order in which clients of this process hold a directory: the order of their starts.
//!
//! Each client opens its spool on a thread of its own, and the system runs such threads in any order. A client that is
//! killed right after its start, while its successor starts, must still come first: its events are older. So a client
//! takes a ticket when it starts, without touching the disk. Its thread waits until there is no earlier ticket for the
//! same path, then asks the client that holds the directory to release it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Asks a holder to release its directory.
pub type Ask = Arc<dyn Fn() + Send + Sync>;
/// A directory by device and inode, so that a link or a second spelling is the same directory.
pub type DirId = (u64, u64);

static TURNS: Mutex<Turns> = Mutex::new(Turns {
    next: 0,
    waiting: Vec::new(),
    holders: Vec::new(),
});
static CHANGED: Condvar = Condvar::new();

struct Turns {
    next: u64,
    /// The earliest first.
    waiting: Vec<(u64, PathBuf)>,
    holders: Vec<(DirId, Ask)>,
}

impl Turns {
    /// Returns whether there is an earlier ticket for the same path.
    fn is_behind(&self, ticket: u64) -> bool {
        let own = self.waiting.iter().find(|(number, _)| *number == ticket);
        own.is_some_and(|(_, path)| {
            let mut earlier = self
                .waiting
                .iter()
                .take_while(|(number, _)| *number != ticket);
            earlier.any(|(_, other)| other == path)
        })
    }
}

/// A place among the clients that want a directory. Dropping it gives the place up.
pub struct Ticket(u64);

impl Ticket {
    /// Takes the next ticket for this path.
    pub fn take(path: &Path) -> Self {
        let mut turns = lock();
        let number = turns.next;
        turns.next += 1;
        turns.waiting.push((number, path.to_owned()));
        Self(number)
    }

    /// Waits for the earlier tickets and then for the directory's holder, which is asked to release it. Returns `None` if
    /// it is still held at `until`. A later holder calls `ask`.
    pub fn hold(self, id: DirId, ask: Ask, until: Instant) -> Option<Turn> {
        let left = until.saturating_duration_since(Instant::now());
        let waited = CHANGED.wait_timeout_while(lock(), left, |turns| turns.is_behind(self.0));
        let mut turns = waited.unwrap_or_else(PoisonError::into_inner).0;
        let mut asked: Option<Ask> = None;
        loop {
            let holder = turns.holders.iter().find(|(held, _)| *held == id);
            let Some(holder) = holder.map(|(_, ask)| Arc::clone(ask)) else {
                turns.holders.push((id, ask));
                return Some(Turn(id));
            };
            if !asked.is_some_and(|asked| Arc::ptr_eq(&asked, &holder)) {
                // Each holder is asked once, without the lock.
                drop(turns);
                holder();
                turns = lock();
                asked = Some(holder);
                continue;
            }
            asked = Some(holder);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = CHANGED.wait_timeout(turns, left);
            turns = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock().waiting.retain(|(number, _)| *number != self.0);
        CHANGED.notify_all();
    }
}

/// A directory that a client of this process holds. Dropping it releases it.
pub struct Turn(DirId);

impl Drop for Turn {
    fn drop(&mut self) {
        lock().holders.retain(|(id, _)| *id != self.0);
        CHANGED.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Turns> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    fn nobody() -> Ask {
        Arc::new(|| ())
    }

    #[test]
    fn clients_hold_a_directory_in_the_order_of_their_tickets_and_each_asks_the_one_before() {
        let (path, id) = (Path::new("/of this test alone"), (u64::MAX, 0));
        let until = Instant::now() + LONG;
        let first = Ticket::take(path)
            .hold(id, nobody(), until)
            .expect("it is free");
        let tickets: Vec<_> = (0..5).map(|n| (n, Ticket::take(path))).collect();
        let (report, reports) = channel();
        // The latest first, so that the order of the threads is another one.
        let threads = tickets.into_iter().rev().map(|(n, ticket)| {
            let report = report.clone();
            std::thread::spawn(move || {
                let (ask, asked) = channel();
                let ask = Arc::new(move || ask.send(()).unwrap_or_default());
                let turn = ticket.hold(id, ask, until).expect("it is released");
                report.send(n).expect("the test listens");
                if n < 4 {
                    asked.recv_timeout(LONG).expect("others want it");
                }
                drop(turn);
            })
        });
        let threads: Vec<_> = threads.collect();
        drop(first);
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(reports.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(lock().holders.iter().all(|(held, _)| *held != id));
    }

    #[test]
    fn a_ticket_waits_no_longer_than_until_its_deadline_and_not_for_another_path() {
        let (path, id) = (Path::new("/of this other test alone"), (u64::MAX, 1));
        let now = Instant::now();
        let (_earlier, second) = (Ticket::take(path), Ticket::take(path));
        let other = Ticket::take(Path::new("/another one"));
        let turn = other.hold(id, nobody(), now + LONG).expect("it is free");
        assert!(second.hold(id, nobody(), now).is_none(), "it is held");
        drop(turn);
        assert!(Ticket::take(path).hold(id, nobody(), now).is_some());
    }
}
