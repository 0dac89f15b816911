//! The NIFs of the owner: start, commands, tidings, accounts; and the end of all owners.
//!
//! Clients are named by their owner's pid, never by the handle: a reload of the stub module makes a new
//! resource type, and a handle of the old one would be refused. The handle's one job is to notice the
//! owner's end.

use crate::options::{Mode, Options};
use crate::person_updates::Lane;
use crate::registry::{self, Entry, Hooks};
use crate::reports::Label;
use crate::status::put_status;
use crate::value;
use billdogeng::spool::Problem;
use billdogeng::{
    Client, Command, Draining, Error, LastWords, Listener, Notice, Reason, Reply, Report, Stats,
    Tidings,
};
use rustler::env::OwnedEnv;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

rustler::atoms! {
    ok, error, no_client,
    billdogeng_news, billdogeng_open, billdogeng_ended,
    flush, settle, shutdown, slept, tick, purge,
    dirty, flushed, flush_failed, dropped, refused_with, replaced_at, too_large_at, suspended, resumed, no_spool, spool_failed,
    spool_resumed, spool_opened, spool_of_another, panicked, settled,
    queue_full, too_large, rejected, quota, before_send, in_hook, failed, stopped, spool_full, expired, spool_lost, purged,
    disabled, unowned, nil, mode,
    event, person_update, person_updates,
    captured, delivered, queued, queued_bytes, in_flight, retries, replaced,
}

/// Notices the owner's end: by monitor, and by its own destruction.
struct Handle {
    key: registry::Key,
    entry: Arc<Entry>,
}

#[rustler::resource_impl]
impl Resource for Handle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.end();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

impl Handle {
    fn end(&self) {
        drain(&self.entry);
        registry::remove(self.key, &self.entry);
    }
}

/// From here on the client is on its own. Only signals: this runs on schedulers.
fn drain(entry: &Entry) {
    if entry.draining.swap(true, Ordering::AcqRel) || entry.started != Mode::Live {
        return;
    }
    let lane = entry.lane.close();
    DRAINING.add(1 + lane.iter().len());
    for client in lane.iter().chain([&entry.client]) {
        client.command(Command::Drain);
    }
}

/// Clients without owner that have not ended yet.
static DRAINING: Draining = Draining::new();

/// Who is told of ended clients.
static REPORTER: Mutex<Option<LocalPid>> = Mutex::new(None);

/// What a flush thread sends.
#[derive(Clone, Copy)]
pub enum Kind {
    Event,
    PersonUpdate,
}

/// Messages of one flush thread.
struct Messages {
    owner: LocalPid,
    kind: Kind,
    label: Option<Label>,
}

/// The thread of person updates beside `entry`'s client; in a test or a disabled client, accounts alone.
pub fn start_lane(owner: Term, entry: &Entry) -> io::Result<Arc<Client>> {
    let config = entry.client.config_for_person_updates();
    let owner = owner.decode().map_err(|_| io::ErrorKind::InvalidInput)?;
    let kind = Kind::PersonUpdate;
    match entry.started {
        Mode::Live => Client::start(
            config,
            Box::new(Messages {
                owner,
                kind,
                label: None,
            }),
        ),
        Mode::Test | Mode::Disabled => Ok(Client::idle(config)),
    }
}

impl Listener for Messages {
    fn news(&self) {
        let _ = OwnedEnv::new().send_and_clear(&self.owner, |_| billdogeng_news());
    }

    fn opened(&self) {
        let _ = OwnedEnv::new().send_and_clear(&self.owner, |_| billdogeng_open());
    }

    fn report(&self, report: Report) {
        if let Some(label) = &self.label {
            label.report(report);
        }
    }

    fn ended(&self, last: LastWords) {
        DRAINING.end(|| {
            let reporter = *REPORTER.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(reporter) = reporter {
                let _ = OwnedEnv::new().send_and_clear(&reporter, |env| {
                    let kind = match self.kind {
                        Kind::Event => event(),
                        Kind::PersonUpdate => person_update(),
                    };
                    let stats = stats_to_term(env, &last.stats);
                    let untold = dropped_to_term(env, last.untold);
                    (billdogeng_ended(), kind, last.stopped, stats, untold)
                });
            }
        });
    }
}

/// Starts the calling process's client. The handle is for the process to keep; `hooks` is what its captures
/// are to pass through in Elixir, or nil; `label` what telemetry calls it, or nil where nobody could listen. It
/// is told here, for a client may have something to send at once. From here on captures reach the client. One with
/// a spool opens it by itself, and then sends the process `:billdogeng_open`.
#[rustler::nif]
fn start<'a>(env: Env<'a>, options: Options<'a>, hooks: Term<'a>, label: Term<'a>) -> Term<'a> {
    let owner = env.pid();
    let (mode, config, events) = match options.split() {
        Ok(split) => split,
        Err(unreadable) => return (error(), unreadable.to_string()).encode(env),
    };
    let hooks = (nil() != hooks).then(|| Hooks::new(hooks));
    let client = match mode {
        Mode::Live => {
            let label = (nil() != label).then(|| Label::new(label));
            Client::start(
                config,
                Box::new(Messages {
                    owner,
                    kind: Kind::Event,
                    label,
                }),
            )
        }
        Mode::Test | Mode::Disabled => Ok(Client::idle(config)),
    };
    let client = match client {
        Ok(client) => client,
        Err(failed) => return (error(), failed.to_string()).encode(env),
    };
    let key = registry::key(owner.encode(env));
    let entry = Arc::new(Entry {
        client,
        started: mode,
        off: AtomicBool::new(false),
        events,
        lane: Lane::default(),
        hooks,
        draining: AtomicBool::new(false),
        failures: AtomicU8::new(0),
    });
    let handle = ResourceArc::new(Handle {
        key,
        entry: Arc::clone(&entry),
    });
    if env.monitor(&handle, &owner).is_none() {
        return (error(), "the owner has ended").encode(env);
    }
    registry::insert(key, entry);
    (ok(), handle).encode(env)
}

/// Hands the flush threads a command. Answers how many of them will reply to it, with their tidings, under that
/// number: that of the events, and that of person updates where there is one and the command is for both.
#[rustler::nif]
fn command<'a>(env: Env<'a>, owner: Term<'a>, name: Atom, id: u64) -> Term<'a> {
    let (command, both) = match name {
        name if name == flush() => (Command::Flush(id), true),
        name if name == shutdown() => (Command::Shutdown(id), true),
        name if name == purge() => (Command::Purge(id), true),
        name if name == settle() => (Command::Settle(id), false),
        name if name == slept() => (Command::Slept(id), false),
        name if name == tick() => (Command::Tick, false),
        _ => return error().encode(env),
    };
    registry::with(owner, |entry| match entry.started {
        // Its flush thread may have ended, and would never reply.
        _ if entry.draining.load(Ordering::Acquire) => None,
        Mode::Live => {
            entry.client.command(command);
            Some(1 + usize::from(both && entry.lane.command(command)))
        }
        // Nobody would take it.
        Mode::Test | Mode::Disabled => Some(0),
    })
    .flatten()
    .map_or_else(|| no_client().encode(env), |replies| replies.encode(env))
}

/// Switches the captures of `owner`'s client off and on again. `:error` where it can't be switched on: it was
/// started without a flush thread.
#[rustler::nif]
fn set_mode(owner: Term, mode: Atom) -> Atom {
    let off = mode == disabled();
    registry::with(owner, |entry| {
        if !off && entry.started == Mode::Disabled {
            return error();
        }
        entry.off.store(off, Ordering::Release);
        ok()
    })
    .unwrap_or_else(no_client)
}

/// `{notices, missed, sleep, replies}`: what has come up since the last call, or `:dirty` where to make terms of
/// it takes longer than a normal scheduler should be held. Where there are more replies than a call should return,
/// the owner is sent another message.
#[rustler::nif]
fn tidings<'a>(owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| tidings_of(owner, &entry.client, true))
        .unwrap_or_else(|| no_client().encode(owner.get_env()))
}

#[rustler::nif(schedule = "DirtyCpu")]
fn tidings_dirty<'a>(owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| tidings_of(owner, &entry.client, false))
        .unwrap_or_else(|| no_client().encode(owner.get_env()))
}

pub fn tidings_of<'a>(owner: Term<'a>, client: &Client, normal: bool) -> Term<'a> {
    let env = owner.get_env();
    let tidings = match normal {
        true => client.short_tidings(),
        false => Some(client.tidings()),
    };
    let Some(tidings) = tidings else {
        return dirty().encode(env);
    };
    if let Some(owner) = owner.decode().ok().filter(|_| tidings.more) {
        let _ = env.send(&owner, billdogeng_news());
    }
    tidings_to_term(env, &tidings)
}

fn tidings_to_term<'a>(env: Env<'a>, tidings: &Tidings) -> Term<'a> {
    let mut errors = Errors(Vec::new());
    let notices: Vec<_> = tidings
        .notices
        .iter()
        .map(|notice| notice_to_term(env, notice))
        .collect();
    let replies: Vec<_> = tidings
        .replies
        .iter()
        .map(|reply| reply_to_term(env, reply, &mut errors))
        .collect();
    let sleep = tidings
        .sleep
        .map(|(id, delay)| (id, delay.as_millis() as u64));
    (notices, tidings.missed, sleep, replies).encode(env)
}

/// The accounts of `owner`'s client, once it knows them: not before its spool is open.
#[rustler::nif]
fn stats<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| {
        if !entry.client.is_open() {
            return None;
        }
        let lane = entry.lane.client();
        let counted = lane
            .as_ref()
            .map_or_else(Stats::default, |lane| lane.stats());
        let updates = stats_to_term(env, &counted);
        let updates = put_status(env, updates, &counted, lane.as_deref());
        let counted = entry.client.stats();
        let stats = stats_to_term(env, &counted);
        let stats = put_status(env, stats, &counted, Some(&entry.client));
        let stats = stats.map_put(mode(), entry.mode().to_atom());
        let stats = stats.and_then(|stats| stats.map_put(person_updates(), updates));
        stats.ok()
    })
    .flatten()
    .unwrap_or_else(|| no_client().encode(env))
}

/// The bound of one event, 0 where there is no such client.
#[rustler::nif]
fn max_event_bytes(owner: Term) -> usize {
    registry::with(owner, |entry| entry.client.max_event_bytes()).unwrap_or(0)
}

/// What the captures of `owner`'s client pass through.
#[rustler::nif]
fn hooks<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| entry.hooks.as_ref()?.copy(env))
        .flatten()
        .unwrap_or_else(|| nil().encode(env))
}

/// From now on the calling process is told of ended clients.
#[rustler::nif]
fn report_to_me(env: Env<'_>) -> Atom {
    *REPORTER.lock().unwrap_or_else(PoisonError::into_inner) = Some(env.pid());
    ok()
}

/// The VM stops: all clients send what they have, and end. Those whose owners are there still count what is
/// captured later.
#[rustler::nif]
fn drain_all() -> Atom {
    for entry in registry::all().values() {
        drain(entry);
    }
    ok()
}

/// How many clients without owner have not ended yet.
#[rustler::nif]
fn draining() -> usize {
    DRAINING.count()
}

fn notice_to_term<'a>(env: Env<'a>, notice: &Notice) -> Term<'a> {
    match notice {
        Notice::Flushed(count) => (flushed(), count).encode(env),
        Notice::FlushFailed(count, error) => {
            let error = (&error.message, error.status, &error.code, nil());
            (flush_failed(), count, error).encode(env)
        }
        Notice::Dropped(reason, count) => (dropped(), reason_to_atom(*reason), count).encode(env),
        Notice::RefusedWith(status) => (refused_with(), status).encode(env),
        Notice::Replaced(place) => (replaced_at(), &place.event, &place.path).encode(env),
        Notice::TooLarge(place) => (too_large_at(), &place.event, &place.path).encode(env),
        Notice::Suspended(duration) => (suspended(), duration.as_secs()).encode(env),
        Notice::Resumed(given_up) => (resumed(), given_up).encode(env),
        Notice::SpoolOpened(events) => (spool_opened(), events).encode(env),
        Notice::SpoolOfAnother(events) => (spool_of_another(), events).encode(env),
        Notice::NoSpool(failed) => (no_spool(), failed.to_string()).encode(env),
        Notice::Spool(problem @ (Problem::Resumed | Problem::Readable)) => {
            (spool_resumed(), problem.to_string()).encode(env)
        }
        Notice::Spool(problem) => (spool_failed(), problem.to_string()).encode(env),
        Notice::Panicked => panicked().encode(env),
    }
}

/// The terms of errors that were made in this call: callers of one flush share theirs.
struct Errors<'a>(Vec<(*const Error, Term<'a>)>);

impl<'a> Errors<'a> {
    fn term(&mut self, env: Env<'a>, error: &Arc<Error>) -> Term<'a> {
        let key = Arc::as_ptr(error);
        if let Some((_, term)) = self.0.iter().find(|(known, _)| *known == key) {
            return *term;
        }
        let term = value::error_to_term(env, error);
        self.0.push((key, term));
        term
    }
}

fn reply_to_term<'a>(env: Env<'a>, reply: &Reply, errors: &mut Errors<'a>) -> Term<'a> {
    match reply {
        Reply::Flushed(id, Ok(())) | Reply::Purged(id, Ok(())) => (id, ok()).encode(env),
        Reply::Flushed(id, Err(failed)) => (id, (error(), errors.term(env, failed))).encode(env),
        Reply::Purged(id, Err(failed)) => {
            (id, (error(), value::error_to_term(env, failed))).encode(env)
        }
        Reply::Settled(id, queued) => (id, (settled(), queued)).encode(env),
    }
}

pub fn reason_to_atom(reason: Reason) -> Atom {
    match reason {
        Reason::QueueFull => queue_full(),
        Reason::TooLarge => too_large(),
        Reason::Rejected => rejected(),
        Reason::Quota => quota(),
        Reason::BeforeSend => before_send(),
        Reason::InHook => in_hook(),
        Reason::Failed => failed(),
        Reason::Stopped => stopped(),
        Reason::SpoolFull => spool_full(),
        Reason::Expired => expired(),
        Reason::SpoolLost => spool_lost(),
        Reason::Purged => purged(),
        Reason::Disabled => disabled(),
        Reason::Unowned => unowned(),
    }
}

/// Why an event is dropped before it is encoded; the other reasons are the client's own.
pub fn atom_to_reason(reason: Atom) -> Option<Reason> {
    const EARLY: [Reason; 4] = [
        Reason::BeforeSend,
        Reason::Failed,
        Reason::InHook,
        Reason::TooLarge,
    ];
    EARLY
        .into_iter()
        .find(|early| reason_to_atom(*early) == reason)
}

fn stats_to_term<'a>(env: Env<'a>, stats: &Stats) -> Term<'a> {
    let given_up = dropped_to_term(env, stats.dropped);
    let counts = [
        (captured(), stats.captured),
        (delivered(), stats.delivered),
        (queued(), stats.queued),
        (queued_bytes(), stats.queued_bytes),
        (in_flight(), stats.in_flight),
        (retries(), stats.retries),
        (replaced(), stats.replaced),
    ];
    let empty = Term::map_new(env).map_put(dropped(), given_up);
    let empty = empty.unwrap_or_else(|_| Term::map_new(env));
    counts.iter().fold(empty, |map, (key, count)| {
        map.map_put(*key, *count).unwrap_or(map)
    })
}

fn dropped_to_term(env: Env<'_>, counts: [u64; Reason::ALL.len()]) -> Term<'_> {
    let dropped = Reason::ALL.iter().zip(counts);
    let dropped = dropped.filter(|(_, count)| *count > 0);
    dropped.fold(Term::map_new(env), |map, (reason, count)| {
        map.map_put(reason_to_atom(*reason), count).unwrap_or(map)
    })
}
