//! The flush thread against real sockets.

use crate::client::{Capture, Client};
use crate::config::Config;
use crate::error::Error;
use crate::flush::phase::Event;
use crate::flush::worker::Worker;
use crate::http::client::Http;
use crate::http::response::{Failure, Unreachable};
use crate::protocol::Report;
use crate::protocol::{Command, LastWords, Listener, Notice, Reply};
use crate::queue::accounts::Reason;
use crate::spool;
use dns_lookup::LookupError;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(10);

enum Called {
    Pending,
    Ended(Box<LastWords>),
}

struct Teller(Sender<Called>);

/// Passes reports on, too.
struct Reporter(Teller, Sender<Report>);

impl Listener for Reporter {
    fn pending(&self) {
        self.0.pending();
    }

    fn ended(&self, last: LastWords) {
        self.0.ended(last);
    }

    fn report(&self, report: Report) {
        let _ = self.1.send(report);
    }
}

impl Listener for Teller {
    fn pending(&self) {
        let _ = self.0.send(Called::Pending);
    }

    fn ended(&self, last: LastWords) {
        let _ = self.0.send(Called::Ended(Box::new(last)));
    }
}

fn config(host: &str) -> Config {
    let mut config = Config {
        flush_interval: PATIENCE,
        max_batch_size: 1000,
        max_batch_bytes: 1 << 20,
        max_event_bytes: 1 << 20,
        shutdown_timeout: PATIENCE,
        suspension: PATIENCE,
        ..Config::unlimited(host)
    };
    config.http.request_timeout = PATIENCE;
    config.http.gzip = true;
    config
}

fn start(config: Config) -> (Arc<Client>, Receiver<Called>) {
    let (sender, calls) = channel();
    (
        Client::start(config, Box::new(Teller(sender))).expect("a thread"),
        calls,
    )
}

/// An ingest that reads each request, and answers it with 200 and the body that the gate is sent.
fn ingest() -> (String, Receiver<String>, Sender<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = format!("http://{}", listener.local_addr().expect("bound"));
    let (seen, bodies) = channel();
    let (gate, open) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, &seen, &open);
        }
    });
    (host, bodies, gate)
}

fn serve(
    stream: TcpStream,
    seen: &Sender<String>,
    open: &Receiver<&'static str>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let _ = seen.send(String::from_utf8_lossy(&body).into_owned());
        let Ok(answer) = open.recv() else {
            return Ok(());
        };
        let length = answer.len();
        write!(
            &stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}"
        )?;
    }
}

/// All that comes up until the reply to `id`, that reply being the last.
fn reply(client: &Client, calls: &Receiver<Called>, id: u64) -> (Vec<Notice>, Result<(), Error>) {
    let mut notices = Vec::new();
    loop {
        let Ok(Called::Pending) = calls.recv_timeout(PATIENCE) else {
            panic!("no reply to {id}")
        };
        let updates = client.updates();
        notices.extend(updates.notices);
        for reply in updates.replies {
            if let Reply::Flushed(of, result) = reply {
                if of == id {
                    return (notices, result.map_err(Arc::unwrap_or_clone));
                }
            }
        }
    }
}

fn last_words(calls: &Receiver<Called>) -> LastWords {
    loop {
        match calls.recv_timeout(PATIENCE).expect("the client ends") {
            Called::Pending => {}
            Called::Ended(last) => return *last,
        }
    }
}

#[test]
fn a_panic_during_an_attempt_strands_no_caller_and_loses_no_event() {
    let (host, bodies, gate) = ingest();
    let (client, calls) = start(config(&host));
    client.capture(b"1", 0);
    client.command(Command::Flush(1));
    bodies.recv_timeout(PATIENCE).expect("an attempt");
    client.command(Command::Panic);

    let (notices, result) = reply(&client, &calls, 1);
    assert_eq!(result, Err(Error::panicked()));
    assert_eq!(notices[0], Notice::Panicked);
    assert_eq!((client.stats().queued, client.stats().in_flight), (1, 0));

    client.command(Command::Flush(2));
    drop(gate);
    // The first connection is gone with the panic, and the ingest with the gate: what counts is the answer.
    assert!(reply(&client, &calls, 2).1.is_err());
}

#[test]
fn a_panic_during_an_attempt_is_reported_as_the_flushs_end() {
    let (host, bodies, _gate) = ingest();
    let (sender, calls) = channel();
    let (reporter, reports) = channel();
    let listener = Reporter(Teller(sender), reporter);
    let client = Client::start(config(&host), Box::new(listener)).expect("a thread");
    client.capture(b"1", 0);
    client.command(Command::Flush(1));
    bodies.recv_timeout(PATIENCE).expect("an attempt");
    client.command(Command::Panic);
    assert_eq!(reply(&client, &calls, 1).1, Err(Error::panicked()));
    let reports: Vec<_> = reports.try_iter().collect();
    let [Report::Started(began), Report::Panicked(ended, _)] = reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!(began, ended);
}

#[test]
fn after_a_panic_flushes_deliver_as_before() {
    let (host, bodies, gate) = ingest();
    let (client, calls) = start(config(&host));
    client.command(Command::Panic);
    client.capture(b"1", 0);
    client.command(Command::Flush(1));
    gate.send("").expect("the ingest lives");
    assert_eq!(reply(&client, &calls, 1).1, Ok(()));
    assert_eq!(
        bodies.recv_timeout(PATIENCE).as_deref(),
        Ok("{\"api_key\":\"key\",\"events\":[1]}")
    );
    assert_eq!(client.stats().delivered, 1);
}

#[test]
fn a_client_that_drains_ends_in_spite_of_a_panic() {
    let (host, bodies, gate) = ingest();
    let (client, calls) = start(config(&host));
    gate.send("").expect("the ingest lives");
    client.command(Command::Panic);
    client.capture(b"1", 0);
    client.command(Command::Drain);
    assert_eq!(last_words(&calls).stopped, 0);
    assert!(bodies.try_recv().is_ok());
    assert_eq!(client.capture(b"2", 0), Capture::Closed);
    let stats = client.stats();
    assert_eq!((stats.captured, stats.delivered), (2, 1));
    assert_eq!(stats.dropped[Reason::Stopped as usize], 1);
}

#[test]
fn a_drain_without_an_answer_ends_with_its_time_and_counts_what_is_left() {
    let (host, _bodies, _gate) = ingest();
    let shutdown_timeout = Duration::from_millis(50);
    let (client, calls) = start(Config {
        shutdown_timeout,
        ..config(&host)
    });
    client.capture(b"1", 0);
    client.capture(b"2", 0);
    client.command(Command::Drain);
    let last = last_words(&calls);
    assert_eq!(
        (last.stopped, last.stats.queued, last.stats.captured),
        (2, 0, 2)
    );
}

/// Whether a client that drains ends for this failure; `delivered` is whether it has ever delivered an event.
fn ends_for(failure: Failure, delivered: bool) -> bool {
    let (sender, _told) = channel();
    let client = Client::new(config("http://127.0.0.1:9"));
    if delivered {
        client.count_kept(0);
    }
    let mut worker = Worker::new(client, Box::new(Teller(sender)));
    worker.client.capture(b"1", 0);
    let now = Instant::now();
    worker.handle(Event::Drain, now);
    worker.step(now);
    worker.attempted(Err(failure), now);
    let flush = worker.machine.phase().flush();
    let waits = flush.is_some_and(|(_, wait)| wait.is_some());
    assert_ne!(worker.machine.has_ended(), waits);
    worker.machine.has_ended()
}

#[test]
fn a_drain_ends_at_once_only_if_nobody_can_be_there() {
    let unreachable = |why| Failure::unreachable("no", why);
    for delivered in [false, true] {
        assert!(ends_for(unreachable(Unreachable::NoSuchHost), delivered));
        assert!(!ends_for(unreachable(Unreachable::Other), delivered));
        assert!(!ends_for(Failure::network("reset"), delivered));
    }
    assert!(ends_for(unreachable(Unreachable::Refused), false));
    assert!(!ends_for(unreachable(Unreachable::Refused), true));
}

/// Fails so often with an error of `getaddrinfo`, then finds this machine.
#[cfg(unix)]
struct Resolver {
    asked: Arc<AtomicU32>,
    failures: u32,
    code: i32,
}

#[cfg(unix)]
impl Resolve for Resolver {
    fn resolve(&self, _name: Name) -> Resolving {
        let fails = self.asked.fetch_add(1, Ordering::Relaxed) < self.failures;
        let code = self.code;
        Box::pin(async move {
            match fails {
                true => Err(LookupError::new(code).into()),
                false => {
                    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
                    Ok(Box::new(std::iter::once(here)) as Addrs)
                }
            }
        })
    }
}

/// The end of a client with one event, whose ingest's name is resolved so; and how often it was asked for.
#[cfg(unix)]
fn drain_by(failures: u32, code: i32) -> (LastWords, u32) {
    let (host, _bodies, gate) = ingest();
    gate.send("").expect("the ingest lives");
    let (sender, calls) = channel();
    let client = Client::new(config(&host.replace("127.0.0.1", "ingest.test")));
    let asked = Arc::new(AtomicU32::new(0));
    let resolver = Resolver {
        asked: Arc::clone(&asked),
        failures,
        code,
    };
    let http = Http::with_resolver(&client.config.http, Arc::new(resolver));
    let mut worker = Worker::new(Arc::clone(&client), Box::new(Teller(sender)));
    worker.requests.http = Some(Arc::new(http.expect("no TLS")));
    client.capture(b"1", 0);
    client.command(Command::Drain);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(worker.run());
    (last_words(&calls), asked.load(Ordering::Relaxed))
}

#[cfg(unix)]
#[test]
fn a_drain_waits_for_a_name_that_can_not_be_resolved_for_now() {
    let (last, asked) = drain_by(1, libc::EAI_AGAIN);
    assert_eq!((last.stopped, last.stats.delivered, asked), (0, 1, 2));
}

#[cfg(unix)]
#[test]
fn a_drain_does_not_wait_for_a_name_that_does_not_exist() {
    let (last, asked) = drain_by(1, libc::EAI_NONAME);
    assert_eq!((last.stopped, last.stats.delivered, asked), (1, 0, 1));
}

/// Returns whether a draining client has ended whose directory has been wanted for so long; `sends` is whether a
/// request of it is in flight.
fn has_handed_over(wanted_for: Duration, sends: bool) -> bool {
    let (sender, _told) = channel();
    let client = Client::new(config("http://127.0.0.1:9"));
    let mut worker = Worker::new(client, Box::new(Teller(sender)));
    worker.client.capture(b"1", 0);
    let now = Instant::now();
    worker.handle(Event::Drain, now);
    if sends {
        worker.step(now);
    }
    worker.wanted_until = Some(now + spool::PATIENCE - wanted_for);
    worker.step(now);
    let ended = worker.machine.has_ended();
    assert_eq!(worker.attempt.is_none(), ended);
    assert!(ended || worker.deadline() < worker.machine.phase().drains_until());
    ended
}

#[test]
fn a_draining_client_that_hands_its_directory_over_receives_its_response_but_sends_no_other_request(
) {
    assert!(!has_handed_over(Duration::ZERO, true));
    assert!(has_handed_over(spool::PATIENCE / 2, true));
    assert!(has_handed_over(Duration::ZERO, false));
}

/// Waits for a notice of which `wanted` is true.
fn notice(client: &Client, calls: &Receiver<Called>, wanted: impl Fn(&Notice) -> bool) {
    while !client.updates().notices.iter().any(&wanted) {
        calls.recv_timeout(PATIENCE).expect("another call");
    }
}

#[test]
fn a_suspension_ends_with_its_time_and_one_batch_tries_whether_events_are_taken() {
    const LIMITED: &str = r#"{"quota_limited":["events"]}"#;
    let (host, bodies, gate) = ingest();
    let suspension = Duration::from_millis(50);
    let (client, calls) = start(Config {
        suspension,
        flush_at: 1,
        ..config(&host)
    });
    let resumed = |n| move |notice: &Notice| *notice == Notice::Resumed(n);
    let is_taken = || client.stats().queued > 0;
    let mut captured = 0;
    let mut capture_until_taken = || {
        while !is_taken() {
            client.capture(b"1", 0);
            captured += 1;
            thread::sleep(Duration::from_millis(1));
        }
        bodies.recv_timeout(PATIENCE).expect("an attempt");
        captured
    };

    capture_until_taken();
    gate.send(LIMITED).expect("the ingest lives");
    notice(&client, &calls, |notice| {
        *notice == Notice::Suspended(suspension)
    });
    capture_until_taken();
    // Still limited: suspended again, and nobody is calls again.
    gate.send(LIMITED).expect("the ingest lives");
    while is_taken() {
        thread::sleep(Duration::from_millis(1));
    }
    let captured = capture_until_taken();
    gate.send("").expect("the ingest lives");
    notice(&client, &calls, resumed(captured - 1));
    let stats = client.stats();
    assert_eq!((stats.captured, stats.delivered), (captured, 1));
    assert_eq!(stats.dropped[Reason::Quota as usize], captured - 1);
}

#[test]
fn events_in_flight_leave_in_the_order_of_their_captures_whatever_comes_meanwhile() {
    let (host, bodies, gate) = ingest();
    let (client, calls) = start(Config {
        max_batch_size: 2,
        ..config(&host)
    });
    for event in [b"1", b"2", b"3"] {
        client.capture(event, 0);
    }
    client.command(Command::Flush(1));
    assert!(bodies
        .recv_timeout(PATIENCE)
        .is_ok_and(|body| body.ends_with("[1,2]}")));
    client.capture(b"4", 0);
    client.command(Command::Flush(2));
    (0..3).for_each(|_| gate.send("").expect("the ingest lives"));
    assert_eq!(reply(&client, &calls, 2).1, Ok(()));
    assert!(bodies
        .recv_timeout(PATIENCE)
        .is_ok_and(|body| body.ends_with("[3,4]}")));
}
