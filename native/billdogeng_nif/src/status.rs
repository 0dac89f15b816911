//! What a client is doing, as terms; and which of its drops the log has named.

use crate::client::reason_to_atom;
use crate::registry;
use billdogeng::{Call, Client, PhaseName, Reason, Stats, WaitsFor};
use rustler::{Atom, Encoder, Env, Term};
use std::time::{SystemTime, UNIX_EPOCH};

rustler::atoms! {
    ok, no_client, event, state, next_attempt_in, last_error, last_success,
    idle, in_flight, waiting, backing_off, suspended, draining,
    since, waits_for, callers, person_updates,
    events, timer, response, disk, retry, sleep_fn, backoff, quota, spool,
    flush, shutdown, queue_length, purge,
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
        (state(), phase_to_atom(status.activity.phase).encode(env)),
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

fn phase_to_atom(phase: PhaseName) -> Atom {
    match phase {
        PhaseName::Idle => idle(),
        PhaseName::InFlight => in_flight(),
        PhaseName::Waiting => waiting(),
        PhaseName::BackingOff => backing_off(),
        PhaseName::Suspended => suspended(),
        PhaseName::Draining => draining(),
    }
}

/// Returns what `owner`'s client is doing since when (ms), what it waits for, and the calls that wait, as
/// `{id, call, events}`.
#[rustler::nif]
fn debug<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| {
        let lane = entry.lane.client();
        let updates = lane.map(|lane| debug_to_term(env, &lane));
        let debug = debug_to_term(env, &entry.client);
        debug.map_put(person_updates(), updates).ok()
    })
    .flatten()
    .unwrap_or_else(|| no_client().encode(env))
}

fn debug_to_term<'a>(env: Env<'a>, client: &Client) -> Term<'a> {
    let status = client.status().clone();
    let stats = client.stats();
    let lasts = status
        .activity
        .since
        .map_or(0, |since| since.elapsed().as_millis());
    let calls = status.callers.iter().map(|caller| {
        let call = call_to_atom(caller.call);
        (caller.id, call, client.events_below(caller.below))
    });
    let values = [
        (state(), phase_to_atom(status.activity.phase).encode(env)),
        (
            since(),
            u64::try_from(lasts).unwrap_or(u64::MAX).encode(env),
        ),
        (
            waits_for(),
            waits_for_to_atom(status.activity.waits_for).encode(env),
        ),
        (
            next_attempt_in(),
            status.next_attempt_in(&stats).encode(env),
        ),
        (callers(), calls.collect::<Vec<_>>().encode(env)),
    ];
    values.iter().fold(Term::map_new(env), |map, (key, value)| {
        map.map_put(*key, *value).unwrap_or(map)
    })
}

fn waits_for_to_atom(waits_for: WaitsFor) -> Atom {
    match waits_for {
        WaitsFor::Events => events(),
        WaitsFor::Timer => timer(),
        WaitsFor::Response => response(),
        WaitsFor::Disk => disk(),
        WaitsFor::Retry => retry(),
        WaitsFor::SleepFn => sleep_fn(),
        WaitsFor::Backoff => backoff(),
        WaitsFor::Quota => quota(),
        WaitsFor::Spool => spool(),
    }
}

fn call_to_atom(call: Call) -> Atom {
    match call {
        Call::Flush => flush(),
        Call::Shutdown => shutdown(),
        Call::QueueLength => queue_length(),
        Call::Purge => purge(),
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
