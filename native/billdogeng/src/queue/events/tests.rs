use super::*;
use std::collections::BTreeMap;

fn events(queue: &mut Queue, max: usize, bytes: usize) -> String {
    let mut out = Vec::new();
    if let Some(batch) = queue.take(max, bytes) {
        batch.write_to(&mut out);
    }
    String::from_utf8(out).unwrap()
}

fn filled(n: usize) -> Queue {
    let mut queue = Queue::default();
    (0..n).for_each(|i| queue.push(i.to_string().as_bytes().into()));
    queue
}

#[test]
fn events_leave_in_the_order_they_came() {
    let mut queue = filled(5);
    assert_eq!(events(&mut queue, 2, usize::MAX), "0,1");
    queue.push(b"5".into());
    assert_eq!(events(&mut queue, 9, usize::MAX), "2,3,4,5");
    assert!(queue.is_empty());
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn a_batch_put_back_leaves_first_again() {
    let mut queue = filled(4);
    let batch = queue.take(3, usize::MAX).unwrap();
    queue.push(b"4".into());
    queue.put_back(batch);
    assert_eq!((queue.head(), queue.next(), queue.len()), (0, 5, 5));
    assert_eq!(events(&mut queue, 9, usize::MAX), "0,1,2,3,4");
}

#[test]
fn a_batch_keeps_to_its_bytes_but_never_refuses_a_lone_large_event() {
    let mut queue = Queue::default();
    for event in ["aaaa", "bbbb", "cccccccccc"] {
        queue.push(event.as_bytes().into());
    }
    assert_eq!(events(&mut queue, 9, 9), "aaaa,bbbb");
    assert_eq!(events(&mut queue, 9, 3), "cccccccccc");
}

#[test]
fn dropping_the_oldest_keeps_count_bytes_and_order_across_chunks() {
    let big = vec![b'x'; 40 * 1024];
    let mut queue = Queue::default();
    for _ in 0..5 {
        queue.push((&big).into());
        queue.push(b"1".into());
    }
    let mut left = 10;
    while queue.drop_oldest().is_some() {
        left -= 1;
        assert_eq!(queue.len(), left);
        let bigs = left / 2;
        assert_eq!(queue.bytes(), bigs * big.len() + (left - bigs));
    }
    assert_eq!((left, queue.head()), (0, 10));
}

#[test]
fn what_is_put_back_with_a_gap_behind_it_keeps_its_numbers() {
    let mut queue = filled(9);
    let (older, newer) = queue.take(6, usize::MAX).unwrap().split();
    let (dropped, newer) = newer.split_at(1);
    assert_eq!(dropped.numbers(), 3..4);
    queue.put_back(newer);
    let (oldest, old) = older.split_at(1);
    queue.put_back(old);
    queue.put_back(oldest);
    assert_eq!((queue.head(), queue.next(), queue.len()), (0, 9, 8));
    assert_eq!(queue.drop_oldest(), Some(0));
    let batch = queue.take(1, usize::MAX).unwrap();
    assert_eq!(batch.numbers(), 1..2);
    queue.put_back(batch);
    let batch = queue.take(9, usize::MAX).unwrap();
    assert_eq!(batch.numbers(), 1..3);
    assert_eq!(events(&mut queue, 9, usize::MAX), "4,5,6,7,8");
    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

#[test]
fn what_is_read_stays_and_goes_on_where_it_was_left() {
    let big = vec![b'x'; 40 * 1024];
    let mut queue = Queue::default();
    let mut all = Vec::new();
    for n in 0..20 {
        let event = if n % 3 == 0 {
            big.clone()
        } else {
            n.to_string().into_bytes()
        };
        queue.push(event.clone().into());
        all.push(event);
    }
    queue.drop_oldest();
    queue.renumber(101);
    for at_once in [0, 1, 50_000, usize::MAX] {
        let (mut next, mut read) = (7, Vec::new());
        loop {
            let from = next;
            next = queue.read(from, at_once, |number, event| {
                assert_eq!(number, 101 + read.len() as u64);
                read.push(event.to_vec());
            });
            if next == queue.next() || at_once == 0 {
                break;
            }
            assert!(next > from, "it goes on");
        }
        let expected = if at_once == 0 { &[][..] } else { &all[1..] };
        assert_eq!(read, expected);
    }
    assert_eq!((queue.len(), queue.head(), queue.next()), (19, 101, 120));
}

/// Callers wait for the lock meanwhile: what stays must not be moved for each event that goes.
#[test]
fn dropping_from_a_batch_that_was_put_back_moves_no_other_event() {
    let mut queue = filled(1000);
    let batch = queue.take(900, usize::MAX).unwrap();
    queue.drop_oldest();
    queue.put_back(batch);
    let last = |queue: &Queue| {
        let batch = queue.returned.last().expect("a gap behind it");
        (
            std::ptr::from_ref(&batch.lens[batch.len() - 1]),
            batch.chunks[0].as_ptr_range().end,
        )
    };
    let place = last(&queue);
    for number in 0..400 {
        assert_eq!(queue.drop_oldest(), Some(number));
        assert_eq!(last(&queue), place);
    }
    assert_eq!(queue.take(100, usize::MAX).unwrap().numbers(), 400..500);
    assert_eq!(last(&queue).0, place.0);
    let older = queue.take(10, usize::MAX).unwrap();
    queue.put_back(older);
    assert_eq!(last(&queue).0, place.0);
    assert_eq!((queue.head(), queue.len()), (500, 499));
}

#[test]
fn an_event_is_copied_and_dropped_wherever_it_is() {
    let mut queue = filled(9);
    let batch = queue.take(3, usize::MAX).unwrap();
    queue.drop_oldest();
    queue.put_back(batch);
    let mut copied = [false; 9];
    for _ in 0..500 {
        let copy = queue.copy_of_any().expect("an event");
        let number = copy.numbers().start;
        let mut text = Vec::new();
        copy.write_to(&mut text);
        assert_eq!(text, number.to_string().as_bytes());
        copied[number as usize] = true;
    }
    assert_eq!(
        copied,
        [true, true, true, false, true, true, true, true, true]
    );
    assert!(queue.remove(1) && queue.remove(6) && !queue.remove(6) && !queue.remove(3));
    assert_eq!((queue.len(), queue.bytes(), queue.head()), (6, 6, 0));
    let runs: Vec<_> = std::iter::from_fn(|| queue.take(9, usize::MAX)).collect();
    let numbers: Vec<_> = runs.iter().map(Batch::numbers).collect();
    assert_eq!(numbers, [0..1, 2..3, 4..6, 7..9]);
}

#[test]
fn a_batch_splits_into_halves_with_their_own_numbers() {
    let mut queue = filled(9);
    queue.drop_oldest();
    let (older, newer) = queue.take(9, usize::MAX).unwrap().split();
    assert_eq!((older.numbers(), newer.numbers()), (1..5, 5..9));
    assert_eq!((older.bytes(), newer.bytes()), (4, 4));
    queue.put_back(newer);
    queue.put_back(older);
    assert_eq!(events(&mut queue, 9, usize::MAX), "1,2,3,4,5,6,7,8");
}

#[test]
fn a_batch_has_an_event_and_no_more_than_fit() {
    let mut queue = filled(9);
    assert_eq!(events(&mut queue, 0, 0), "0");
    assert_eq!(events(&mut queue, 9, 6), "1,2,3");
    assert_eq!(events(&mut queue, 9, 7), "4,5,6,7");
}

#[test]
fn a_read_stops_after_the_event_that_reaches_its_bytes() {
    let queue = filled(9);
    for (max_bytes, next) in [(0, 2), (1, 3), (2, 3), (3, 4)] {
        assert_eq!(queue.read(2, max_bytes, |_, _| ()), next);
    }
}

#[test]
fn small_events_are_kept_in_chunks_of_one_size() {
    let mut queue = Queue::default();
    (0..300).for_each(|_| queue.push(vec![b'x'; 999].into()));
    let sizes: Vec<_> = queue.chunks.iter().map(Bytes::len).collect();
    assert_eq!(sizes, [CHUNK / 1000 * 1000; 4]);
}

/// The events that are queued, by their numbers.
type Model = BTreeMap<u64, String>;

fn text(batch: &Batch) -> String {
    let mut out = Vec::new();
    batch.write_to(&mut out);
    String::from_utf8(out).unwrap()
}

fn assert_same(queue: &Queue, model: &Model) {
    assert_eq!(
        (queue.len(), queue.is_empty()),
        (model.len(), model.is_empty())
    );
    assert_eq!(
        queue.bytes(),
        model.values().map(String::len).sum::<usize>()
    );
    let head = model.keys().next().copied();
    assert_eq!(queue.head(), head.unwrap_or(queue.next()));
    for from in [0, (queue.head() + queue.next()) / 2] {
        let mut read = Vec::new();
        let next = queue.read(from, usize::MAX, |number, event| {
            read.push((number, String::from_utf8_lossy(event).into_owned()));
        });
        assert_eq!(next, queue.next());
        let expected = model.range(from..).map(|(at, event)| (*at, event.clone()));
        assert!(expected.eq(read));
    }
    let copied = queue.copy_of_any();
    assert_eq!(copied.is_some(), !model.is_empty());
    copied.iter().for_each(|copy| {
        assert_eq!(text(copy), model[&copy.numbers().start]);
    });
}

/// The oldest events as far as they fit and their numbers follow each other, taken off the model.
fn oldest(model: &mut Model, max_events: usize, max_bytes: usize) -> Vec<(u64, String)> {
    let mut taken: Vec<(u64, String)> = Vec::new();
    let mut bytes = 0;
    while let Some(entry) = model.first_entry() {
        let follows = taken
            .last()
            .is_none_or(|(last, _)| *entry.key() == last + 1);
        let fits = taken.len() < max_events && bytes + entry.get().len() <= max_bytes;
        if !(taken.is_empty() || follows && fits) {
            break;
        }
        bytes += entry.get().len() + 1;
        taken.push(entry.remove_entry());
    }
    taken
}

/// Puts a batch back but for some of its events, which leave gaps.
fn put_back_some(queue: &mut Queue, batch: Batch, model: &mut Model, random: &mut fastrand::Rng) {
    let mut rest = Some(batch);
    while let Some(batch) = rest.take().filter(|batch| batch.len() > 0) {
        let (older, newest) = match batch.len() {
            1 => (None, batch),
            len => {
                let (older, newest) = batch.split_at(len - 1);
                (Some(older), newest)
            }
        };
        if random.u8(..4) > 0 {
            model.insert(newest.numbers().start, text(&newest));
            queue.put_back(newest);
        }
        rest = older;
    }
}

/// Over many random runs: whatever is pushed, taken, put back with gaps, dropped and removed.
#[test]
fn it_behaves_as_a_map_from_numbers_to_events() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut queue = Queue::default();
        let mut model = Model::new();
        for n in 0..400 {
            match random.u8(..12) {
                0..=5 => {
                    let large = if random.u8(..40) == 0 { 400 } else { 1 };
                    let event = format!("{n}{}", "z".repeat(large * random.usize(..300)));
                    model.insert(queue.next(), event.clone());
                    let event = event.into_bytes();
                    match random.bool() {
                        true => queue.push(event.into()),
                        false => queue.push((&event).into()),
                    }
                }
                6 => {
                    let dropped = model.pop_first().map(|(number, _)| number);
                    assert_eq!(queue.drop_oldest(), dropped, "seed {seed}");
                }
                7 => {
                    let number = random.u64(..queue.next() + 2);
                    let removed = model.remove(&number).is_some();
                    assert_eq!(queue.remove(number), removed, "seed {seed}");
                }
                kind => {
                    let (max, bytes) = (random.usize(1..9), random.usize(..1000));
                    let expected = oldest(&mut model, max, bytes);
                    let batch = queue.take(max, bytes);
                    assert_eq!(batch.is_some(), !expected.is_empty());
                    let Some(batch) = batch else { continue };
                    let first = expected[0].0;
                    assert_eq!(batch.numbers(), first..first + expected.len() as u64);
                    let events: Vec<_> = expected.into_iter().map(|(_, event)| event).collect();
                    assert_eq!(text(&batch), events.join(","), "seed {seed}");
                    if kind < 11 {
                        put_back_some(&mut queue, batch, &mut model, &mut random);
                    }
                }
            }
            assert_same(&queue, &model);
        }
    }
}
