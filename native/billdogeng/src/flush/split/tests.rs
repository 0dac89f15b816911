use super::*;
use crate::queue::events::Queue;

/// The fate of the events of a flush; `answer` gets the numbers of each part.
#[derive(Debug, Default, PartialEq)]
struct Fate {
    accepted: Vec<u64>,
    rejected: Vec<u64>,
    too_large: Vec<u64>,
    kept: Vec<u64>,
    requests: u32,
}

enum Response {
    Accepted,
    Refused,
    TooLarge,
}

fn queue(events: Range<u64>) -> Queue {
    let mut queue = Queue::default();
    queue.renumber(events.start);
    events.for_each(|n| queue.push(n.to_string().as_bytes().into()));
    queue
}

/// One flush of batches of so many events. The rest is in the queue again.
fn flush(queue: &mut Queue, batch_size: usize, answer: &impl Fn(Range<u64>) -> Response) -> Fate {
    let mut fate = Fate::default();
    let mut seen = Seen::default();
    'flush: while let Some(batch) = queue.take(batch_size, usize::MAX) {
        let mut parts = Parts::new(batch, seen);
        loop {
            fate.requests += 1;
            match answer(parts.next().unwrap().numbers()) {
                Response::Accepted => match parts.accepted().unwrap() {
                    Accepted::Part(part) => fate.accepted.extend(part.numbers()),
                    Accepted::Other(other) => {
                        let number = other.numbers().start;
                        assert!(queue.remove(number));
                        fate.accepted.push(number);
                    }
                },
                Response::Refused => parts.refused(),
                Response::TooLarge => {
                    let event = parts.too_large();
                    let event = event.into_iter().flat_map(|event| event.numbers());
                    fate.too_large.extend(event);
                }
            }
            let (standing, rejected) = parts.settle();
            let rejected = rejected.iter().flat_map(Batch::numbers);
            fate.rejected.extend(rejected);
            let others = match standing {
                Standing::Elsewhere => queue.copy_of_any(),
                _ => None,
            };
            seen = parts.seen();
            match (standing, others) {
                _ if parts.is_spent() => {}
                (Standing::Done, _) => break,
                (Standing::Next, _) => continue,
                (_, Some(other)) => {
                    parts.try_other(other);
                    continue;
                }
                _ => {}
            }
            parts.into_rest().for_each(|part| queue.put_back(part));
            break 'flush;
        }
    }
    fate.kept = numbers(queue);
    fate
}

fn numbers(queue: &mut Queue) -> Vec<u64> {
    let mut batches = Vec::new();
    while let Some(batch) = queue.take(usize::MAX, usize::MAX) {
        batches.push(batch);
    }
    let numbers: Vec<_> = batches.iter().flat_map(Batch::numbers).collect();
    assert!(numbers.is_sorted());
    let newest_first = batches.into_iter().rev();
    newest_first.for_each(|batch| queue.put_back(batch));
    numbers
}

fn fate(count: u64, answer: impl Fn(Range<u64>) -> Response) -> Fate {
    flush(&mut queue(0..count), usize::MAX, &answer)
}

/// Refuses each part with one of these.
fn bad(events: &[u64]) -> impl Fn(Range<u64>) -> Response + '_ {
    move |numbers| match events.iter().any(|event| numbers.contains(event)) {
        true => Response::Refused,
        false => Response::Accepted,
    }
}

/// Flushes until all good events are accepted. Asserts that nothing else is, that only bad ones are rejected, and
/// that no flush makes more requests than it may. Returns how many flushes that took.
fn flushes(count: u64, batch_size: usize, bad_events: &[u64]) -> u32 {
    let mut queue = queue(0..count);
    let mut good: Vec<u64> = (0..count).collect();
    good.retain(|event| !bad_events.contains(event));
    for flushes in 1..100 {
        let fate = flush(&mut queue, batch_size, &bad(bad_events));
        let clean = count as usize / batch_size;
        assert!(fate.requests <= 100 + clean as u32, "{}", fate.requests);
        for event in &fate.accepted {
            let at = good.iter().position(|good| good == event);
            good.remove(at.expect("a good one, once"));
        }
        assert!(fate.rejected.iter().all(|event| bad_events.contains(event)));
        if good.is_empty() {
            return flushes;
        }
    }
    panic!("{} good events are left", good.len());
}

/// So many percent of the events, at random.
fn some(count: u64, percent: u8, seed: u64) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).filter(|_| random.u8(..100) < percent).collect()
}

#[test]
fn one_bad_event_is_rejected_alone_wherever_it_stands() {
    for count in [2, 3, 5, 8, 100, 1000] {
        for at in [0, 1, count / 2, count - 2, count - 1] {
            let fate = fate(count, bad(&[at]));
            assert_eq!(fate.rejected, [at], "{at} of {count}");
            assert!(fate.accepted.is_sorted());
            assert_eq!(fate.accepted.len() as u64, count - 1);
            assert!(fate.kept.is_empty());
            assert!(fate.requests <= 2 * count.next_power_of_two().ilog2() + 1);
        }
    }
}

#[test]
fn several_bad_events_are_rejected_alone() {
    let fate = fate(16, bad(&[0, 1, 7, 15]));
    assert_eq!(fate.rejected, [0, 1, 7, 15]);
    assert_eq!(fate.accepted.len(), 12);
}

#[test]
fn a_run_of_bad_events_at_the_head_holds_up_no_other_event() {
    for seed in 0..12 {
        fastrand::seed(seed);
        let run: Vec<u64> = (0..8).collect();
        let fate = fate(508, bad(&run));
        assert_eq!((fate.accepted.len(), &fate.rejected[..]), (500, &run[..]));
        assert!(fate.requests <= 60, "{}", fate.requests);
    }
}

#[test]
fn good_events_arrive_within_20_flushes_where_up_to_half_of_1000_are_bad_at_random() {
    for seed in 0..12 {
        fastrand::seed(seed);
        for percent in [1, 10, 30, 50] {
            let flushes = flushes(1000, 1000, &some(1000, percent, seed));
            assert!(flushes <= 20, "{percent} %, {seed}: {flushes} flushes");
        }
    }
}

#[test]
fn good_events_arrive_wherever_a_run_of_bad_ones_stands() {
    for seed in 0..10 {
        fastrand::seed(seed);
        for run in [0..500, 450..550, 500..1000, 0..900, 1..1000] {
            flushes(1000, 1000, &run.collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_batch_of_bad_events_alone_holds_up_none_of_those_behind_it() {
    for seed in 0..10 {
        fastrand::seed(seed);
        for batch_size in [1, 2, 3, 10, 100] {
            flushes(1000, batch_size, &(0..110).collect::<Vec<_>>());
            flushes(300, batch_size, &some(300, 50, seed));
        }
    }
}

#[test]
fn an_ingest_that_refuses_everything_has_nothing_dropped() {
    for (count, batch_size) in [(1, 9), (2, 9), (3, 9), (20, 9), (1000, 1000), (3000, 1000)] {
        let fate = flush(&mut queue(0..count), batch_size, &|_| Response::Refused);
        assert_eq!(fate.kept, (0..count).collect::<Vec<_>>());
        let most = policy::most_refusals(batch_size.min(count as usize));
        assert!(fate.requests <= most + MOST_TRIED + FEWEST_OTHERS);
    }
}

#[test]
fn an_ingest_that_refuses_everything_from_some_point_on_has_nothing_dropped_from_there() {
    let fate = fate(64, |numbers| match numbers.end <= 32 {
        true => Response::Accepted,
        false => Response::Refused,
    });
    assert_eq!(fate.accepted, (0..32).collect::<Vec<_>>());
    assert_eq!(fate.kept, (32..64).collect::<Vec<_>>());
    assert!(fate.rejected.is_empty());
}

#[test]
fn a_batch_that_is_too_large_is_split_until_it_passes() {
    let fate = fate(10, |numbers| match numbers.end - numbers.start > 3 {
        true => Response::TooLarge,
        false => Response::Accepted,
    });
    assert_eq!(fate.accepted, (0..10).collect::<Vec<_>>());
}

#[test]
fn an_event_that_is_too_large_by_itself_is_dropped_and_no_other() {
    let fate = fate(5, |numbers| match numbers.contains(&2) {
        true => Response::TooLarge,
        false => Response::Accepted,
    });
    assert_eq!(fate.too_large, [2]);
    assert_eq!(fate.accepted, [0, 1, 3, 4]);
}
