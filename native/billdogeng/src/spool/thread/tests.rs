//! The thread's steps, one by one, with callers in between.

use super::*;
use crate::spool::dir::Dir;
use crate::spool::log::Bounds;
use crate::spool::recover::recover;
use crate::spool::turns::Ticket;
use std::path::Path;
use tempfile::TempDir;

const BOUNDS: Bounds = Bounds {
    max_bytes: 16 << 20,
    segment_bytes: 1 << 20,
    max_age: u64::MAX,
};

/// Returns a thread that does nothing by itself.
fn thread(dir: &Path) -> Thread {
    let ticket = Ticket::take(dir);
    let dir = Dir::hold(dir, Arc::new(|| ()), Duration::ZERO, ticket).unwrap();
    let log = recover(dir, BOUNDS).unwrap().log;
    let (syncs, _) = mpsc::channel();
    Thread::new(Arc::new(Shared::new(|| ())), log, 1 << 20, syncs)
}

impl Thread {
    /// Does the next job, with a caller in between.
    fn step(&mut self, meanwhile: impl FnOnce(&mut Inner)) {
        let mut job = self.next_job();
        let failed = self.write(&mut job).err();
        meanwhile(&mut self.shared.lock());
        self.publish(job, failed, None);
        self.tidy(false);
        // There is no other thread that syncs.
        self.syncing = None;
        self.log.unsynced();
    }

    fn capture(&self, number: u64) {
        self.shared.lock().append(number, b"{}");
    }
}

#[test]
fn the_files_go_with_the_last_event_though_that_one_was_removed_before_it_was_in_a_file() {
    let dir = TempDir::new().unwrap();
    let mut thread = thread(dir.path());
    thread.capture(0);
    thread.step(|_| ());
    assert_ne!(thread.log.usage().0, 0);
    thread.shared.lock().remove(0..1);
    thread.capture(1);
    thread.step(|inner| assert_eq!(inner.remove(1..2), 1));
    assert_ne!(thread.log.usage().0, 0);
    assert!(thread.shared.lock().any_removed, "it would sleep");
    thread.step(|_| ());
    assert_eq!(thread.log.usage().0, 0);
}

#[test]
fn the_files_go_with_the_last_event_though_that_one_is_in_memory_alone() {
    let dir = TempDir::new().unwrap();
    let mut thread = thread(dir.path());
    thread.capture(0);
    thread.step(|_| ());
    let later = Instant::now() + Duration::from_secs(3600);
    thread.shared.lock().off_until = Some(later);
    thread.capture(1);
    thread.shared.lock().remove(0..1);
    thread.step(|_| ());
    assert_ne!(thread.log.usage().0, 0, "the file that is written to");
    thread.shared.lock().remove(1..2);
    assert!(thread.shared.lock().any_removed, "it would sleep");
    thread.step(|_| ());
    assert_eq!(thread.log.usage().0, 0);
}

#[test]
fn a_file_that_can_not_be_made_does_not_stand_in_the_way_of_the_next_one() {
    let dir = TempDir::new().unwrap();
    let mut thread = thread(dir.path());
    let path = thread.log.path(0);
    std::fs::write(&path, "left by a write and a removal that failed").unwrap();
    thread.capture(0);
    thread.step(|_| ());
    assert_eq!((thread.failures, thread.log.usage().0), (1, 0));
    thread.shared.lock().off_until = None;
    thread.retry_at = None;
    thread.capture(1);
    thread.step(|_| ());
    assert_ne!(thread.log.usage().0, 0);
    assert!(path.exists());
}
