use super::*;
use crate::spool::{Fetched, Options, PATIENCE};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn options(dir: impl AsRef<Path>) -> Options {
    Options {
        dir: dir.as_ref().into(),
        max_bytes: 64 << 20,
        max_age: Duration::from_secs(3600),
        patience: PATIENCE,
    }
}

fn open(dir: impl AsRef<Path>) -> Store {
    let (spool, recovered) = Spool::open(&options(dir), || {}).expect("a spool");
    let mut store = Store::with_room_below();
    store.adopt(Arc::new(spool.counting_from(FIRST)), &recovered);
    assert!(store.catch_up());
    store
}

fn spool(store: &Store) -> &Spool {
    store.spool.as_deref().expect("a spool")
}

fn sync(store: &Store) {
    let number = spool(store).sync();
    while spool(store).synced() < number {
        std::thread::yield_now();
    }
}

fn take(store: &mut Store, max_events: usize) -> Option<Batch> {
    loop {
        match store.take(max_events, usize::MAX) {
            Next::Batch(batch) => return Some(batch),
            Next::Nothing => return None,
            Next::Fetching => {}
        }
        let fetched = loop {
            if let Some(fetched) = spool(store).updates().fetched {
                break fetched;
            }
            std::thread::yield_now();
        };
        match fetched {
            Fetched::Events(page) => {
                if let Some(batch) = store.take_fetched(page) {
                    return Some(batch);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn text(batch: &Batch) -> String {
    let mut out = Vec::new();
    batch.write_to(&mut out);
    String::from_utf8(out).expect("JSON")
}

#[test]
fn what_left_memory_comes_back_in_its_turn() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir);
    (0..10).for_each(|n: u64| store.push(n.to_string().as_bytes().into()));
    assert!(!store.evict_oldest(), "it is not on disk yet");
    assert!(store.oldest_is_safe());
    sync(&store);
    (0..4).for_each(|_| assert!(store.evict_oldest()));
    assert_eq!((store.len(), store.in_memory(), store.bytes()), (10, 6, 6));
    let batch = take(&mut store, 3).expect("a batch");
    assert_eq!(text(&batch), "0,1,2");
    assert_eq!((store.len(), store.floor()), (7, FIRST));
    store.done(&batch);
    assert_eq!(store.floor(), FIRST + 3);
    assert_eq!(text(&take(&mut store, 9).expect("a batch")), "3");
}

#[test]
fn what_is_closed_leaves_to_the_disk_what_is_there() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir);
    (0..5).for_each(|n: u64| store.push(n.to_string().as_bytes().into()));
    assert!(spool(&store).close(Duration::from_secs(10)));
    store.push(b"5".into());
    assert_eq!(store.close(), (1, 0));
    assert_eq!(store.len(), 5);
    drop(store);
    let mut store = open(&dir);
    assert_eq!((store.len(), store.next()), (5, FIRST));
    assert_eq!(text(&take(&mut store, 9).expect("a batch")), "0,1,2,3,4");
}

#[test]
fn what_came_before_the_spool_was_open_is_behind_what_it_held_and_on_disk_too() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir);
    (0..3).for_each(|n: u64| store.push(format!("old{n}").as_bytes().into()));
    assert!(spool(&store).close(Duration::from_secs(10)));
    drop(store);

    let mut store = Store::with_room_below();
    let event = |n: u64| format!("{n}{}", "z".repeat(AT_ONCE / 4));
    let mut pushed = 0;
    let mut push = |store: &mut Store| {
        store.push(event(pushed).into_bytes().into());
        pushed += 1;
    };
    (0..10).for_each(|_| push(&mut store));
    store.drop_oldest();
    let (opened, recovered) = Spool::open(&options(&dir), || {}).expect("a spool");
    store.adopt(Arc::new(opened.counting_from(FIRST)), &recovered);
    let mut parts = 1;
    while !store.catch_up() {
        parts += 1;
        if parts < 5 {
            // Later ones wait behind the earlier ones.
            push(&mut store);
        }
    }
    assert!(parts > 2, "in parts");
    push(&mut store);
    let events = 3 + pushed - 1;
    assert_eq!((store.len(), store.floor()), (events, FIRST - 3));
    sync(&store);
    (1..pushed).for_each(|_| assert!(store.evict_oldest(), "it is on disk"));
    assert_eq!((store.len(), store.in_memory()), (events, 0));
    let mut texts = Vec::new();
    while let Some(batch) = take(&mut store, 1) {
        texts.push(text(&batch));
        store.done(&batch);
    }
    let old = (0..3).map(|n| format!("old{n}"));
    assert_eq!(texts, old.chain((1..pushed).map(event)).collect::<Vec<_>>());
}

#[test]
fn what_is_closed_leaves_nothing_to_a_directory_that_is_gone() {
    let parent = TempDir::new().expect("a directory");
    let dir = parent.path().join("spool");
    let mut store = open(&dir);
    (0..5).for_each(|n: u64| store.push(n.to_string().as_bytes().into()));
    sync(&store);
    (0..3).for_each(|_| assert!(store.evict_oldest()));
    std::fs::remove_dir_all(&dir).expect("it was there");
    assert!(spool(&store).close(Duration::from_secs(10)));
    assert_eq!(store.close(), (2, 3));
    assert!(store.is_empty());
}

/// A disk may take longer than the client waits. Events counted as dropped are not sent by the next start.
#[test]
fn what_is_left_is_what_the_next_start_has_however_long_the_last_sync_takes() {
    let dir = TempDir::new().expect("a directory");
    let mut left = 0;
    for n in 0..50u64 {
        let mut store = open(&dir);
        assert_eq!(store.len(), left, "round {n}");
        (0..100).for_each(|_| store.push(b"1".into()));
        if n % 2 == 0 {
            sync(&store);
            (0..10).for_each(|_| store.push(b"2".into()));
        }
        spool(&store).close(Duration::from_micros(100 * n));
        store.close();
        left = store.len();
    }
}

/// Against a plain list: pushed, taken, refused in parts, put back, evicted, dropped, and begun anew.
#[test]
fn it_behaves_as_a_plain_list_does_wherever_events_are() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = TempDir::new().expect("a directory");
        let mut store = open(&dir);
        let mut model: VecDeque<String> = VecDeque::new();
        for n in 0..150 {
            match random.u8(..20) {
                0..=9 => {
                    let event = format!("{n}{}", "z".repeat(random.usize(..300)));
                    store.push(event.as_bytes().into());
                    model.push_back(event);
                }
                10 => sync(&store),
                11..=13 => {
                    for _ in 0..random.u8(..5) {
                        store.evict_oldest();
                    }
                }
                14 => {
                    let below = store.floor() + random.u64(..3);
                    let dropped = store.drop_below(below.min(store.next()));
                    model.drain(..dropped as usize);
                }
                15 => {
                    spool(&store).close(Duration::from_secs(10));
                    assert_eq!(store.close(), (0, 0), "seed {seed}");
                    drop(store);
                    store = open(&dir);
                }
                _ => {
                    let Some(batch) = take(&mut store, random.usize(1..9)) else {
                        assert!(model.is_empty());
                        continue;
                    };
                    let all: Vec<_> = model.drain(..batch.len()).collect();
                    assert_eq!(text(&batch), all.join(","), "seed {seed}");
                    let mut all = VecDeque::from(all);
                    for _ in 0..random.u8(..3) {
                        store.evict_oldest();
                    }
                    // One part or the other is delivered, and the rest is put back.
                    let (older, newer) = batch.split();
                    let parts: Vec<_> = [older, newer]
                        .into_iter()
                        .filter(|half| half.len() > 0)
                        .collect();
                    let mut left = Vec::new();
                    for half in parts {
                        let events: Vec<_> = all.drain(..half.len()).collect();
                        if random.bool() {
                            store.done(&half);
                        } else {
                            left.push((half, events));
                        }
                    }
                    for (half, events) in left.into_iter().rev() {
                        store.put_back(half);
                        events.into_iter().rev().for_each(|e| model.push_front(e));
                    }
                }
            }
            assert_eq!(store.len(), model.len() as u64, "seed {seed}, step {n}");
            assert_eq!(store.in_flight(), (0, 0));
        }
        while let Some(batch) = take(&mut store, 7) {
            let events: Vec<_> = model.drain(..batch.len()).collect();
            assert_eq!(text(&batch), events.join(","), "seed {seed}");
            store.done(&batch);
        }
        assert!(model.is_empty(), "seed {seed}");
    }
}
