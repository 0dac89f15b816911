//! The NIFs of a capture: a term becomes a queued event or person update. They return atoms, or `{:item, item}` from a
//! client in test mode, and raise nothing.

use crate::encode::{Encoder, Scratch, Stop};
use crate::lanes::Lane;
use crate::options::{EventOptions, Mode};
use crate::registry::{self, Entry};
use crate::{atoms, terms, vm};
use billdogeng::{Client, Noted, Place, Reason, PROCESS_PERSON_PROFILE};
use rustler::{Atom, Encoder as _, Term};
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// A thread keeps its buffer between events, but no more of it than this.
const KEPT_BUFFER: usize = 64 * 1024;
/// The capacity that a large event gets at once.
const LARGE_BUFFER: usize = 1024 * 1024;

/// The terms of an event or a person update.
struct Item<'a>([Term<'a>; 5]);

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// Captures an item. The properties of a person update are its operations; it has no name, groups or timestamp. A
/// timestamp is in ms, or nil for now. `marker` is nil, `:hooked` after the client's hooks, or the reference of a
/// normalised item.
///
/// Returns `:ok`, `{:item, item}`, `:no_client`, `:no_thread`, or the step that must come first: `:dirty`, `:normalise`,
/// `:hooks`.
#[rustler::nif]
#[allow(clippy::too_many_arguments)]
fn capture<'a>(
    owner: Term<'a>,
    lane: Lane,
    distinct_id: Term<'a>,
    name: Term<'a>,
    properties: Term<'a>,
    groups: Term<'a>,
    timestamp: Term<'a>,
    marker: Term<'a>,
) -> Term<'a> {
    let item = Item([distinct_id, name, properties, groups, timestamp]);
    take(owner, lane, item, marker, true)
}

#[rustler::nif(schedule = "DirtyCpu")]
#[allow(clippy::too_many_arguments)]
fn capture_dirty<'a>(
    owner: Term<'a>,
    lane: Lane,
    distinct_id: Term<'a>,
    name: Term<'a>,
    properties: Term<'a>,
    groups: Term<'a>,
    timestamp: Term<'a>,
    marker: Term<'a>,
) -> Term<'a> {
    let item = Item([distinct_id, name, properties, groups, timestamp]);
    take(owner, lane, item, marker, false)
}

/// Counts an item that is dropped before it is encoded.
#[rustler::nif(name = "drop")]
fn drop_item(owner: Term, lane: Lane, reason: Atom) -> Atom {
    let reason = terms::to_reason(reason).unwrap_or(Reason::Failed);
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

fn take<'a>(
    owner: Term<'a>,
    lane: Lane,
    item: Item<'a>,
    marker: Term<'a>,
    normal: bool,
) -> Term<'a> {
    let env = owner.get_env();
    registry::with(owner, |entry| match entry.lanes.open(lane) {
        Ok(client) => take_by(client, entry, lane, item, marker, normal),
        Err(_) => atoms::no_thread().encode(env),
    })
    .unwrap_or_else(|| atoms::no_client().encode(env))
}

fn take_by<'a>(
    client: &Client,
    entry: &Entry,
    lane: Lane,
    item: Item<'a>,
    marker: Term<'a>,
    normal: bool,
) -> Term<'a> {
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
        Lane::Event => write_event(&mut encoder, item, &entry.options),
        Lane::PersonUpdate => write_update(&mut encoder, item),
    };
    let (replaced, first_replaced) = (encoder.replaced, encoder.first_replaced);
    let mut scratch = encoder.into_scratch();
    if written.is_ok() && scratch.out.len() > max_bytes {
        written = Err(Stop::TooLarge);
    }
    let bytes = if scratch.out.len() > KEPT_BUFFER {
        Cow::Owned(std::mem::take(&mut scratch.out))
    } else {
        Cow::Borrowed(scratch.out.as_slice())
    };
    let result = match written {
        Ok(()) => {
            if let Some(at) = first_replaced {
                client.report_replaced(|| Place::in_event(&bytes, at));
            }
            if entry.started == Mode::Test {
                client.count_kept(replaced);
                (atoms::item(), terms::decode(env, &bytes)).encode(env)
            } else {
                client.capture(bytes, replaced);
                atoms::ok().encode(env)
            }
        }
        Err(Stop::TooLarge) => {
            client.report_too_large(|| Place::in_event(&bytes, bytes.len()));
            client.count_drop(Reason::TooLarge);
            atoms::ok().encode(env)
        }
        Err(Stop::Dirty) => atoms::dirty().encode(env),
        Err(Stop::Normalise) => atoms::normalise().encode(env),
    };
    scratch.out.clear();
    scratch.out.shrink_to(KEPT_BUFFER);
    SCRATCH.set(Some(scratch));
    result
}

/// Writes the wire's four keys, in alphabetical order.
fn write_event<'a>(
    encoder: &mut Encoder<'a>,
    Item([distinct_id, name, properties, groups, timestamp]): Item<'a>,
    options: &EventOptions,
) -> Result<(), Stop> {
    encoder.literal("{\"event_name\":");
    let name_at = encoder.written().len();
    encoder.value(name)?;
    let name_at = name_at..encoder.written().len();
    encoder.literal(",\"event_timestamp\":");
    let given = if atoms::nil() == timestamp {
        None
    } else {
        vm::integer(timestamp)
    };
    encoder.integer(given.unwrap_or_else(vm::system_time_ms));
    encoder.literal(",\"properties\":");
    let start = encoder.written().len();
    if options.insert_ids || options.person_profiles.is_some() {
        encoder.noted = Some(Noted::default());
    }
    encoder.properties(properties, groups, &options.groups)?;
    let noted = encoder.noted.take();
    if let Some(noted) = noted.filter(|_| encoder.written().ends_with(b"}")) {
        if options.insert_ids && !noted.insert_id {
            encoder.append_member(start, "$insert_id", &insert_id());
        }
        if let Some(profiles) = options.person_profiles.filter(|_| !noted.profile) {
            let process = profiles.process(&encoder.written()[name_at], noted);
            let process = if process { "true" } else { "false" };
            encoder.append_member(start, PROCESS_PERSON_PROFILE, process);
        }
    }
    encoder.literal(",\"user_id\":");
    encoder.value(distinct_id)?;
    encoder.literal("}");
    Ok(())
}

/// Writes the request of a person update.
fn write_update<'a>(encoder: &mut Encoder<'a>, item: Item<'a>) -> Result<(), Stop> {
    let Item([distinct_id, _, operations, ..]) = item;
    encoder.literal("{\"distinct_id\":");
    encoder.value(distinct_id)?;
    encoder.literal(",\"operations\":");
    encoder.value(operations)?;
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
