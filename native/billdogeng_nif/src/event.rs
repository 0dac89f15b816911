//! The NIFs of a capture: a term becomes a queued event or person update. They return atoms, or `{:item, item}` from a
//! client in test mode, and raise nothing.

use crate::encode::{Encoder, Scratch, Stop};
use crate::lanes::Lane;
use crate::options::{EventOptions, Mode};
use crate::registry::{self, Entry};
use crate::{atoms, terms, vm};
use billdogeng::{Client, Noted, Place, Reason, PROCESS_PERSON_PROFILE};
use rustler::{Atom, Encoder as _, Env, Term};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// A thread keeps its buffer between events, but no more of it than this.
const KEPT_BUFFER: usize = 64 * 1024;
/// The capacity that a large event gets at once.
const LARGE_BUFFER: usize = 1024 * 1024;

/// The arguments of a capture: the owner, the lane, the distinct ID, the name, the properties, the groups, the timestamp,
/// the marker. Behind a reference, since a copy takes as long as to write a property.
type Arguments<'a> = [Term<'a>; 8];

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Captures an item. The properties of a person update are its operations; it has no name, groups or timestamp. A
/// timestamp is in ms, or nil for now. `marker` is nil, `:hooked` after the client's hooks, or the reference of a
/// normalised item.
///
/// Returns `:ok`, `{:item, item}`, `:no_client`, `:no_thread`, or the step that must come first: `:dirty`, `:normalise`,
/// `:hooks`.
fn capture<'a>(arguments: &Arguments<'a>) -> Term<'a> {
    take(arguments, true)
}
vm::nif!("capture", 8, Normal, capture, panicked);

fn capture_dirty<'a>(arguments: &Arguments<'a>) -> Term<'a> {
    take(arguments, false)
}
vm::nif!("capture_dirty", 8, DirtyCpu, capture_dirty, panicked);

/// Counts the item of a capture that has panicked, so that the caller goes on.
fn panicked<'a>(arguments: &Arguments<'a>) -> Term<'a> {
    let [owner, lane, ..] = arguments;
    count_drop(*owner, to_lane(*lane), Reason::Failed).encode(owner.get_env())
}

fn to_lane(lane: Term) -> Lane {
    match atoms::event() == lane {
        true => Lane::Event,
        false => Lane::PersonUpdate,
    }
}

/// Counts an item that is dropped before it is encoded.
#[rustler::nif(name = "drop")]
fn drop_item(owner: Term, lane: Lane, reason: Atom) -> Atom {
    count_drop(
        owner,
        lane,
        terms::to_reason(reason).unwrap_or(Reason::Failed),
    )
}

fn count_drop(owner: Term, lane: Lane, reason: Reason) -> Atom {
    registry::with(owner, |entry| match entry.lanes.open(lane) {
        Ok(client) => {
            client.count_drop(reason);
            atoms::ok()
        }
        Err(_) => atoms::no_thread(),
    })
    .unwrap_or_else(atoms::no_client)
}

/// Returns whether this is the first failure of that kind that is reported for the client.
#[rustler::nif]
fn is_first_failure(owner: Term, kind: u8) -> bool {
    let bit = 1u8.checked_shl(kind.into()).unwrap_or(0);
    registry::with(owner, |entry| {
        entry.failures.fetch_or(bit, Ordering::Relaxed) & bit == 0
    })
    .unwrap_or(false)
}

/// Returns the time in ms of an event that is captured now.
#[rustler::nif]
fn now_ms() -> i64 {
    vm::system_time_ms()
}

/// Counts an item of a client in test mode as dropped: no test owns it.
#[rustler::nif]
fn disown(owner: Term, lane: Lane) -> Atom {
    registry::with(owner, |entry| entry.lanes.get(lane).map(Client::disown))
        .map_or_else(atoms::no_client, |_| atoms::ok())
}

#[inline]
fn take<'a>(arguments: &Arguments<'a>, normal: bool) -> Term<'a> {
    let [owner, lane, ..] = arguments;
    let env = owner.get_env();
    let lane = to_lane(*lane);
    registry::with(*owner, |entry| match entry.lanes.open(lane) {
        Ok(client) => take_by(client, entry, lane, arguments, normal),
        Err(_) => atoms::no_thread().encode(env),
    })
    .unwrap_or_else(|| atoms::no_client().encode(env))
}

#[inline]
fn take_by<'a>(
    client: &Client,
    entry: &Entry,
    lane: Lane,
    arguments: &Arguments<'a>,
    normal: bool,
) -> Term<'a> {
    let marker = arguments[7];
    let env = marker.get_env();
    if entry.mode() == Mode::Disabled {
        client.count_drop(Reason::Disabled);
        return atoms::ok().encode(env);
    }
    if lane == Lane::Event && entry.hooks.is_some() && atoms::nil() == marker {
        return atoms::hooks().encode(env);
    }
    let max_bytes = client.max_event_bytes();
    let mut scratch = SCRATCH.take().unwrap_or_default();
    if !normal {
        scratch.out.reserve(max_bytes.min(LARGE_BUFFER));
    }
    let marker = marker.is_ref().then_some(marker);
    let mut encoder = Encoder::new(scratch, max_bytes, normal, marker);
    let mut written = match lane {
        Lane::Event => write_event(&mut encoder, arguments, &entry.options),
        Lane::PersonUpdate => write_update(&mut encoder, arguments),
    };
    let (replaced, first_replaced) = (encoder.replaced, encoder.first_replaced);
    let mut scratch = encoder.into_scratch();
    if written.is_ok() && scratch.out.len() > max_bytes {
        written = Err(Stop::TooLarge);
    }
    if let Some(at) = first_replaced.filter(|_| written.is_ok()) {
        report_replaced(client, &scratch.out, at);
    }
    let result = match written {
        Ok(()) if entry.started == Mode::Test => keep(env, client, &scratch.out, replaced),
        Ok(()) if scratch.out.len() > KEPT_BUFFER => {
            client.capture(std::mem::take(&mut scratch.out), replaced);
            atoms::ok().encode(env)
        }
        Ok(()) => {
            client.capture(scratch.out.as_slice(), replaced);
            atoms::ok().encode(env)
        }
        Err(stop) => stopped(client, &scratch.out, stop).encode(env),
    };
    scratch.out.clear();
    scratch.out.shrink_to(KEPT_BUFFER);
    SCRATCH.set(Some(scratch));
    result
}

// Functions that few captures need lie elsewhere: each cache line of code is a wait after an idle time.

#[cold]
fn report_replaced(client: &Client, event: &[u8], at: usize) {
    client.report_replaced(|| Place::in_event(event, at));
}

#[cold]
fn keep<'a>(env: Env<'a>, client: &Client, event: &[u8], replaced: u64) -> Term<'a> {
    client.count_kept(replaced);
    (atoms::item(), terms::decode(env, event)).encode(env)
}

#[cold]
fn stopped(client: &Client, written: &[u8], stop: Stop) -> Atom {
    match stop {
        Stop::TooLarge => {
            client.report_too_large(|| Place::in_event(written, written.len()));
            client.count_drop(Reason::TooLarge);
            atoms::ok()
        }
        Stop::Dirty => atoms::dirty(),
        Stop::Normalise => atoms::normalise(),
    }
}

/// Writes the wire's four keys, in alphabetical order.
fn write_event<'a>(
    encoder: &mut Encoder<'a>,
    [_, _, distinct_id, name, properties, groups, timestamp, _]: &Arguments<'a>,
    options: &EventOptions,
) -> Result<(), Stop> {
    encoder.literal("{\"event_name\":");
    let name_at = encoder.written().len();
    encoder.value(*name)?;
    let name_at = name_at..encoder.written().len();
    encoder.literal(",\"event_timestamp\":");
    let given = if atoms::nil() == *timestamp {
        None
    } else {
        vm::integer(*timestamp)
    };
    encoder.integer(given.unwrap_or_else(vm::system_time_ms));
    encoder.literal(",\"properties\":");
    let start = encoder.written().len();
    if options.insert_ids || options.person_profiles.is_some() {
        encoder.noted = Some(Noted::default());
    }
    encoder.properties(*properties, *groups, &options.groups)?;
    if let Some(noted) = encoder.noted.take() {
        append_members(encoder, start, name_at, noted, options);
    }
    encoder.literal(",\"user_id\":");
    encoder.value(*distinct_id)?;
    encoder.literal("}");
    Ok(())
}

/// Appends the members that the client's options ask for to the properties, which were written from `start` on.
#[cold]
fn append_members(
    encoder: &mut Encoder,
    start: usize,
    name_at: Range<usize>,
    noted: Noted,
    options: &EventOptions,
) {
    if !encoder.written().ends_with(b"}") {
        return;
    }
    if options.insert_ids && !noted.insert_id {
        encoder.append_member(start, "$insert_id", &insert_id());
    }
    if let Some(profiles) = options.person_profiles.filter(|_| !noted.profile) {
        let process = profiles.process(&encoder.written()[name_at], noted);
        let process = if process { "true" } else { "false" };
        encoder.append_member(start, PROCESS_PERSON_PROFILE, process);
    }
}

/// Writes the request of a person update.
#[cold]
fn write_update<'a>(
    encoder: &mut Encoder<'a>,
    [_, _, distinct_id, _, operations, ..]: &Arguments<'a>,
) -> Result<(), Stop> {
    encoder.literal("{\"distinct_id\":");
    encoder.value(*distinct_id)?;
    encoder.literal(",\"operations\":");
    encoder.value(*operations)?;
    encoder.literal("}");
    Ok(())
}

/// Returns a UUIDv7 (RFC 9562, 5.7) as JSON.
fn insert_id() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let id = uuid::Builder::from_unix_timestamp_millis(now.as_millis() as u64, &random);
    format!("\"{}\"", id.into_uuid())
}
