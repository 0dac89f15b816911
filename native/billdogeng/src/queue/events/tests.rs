use super::*;

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
    let (given_up, newer) = newer.split_at(1);
    assert_eq!(given_up.numbers(), 3..4);
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

/// Against a plain list, over many random runs: whatever is pushed, taken, put back and dropped.
#[test]
fn it_behaves_as_a_plain_list_does() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut queue = Queue::default();
        let mut model: VecDeque<String> = VecDeque::new();
        for n in 0..400 {
            match random.u8(..10) {
                0..=5 => {
                    let large = if random.u8(..40) == 0 { 40 } else { 1 };
                    let event = format!("{n}{}", "z".repeat(large * random.usize(..3000)));
                    if large > 1 {
                        queue.push(event.clone().into_bytes().into());
                    } else {
                        queue.push(event.as_bytes().into());
                    }
                    model.push_back(event);
                }
                6 => {
                    assert_eq!(
                        queue.drop_oldest().is_some(),
                        model.pop_front().is_some(),
                        "seed {seed}"
                    );
                }
                7 => {
                    if let Some(batch) = queue.take(random.usize(1..9), random.usize(..9000)) {
                        let (older, newer) = batch.split();
                        queue.put_back(newer);
                        queue.put_back(older);
                    }
                }
                _ => {
                    let max = random.usize(1..9);
                    if let Some(batch) = queue.take(max, usize::MAX) {
                        let mut out = Vec::new();
                        batch.write_to(&mut out);
                        let expected: Vec<_> = model.drain(..batch.len()).collect();
                        assert_eq!(String::from_utf8(out).unwrap(), expected.join(","));
                    }
                }
            }
            assert_eq!(queue.len(), model.len(), "seed {seed}");
            assert_eq!(queue.bytes(), model.iter().map(String::len).sum::<usize>());
        }
    }
}
