//! What a client is doing, as terms; and which of its drops the log has named.

use crate::client::reason_to_atom;
use crate::registry;
use billdogeng::{Client, Phase, Reason, Stats};
use rustler::{Atom, Encoder, Env, Term};
use std::time::{SystemTime, UNIX_EPOCH};

rustler::atoms! {
    ok, no_client, event, state, next_attempt_in, last_error, last_success,
    idle, in_flight, waiting, backing_off, suspended, draining,
}

/// Adds the client's state to its counters: its last error is `{message, status, code, ms}` or nil, its last success ms
/// or nil.
pub fn put_status<'a>(
    env: Env<'a>,
    counters: Term<'a>,
    stats: &Stats,
    client: Option<&Client>,
) -> Term<'a> {
    let status = client
        .map(|client| client.status().clone())
        .unwrap_or_default();
    let error = status
        .last_error
        .as_ref()
        .map(|error| (&error.message, error.status, &error.code, ms(error.time)));
    let values = [
        (state(), phase_to_atom(status.phase).encode(env)),
        (next_attempt_in(), status.next_attempt_in(stats).encode(env)),
        (last_error(), error.encode(env)),
        (last_success(), status.last_success.map(ms).encode(env)),
    ];
    values.iter().fold(counters, |map, (key, value)| {
        map.map_put(*key, *value).unwrap_or(map)
    })
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

fn phase_to_atom(phase: Phase) -> Atom {
    match phase {
        Phase::Idle => idle(),
        Phase::InFlight => in_flight(),
        Phase::Waiting => waiting(),
        Phase::BackingOff => backing_off(),
        Phase::Suspended => suspended(),
        Phase::Draining => draining(),
    }
}

/// A log line of the owner's has named so many drops: the client's last line leaves them out.
#[rustler::nif]
fn told_drops(owner: Term, kind: Atom, reason: Atom, count: u64) -> Atom {
    let told = |client: &Client| {
        for known in Reason::ALL {
            if reason_to_atom(known) == reason {
                client.status().told(known, count);
            }
        }
    };
    registry::with(owner, |entry| {
        if kind == event() {
            told(&entry.client);
        } else if let Some(lane) = entry.lane.client() {
            told(&lane);
        }
    })
    .map_or_else(no_client, |()| ok())
}
