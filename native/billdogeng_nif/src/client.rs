//! The NIFs of the owner: start, commands, tidings, accounts; and the end of all owners.
//!
//! Clients are named by their owner's pid, never by the handle: a reload of the stub module makes a new
//! resource type, and a handle of the old one would be refused. The handle's one job is to notice the
//! owner's end.

use crate::encode::GroupIndex;
use crate::registry::{self, Entry, Hooks};
use crate::value;
use billdogeng::spool::{self, Problem};
use billdogeng::{
    Client, Command, Config, HttpConfig, LastWords, Listener, Notice, Proxy, Reason, Reply, Stats,
};
use rustler::env::OwnedEnv;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, NifMap, Resource, ResourceArc, Term};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

rustler::atoms! {
    ok, error, no_client,
    billdogeng_news, billdogeng_ended,
    flush, settle, shutdown, slept, tick, purge,
    flushed, flush_failed, dropped, replaced_at, too_large_at, suspended, resumed, no_spool, spool_failed,
    spool_resumed, panicked, settled,
    queue_full, too_large, rejected, quota, before_send, stopped, spool_full, expired, spool_lost, purged,
    nil, mode, live,
    captured, delivered, queued, queued_bytes, in_flight, retries, replaced,
}

/// How requests are made, as `BilldogEng.Options` hands it over.
#[derive(NifMap)]
pub struct HttpOptions {
    host: String,
    request_timeout: u64,
    gzip: bool,
    max_retries: u32,
    /// An address; `proxy_of_environment` stands above it.
    proxy: Option<String>,
    proxy_of_environment: bool,
    cacertfile: Option<String>,
}

impl From<HttpOptions> for HttpConfig {
    fn from(options: HttpOptions) -> Self {
        Self {
            host: options.host,
            request_timeout: Duration::from_millis(options.request_timeout),
            gzip: options.gzip,
            max_retries: options.max_retries,
            proxy: match options.proxy {
                _ if options.proxy_of_environment => Proxy::Environment,
                Some(address) => Proxy::Address(address),
                None => Proxy::None,
            },
            cacertfile: options.cacertfile.map(Into::into),
        }
    }
}

/// All of a client's options; nil is a bound without a limit.
#[derive(NifMap)]
struct ClientOptions {
    api_key: String,
    http: HttpOptions,
    flush_at: Option<u64>,
    flush_interval: u64,
    max_queue_size: Option<u64>,
    max_queue_bytes: u64,
    max_batch_size: u64,
    max_batch_bytes: u64,
    max_event_bytes: u64,
    shutdown_timeout: u64,
    spool: Option<SpoolOptions>,
    external_sleep: bool,
    group_index: Vec<(String, String, Option<u8>)>,
    insert_ids: bool,
}

/// Where events are on disk too, and for how long.
#[derive(NifMap)]
struct SpoolOptions {
    dir: String,
    max_bytes: u64,
    max_age: u64,
    sync: bool,
}

/// Notices the owner's end: by monitor, and by its own destruction.
struct Handle {
    key: registry::Key,
    entry: Arc<Entry>,
}

#[rustler::resource_impl]
impl Resource for Handle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        drain(self.key, &self.entry);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drain(self.key, &self.entry);
    }
}

/// From here on the client is on its own. Only signals: this runs on schedulers.
fn drain(key: registry::Key, entry: &Entry) {
    if !entry.draining.swap(true, Ordering::AcqRel) {
        DRAINING.fetch_add(1, Ordering::AcqRel);
        registry::remove(key);
        entry.client.command(Command::Drain);
    }
}

/// Clients without owner that have not ended yet.
static DRAINING: AtomicUsize = AtomicUsize::new(0);
/// Who is told of ended clients.
static REPORTER: Mutex<Option<LocalPid>> = Mutex::new(None);

/// Messages of one flush thread.
struct Messages {
    owner: LocalPid,
}

impl Listener for Messages {
    fn news(&self) {
        let _ = OwnedEnv::new().send_and_clear(&self.owner, |_| billdogeng_news());
    }

    fn ended(&self, last: LastWords) {
        let reporter = *REPORTER.lock().unwrap_or_else(PoisonError::into_inner);
        DRAINING.fetch_sub(1, Ordering::AcqRel);
        if let Some(reporter) = reporter {
            let _ = OwnedEnv::new().send_and_clear(&reporter, |env| {
                (
                    billdogeng_ended(),
                    last.stopped,
                    stats_to_term(env, &last.stats),
                )
            });
        }
    }
}

/// Starts the calling process's client. The handle is for the process to keep; `hooks` is what its captures
/// are to pass through in Elixir, or nil. With a spool this reads the disk, and may wait for the directory.
#[rustler::nif(schedule = "DirtyIo")]
fn start<'a>(env: Env<'a>, options: ClientOptions, hooks: Term<'a>) -> Term<'a> {
    let owner = env.pid();
    let limit = |bound: Option<u64>| bound.map_or(usize::MAX, |bound| bound as usize);
    let groups = GroupIndex::new(options.group_index);
    let insert_ids = options.insert_ids;
    let hooks = (nil() != hooks).then(|| Hooks::new(hooks));
    let config = Config {
        api_key: options.api_key,
        http: options.http.into(),
        flush_at: limit(options.flush_at),
        flush_interval: Duration::from_millis(options.flush_interval),
        max_queue_size: limit(options.max_queue_size),
        max_queue_bytes: options.max_queue_bytes as usize,
        max_batch_size: options.max_batch_size as usize,
        max_batch_bytes: options.max_batch_bytes as usize,
        max_event_bytes: options.max_event_bytes as usize,
        shutdown_timeout: Duration::from_millis(options.shutdown_timeout),
        suspension: billdogeng::SUSPENSION,
        spool_sync: options.spool.as_ref().is_some_and(|spool| spool.sync),
        spool: options.spool.map(|spool| spool::Options {
            dir: spool.dir.into(),
            max_bytes: spool.max_bytes,
            max_age: Duration::from_millis(spool.max_age),
        }),
        external_sleep: options.external_sleep,
    };
    let client = match Client::start(config, Box::new(Messages { owner })) {
        Ok(client) => client,
        Err(failed) => return (error(), failed.to_string()).encode(env),
    };
    let key = registry::key(owner.encode(env));
    let entry = Arc::new(Entry {
        client,
        groups,
        insert_ids,
        hooks,
        draining: AtomicBool::new(false),
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

/// Hands the flush thread a command; its answer comes with the tidings of that number.
#[rustler::nif]
fn command(owner: Term, name: Atom, id: u64) -> Atom {
    let command = match name {
        name if name == flush() => Command::Flush(id),
        name if name == settle() => Command::Settle(id),
        name if name == shutdown() => Command::Shutdown(id),
        name if name == slept() => Command::Slept(id),
        name if name == purge() => Command::Purge(id),
        name if name == tick() => Command::Tick,
        _ => return error(),
    };
    registry::with(owner, |entry| entry.client.command(command)).map_or_else(no_client, |()| ok())
}

/// `{notices, missed, sleep, replies}`: all that has come up since the last call.
#[rustler::nif]
fn tidings<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    let Some(tidings) = registry::with(owner, |entry| entry.client.tidings()) else {
        return no_client().encode(env);
    };
    let notices: Vec<_> = tidings
        .notices
        .iter()
        .map(|notice| notice_to_term(env, notice))
        .collect();
    let replies: Vec<_> = tidings
        .replies
        .iter()
        .map(|reply| reply_to_term(env, reply))
        .collect();
    let sleep = tidings
        .sleep
        .map(|(id, delay)| (id, delay.as_millis() as u64));
    (notices, tidings.missed, sleep, replies).encode(env)
}

/// The accounts of `owner`'s client.
#[rustler::nif]
fn stats<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| stats_to_term(env, &entry.client.stats()))
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

/// Whether TLS has an authority to trust here. Reads the system's at the first call.
#[rustler::nif(schedule = "DirtyIo")]
fn has_roots() -> bool {
    billdogeng::has_roots()
}

/// From now on the calling process is told of ended clients.
#[rustler::nif]
fn report_to_me(env: Env<'_>) -> Atom {
    *REPORTER.lock().unwrap_or_else(PoisonError::into_inner) = Some(env.pid());
    ok()
}

/// Lets go of all owners: their clients send what they have, and end.
#[rustler::nif]
fn drain_all() -> Atom {
    for (key, entry) in registry::all().iter() {
        drain(*key, entry);
    }
    ok()
}

/// How many clients without owner have not ended yet.
#[rustler::nif]
fn draining() -> usize {
    DRAINING.load(Ordering::Acquire)
}

fn notice_to_term<'a>(env: Env<'a>, notice: &Notice) -> Term<'a> {
    match notice {
        Notice::Flushed(count) => (flushed(), count).encode(env),
        Notice::FlushFailed(count, error) => (flush_failed(), count, &error.message).encode(env),
        Notice::Dropped(reason, count) => (dropped(), reason_to_atom(*reason), count).encode(env),
        Notice::Replaced(place) => (replaced_at(), &place.event, &place.path).encode(env),
        Notice::TooLarge(place) => (too_large_at(), &place.event, &place.path).encode(env),
        Notice::Suspended(duration) => (suspended(), duration.as_secs()).encode(env),
        Notice::Resumed(given_up) => (resumed(), given_up).encode(env),
        Notice::NoSpool(failed) => (no_spool(), failed.to_string()).encode(env),
        Notice::Spool(Problem::Resumed) => spool_resumed().encode(env),
        Notice::Spool(problem) => (spool_failed(), problem.to_string()).encode(env),
        Notice::Panicked => panicked().encode(env),
    }
}

fn reply_to_term<'a>(env: Env<'a>, reply: &Reply) -> Term<'a> {
    match reply {
        Reply::Flushed(id, Ok(())) => (id, ok()).encode(env),
        Reply::Flushed(id, Err(failed)) => {
            (id, (error(), value::error_to_term(env, failed))).encode(env)
        }
        Reply::Purged(id) => (id, ok()).encode(env),
        Reply::Settled(id, queued) => (id, (settled(), queued)).encode(env),
    }
}

fn reason_to_atom(reason: Reason) -> Atom {
    match reason {
        Reason::QueueFull => queue_full(),
        Reason::TooLarge => too_large(),
        Reason::Rejected => rejected(),
        Reason::Quota => quota(),
        Reason::BeforeSend => before_send(),
        Reason::Stopped => stopped(),
        Reason::SpoolFull => spool_full(),
        Reason::Expired => expired(),
        Reason::SpoolLost => spool_lost(),
        Reason::Purged => purged(),
    }
}

fn stats_to_term<'a>(env: Env<'a>, stats: &Stats) -> Term<'a> {
    let given_up = Reason::ALL
        .iter()
        .zip(stats.dropped)
        .filter(|(_, count)| *count > 0);
    let given_up = given_up.fold(Term::map_new(env), |map, (reason, count)| {
        map.map_put(reason_to_atom(*reason), count).unwrap_or(map)
    });
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
    let empty = empty.and_then(|map| map.map_put(mode(), live()));
    let empty = empty.unwrap_or_else(|_| Term::map_new(env));
    counts.iter().fold(empty, |map, (key, count)| {
        map.map_put(*key, *count).unwrap_or(map)
    })
}
