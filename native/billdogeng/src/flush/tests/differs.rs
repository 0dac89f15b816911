use crate::client::Client;
use crate::config::*;
use crate::flush::old::worker::Old;
use crate::flush::worker::{Command, Worker};
use crate::http::client::Http;
use crate::http::response::*;
use crate::report::flush_report::Report;
use crate::report::updates::{LastWords, Listener};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

pub trait Subject {
    fn new(client: Arc<Client>, listener: Box<dyn Listener>) -> Self;
    fn turn(&mut self, http: &Arc<Http>, now: Instant);
    fn part(&self) -> Option<Vec<u64>>;
    fn respond(&mut self, result: Result<Answer, Failure>, now: Instant);
    fn panic(&mut self, now: Instant);
    fn deadline(&self) -> Option<Instant>;
    fn ended(&self) -> bool;
}

impl Subject for Worker {
    fn new(client: Arc<Client>, listener: Box<dyn Listener>) -> Self {
        let mut worker = Worker::new(Arc::clone(&client), listener);
        worker.machine = crate::flush::machine::Machine::new(
            crate::flush::phase::Rules::from(&client.config),
            crate::flush::old::now(),
        );
        worker
    }
    fn turn(&mut self, http: &Arc<Http>, now: Instant) {
        self.requests.http = Some(Arc::clone(http));
        if !self.machine.has_ended() {
            self.handle_commands(now);
            self.step(now);
        }
        self.publish(now);
    }
    fn part(&self) -> Option<Vec<u64>> {
        self.attempt.as_ref()?;
        Some(self.delivery.batch.as_ref()?.next()?.numbers().collect())
    }
    fn respond(&mut self, result: Result<Answer, Failure>, now: Instant) {
        self.attempt = None;
        self.attempted(result, now);
    }
    fn panic(&mut self, now: Instant) {
        self.recover(now);
    }
    fn deadline(&self) -> Option<Instant> {
        Worker::deadline(self)
    }
    fn ended(&self) -> bool {
        self.machine.has_ended()
    }
}

#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<String>>>);
impl Listener for Record {
    fn news(&self) {
        self.0.lock().unwrap().push("news".into());
    }
    fn ended(&self, last: LastWords) {
        self.0.lock().unwrap().push(format!("{last:?}"));
    }
    fn report(&self, report: Report) {
        let text = match report {
            Report::Started(span) => format!("started {:?}", span.trigger),
            Report::Stopped(span, _, outcome) => format!("stopped {:?} {outcome:?}", span.trigger),
            Report::Panicked(span, _) => format!("panicked {:?}", span.trigger),
            Report::Dropped(reason, count) => format!("dropped {reason:?} {count}"),
        };
        self.0.lock().unwrap().push(text);
    }
}

fn run<S: Subject>(seed: u64, http: &Arc<Http>) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pick = |n: usize| random.usize(..n);
    let max = |n: usize, pick: &mut dyn FnMut(usize) -> usize| {
        if pick(2) == 0 {
            usize::MAX
        } else {
            n + pick(4)
        }
    };
    let config = Config {
        api_key: "key".into(),
        http: HttpConfig {
            host: "http://127.0.0.1:9".into(),
            request_timeout: Duration::from_secs(1),
            gzip: false,
            max_retries: pick(4) as u32,
            proxy: Proxy::None,
            cacertfile: None,
        },
        endpoint: if pick(8) == 0 {
            Endpoint::PersonUpdates
        } else {
            Endpoint::Events
        },
        geoip_resolution_level: None,
        flush_at: 1 + pick(8),
        flush_interval: Duration::from_secs([1, 10, 3600][pick(3)]),
        max_queue_size: max(1, &mut pick),
        max_queue_bytes: usize::MAX,
        max_batch_size: 1 + pick(8),
        max_batch_bytes: usize::MAX,
        max_event_bytes: usize::MAX,
        shutdown_timeout: Duration::from_secs([0, 5, 60][pick(3)]),
        suspension: Duration::from_secs(900),
        spool: None,
        spool_sync: false,
        external_sleep: pick(4) == 0,
    };
    let record = Record::default();
    let client = Client::new(config);
    let start = Instant::now();
    super::super::old::NOW.set(Some(start));
    let mut subject = S::new(Arc::clone(&client), Box::new(record.clone()));
    let mut now = start;
    let mut trace = Vec::new();
    let mut sleep = None;
    let length = 10 + pick(120);
    let bad = pick(100);
    for step in 0..length {
        fastrand::seed(seed * 1000 + step as u64);
        subject.turn(http, now);
        let updates = client.tidings();
        sleep = updates.sleep.map(|(id, _)| id).or(sleep);
        let stats = client.stats();
        let status = client.status().clone();
        let next = status.next_attempt_in(&stats).is_some();
        let suspended = status.activity.phase == crate::report::status::PhaseName::Suspended;
        let deadline = if subject.ended() {
            None
        } else if suspended {
            Some(now + Duration::from_secs(900))
        } else {
            subject.deadline()
        };
        let seen = record.0.lock().unwrap().drain(..).collect::<Vec<_>>();
        trace.push(format!(
            "   {updates:?} {stats:?} {:?} {next} {:?} {:?} {seen:?}",
            status.activity.phase,
            subject.part(),
            deadline.map(|d| d.saturating_duration_since(start) / 1_000_000_0)
        ));
        if subject.ended() {
            break;
        }
        fastrand::seed(seed * 2000 + step as u64);
        let choice = pick(40);
        let id = 100 + step as u64;
        let what = match choice {
            0..=12 => {
                client.capture(step.to_string().into_bytes(), 0);
                "capture"
            }
            13 => {
                client.command(Command::Flush(id));
                "flush"
            }
            14 if pick(4) == 0 => {
                client.command(Command::Shutdown(id));
                "shutdown"
            }
            15 => {
                client.command(Command::Settle(id));
                "settle"
            }
            16 if pick(3) == 0 => {
                client.command(Command::Purge(id));
                "purge"
            }
            17 if pick(3) == 0
                && status.activity.phase != crate::report::status::PhaseName::Suspended =>
            {
                client.command(Command::Tick);
                "tick"
            }
            18 if pick(3) == 0
                && status.activity.phase != crate::report::status::PhaseName::Draining =>
            {
                client.command(Command::Drain);
                "drain"
            }
            19 if pick(10) == 0
                && status.activity.phase != crate::report::status::PhaseName::Draining =>
            {
                subject.panic(now);
                "panic"
            }
            20 if sleep.is_some() => {
                client.command(Command::Slept(sleep.unwrap()));
                "slept"
            }
            21..=27 if deadline.is_some() => {
                now = now.max(deadline.unwrap());
                "time"
            }
            _ if subject.part().is_some() => {
                let answer = |quota_limited| {
                    Ok(Answer {
                        status: 200,
                        data: serde_json::Value::Null,
                        quota_limited,
                    })
                };
                let failure = |kind, retry_after, status| {
                    let mut error = crate::Error::network("no");
                    error.status = status;
                    Err(Failure {
                        kind,
                        retry_after,
                        error: Arc::new(error),
                    })
                };
                let wait = [None, None, None, Some(0), Some(7), Some(40)][pick(6)]
                    .map(Duration::from_secs);
                let result = match pick(100) {
                    p if p >= bad => answer(false),
                    p if p % 7 == 0 => answer(pick(8) == 0),
                    p if p % 7 == 1 => failure(Kind::Final, None, [0, 401, 403][pick(3)]),
                    p if p % 7 == 2 => failure(Kind::TooLarge, None, 413),
                    p if p % 7 == 3 => failure(
                        Kind::Unreachable(
                            [
                                Unreachable::Refused,
                                Unreachable::NoSuchHost,
                                Unreachable::Other,
                            ][pick(3)],
                        ),
                        None,
                        0,
                    ),
                    p if p % 7 < 5 => failure(Kind::Retryable, wait, [0, 500, 503][pick(3)]),
                    _ => failure(Kind::Refused, None, 400),
                };
                let text = format!("{result:?}");
                subject.respond(result, now);
                trace.push(text);
                "respond"
            }
            _ => "nothing",
        };
        trace.push(what.into());
    }
    trace
}

#[test]
fn old_and_new_do_the_same() {
    let http_config = HttpConfig {
        host: "http://127.0.0.1:9".into(),
        request_timeout: Duration::from_secs(1),
        gzip: false,
        max_retries: 0,
        proxy: Proxy::None,
        cacertfile: None,
    };
    let http = Arc::new(Http::new(&http_config).unwrap());
    let (from, to) = (
        std::env::var("FROM")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
        std::env::var("TO")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(3000),
    );
    let mut steps = 0;
    let mut phases = std::collections::BTreeMap::new();
    for seed in from..to {
        let (old, new) = (run::<Old>(seed, &http), run::<Worker>(seed, &http));
        steps += old.len();
        for line in &old {
            for name in [
                "Idle",
                "InFlight",
                "Waiting",
                "BackingOff",
                "Suspended",
                "Draining",
            ] {
                if line.contains(&format!(" {name} ")) {
                    *phases.entry(name).or_insert(0) += 1;
                }
            }
        }
        if let Some(at) = (0..old.len().max(new.len())).find(|at| old.get(*at) != new.get(*at)) {
            for line in &old[at.saturating_sub(14)..at] {
                eprintln!("{line}");
            }
            eprintln!("OLD {:?}\nNEW {:?}", old.get(at), new.get(at));
            panic!("seed {seed}");
        }
    }
    eprintln!("{steps} steps, {phases:?}");
}
