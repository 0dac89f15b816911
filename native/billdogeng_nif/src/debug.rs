//! The NIF that shows what a client waits for.

use crate::lanes::Lane;
use crate::updates::state;
use crate::{atoms, registry};
use billdogeng::{Call, Client, WaitsFor};
use rustler::{Atom, Encoder, Env, Term};

/// Returns the state of `owner`'s client, for how many ms it has lasted, what the client waits for, and the calls that wait,
/// as `{id, call, events}`; its host, its limit, the time of its oldest event in memory (ms), and its spool as
/// `{events, bytes, age in ms}`. The same for the person updates, or nil if there were none.
#[rustler::nif]
fn debug<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| {
        let updates = entry.lanes.get(Lane::PersonUpdate);
        let updates = updates.map(|client| lane(env, client, &[]));
        let updates = updates.encode(env);
        lane(
            env,
            entry.lanes.events(),
            &[(atoms::person_updates(), updates)],
        )
    })
    .unwrap_or_else(|| atoms::no_client().encode(env))
}

fn lane<'a>(env: Env<'a>, client: &Client, more: &[(Atom, Term<'a>)]) -> Term<'a> {
    let status = client.status().clone();
    let activity = status.activity;
    let lasts = activity
        .since
        .map_or(0, |since| since.elapsed().as_millis() as u64);
    let callers = status.callers.iter().map(|caller| {
        let events = client.events_below(caller.below);
        (caller.id, call(caller.call), events)
    });
    let next = status.next_attempt_in(&client.stats());
    let config = client.config();
    let max_queue_size = match config.max_queue_size {
        usize::MAX => atoms::infinity().encode(env),
        size => size.encode(env),
    };
    let spool = client.spool_usage().map(|usage| {
        let age = usage.age.map(|age| age.as_millis() as u64);
        (usage.events, usage.bytes, age)
    });
    let values = [
        (atoms::state(), state(activity.phase).encode(env)),
        (atoms::since(), lasts.encode(env)),
        (
            atoms::waits_for(),
            waits_for(activity.waits_for).encode(env),
        ),
        (atoms::next_attempt_in(), next.encode(env)),
        (atoms::callers(), callers.collect::<Vec<_>>().encode(env)),
        (atoms::host(), config.http.host.encode(env)),
        (atoms::max_queue_size(), max_queue_size),
        (atoms::oldest(), client.oldest().encode(env)),
        (atoms::spool(), spool.encode(env)),
    ];
    let values = values.iter().chain(more);
    values.fold(Term::map_new(env), |map, (key, value)| {
        map.map_put(*key, *value).unwrap_or(map)
    })
}

fn waits_for(waits_for: WaitsFor) -> Atom {
    match waits_for {
        WaitsFor::Events => atoms::events(),
        WaitsFor::Timer => atoms::timer(),
        WaitsFor::Response => atoms::response(),
        WaitsFor::Disk => atoms::disk(),
        WaitsFor::Retry => atoms::retry(),
        WaitsFor::SleepFn => atoms::sleep_fn(),
        WaitsFor::Backoff => atoms::backoff(),
        WaitsFor::Quota => atoms::quota(),
        WaitsFor::Spool => atoms::spool(),
    }
}

fn call(call: Call) -> Atom {
    match call {
        Call::Flush => atoms::flush(),
        Call::Shutdown => atoms::shutdown(),
        Call::QueueLength => atoms::queue_length(),
        Call::Purge => atoms::purge(),
    }
}
