//! The NIFs of a capture. Whatever they are handed, they answer with an atom, or in a test's client with
//! `{:event, event}`, and raise nothing.

use crate::client::atom_to_reason;
use crate::encode::{Encoder, Scratch, Stop};
use crate::options::Mode;
use crate::registry::{self, Entry};
use crate::{value, vm};
use billdogeng::{Capture, Place, Reason};
use rustler::{Atom, Encoder as _, Term};
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// A thread keeps its buffer between events, but no more of it than this.
const KEPT_BUFFER: usize = 64 * 1024;

/// What a large event is given at once, rather than by doubling.
const LARGE_BUFFER: usize = 1024 * 1024;

rustler::atoms! { ok, no_client, dirty, normalise, hooks, event, nil }

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// An event as it was handed in: id, name, properties, groups; a time in ms, or nil for now.
struct Event<'a>([Term<'a>; 5]);

#[rustler::nif]
#[allow(clippy::too_many_arguments)]
fn capture<'a>(
    owner: Term<'a>,
    distinct_id: Term<'a>,
    name: Term<'a>,
    properties: Term<'a>,
    groups: Term<'a>,
    timestamp: Term<'a>,
    marker: Term<'a>,
) -> Term<'a> {
    let event = Event([distinct_id, name, properties, groups, timestamp]);
    registry::with(owner, |entry| take(entry, event, marker, true))
        .unwrap_or_else(|| no_client().encode(owner.get_env()))
}

#[rustler::nif(schedule = "DirtyCpu")]
#[allow(clippy::too_many_arguments)]
fn capture_dirty<'a>(
    owner: Term<'a>,
    distinct_id: Term<'a>,
    name: Term<'a>,
    properties: Term<'a>,
    groups: Term<'a>,
    timestamp: Term<'a>,
    marker: Term<'a>,
) -> Term<'a> {
    let event = Event([distinct_id, name, properties, groups, timestamp]);
    registry::with(owner, |entry| take(entry, event, marker, false))
        .unwrap_or_else(|| no_client().encode(owner.get_env()))
}

/// Counts an event that is dropped before it is encoded, by the reason's name.
#[rustler::nif]
fn give_up<'a>(owner: Term<'a>, reason: Atom) -> Atom {
    let reason = atom_to_reason(reason).unwrap_or(Reason::Failed);
    answer(registry::with(owner, |entry| entry.client.give_up(reason)))
}

/// Whether this is the first failure of that kind that is reported of the client.
#[rustler::nif]
fn is_first_failure(owner: Term, kind: u8) -> bool {
    let bit = 1u8.checked_shl(kind.into()).unwrap_or(0);
    registry::with(owner, |entry| {
        entry.failures.fetch_or(bit, Ordering::Relaxed) & bit == 0
    })
    .unwrap_or(false)
}

/// The time in ms that an event is given which is captured now.
#[rustler::nif]
fn now_ms() -> i64 {
    vm::system_time_ms()
}

/// An event that was handed back is of no test.
#[rustler::nif]
fn disown<'a>(owner: Term<'a>) -> Atom {
    registry::with(owner, |entry| entry.client.disown()).map_or_else(no_client, |()| ok())
}

fn take<'a>(entry: &Entry, event: Event<'a>, marker: Term<'a>, normal: bool) -> Term<'a> {
    let env = marker.get_env();
    let max_bytes = entry.client.max_event_bytes();
    if entry.mode() == Mode::Disabled {
        return answer(Some(entry.client.give_up(Reason::Disabled))).encode(env);
    }
    if entry.hooks.is_some() && nil() == marker {
        return hooks().encode(env);
    }
    encoded(
        max_bytes,
        normal,
        marker,
        |encoder| write(encoder, &event, entry),
        |written, bytes, replaced| match written {
            Ok(()) => {
                if let Some(at) = replaced.first {
                    entry.client.tell_replaced(|| Place::in_event(&bytes, at));
                }
                match entry.started {
                    Mode::Test => {
                        entry.client.hand_back(replaced.count);
                        (self::event(), value::decode(env, &bytes)).encode(env)
                    }
                    _ => answer(Some(entry.client.capture(bytes, replaced.count))).encode(env),
                }
            }
            Err(Stop::TooLarge) => {
                entry
                    .client
                    .tell_too_large(|| Place::in_event(&bytes, bytes.len()));
                answer(Some(entry.client.give_up(Reason::TooLarge))).encode(env)
            }
            Err(Stop::Dirty) => dirty().encode(env),
            Err(Stop::Normalise) => normalise().encode(env),
        },
    )
}

/// Values written in another form than their own.
pub struct Replaced {
    pub count: u64,
    /// Where the first of them begins.
    pub first: Option<usize>,
}

/// Has `write` write within the bounds, in a buffer that the thread keeps unless it has become too large, and
/// `then` take what came of it.
pub fn encoded<'a, R>(
    max_bytes: usize,
    normal: bool,
    marker: Term<'a>,
    write: impl FnOnce(&mut Encoder<'a>) -> Result<(), Stop>,
    then: impl FnOnce(Result<(), Stop>, Cow<[u8]>, Replaced) -> R,
) -> R {
    let marker = marker.is_ref().then_some(marker);
    let mut scratch = SCRATCH.take().unwrap_or_default();
    if !normal {
        // Of what turns out to be too much, nothing is touched.
        scratch.out.reserve(max_bytes.min(LARGE_BUFFER));
    }
    let mut encoder = Encoder::new(scratch, max_bytes, normal, marker);
    let mut written = write(&mut encoder);
    let replaced = Replaced {
        count: encoder.replaced,
        first: encoder.first_replaced,
    };
    let mut scratch = encoder.into_scratch();
    if written.is_ok() && scratch.out.len() > max_bytes {
        written = Err(Stop::TooLarge);
    }
    let bytes = if scratch.out.len() > KEPT_BUFFER {
        Cow::Owned(std::mem::take(&mut scratch.out))
    } else {
        Cow::Borrowed(scratch.out.as_slice())
    };
    let result = then(written, bytes, replaced);
    scratch.out.clear();
    scratch.out.shrink_to(KEPT_BUFFER);
    SCRATCH.with(|kept| kept.set(Some(scratch)));
    result
}

pub fn answer(capture: Option<Capture>) -> Atom {
    match capture {
        Some(Capture::Taken | Capture::Closed) => ok(),
        None => no_client(),
    }
}

/// The wire's four keys, in the order of the alphabet.
fn write<'a>(encoder: &mut Encoder<'a>, event: &Event<'a>, entry: &Entry) -> Result<(), Stop> {
    let Event([distinct_id, name, properties, groups, timestamp]) = *event;
    encoder.literal("{\"event_name\":");
    let name_at = encoder.len();
    encoder.value(name)?;
    let name_end = encoder.len();
    encoder.literal(",\"event_timestamp\":");
    let given = if nil() == timestamp {
        None
    } else {
        vm::integer(timestamp)
    };
    encoder.integer(given.unwrap_or_else(vm::system_time_ms));
    encoder.literal(",\"properties\":");
    let start = encoder.len();
    encoder.properties(properties, groups, &entry.events.groups)?;
    if entry.events.insert_ids {
        encoder.insert_id(start);
    }
    if let Some(profiles) = entry.events.person_profiles {
        encoder.person_profile(profiles, name_at..name_end, start);
    }
    encoder.literal(",\"user_id\":");
    encoder.value(distinct_id)?;
    encoder.literal("}");
    Ok(())
}
