//! What must hold whatever the bytes are, of all that reads bytes written elsewhere: by an ingest, by a
//! user, by the app. Each takes any input, and panics where something doesn't hold.
//!
//! `bin/fuzz` looks for inputs with libFuzzer, `cargo test` tries random ones.

use crate::event::json;
use crate::event::place::Place;
use crate::flush::split::{Accepted, Parts, Seen, Standing};
use crate::http::policy;
use crate::http::request;
use crate::http::response;
use crate::queue::batch::Batch;
use crate::queue::events::Queue;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::SystemTime;

/// An answer: two bytes of status, one of the length of the content type, that, the body.
pub fn answer(bytes: &[u8]) {
    let [high, low, length, rest @ ..] = bytes else {
        return;
    };
    let status = u16::from_le_bytes([*low, *high]) % 1000;
    let (content_type, body) = rest.split_at(rest.len().min(usize::from(*length)));
    let content_type = String::from_utf8_lossy(content_type);
    match response::read(status, &content_type, body) {
        Ok(_) => assert!((200..300).contains(&status)),
        Err(failure) => {
            assert_eq!(failure.error.status, status);
            assert!(!failure.error.message.is_empty() || !body.is_empty());
            let secret = "a secret key";
            let hidden = failure.hiding(secret);
            assert!(!format!("{hidden:?}").contains(secret));
        }
    }
}

/// The value of a `Retry-After`.
pub fn retry_after(bytes: &[u8]) {
    let asked = policy::retry_after(bytes, SystemTime::now());
    let held = asked.and_then(policy::hold);
    assert!(held.is_none_or(|held| held > policy::LONGEST_DELAY));
}

/// A header's name and its value, apart at the first colon.
pub fn header(bytes: &[u8]) {
    let colon = bytes.iter().position(|byte| *byte == b':');
    let (name, value) = bytes.split_at(colon.unwrap_or(bytes.len()));
    if let Ok((name, value)) = request::header(name, value) {
        assert!(!name.as_str().contains(['\r', '\n', ' ', ':']));
        assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)));
        assert!(value.is_sensitive());
    }
}

/// Text as JSON; and JSON, perhaps, itself.
pub fn json(bytes: &[u8]) {
    let mut out = Vec::new();
    let replaced = json::write_str(&mut out, bytes);
    let lossy = String::from_utf8_lossy(bytes);
    assert_eq!(replaced, std::str::from_utf8(bytes).is_err());
    assert_eq!(
        serde_json::from_slice::<Value>(&out).expect("valid JSON"),
        Value::String(lossy.into_owned())
    );
    if let Some(value) = json::read(bytes) {
        assert!(json::depth(&value) < 128);
    }
}

/// Events that are pushed, taken, split, refused and put back: two bytes a step, against a plain list.
pub fn queue(bytes: &[u8]) {
    let mut queue = Queue::default();
    let mut model: Model = VecDeque::new();
    for step in bytes.as_chunks::<2>().0 {
        let [what, number] = *step;
        let number = usize::from(number);
        match what % 6 {
            0 | 1 => {
                let event = vec![b'0' + what % 10; 1 + number * usize::from(what)];
                model.push_back((queue.next(), event.clone()));
                queue.push((&event).into());
            }
            2 => assert_eq!(
                queue.drop_oldest(),
                model.pop_front().map(|(number, _)| number)
            ),
            3 => {
                if let Some(batch) = queue.take(number, usize::from(what) * 64) {
                    parts(batch, what, &mut queue, &mut model);
                }
            }
            4 => {
                let copy = queue.copy_of_any().filter(|_| what > 128);
                if let Some((number, event)) = copy.map(|copy| (copy.numbers().start, text(&copy)))
                {
                    let at = model.iter().position(|(of, _)| *of == number);
                    assert_eq!(model.remove(at.expect("queued")).expect("there").1, event);
                    assert!(queue.remove(number) && !queue.remove(number));
                }
            }
            _ => {
                if let Some(batch) = queue.take(number, usize::MAX) {
                    let taken: Vec<_> = model.drain(..batch.len()).collect();
                    assert!(batch.numbers().eq(taken.iter().map(|(number, _)| *number)));
                    let events: Vec<_> = taken.into_iter().map(|(_, event)| event).collect();
                    assert_eq!(text(&batch), events.join(&b","[..]));
                }
            }
        }
        assert_eq!(queue.len(), model.len());
        let stored = model.iter().map(|(_, event)| event.len());
        assert_eq!(queue.bytes(), stored.sum::<usize>());
        let head = model.front().map_or(queue.next(), |(number, _)| *number);
        assert_eq!(queue.head(), head);
    }
}

/// Events with their numbers.
type Model = VecDeque<(u64, Vec<u8>)>;

fn text(batch: &Batch) -> Vec<u8> {
    let mut written = Vec::new();
    batch.write_to(&mut written);
    written
}

/// A batch whose parts are accepted or refused by the bits of `verdicts`, and the rest put back.
fn parts(batch: Batch, verdicts: u8, queue: &mut Queue, model: &mut Model) {
    let mut gone = Vec::new();
    let (all, end) = (batch.len(), batch.numbers().end);
    let mut parts = Parts::new(batch, Seen::default());
    for turn in 0.. {
        let mut done: Vec<Batch> = match verdicts >> (turn % 8) & 3 {
            0 => {
                parts.refused();
                Vec::new()
            }
            1 => parts.too_large().into_iter().collect(),
            _ => match parts.accepted() {
                Some(Accepted::Part(part)) => vec![part],
                Some(Accepted::Other(other)) => {
                    assert!(queue.remove(other.numbers().start));
                    vec![other]
                }
                None => Vec::new(),
            },
        };
        let (standing, rejected) = parts.settle();
        done.extend(rejected);
        gone.extend(done.iter().flat_map(Batch::numbers));
        let others = gone.iter().filter(|n| **n >= end).count();
        assert_eq!(parts.len(), all + others - gone.len());
        match standing {
            Standing::Next => {}
            Standing::Elsewhere => match queue.copy_of_any() {
                Some(other) => parts.try_other(other),
                None => break,
            },
            Standing::Done | Standing::Keep => break,
        }
    }
    let rest: Vec<Batch> = parts.into_rest().collect();
    assert!(rest.is_sorted_by_key(|part| std::cmp::Reverse(part.numbers().end)));
    rest.into_iter().for_each(|part| queue.put_back(part));
    let before = model.len();
    model.retain(|(number, _)| !gone.contains(number));
    assert_eq!(before - model.len(), gone.len());
}

/// Two bytes of a place, then an event's JSON, perhaps cut off.
pub fn place(bytes: &[u8]) {
    let [high, low, event @ ..] = bytes else {
        return;
    };
    let at = usize::from(u16::from_le_bytes([*low, *high]));
    let place = Place::in_event(event, at.min(event.len()));
    assert!(place.event.len() <= event.len() * 3 && place.path.len() <= event.len() * 3 + 64);
}

#[cfg(test)]
mod tests {
    /// Random inputs, of which some are made of what the others are likely to look for.
    fn with_random_inputs(holds: fn(&[u8])) {
        const WORDS: [&[u8]; 12] = [
            br#"{"success":true,"data":"#,
            br#"{"event_name":"a","properties":{"x":["#,
            br#""quota_limited":[1]"#,
            b"a secret key",
            b"\xE2\x82",
            "ü".as_bytes(),
            b"\\u0000",
            b"}",
            b"\"",
            b",",
            b"120",
            b"Sun, 06 Nov 1994 08:49:37 GMT",
        ];
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut input = Vec::new();
            while input.len() < 64 && random.u8(..8) > 0 {
                if random.bool() {
                    input.extend_from_slice(WORDS[random.usize(..WORDS.len())]);
                } else {
                    input.extend(std::iter::repeat_with(|| random.u8(..)).take(4));
                }
            }
            holds(&input);
        }
    }

    #[test]
    fn all_properties_hold_for_random_inputs() {
        for holds in [
            super::answer,
            super::retry_after,
            super::header,
            super::json,
            super::queue,
            super::place,
        ] {
            with_random_inputs(holds);
        }
    }
}
