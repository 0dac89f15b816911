//! How long a capture holds the client's lock, measured.

use billdogeng::{Client, Config};
use std::sync::{Arc, Barrier};
use std::time::Instant;

const CAPTURES: u32 = 200_000;
const ROUNDS: usize = 15;
const EVENT: &str = r#"{"event_name":"order_completed","event_timestamp":1700000000000,"properties":{"n":17,"plan":"pro","path":"/orders/:id","revenue":4.5,"items":[1,2,3],"browser":"Firefox","os":"Linux","referrer":"https://example.com/a/b"},"user_id":"user-17"}"#;

/// ns for which a capture occupies the lock.
pub struct Lock {
    /// Its last holder ran on the same core.
    pub same_core: f64,
    /// Two cores take it in turns: the lock and the queue move between their caches.
    pub other_core: f64,
}

/// Measures both in turns. The queue is full, so that each capture also drops the oldest event: the most that one does.
pub fn measure() -> Lock {
    let (mut same_core, mut other_core) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        same_core.push(capture_from(1));
        other_core.push(capture_from(2));
    }
    Lock {
        same_core: median(same_core),
        other_core: median(other_core),
    }
}

/// ns per capture, of all threads together.
fn capture_from(threads: u32) -> f64 {
    let client = Client::idle(Config {
        max_queue_size: 1_000,
        ..Config::unlimited("http://127.0.0.1:9")
    });
    for _ in 0..2_000 {
        client.capture(EVENT.as_bytes(), 0);
    }
    let begin = Arc::new(Barrier::new(threads as usize + 1));
    let handles: Vec<_> = (0..threads)
        .map(|_| {
            let (client, begin) = (Arc::clone(&client), Arc::clone(&begin));
            std::thread::spawn(move || {
                begin.wait();
                for _ in 0..CAPTURES {
                    client.capture(EVENT.as_bytes(), 0);
                }
            })
        })
        .collect();
    begin.wait();
    let start = Instant::now();
    for handle in handles {
        handle.join().expect("a capture does not panic");
    }
    start.elapsed().as_nanos() as f64 / f64::from(CAPTURES * threads)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
