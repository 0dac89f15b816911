//! The order in which clients of this process ask for a directory: that of their starts.
//!
//! Each client opens its spool on a thread of its own, and the system runs such threads in any order. A client that is
//! killed right after its start, while its successor starts, must still come first: its events are older. So a client
//! takes a ticket when it starts, without a look at the disk, and its thread waits until no earlier ticket for the same
//! path is left.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

static TICKETS: Mutex<Tickets> = Mutex::new(Tickets {
    next: 0,
    waiting: Vec::new(),
});
static CHANGED: Condvar = Condvar::new();

struct Tickets {
    next: u64,
    /// The earliest first.
    waiting: Vec<(u64, PathBuf)>,
}

/// A place among the clients that are about to ask for a directory. Dropping it lets the next one ask.
pub struct Ticket(u64);

impl Ticket {
    /// Takes the next one for this path.
    pub fn take(path: &Path) -> Self {
        let mut tickets = lock();
        let number = tickets.next;
        tickets.next += 1;
        tickets.waiting.push((number, path.to_owned()));
        Self(number)
    }

    /// Waits until it is the earliest one for its path, at most until then.
    pub fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let _ = CHANGED.wait_timeout_while(lock(), left, |tickets| {
            let own = tickets.waiting.iter().find(|(number, _)| *number == self.0);
            own.is_some_and(|(_, path)| {
                let earlier = tickets.waiting.iter();
                let mut earlier = earlier.take_while(|(number, _)| *number != self.0);
                earlier.any(|(_, other)| other == path)
            })
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock().waiting.retain(|(number, _)| *number != self.0);
        CHANGED.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Tickets> {
    TICKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_later_ticket_waits_for_the_earlier_one_of_its_path_alone() {
        let path = Path::new("/of this test alone");
        let (first, second) = (Ticket::take(path), Ticket::take(path));
        let other = Ticket::take(Path::new("/another one"));
        first.wait(Instant::now() + LONG);
        other.wait(Instant::now() + LONG);
        let (turn, turns) = channel();
        let later = std::thread::spawn(move || {
            second.wait(Instant::now() + LONG);
            turn.send(()).expect("the test waits");
        });
        assert!(turns.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        turns.recv_timeout(LONG).expect("its turn");
        later.join().expect("it ends");
    }

    #[test]
    fn a_ticket_waits_no_longer_than_it_is_told_to() {
        let path = Path::new("/of this other test alone");
        let (_first, second) = (Ticket::take(path), Ticket::take(path));
        second.wait(Instant::now() + Duration::from_millis(1));
    }
}
