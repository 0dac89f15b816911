//! The work of the hot paths, for a count of their instructions: unlike time, it is the same in each run. Run by
//! `bin/instructions`, which compares the counts with those on record.
//!
//! What reads the VM's terms can't run without the VM, and is not counted.

use crate::client::Client;
use crate::config::Config;
use crate::event::json;
use crate::flush::split::{Parts, Seen, Standing};
use crate::history;
use crate::http::payload::Payload;
use crate::queue::batch::Batch;
use crate::queue::store::Next;
use std::hint::black_box;
use std::sync::Arc;

const EVENTS: usize = 1_000;

/// Calls `work`, which alone is counted. `bin/instructions` finds it by its name.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// An event of eight properties, as an encoder writes it.
fn event(number: usize) -> String {
    format!(
        r#"{{"event_name":"order_completed","event_timestamp":{},"properties":{{"n":{number},"plan":"pro","path":"/orders/:id","revenue":{}.5,"items":[1,2,3],"browser":"Firefox","os":"Linux","referrer":"https://example.com/a/b"}},"user_id":"user-{}"}}"#,
        1_700_000_000_000 + number,
        number % 97,
        number % 500
    )
}

fn config() -> Config {
    let mut config = Config::unlimited("http://127.0.0.1:9");
    config.http.gzip = true;
    config
}

fn queued() -> Arc<Client> {
    let client = Client::new(config());
    for number in 0..EVENTS {
        client.capture(event(number).as_bytes(), 0);
    }
    client
}

fn batch() -> Batch {
    let client = queued();
    let mut state = client.state();
    state.begin_flush();
    match state.take_batch() {
        Next::Batch(batch) => batch,
        Next::Fetching | Next::Nothing => panic!("events are queued"),
    }
}

#[test]
#[ignore = "for bin/instructions"]
fn strings() {
    let texts = [
        "order_completed",
        "with \"quotes\"\n",
        "größer",
        "日本語のテキスト",
    ];
    let mut out = Vec::with_capacity(64 * EVENTS);
    measured(|| {
        for _ in 0..EVENTS {
            for text in texts {
                json::write_str(&mut out, black_box(text).as_bytes());
            }
        }
    });
    assert!(out.len() > EVENTS);
}

#[test]
#[ignore = "for bin/instructions"]
fn numbers() {
    let mut out = Vec::with_capacity(64 * EVENTS);
    measured(|| {
        for number in 0..EVENTS as i64 {
            json::write_i64(&mut out, black_box(number * 1_000_003));
            json::write_f64(&mut out, black_box(number as f64 / 7.0));
        }
    });
    assert!(out.len() > EVENTS);
}

#[test]
#[ignore = "for bin/instructions"]
fn enqueue() {
    let client = Client::new(config());
    let events: Vec<String> = (0..EVENTS).map(event).collect();
    // The first chunk is there, as in a client that runs.
    client.capture(b"{}".as_slice(), 0);
    measured(|| {
        for event in &events {
            client.capture(event.as_bytes(), 0);
        }
    });
    assert_eq!(client.stats().captured, EVENTS as u64 + 1);
}

#[test]
#[ignore = "for bin/instructions"]
fn take_batch() {
    let client = queued();
    let taken = measured(|| {
        let mut state = client.state();
        state.begin_flush();
        match state.take_batch() {
            Next::Batch(batch) => {
                state.delivered(&batch);
                batch.len()
            }
            Next::Fetching | Next::Nothing => 0,
        }
    });
    assert_eq!(taken, EVENTS);
}

#[test]
#[ignore = "for bin/instructions"]
fn split() {
    let bad = 617;
    let mut parts = Parts::new(batch(), Seen::default());
    let mut rejected = 0;
    measured(|| loop {
        let part = parts.next().expect("a part");
        let refused = part.numbers().contains(&bad);
        if refused {
            parts.refused();
        } else {
            parts.accepted();
        }
        let (standing, events) = parts.settle();
        rejected += events.len();
        if standing == Standing::Done {
            break;
        }
    });
    assert_eq!(rejected, 1);
}

#[test]
#[ignore = "for bin/instructions"]
fn gzip() {
    let (config, batch) = (config(), batch());
    let payload = measured(|| Payload::of_batch(&config, &batch));
    assert!(payload.parts().0.len() < batch.bytes() / 3);
}

#[test]
#[ignore = "for bin/instructions"]
fn line() {
    let line = br#"{"event":"order_completed","distinct_id":"user-1","timestamp":"2026-01-02T03:04:05Z","properties":{"n":1,"plan":"pro","path":"/orders/:id","revenue":4.5,"items":[1,2,3]},"groups":{"company":"acme"}}"#;
    let mut out = Vec::with_capacity(512 * EVENTS);
    let written = measured(|| history::write_lines(line, EVENTS as u64, &mut out));
    assert_eq!(written, EVENTS as u64);
}
