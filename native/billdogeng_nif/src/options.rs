//! The options of a client and of a single request, as `BilldogEng.Client.Options` passes them; and the NIFs that check
//! them before anything is sent.

use crate::atoms;
use crate::encode::GroupIndex;
use billdogeng::{
    check as core, spool, Config, Endpoint, HttpConfig, PersonProfiles, Proxy, Unusable,
};
use rustler::{Atom, Encoder, Env, NifMap, NifUnitEnum, Term};
use std::time::Duration;

/// How requests are made.
#[derive(NifMap)]
pub struct HttpOptions {
    host: String,
    request_timeout: u64,
    gzip: bool,
    max_retries: u32,
    /// An address; `proxy_of_environment` overrides it.
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

/// All options of a client. A limit of nil means no limit.
#[derive(NifMap)]
pub struct ClientOptions {
    mode: Mode,
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
    person_profiles: Option<Atom>,
    geoip_resolution_level: Option<String>,
}

/// Where events are kept on disk, and for how long.
#[derive(NifMap)]
struct SpoolOptions {
    dir: String,
    max_bytes: u64,
    max_age: u64,
    patience: u64,
    sync: bool,
}

/// What becomes of a client's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NifUnitEnum)]
pub enum Mode {
    /// They are sent.
    Live,
    /// They are encoded and returned to the caller, for a test to look at.
    Test,
    /// They are counted.
    Disabled,
}

/// What an event gets besides its own terms.
pub struct EventOptions {
    /// Which group types have a number.
    pub groups: GroupIndex,
    /// Whether each event gets an `$insert_id`.
    pub insert_ids: bool,
    /// Which events make a profile; `None` leaves it to the ingest.
    pub person_profiles: Option<PersonProfiles>,
}

impl ClientOptions {
    /// Splits the options by who uses them: the client, its core, the encoder of its events.
    pub fn split(self) -> (Mode, Config, EventOptions) {
        let limit = |bound: Option<u64>| bound.map_or(usize::MAX, |bound| bound as usize);
        let events = EventOptions {
            groups: GroupIndex::new(self.group_index),
            insert_ids: self.insert_ids,
            person_profiles: self.person_profiles.and_then(person_profiles),
        };
        let config = Config {
            api_key: self.api_key,
            http: self.http.into(),
            flush_at: limit(self.flush_at),
            flush_interval: Duration::from_millis(self.flush_interval),
            max_queue_size: limit(self.max_queue_size),
            max_queue_bytes: self.max_queue_bytes as usize,
            max_batch_size: self.max_batch_size as usize,
            max_batch_bytes: self.max_batch_bytes as usize,
            max_event_bytes: self.max_event_bytes as usize,
            shutdown_timeout: Duration::from_millis(self.shutdown_timeout),
            suspension: billdogeng::SUSPENSION,
            spool_sync: self.spool.as_ref().is_some_and(|spool| spool.sync),
            spool: self.spool.map(|spool| spool::Options {
                dir: spool.dir.into(),
                max_bytes: spool.max_bytes,
                max_age: Duration::from_millis(spool.max_age),
                patience: Duration::from_millis(spool.patience),
            }),
            external_sleep: self.external_sleep,
            endpoint: Endpoint::Events,
            geoip_resolution_level: self.geoip_resolution_level,
        };
        (self.mode, config, events)
    }
}

fn person_profiles(name: Atom) -> Option<PersonProfiles> {
    match name {
        name if name == atoms::always() => Some(PersonProfiles::Always),
        name if name == atoms::never() => Some(PersonProfiles::Never),
        name if name == atoms::identified_only() => Some(PersonProfiles::IdentifiedOnly),
        _ => None,
    }
}

/// Returns `:ok`, or `{:error, option, reason}`. Reads the file of certificate authorities, if one is given.
#[rustler::nif(schedule = "DirtyIo")]
fn check<'a>(env: Env<'a>, http: HttpOptions, key: String) -> Term<'a> {
    match core(&http.into(), &key) {
        Ok(()) => atoms::ok().encode(env),
        Err((option, reason)) => (atoms::error(), option_to_atom(option), reason).encode(env),
    }
}

fn option_to_atom(option: Unusable) -> Atom {
    match option {
        Unusable::Host => atoms::host(),
        Unusable::Proxy => atoms::proxy(),
        Unusable::CaCertFile => atoms::cacertfile(),
        Unusable::ApiKey => atoms::api_key(),
    }
}

/// Returns `{variable, path, authorities}` for each of `SSL_CERT_FILE` and `SSL_CERT_DIR` that is set.
#[rustler::nif(schedule = "DirtyIo")]
fn named_roots() -> Vec<(&'static str, &'static str, usize)> {
    let named = billdogeng::named_roots().iter();
    named
        .map(|roots| (roots.variable, roots.path.as_str(), roots.authorities))
        .collect()
}

/// Returns whether TLS has a certificate authority to trust. Reads the system's at the first call.
#[rustler::nif(schedule = "DirtyIo")]
fn has_roots() -> bool {
    billdogeng::has_roots()
}

/// Returns the text without the key, in whatever quoting the key appears.
#[rustler::nif]
fn redact(text: &str, key: &str) -> String {
    billdogeng::redact(text, key)
}
