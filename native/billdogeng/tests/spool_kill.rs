//! What a spool promises of a process that is killed, tried on one: `kill -9` at random moments.
//!
//! The process is this test's own program once more, started by its environment as the victim. It prints
//! its progress on its standard output, which stays in the pipe after its end. For more
//! kills than the usual 20: `BILLDOGENG_KILLS=200`.

use billdogeng::spool::{Fetched, Options, Spool, PATIENCE};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const VICTIM: &str = "BILLDOGENG_SPOOL_VICTIM";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock after 1970").as_millis() as u64
}

fn open(dir: &Path) -> (Spool, u64, Receiver<()>) {
    let options = Options {
        dir: dir.into(),
        max_bytes: 256 << 20,
        max_age: Duration::from_secs(3_600),
        patience: PATIENCE,
    };
    let (woken, wakes) = channel();
    let opened = Spool::open(&options, move || {
        let _ = woken.send(());
    });
    let (spool, recovered) = opened.expect("a spool");
    assert!(spool.updates().problems.len() <= 1, "at most a torn tail");
    (spool, recovered.next, wakes)
}

fn until<T>(spool: &Spool, wakes: &Receiver<()>, look: impl Fn(&Spool) -> Option<T>) -> T {
    loop {
        if let Some(found) = look(spool) {
            return found;
        }
        let woken = wakes.recv_timeout(Duration::from_secs(20));
        woken.expect("a wake-up");
    }
}

fn event(number: u64) -> String {
    format!(
        r#"{{"n":{number},"f":"{}"}}"#,
        "x".repeat((number * 37 % 400) as usize)
    )
}

/// Appends and removes until it is killed.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let mut random = fastrand::Rng::new();
    let (spool, mut next, wakes) = open(Path::new(&dir));
    let (mut delivered, keep) = (next, random.u64(..5_000));
    let mut out = std::io::stdout();
    // Rust's own line of the test stands in front, without a line's end.
    writeln!(out, "\nstart {next} {}", now()).expect("a pipe");
    loop {
        for _ in 0..random.u64(1..300) {
            spool.append(next, event(next).as_bytes());
            next += 1;
        }
        writeln!(out, "appended {next} {}", now()).expect("a pipe");
        if random.u8(..3) == 0 && next - delivered > keep {
            let to = random.u64(delivered..=next);
            spool.remove(delivered..to);
            delivered = to;
            writeln!(out, "removed {to} {}", now()).expect("a pipe");
        }
        if random.u8(..40) == 0 {
            let number = spool.sync();
            until(&spool, &wakes, |spool| {
                (spool.synced() >= number).then_some(())
            });
            writeln!(out, "stored {next} {}", now()).expect("a pipe");
            writeln!(out, "recorded {delivered} {}", now()).expect("a pipe");
        }
        std::thread::sleep(Duration::from_micros(random.u64(..3_000)));
    }
}

#[test]
fn after_kills_nothing_synced_is_missing_and_most_kills_lose_nothing_older_than_100_ms() {
    let kills = std::env::var("BILLDOGENG_KILLS").ok();
    let kills: u32 = kills.and_then(|n| n.parse().ok()).unwrap_or(20);
    let dir = TempDir::new().expect("a directory");
    let (mut events, mut repeats, mut late) = (0, 0, 0);
    for _ in 0..kills {
        let killed = kill_one(dir.path());
        events += killed.came_back;
        repeats += killed.repeated;
        late += u32::from(killed.late);
    }
    println!("{kills} kills: {events} events came back, {repeats} of them removed before; {late} kills undid more than 100 ms");
    assert!(events > 0);
    // A busy machine may keep the thread that writes from running for longer than 100 ms, now and then.
    assert!(
        late <= kills / 2,
        "{late} of {kills} kills undid more than 100 ms"
    );
}

/// The state that a start finds after a kill.
struct Killed {
    came_back: u64,
    /// Of them, how many were removed before.
    repeated: u64,
    /// Whether the kill undid something that was older than 100 ms.
    late: bool,
}

fn kill_one(dir: &Path) -> Killed {
    let mut victim = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let pipe = victim.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        let parsed = lines.filter_map(|line| {
            let mut words = line.split(' ');
            let what = words.next()?.to_owned();
            let number: u64 = words.next()?.parse().ok()?;
            let time: u64 = words.next()?.parse().ok()?;
            Some((what, number, time))
        });
        parsed.collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_millis(fastrand::u64(20..500)));
    let killed = now();
    victim.kill().expect("a kill");
    victim.wait().expect("an end");
    let printed = reader.join().expect("its output");
    let last = |what: &str, before: u64| {
        let of = printed.iter().filter(|line| line.0 == what);
        let numbers = of.filter(|line| line.2 <= before).map(|line| line.1);
        numbers.max().unwrap_or(0)
    };
    let (early, end_of_time) = (killed.saturating_sub(100), u64::MAX);
    let (appended, stored) = (last("appended", early), last("stored", end_of_time));
    let (removed_early, recorded) = (last("removed", early), last("recorded", end_of_time));
    let removed = last("removed", end_of_time).max(last("start", end_of_time));

    let numbers = drain(dir);
    let Some((&first, &newest)) = numbers.first().zip(numbers.last()) else {
        // Then everything was removed: perhaps by a removal that the victim did not report.
        assert!(stored <= removed + 5_300, "{stored} {removed}");
        let late = appended > removed + 5_300;
        return Killed {
            came_back: 0,
            repeated: 0,
            late,
        };
    };
    let end = newest + 1;
    assert_eq!(numbers, (first..end).collect::<Vec<_>>(), "order, no gap");
    assert!(end >= stored, "lost {end}..{stored}");
    assert!(first >= recorded, "{first} was recorded below {recorded}");
    Killed {
        came_back: numbers.len() as u64,
        // A removal may have been done and not been reported; it is at most of what was appended.
        repeated: removed.saturating_sub(first),
        late: end < appended || first < removed_early,
    }
}

fn drain(dir: &Path) -> Vec<u64> {
    let (spool, next, wakes) = open(dir);
    let mut numbers = Vec::new();
    loop {
        spool.fetch(next, 1_000, 1 << 20);
        match until(&spool, &wakes, |spool| spool.updates().fetched) {
            Fetched::Failed(reason) => panic!("{reason}"),
            Fetched::Events(page) => {
                let expected: String = page.numbers().map(|n| event(n) + ",").collect();
                assert!(page.bytes == expected.as_bytes());
                spool.remove(page.numbers());
                numbers.extend(page.numbers());
            }
            Fetched::Lost(range) => panic!("lost {range:?}"),
            Fetched::Nothing => break,
        }
    }
    assert!(spool.close(Duration::from_secs(20)));
    numbers
}
