//! What a spool makes of a disk that fails, by the shim that `bin/storm` uses (bench/disk_faults.c).
//!
//! Each test runs once more as a process of its own, with the shim loaded: a fault is the whole process's. Without a C
//! compiler, or another system than Linux, they are skipped.
#![cfg(target_os = "linux")]

use billdogeng::spool::{Excess, Fate, Fetched, Options, Problem, Spool, PATIENCE};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;
use tempfile::TempDir;

const CHILD: &str = "BILLDOGENG_FAULTY_CHILD";
const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
enum Kind {
    Open,
    Read,
    Write,
    Fsync,
    Unlink,
}

/// Runs a test as a process of its own, below a disk that fails when it is asked to.
fn faulty(name: &str, test: impl FnOnce(&Path)) {
    if std::env::var_os(CHILD).is_some() {
        let dir = std::env::var_os("DISK_FAULTS_DIR").expect("the parent sets it");
        return test(Path::new(&dir));
    }
    let temp = TempDir::new().expect("a directory");
    let shim = temp.path().join("disk_faults.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/disk_faults.c");
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim);
    match cc.arg(&source).arg("-ldl").status() {
        Ok(status) => assert!(status.success(), "the shim compiles"),
        Err(error) => return eprintln!("skipped: no C compiler ({error})"),
    }
    let control = temp.path().join("faults");
    fs::write(&control, [0; 4096]).expect("a file");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("LD_PRELOAD", &shim)
        .env("DISK_FAULTS", &control)
        .env("DISK_FAULTS_DIR", temp.path().join("spool"))
        .status();
    assert!(child.expect("it runs").success());
}

fn control(at: u64, number: u32) {
    let path = std::env::var_os("DISK_FAULTS").expect("the parent sets it");
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("it is there");
    file.write_all_at(&number.to_ne_bytes(), at).expect("it is");
}

/// From now on so many of 1,000 calls of a kind fail.
fn fail_some(kind: Kind, permille: u32) {
    control(4 * kind as u64, permille);
}

/// From now on all calls of a kind fail, or none.
fn fail(kind: Kind, fails: bool) {
    fail_some(kind, if fails { 1_000 } else { 0 });
}

struct Spooling {
    spool: Spool,
    wakes: Receiver<()>,
    events: u64,
    next: u64,
}

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        max_bytes: 64 << 20,
        max_age: Duration::from_secs(3_600),
        patience: PATIENCE,
    }
}

fn open(options: &Options) -> Spooling {
    let (woken, wakes) = channel();
    let (spool, recovered) = Spool::open(options, move || {
        let _ = woken.send(());
    })
    .expect("a spool");
    Spooling {
        spool,
        wakes,
        events: recovered.events,
        next: recovered.next,
    }
}

impl Spooling {
    fn until<T>(&self, mut look: impl FnMut(&Spool) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&self.spool) {
                return found;
            }
            self.wakes.recv_timeout(LONG).expect("a wake-up");
        }
    }

    fn append(&self, count: u64) {
        for n in self.next..self.next + count {
            self.spool.append(n, format!("{n}").as_bytes());
        }
    }

    /// Events in many records, each more than one read.
    fn append_large(&self) {
        let large = vec![b'1'; 200_000];
        (0..20).for_each(|n| self.spool.append(n, &large));
    }

    fn wait_for(&self, sync: u64) {
        self.until(|spool| (spool.synced() >= sync).then_some(()));
    }

    fn sync(&self) {
        self.wait_for(self.spool.sync());
    }

    fn fetch(&self) -> (Fetched, Vec<Problem>) {
        self.spool.fetch(u64::MAX, 1_000, usize::MAX);
        let mut problems = Vec::new();
        let fetched = self.until(|spool| {
            let updates = spool.updates();
            problems.extend(updates.problems);
            updates.fetched
        });
        (fetched, problems)
    }

    fn close(self) {
        assert!(self.spool.close(LONG));
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).expect("it is there");
    let paths = paths.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "spool"))
        .collect()
}

#[test]
fn an_error_of_a_read_at_the_start_changes_nothing_on_disk() {
    let name = "an_error_of_a_read_at_the_start_changes_nothing_on_disk";
    faulty(name, |dir| {
        let spooling = open(&options(dir));
        spooling.append_large();
        spooling.close();
        let path = segments(dir).remove(0);
        let whole = fs::read(&path).expect("it is there");
        let mut failures = 0;
        for round in 0..60 {
            let kind = [Kind::Read, Kind::Open][round % 2];
            fail_some(kind, 100);
            let opened = Spool::open(&options(dir), || {});
            fail(kind, false);
            match opened {
                Ok((spool, recovered)) => {
                    assert_eq!(recovered.events, 20);
                    assert!(spool.close(LONG));
                }
                Err(_) => failures += 1,
            }
            assert!(fs::read(&path).expect("it is there") == whole);
        }
        assert!(failures > 0);
    });
}

#[test]
fn events_that_can_not_be_read_for_now_are_read_later_and_that_is_reported_once() {
    let name = "events_that_can_not_be_read_for_now_are_read_later_and_that_is_reported_once";
    faulty(name, |dir| {
        let spooling = open(&options(dir));
        spooling.append_large();
        spooling.sync();
        for (kind, woken) in [(Kind::Open, 1), (Kind::Read, 0)] {
            fail(kind, true);
            let (fetched, problems) = spooling.fetch();
            assert!(matches!(fetched, Fetched::Failed(_)), "{fetched:?}");
            assert_eq!(problems.len(), woken, "{problems:?}");
            fail(kind, false);
        }
        let (fetched, problems) = spooling.fetch();
        assert!(matches!(fetched, Fetched::Events(_)), "{fetched:?}");
        assert_eq!(problems, [Problem::Readable]);
        for _ in 0..60 {
            fail_some(Kind::Read, 300);
            // Some of them at least, or none for now.
            match spooling.fetch().0 {
                Fetched::Events(page) => assert_eq!(page.first, 0),
                other => assert!(matches!(other, Fetched::Failed(_)), "{other:?}"),
            }
        }
    });
}

#[test]
fn events_that_were_written_are_left_to_the_next_start_though_no_sync_succeeds() {
    let name = "events_that_were_written_are_left_to_the_next_start_though_no_sync_succeeds";
    faulty(name, |dir| {
        let spooling = open(&options(dir));
        fail(Kind::Fsync, true);
        spooling.append(100);
        spooling.sync();
        fail(Kind::Write, true);
        // These come while nothing is written.
        for n in 100..150 {
            spooling.spool.append(n, b"1");
        }
        assert!(spooling.spool.close(LONG));
        assert_eq!(spooling.spool.leave(), vec![100..150; 1]);
        drop(spooling);
        fail(Kind::Fsync, false);
        fail(Kind::Write, false);
        assert_eq!(open(&options(dir)).events, 100);
    });
}

#[test]
fn events_that_were_removed_last_do_not_come_back_where_a_write_fails_once() {
    let name = "events_that_were_removed_last_do_not_come_back_where_a_write_fails_once";
    faulty(name, |dir| {
        let spooling = open(&options(dir));
        spooling.append(100);
        spooling.sync();
        fail(Kind::Write, true);
        assert_eq!(spooling.spool.remove(0..40), 40);
        assert_eq!(spooling.spool.remove(50..60), 10);
        spooling.spool.close(Duration::from_millis(100));
        fail(Kind::Write, false);
        spooling.close();
        assert_eq!(open(&options(dir)).events, 50);
    });
}

#[test]
fn a_purge_that_can_not_delete_names_the_file_and_its_events_do_not_come_back() {
    let name = "a_purge_that_can_not_delete_names_the_file_and_its_events_do_not_come_back";
    faulty(name, |dir| {
        for (more, fate) in [(None, Fate::Emptied), (Some(Kind::Write), Fate::Whole)] {
            let mut spooling = open(&options(dir));
            spooling.append(100);
            spooling.sync();
            let path = segments(dir).remove(0);
            spooling.next += 100;
            for kind in more.into_iter().chain([Kind::Unlink]) {
                fail(kind, true);
            }
            spooling.spool.remove(0..spooling.next);
            spooling.wait_for(spooling.spool.purge());
            let left = spooling.spool.undeleted().expect("it can't be deleted");
            assert_eq!((&left.path, left.fate), (&path, fate));
            assert!(left.to_string().contains("Input/output error"), "{left}");
            if let Some(kind) = more {
                // The end tries again.
                fail(kind, false);
            }
            // An event of after the purge is as any other.
            spooling.append(1);
            spooling.close();
            fail(Kind::Unlink, false);
            let again = open(&options(dir));
            assert_eq!(again.events, 1, "{fate:?}");
            again.spool.remove(0..u64::MAX);
            again.wait_for(again.spool.purge());
            assert_eq!(again.spool.undeleted(), None);
            assert_eq!(segments(dir), [] as [PathBuf; 0]);
            again.close();
        }
    });
}

#[test]
fn a_forward_step_of_the_clock_expires_nothing_in_this_life_or_the_next() {
    let name = "a_forward_step_of_the_clock_expires_nothing_in_this_life_or_the_next";
    faulty(name, |dir| {
        let ahead = |seconds| control(48, seconds);
        let spooling = open(&options(dir));
        spooling.append(10);
        spooling.sync();
        ahead(30 * 86_400);
        for n in 10..12 {
            spooling.spool.append(n, b"1");
            spooling.sync();
        }
        assert_eq!(spooling.spool.excess(), None);
        spooling.close();
        let spooling = open(&options(dir));
        spooling.sync();
        assert_eq!((spooling.events, spooling.spool.excess()), (12, None));
        spooling.close();
        // The doubt ends with the last of these events. Then the system's clock decides how old an event is.
        let mut spooling = open(&options(dir));
        spooling.spool.remove(0..12);
        spooling.sync();
        spooling.next = 12;
        spooling.append(1);
        spooling.close();
        ahead(60 * 86_400);
        let spooling = open(&options(dir));
        assert_eq!(spooling.until(Spool::excess), Excess::Expired(13));
    });
}
