//! Callers, owner and flush thread in one order after the other, by a scheduler of the test's (shuttle): whatever
//! the order, no event is lost, doubled or overtaken, and nobody is left waiting.
//!
//! The worker is the real one but for its sleep: its loop is in this file, and the ingest answers at random.
//!
//! Run by `bin/interleavings`.

use crate::client::{Capture, Client};
use crate::config::Config;
use crate::error::Error;
use crate::flush::phase::Wait;
use crate::flush::worker::Worker;
use crate::http::response::{Answer, Failure, Kind};
use crate::protocol::{Command, LastWords, Listener, Reply};
use crate::queue::accounts::Reason;
use crate::sync::{Mutex, Notify};
use shuttle::rand::{thread_rng, Rng};
use shuttle::thread;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Orders tried by each test.
const ORDERS: usize = 2_000;

fn config(flush_at: usize, max_queue_size: usize) -> Config {
    Config {
        flush_at,
        max_queue_size,
        max_batch_size: 3,
        ..Config::unlimited("http://127.0.0.1:9")
    }
}

/// The owner's process: woken by the flush thread, it fetches the updates.
#[derive(Default)]
struct Owner {
    woken: Notify,
    ended: Mutex<Option<LastWords>>,
    answers: Mutex<BTreeMap<u64, Reply>>,
    answered: Notify,
}

impl Listener for Arc<Owner> {
    fn pending(&self) {
        self.woken.notify_one();
    }

    fn ended(&self, last: LastWords) {
        *self.ended.lock().expect("no panic") = Some(last);
        self.woken.notify_one();
    }
}

impl Owner {
    fn run(&self, client: &Client) {
        while self.ended.lock().expect("no panic").is_none() {
            self.woken.wait();
            for reply in client.updates().replies {
                let (Reply::Flushed(id, _) | Reply::Settled(id, _) | Reply::Purged(id, _)) = reply;
                self.answers.lock().expect("no panic").insert(id, reply);
                self.answered.notify_one();
            }
        }
    }

    /// Deadlocks, which shuttle reports, if no reply comes. For one caller at a time.
    fn answer(&self, id: u64) -> Reply {
        loop {
            if let Some(reply) = self.answers.lock().expect("no panic").remove(&id) {
                return reply;
            }
            self.answered.wait();
        }
    }
}

/// The events that the ingest has stored, and its responses.
#[derive(Default)]
struct Ingest {
    stored: Mutex<Vec<u64>>,
    /// One attempt in so many fails; 0 is none.
    fails: u32,
    /// This event is refused.
    bad: Option<u64>,
}

impl Ingest {
    fn answer(&self, worker: &Worker) -> Result<Answer, Failure> {
        let batch = worker.delivery.batch.as_ref();
        let part = batch.and_then(|parts| parts.next());
        let mut json = Vec::new();
        part.expect("a part").write_to(&mut json);
        let json = String::from_utf8(json).expect("text");
        let events: Vec<u64> = json
            .split(',')
            .map(|n| n.parse().expect("a number"))
            .collect();
        if self.fails > 0 && thread_rng().gen_range(0..self.fails) == 0 {
            return Err(Failure::network("down"));
        }
        if self.bad.is_some_and(|bad| events.contains(&bad)) {
            return Err(Failure {
                error: Arc::new(Error::network("refused")),
                kind: Kind::Refused,
                retry_after: None,
            });
        }
        self.stored.lock().expect("no panic").extend(events);
        Ok(Answer {
            status: 200,
            data: serde_json::Value::Null,
            quota_limited: false,
        })
    }
}

/// As `Worker::run`, but that it sleeps by the test's primitives, that no wait takes any time, and that an answer
/// comes when the scheduler has it come.
fn drive(mut worker: Worker, ingest: &Ingest) {
    let client = Arc::clone(&worker.client);
    let mut now = Instant::now();
    loop {
        worker.handle_commands(now);
        worker.step(now);
        worker.publish(now);
        let phase = worker.machine.phase();
        if worker.machine.has_ended() {
            return;
        }
        if let Some((_, Some(Wait::Until(until)))) = phase.flush() {
            now = until;
            client.wake.try_take();
        } else if let Some(until) = worker.lingers_until {
            // Callers may come before it looks again.
            thread::yield_now();
            if !client.wake.try_take() {
                now = until;
            }
        } else if worker.attempt.is_none() {
            client.wake.wait();
        } else if thread_rng().gen_bool(0.5) {
            thread::yield_now();
            client.wake.try_take();
        } else {
            worker.attempt = None;
            let result = ingest.answer(&worker);
            worker.attempted(result, now);
        }
    }
}

struct Play {
    client: Arc<Client>,
    owner: Arc<Owner>,
    ingest: Arc<Ingest>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Play {
    fn begin(config: Config, ingest: Ingest) -> Self {
        let client = Client::new(config);
        let (owner, ingest) = (Arc::new(Owner::default()), Arc::new(ingest));
        let worker = Worker::new(Arc::clone(&client), Box::new(Arc::clone(&owner)));
        let flush = {
            let ingest = Arc::clone(&ingest);
            thread::spawn(move || drive(worker, &ingest))
        };
        let fetch = {
            let (owner, client) = (Arc::clone(&owner), Arc::clone(&client));
            thread::spawn(move || owner.run(&client))
        };
        Self {
            client,
            owner,
            ingest,
            threads: vec![flush, fetch],
        }
    }

    /// A caller that captures these, one after the other.
    fn capture(
        &self,
        events: impl Iterator<Item = u64> + Send + 'static,
    ) -> thread::JoinHandle<u64> {
        let client = Arc::clone(&self.client);
        thread::spawn(move || {
            let taken =
                |event: &u64| client.capture(event.to_string().as_bytes(), 0) == Capture::Taken;
            events.filter(taken).count() as u64
        })
    }

    /// The owner ends; then the accounts must be exact, and equal to the ingest's.
    fn end(self, taken: u64) -> (LastWords, Vec<u64>) {
        self.client.command(Command::Drain);
        for thread in self.threads {
            thread.join().expect("no panic");
        }
        let last = self
            .owner
            .ended
            .lock()
            .expect("no panic")
            .take()
            .expect("last words");
        let stored = std::mem::take(&mut *self.ingest.stored.lock().expect("no panic"));
        let stats = &last.stats;
        // Captures between the end of the intake and the last look at the accounts: those calls know that it has ended.
        let late = stats.dropped[Reason::Stopped as usize] - last.stopped;
        assert_eq!(stats.captured, taken + late);
        assert_eq!(
            stats.captured,
            stats.delivered + stats.dropped.iter().sum::<u64>()
        );
        assert_eq!((stats.queued, stats.in_flight), (0, 0));
        assert_eq!(stats.delivered, stored.len() as u64);
        let mut once = stored.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), stored.len(), "doubled: {stored:?}");
        // While a refused batch is split, an event may be tried ahead of older ones.
        for caller in (0..10).filter(|_| self.ingest.bad.is_none()) {
            let own = stored.iter().filter(|event| **event / 100 == caller);
            assert!(own.is_sorted(), "overtaken: {stored:?}");
        }
        (last, stored)
    }
}

fn check(play: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(play, ORDERS);
}

#[test]
fn what_is_captured_while_the_owner_ends_is_delivered_or_was_not_taken() {
    check(|| {
        let play = Play::begin(config(2, usize::MAX), Ingest::default());
        let callers = [play.capture(100..105), play.capture(200..205)];
        play.client.command(Command::Drain);
        let taken = callers
            .into_iter()
            .map(|caller| caller.join().expect("no panic"));
        let taken = taken.sum();
        let (last, stored) = play.end(taken);
        assert_eq!((last.stopped, stored.len() as u64), (0, taken));
    });
}

#[test]
fn what_becomes_due_right_after_a_flush_is_sent_without_another_capture() {
    check(|| {
        let play = Play::begin(config(2, usize::MAX), Ingest::default());
        let mut taken = 0;
        for first in [100, 102, 104] {
            // From a capture while the flush before is still under way to one after the thread sleeps again.
            (0..thread_rng().gen_range(0..40)).for_each(|_| thread::yield_now());
            taken += play.capture(first..first + 2).join().expect("no panic");
            // Nothing else wakes the flush thread.
            while play.client.stats().delivered < taken {
                thread::yield_now();
            }
        }
        play.end(taken);
    });
}

#[test]
fn a_flush_has_delivered_what_its_caller_captured_before() {
    check(|| {
        let play = Play::begin(config(3, usize::MAX), Ingest::default());
        let caller = play.capture(100..107);
        for event in 200..204 {
            play.client.capture(i32::to_string(&event).as_bytes(), 0);
        }
        play.client.command(Command::Flush(1));
        assert_eq!(play.owner.answer(1), Reply::Flushed(1, Ok(())));
        let stored = play.ingest.stored.lock().expect("no panic").clone();
        assert!(
            (200..204).all(|event| stored.contains(&event)),
            "{stored:?}"
        );
        let taken = 4 + caller.join().expect("no panic");
        play.end(taken);
    });
}

#[test]
fn a_flush_is_answered_whatever_the_ingest_answers() {
    check(|| {
        let ingest = Ingest {
            fails: 2,
            bad: Some(201),
            ..Ingest::default()
        };
        let play = Play::begin(config(2, 4), ingest);
        let caller = play.capture(100..106);
        for event in 200..203 {
            play.client.capture(i32::to_string(&event).as_bytes(), 0);
        }
        play.client.command(Command::Settle(1));
        play.client.command(Command::Flush(2));
        assert!(matches!(play.owner.answer(1), Reply::Settled(1, _)));
        assert!(matches!(play.owner.answer(2), Reply::Flushed(2, _)));
        play.client.command(Command::Shutdown(3));
        assert!(matches!(play.owner.answer(3), Reply::Flushed(3, _)));
        let taken = 3 + caller.join().expect("no panic");
        play.end(taken);
    });
}

#[test]
fn a_purge_drops_each_earlier_event_once() {
    check(|| {
        let play = Play::begin(config(2, usize::MAX), Ingest::default());
        let caller = play.capture(100..106);
        play.client.command(Command::Purge(1));
        assert_eq!(play.owner.answer(1), Reply::Purged(1, Ok(())));
        let taken = caller.join().expect("no panic");
        play.end(taken);
    });
}
