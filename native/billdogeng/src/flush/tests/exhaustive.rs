//! Every order of what can happen to a client, within bounds: captures, calls, each kind of response, the passing of time,
//! a purge, a drain. In each of them no event is lost, none is delivered twice without a lost response, each call gets
//! its reply, and a draining client ends.
//!
//! The worker is the real one; only its loop, its clock and the ingest are here. A sequence of choices is run from the
//! start each time, and left where it comes to a state that was seen before.

use crate::client::Client;
use crate::config::{Config, HttpConfig, Proxy};
use crate::flush::machine::Machine;
use crate::flush::phase::Rules;
use crate::flush::worker::Worker;
use crate::http::client::Http;
use crate::http::response::{Answer, Failure, Kind};
use crate::protocol::{Command, LastWords, Listener, Notice, Reply};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Each run ends within so many choices: else a client goes on for ever.
const MOST_CHOICES: usize = 200;

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Choice {
    Capture,
    Flush,
    Shutdown,
    QueueLength,
    Purge,
    Tick,
    Drain,
    TimePasses,
    Accept,
    Refuse,
    TooLarge,
    /// The request fails, and may succeed later.
    Fail,
    /// The same, but the ingest has stored the events.
    LoseResponse,
    /// The request fails for good.
    Deny,
    /// The ingest asks for a wait that is too long.
    Hold,
    LimitQuota,
    Panic,
}

use Choice::*;

/// How often each can happen at most; the others any number of times.
type Bounds = BTreeMap<Choice, usize>;

/// The choices of one run, and the way from it to the next.
#[derive(Default)]
struct Path {
    taken: Vec<(usize, usize)>,
    at: usize,
}

impl Path {
    fn choose(&mut self, options: usize) -> usize {
        if self.at == self.taken.len() {
            self.taken.push((0, options));
        }
        let (chosen, before) = self.taken[self.at];
        assert_eq!(before, options, "a run does not repeat");
        self.at += 1;
        chosen
    }

    fn is_new(&self) -> bool {
        self.at >= self.taken.len()
    }

    /// Moves to the next run. Returns whether there is one.
    fn advance(&mut self) -> bool {
        self.taken.truncate(self.at);
        self.at = 0;
        while let Some((chosen, options)) = self.taken.pop() {
            if chosen + 1 < options {
                self.taken.push((chosen + 1, options));
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Default)]
struct Ended(Arc<Mutex<Option<LastWords>>>);

impl Listener for Ended {
    fn pending(&self) {}
    fn ended(&self, last: LastWords) {
        *self.0.lock().expect("no panic") = Some(last);
    }
}

/// A client, its callers and its ingest.
struct World {
    client: Arc<Client>,
    worker: Worker,
    http: Arc<Http>,
    ended: Ended,
    now: Instant,
    bounds: Bounds,
    done: BTreeMap<Choice, usize>,
    /// Calls without a reply, and the number below which each waits for all events.
    calls: BTreeMap<u64, u64>,
    replied: BTreeSet<u64>,
    /// How often the ingest has stored each event.
    stored: BTreeMap<u64, usize>,
    order: Vec<u64>,
    /// Events of lost responses.
    lost: BTreeMap<u64, usize>,
    refused: Vec<Vec<u64>>,
    delivered: u64,
}

fn config(max_queue_size: usize, max_batch_size: usize) -> Config {
    Config {
        api_key: "key".into(),
        http: HttpConfig {
            host: "http://127.0.0.1:9".into(),
            request_timeout: Duration::from_secs(1),
            gzip: false,
            max_retries: 1,
            proxy: Proxy::None,
            cacertfile: None,
        },
        endpoint: crate::config::Endpoint::Events,
        geoip_resolution_level: None,
        flush_at: 2,
        flush_interval: Duration::from_secs(10),
        max_queue_size,
        max_queue_bytes: usize::MAX,
        max_batch_size,
        max_batch_bytes: usize::MAX,
        max_event_bytes: usize::MAX,
        shutdown_timeout: Duration::from_secs(5),
        suspension: Duration::from_secs(100),
        spool: None,
        spool_sync: false,
        external_sleep: false,
    }
}

impl World {
    fn new(config: Config, bounds: Bounds, http: &Arc<Http>, now: Instant) -> Self {
        let client = Client::new(config);
        let ended = Ended::default();
        let mut worker = Worker::new(Arc::clone(&client), Box::new(ended.clone()));
        let jitter = |delay| delay;
        let rules = Rules {
            jitter,
            ..Rules::from(&client.config)
        };
        worker.machine = Machine::new(rules, now);
        Self {
            client,
            worker,
            http: Arc::clone(http),
            ended,
            now,
            bounds,
            done: BTreeMap::new(),
            calls: BTreeMap::new(),
            replied: BTreeSet::new(),
            stored: BTreeMap::new(),
            order: Vec::new(),
            lost: BTreeMap::new(),
            refused: Vec::new(),
            delivered: 0,
        }
    }

    /// Has the worker do what it can, and looks at what came of it.
    fn turn(&mut self) {
        // A random choice is the same in each run through a state.
        fastrand::seed(0);
        self.worker.requests.http = Some(Arc::clone(&self.http));
        if !self.worker.machine.has_ended() {
            self.worker.handle_commands(self.now);
            self.worker.step(self.now);
        }
        self.worker.publish(self.now);
        self.look();
    }

    fn look(&mut self) {
        let stats = self.client.stats();
        let dropped: u64 = stats.dropped.iter().sum();
        assert_eq!(stats.captured, stats.delivered + dropped + stats.queued);
        let updates = self.client.updates();
        for notice in updates.notices {
            if let Notice::Flushed(count) = notice {
                self.delivered += count;
            }
        }
        for reply in updates.replies {
            let (id, result) = match reply {
                Reply::Flushed(id, result) => (id, result.is_ok()),
                Reply::Settled(id, _) => (id, false),
                Reply::Purged(id, _) => (id, true),
            };
            assert!(self.replied.insert(id), "two replies to {id}");
            let Some(target) = self.calls.remove(&id) else {
                // A call after the end of the owner.
                assert!(self.done.contains_key(&Drain), "no call {id}");
                continue;
            };
            let floor = self.client.state().floor();
            assert!(!result || floor >= target, "{id}: {floor} of {target}");
        }
        let stored: usize = self.stored.values().sum();
        let lost: usize = self.lost.values().sum();
        assert_eq!(stats.delivered, (stored - lost) as u64);
        for (event, times) in &self.stored {
            let lost = self.lost.get(event).copied().unwrap_or_default();
            assert!(*times <= 1 + lost, "event {event} was delivered twice");
        }
        if self.refused.is_empty() {
            let mut first = self.order.clone();
            let mut seen = BTreeSet::new();
            first.retain(|event| seen.insert(*event));
            assert!(first.is_sorted(), "overtaken: {first:?}");
        }
        if let Some(last) = &*self.ended.0.lock().expect("no panic") {
            assert_eq!((last.stats.queued, last.stats.in_flight), (0, 0));
        }
    }

    fn options(&self) -> Vec<Choice> {
        let left = |choice: &Choice| {
            let done = self.done.get(choice).copied().unwrap_or_default();
            self.bounds.get(choice).is_none_or(|most| done < *most)
        };
        let mut options = Vec::new();
        if self.worker.attempt.is_some() {
            // First: the shortest run ends well.
            options.extend([
                Accept,
                Refuse,
                TooLarge,
                Fail,
                LoseResponse,
                Deny,
                Hold,
                LimitQuota,
            ]);
        }
        if self.worker.deadline().is_some() {
            options.push(TimePasses);
        }
        options.extend([Capture, Flush, Shutdown, QueueLength, Purge, Tick, Panic]);
        options.retain(left);
        if !self.done.contains_key(&Drain) {
            options.push(Drain);
        }
        options
    }

    fn command(&mut self, command: Command, id: u64) {
        let target = self.client.state().next();
        if id > 0 && !self.done.contains_key(&Drain) {
            self.calls.insert(id, target);
        }
        self.client.command(command);
    }

    fn happen(&mut self, choice: Choice) {
        let times = self.done.entry(choice).or_default();
        *times += 1;
        let id = choice as u64 * 10 + *times as u64;
        match choice {
            Capture => {
                let number = self.client.state().next();
                self.client.capture(number.to_string().into_bytes(), 0);
            }
            Flush => self.command(Command::Flush(id), id),
            Shutdown => self.command(Command::Shutdown(id), id),
            QueueLength => self.command(Command::Settle(id), id),
            Purge => self.command(Command::Purge(id), id),
            Tick => self.command(Command::Tick, 0),
            Drain => {
                // The owner has ended, and its callers with it.
                self.calls.clear();
                self.command(Command::Drain, 0);
            }
            TimePasses => {
                let deadline = self.worker.deadline().expect("a deadline");
                self.now = self.now.max(deadline);
            }
            Panic => self.worker.recover(self.now),
            _ => self.respond(choice),
        }
    }

    fn respond(&mut self, choice: Choice) {
        let batch = self.worker.delivery.batch.as_ref();
        let part = batch.and_then(|parts| parts.next()).expect("a part");
        let mut json = Vec::new();
        part.write_to(&mut json);
        let json = String::from_utf8(json).expect("text");
        let events = json.split(',').map(|n| n.parse().expect("a number"));
        let events: Vec<u64> = events.collect();
        if matches!(choice, Accept | LoseResponse) {
            for event in &events {
                *self.stored.entry(*event).or_default() += 1;
            }
            self.order.extend(&events);
        }
        if choice == LoseResponse {
            for event in &events {
                *self.lost.entry(*event).or_default() += 1;
            }
        }
        if matches!(choice, Refuse | TooLarge) {
            self.refused.push(events);
        }
        let answer = Answer {
            status: 200,
            data: serde_json::Value::Null,
            quota_limited: choice == LimitQuota,
        };
        let failure = |kind| {
            Err(Failure {
                kind,
                ..Failure::network("no")
            })
        };
        let result = match choice {
            Accept | LimitQuota => Ok(answer),
            Refuse => failure(Kind::Refused),
            TooLarge => failure(Kind::TooLarge),
            Deny => failure(Kind::Final),
            Hold => Err(Failure {
                retry_after: Some(Duration::from_secs(40)),
                ..Failure::network("no")
            }),
            _ => failure(Kind::Retryable),
        };
        self.worker.attempt = None;
        self.worker.attempted(result, self.now);
    }

    /// All that decides what can happen from here on, with times from now.
    fn state(&self) -> String {
        let stats = self.client.stats();
        let state = self.client.state();
        let mut done = self.done.clone();
        done.retain(|choice, _| !matches!(choice, Accept | TimePasses));
        let text = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {} {} {} {:?}",
            self.worker.machine,
            self.worker.delivery.batch,
            done,
            self.calls,
            self.stored,
            self.refused,
            self.lost,
            stats.queued,
            stats.dropped,
            state.is_due(),
            state.floor(),
            state.next(),
            self.worker.delivery.refusal.is_some(),
        );
        relative(&text, self.now)
    }
}

/// Replaces points in time by the time until then; points before by nothing.
fn relative(text: &str, now: Instant) -> String {
    const START: &str = "Instant { tv_sec: ";
    let at = |text: &str| {
        let (sec, rest) = text.split_once(", tv_nsec: ")?;
        let (nsec, rest) = rest.split_once(" }")?;
        let nanos = sec.parse::<u128>().ok()? * 1_000_000_000 + nsec.parse::<u128>().ok()?;
        Some((nanos, rest.len()))
    };
    let shown = format!("{now:?}");
    let (_, now) = shown.split_once(START).expect("a known form");
    let (now, _) = at(now).expect("a known form");
    let mut parts = text.split(START);
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (then, rest) = at(part).expect("a known form");
        short += &then.saturating_sub(now).to_string();
        short += &part[part.len() - rest..];
    }
    short
}

/// Runs all sequences of choices. Returns the phases that they come through.
fn explore(config: &Config, bounds: &[(Choice, usize)]) -> BTreeSet<String> {
    let bounds: Bounds = NONE.into_iter().chain(bounds.iter().copied()).collect();
    let http = Arc::new(Http::new(&config.http).expect("no TLS"));
    let start = Instant::now();
    let mut seen = HashSet::new();
    let mut phases = BTreeSet::new();
    let mut path = Path::default();
    loop {
        let mut world = World::new(config.clone(), bounds.clone(), &http, start);
        let mut trace = Trace::default();
        for choices in 0.. {
            assert!(choices < MOST_CHOICES, "it goes on for ever");
            world.turn();
            phases.insert(format!("{:?}", world.client.status().activity.phase));
            if world.worker.machine.has_ended() {
                break;
            }
            if path.is_new() && !seen.insert(world.state()) {
                break;
            }
            let options = world.options();
            if options == [Drain] {
                assert!(world.calls.is_empty(), "no reply to {:?}", world.calls);
            }
            let choice = options[path.choose(options.len())];
            trace.0.push(choice);
            world.happen(choice);
        }
        if !path.advance() {
            break;
        }
    }
    phases
}

/// Shows the choices of a run that fails.
#[derive(Default)]
struct Trace(Vec<Choice>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}", self.0);
        }
    }
}

/// Bounds of everything that is not named in them.
const NONE: [(Choice, usize); 13] = [
    (Flush, 0),
    (Shutdown, 0),
    (QueueLength, 0),
    (Purge, 0),
    (Tick, 0),
    (Panic, 0),
    (Refuse, 0),
    (TooLarge, 0),
    (Fail, 0),
    (LoseResponse, 0),
    (Deny, 0),
    (Hold, 0),
    (LimitQuota, 0),
];

fn assert_phases(seen: &BTreeSet<String>, names: &[&str]) {
    let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(*seen, names);
}

#[test]
fn no_order_of_captures_calls_and_failures_loses_or_doubles_an_event_or_strands_a_call() {
    let bounds = [
        (Capture, 2),
        (Flush, 1),
        (Shutdown, 1),
        (Fail, 2),
        (LoseResponse, 1),
    ];
    let phases = explore(&config(usize::MAX, 2), &bounds);
    assert_phases(
        &phases,
        &["Idle", "InFlight", "Waiting", "BackingOff", "Draining"],
    );
}

#[test]
fn no_order_of_captures_calls_and_refusals_loses_or_doubles_an_event_or_strands_a_call() {
    let bounds = [(Capture, 4), (Flush, 1), (Refuse, 2), (TooLarge, 1)];
    let phases = explore(&config(usize::MAX, 4), &bounds);
    assert_phases(&phases, &["Idle", "InFlight", "BackingOff", "Draining"]);
}

#[test]
fn no_order_of_captures_calls_and_ends_of_a_flush_loses_or_doubles_an_event_or_strands_a_call() {
    let bounds = [
        (Capture, 3),
        (Flush, 1),
        (QueueLength, 1),
        (Deny, 1),
        (Hold, 1),
        (LimitQuota, 1),
    ];
    let phases = explore(&config(2, 1), &bounds);
    assert_phases(
        &phases,
        &["Idle", "InFlight", "BackingOff", "Suspended", "Draining"],
    );
}

#[test]
fn no_order_of_captures_calls_purges_and_panics_loses_or_doubles_an_event_or_strands_a_call() {
    let bounds = [
        (Capture, 2),
        (Flush, 1),
        (QueueLength, 1),
        (Purge, 1),
        (Tick, 1),
        (Panic, 1),
    ];
    let phases = explore(&config(usize::MAX, 2), &bounds);
    assert_phases(&phases, &["Idle", "InFlight", "BackingOff", "Draining"]);
}
