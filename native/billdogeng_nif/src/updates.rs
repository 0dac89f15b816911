//! The NIFs that return what a client has to report: notices and replies of a lane, counters of both.

use crate::lanes::Lane;
use crate::{atoms, registry, terms};
use billdogeng::spool::Problem;
use billdogeng::{Client, Error, Limit, Notice, PhaseName, Reply, Stats};
use rustler::{Atom, Encoder, Env, Term};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns `{notices, missed, sleep, replies}`, all since the last call, or `:dirty` if to make terms of them would block
/// a normal scheduler for too long. Sends the owner another message if there are more replies than one call returns.
#[rustler::nif]
fn updates<'a>(owner: Term<'a>, lane: Lane) -> Term<'a> {
    take_updates(owner, lane, true)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn updates_dirty<'a>(owner: Term<'a>, lane: Lane) -> Term<'a> {
    take_updates(owner, lane, false)
}

fn take_updates<'a>(owner: Term<'a>, lane: Lane, normal: bool) -> Term<'a> {
    let env = owner.get_env();
    let updates = registry::with(owner, |entry| {
        let client = entry.lanes.get(lane)?;
        Some(match normal {
            true => client.short_updates(),
            false => Some(client.updates()),
        })
    });
    let updates = match updates.flatten() {
        None => return atoms::no_client().encode(env),
        Some(None) => return atoms::dirty().encode(env),
        Some(Some(updates)) => updates,
    };
    if let Some(owner) = owner.decode().ok().filter(|_| updates.more) {
        let _ = env.send(&owner, (atoms::billdogeng_updates(), lane));
    }
    let notices = updates
        .notices
        .iter()
        .map(|notice| self::notice(env, notice));
    let notices: Vec<_> = notices.collect();
    let mut errors = Errors(Vec::new());
    let replies = updates.replies.iter();
    let replies: Vec<_> = replies.map(|reply| errors.reply(env, reply)).collect();
    let sleep = updates
        .sleep
        .map(|(id, delay)| (id, delay.as_millis() as u64));
    (notices, updates.missed, sleep, replies).encode(env)
}

fn notice<'a>(env: Env<'a>, notice: &Notice) -> Term<'a> {
    match notice {
        Notice::Flushed(count) => (atoms::flushed(), count).encode(env),
        Notice::FlushFailed(count, error) => {
            let error = (&error.message, error.status, &error.code, atoms::nil());
            (atoms::flush_failed(), count, error).encode(env)
        }
        Notice::Dropped(reason, count) => {
            (atoms::dropped(), terms::reason(*reason), count).encode(env)
        }
        Notice::QueueFullBy(limit) => {
            let limit = match limit {
                Limit::Events => atoms::max_queue_size(),
                Limit::Bytes => atoms::max_queue_bytes(),
            };
            (atoms::queue_full_by(), limit).encode(env)
        }
        Notice::RefusedWith(status) => (atoms::refused_with(), status).encode(env),
        Notice::Replaced(place) => (atoms::replaced_at(), &place.event, &place.path).encode(env),
        Notice::TooLarge(place) => (atoms::too_large_at(), &place.event, &place.path).encode(env),
        Notice::Suspended(duration) => (atoms::suspended(), duration.as_secs()).encode(env),
        Notice::Resumed(dropped) => (atoms::resumed(), dropped).encode(env),
        Notice::SpoolOpened(events) => (atoms::spool_opened(), events).encode(env),
        Notice::SpoolOfAnother(events) => (atoms::spool_of_another(), events).encode(env),
        Notice::NoSpool(failed) => (atoms::no_spool(), failed.to_string()).encode(env),
        Notice::Spool(problem @ (Problem::Resumed | Problem::Readable)) => {
            (atoms::spool_resumed(), problem.to_string()).encode(env)
        }
        Notice::Spool(problem) => (atoms::spool_failed(), problem.to_string()).encode(env),
        Notice::Panicked => atoms::panicked().encode(env),
    }
}

/// The terms of errors that were made in this call: callers of one flush share one error.
struct Errors<'a>(Vec<(*const Error, Term<'a>)>);

impl<'a> Errors<'a> {
    fn reply(&mut self, env: Env<'a>, reply: &Reply) -> Term<'a> {
        match reply {
            Reply::Flushed(id, Ok(())) | Reply::Purged(id, Ok(())) => (id, atoms::ok()).encode(env),
            Reply::Flushed(id, Err(error)) => {
                (id, (atoms::error(), self.term(env, error))).encode(env)
            }
            Reply::Purged(id, Err(error)) => {
                (id, (atoms::error(), terms::error(env, error))).encode(env)
            }
            Reply::Settled(id, queued) => (id, (atoms::settled(), queued)).encode(env),
        }
    }

    fn term(&mut self, env: Env<'a>, error: &Arc<Error>) -> Term<'a> {
        let key = Arc::as_ptr(error);
        if let Some((_, term)) = self.0.iter().find(|(known, _)| *known == key) {
            return *term;
        }
        let term = terms::error(env, error);
        self.0.push((key, term));
        term
    }
}

/// Returns the counters of both lanes, or `:no_client` until the spool is open: the counters include its events.
#[rustler::nif]
fn stats<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| {
        let events = entry.lanes.events();
        events.is_open().then(|| {
            let updates = lane_stats(env, entry.lanes.get(Lane::PersonUpdate), &[]);
            let more = [
                (atoms::mode(), entry.mode().encode(env)),
                (atoms::person_updates(), updates),
            ];
            lane_stats(env, Some(events), &more)
        })
    })
    .flatten()
    .unwrap_or_else(|| atoms::no_client().encode(env))
}

/// Returns the counters and the state of a lane. The last error is `{message, status, code, ms}` or nil, the last success
/// ms or nil.
fn lane_stats<'a>(env: Env<'a>, client: Option<&Client>, more: &[(Atom, Term<'a>)]) -> Term<'a> {
    let stats = client.map_or_else(Stats::default, Client::stats);
    let status = client.map(|client| client.status().clone());
    let status = status.unwrap_or_default();
    let error = status
        .last_error
        .as_ref()
        .map(|error| (&error.message, error.status, &error.code, ms(error.time)));
    let state = [
        (atoms::state(), state(status.activity.phase).encode(env)),
        (
            atoms::next_attempt_in(),
            status.next_attempt_in(&stats).encode(env),
        ),
        (atoms::last_error(), error.encode(env)),
        (
            atoms::last_success(),
            status.last_success.map(ms).encode(env),
        ),
    ];
    terms::stats(env, &stats, &[&state, more].concat())
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

pub fn state(phase: PhaseName) -> Atom {
    match phase {
        PhaseName::Idle => atoms::idle(),
        PhaseName::InFlight => atoms::in_flight(),
        PhaseName::Waiting => atoms::waiting(),
        PhaseName::BackingOff => atoms::backing_off(),
        PhaseName::Suspended => atoms::suspended(),
        PhaseName::Draining => atoms::draining(),
    }
}

/// Notes drops that the owner has logged: the client's last line leaves them out.
#[rustler::nif]
fn reported_drops(owner: Term, lane: Lane, reason: Atom, count: u64) -> Atom {
    registry::with(owner, |entry| {
        if let (Some(client), Some(reason)) = (entry.lanes.get(lane), terms::to_reason(reason)) {
            client.status().reported(reason, count);
        }
    })
    .map_or_else(atoms::no_client, |()| atoms::ok())
}
