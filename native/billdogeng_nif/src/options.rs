//! The options of a client and of a single request, as `BilldogEng.Client.Options` passes them; and the NIFs that check
//! them before anything is sent.

use crate::atoms;
use crate::encode::GroupIndex;
use billdogeng::{
    check as core, spool, Config, Endpoint, HttpConfig, PersonProfiles, Proxy, Unusable,
};
use rustler::{Atom, Decoder, Encoder, Env, NifResult, NifUnitEnum, Term};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The options of a client or of a request: a map from their names in `options/schema.ex` to checked values. The value
/// of an option without a limit is nil.
#[derive(Clone, Copy)]
pub struct Options<'a>(Term<'a>);

/// The name of an option that is missing or has a value of another type.
pub struct Unreadable(&'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the native library can't read the value of :{}", self.0)
    }
}

impl<'a> Decoder<'a> for Options<'a> {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        Ok(Self(term))
    }
}

/// How a client treats its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NifUnitEnum)]
pub enum Mode {
    /// They are sent.
    Live,
    /// They are encoded and returned to the caller, for a test to look at.
    Test,
    /// They are counted.
    Disabled,
}

/// Options of a client's events, which the encoder applies.
pub struct EventOptions {
    /// Which group types have a number.
    pub groups: GroupIndex,
    /// Whether each event gets an `$insert_id`.
    pub insert_ids: bool,
    /// Which events make a profile; `None` leaves it to the ingest.
    pub person_profiles: Option<PersonProfiles>,
}

/// Reads options by name. An option that is used here needs a row in `options/schema.ex`.
impl<'a> Options<'a> {
    fn get<T: Decoder<'a>>(self, name: &'static str) -> Result<T, Unreadable> {
        Atom::from_str(self.0.get_env(), name)
            .and_then(|name| self.0.map_get(name)?.decode())
            .map_err(|_| Unreadable(name))
    }

    fn number(self, name: &'static str) -> Result<u64, Unreadable> {
        Ok(self.get::<Option<u64>>(name)?.unwrap_or(u64::MAX))
    }

    fn count(self, name: &'static str) -> Result<usize, Unreadable> {
        Ok(usize::try_from(self.number(name)?).unwrap_or(usize::MAX))
    }

    fn duration(self, name: &'static str) -> Result<Duration, Unreadable> {
        self.number(name).map(Duration::from_millis)
    }

    fn path(self, name: &'static str) -> Result<Option<PathBuf>, Unreadable> {
        Ok(self.get::<Option<String>>(name)?.map(Into::into))
    }

    fn is(self, name: &'static str, value: Atom) -> Result<bool, Unreadable> {
        Ok(value == self.get::<Term>(name)?)
    }

    /// Returns how requests are made.
    pub fn http(self) -> Result<HttpConfig, Unreadable> {
        Ok(HttpConfig {
            host: self.get("host")?,
            request_timeout: self.duration("request_timeout")?,
            gzip: self.get("gzip")?,
            max_retries: u32::try_from(self.number("max_retries")?).unwrap_or(u32::MAX),
            proxy: match self.is("proxy", atoms::environment())? {
                true => Proxy::Environment,
                false => self
                    .get::<Option<_>>("proxy")?
                    .map_or(Proxy::None, Proxy::Address),
            },
            cacertfile: self.path("cacertfile")?,
        })
    }

    /// Returns the numbers of group types by their names.
    pub fn group_numbers(self) -> Result<Vec<(String, u8)>, Unreadable> {
        let entries: Vec<(String, String, Option<u8>)> = self.get("group_type_index")?;
        let entries = entries.into_iter();
        Ok(entries
            .filter_map(|(_, name, number)| Some((name, number?)))
            .collect())
    }

    /// Splits the options by who uses them: the client, its core, the encoder of its events.
    pub fn split(self) -> Result<(Mode, Config, EventOptions), Unreadable> {
        let events = EventOptions {
            groups: GroupIndex::new(self.get("group_type_index")?),
            insert_ids: self.get("insert_ids")?,
            person_profiles: self
                .get::<Option<_>>("person_profiles")?
                .and_then(person_profiles),
        };
        let config = Config {
            api_key: self.get("api_key")?,
            http: self.http()?,
            flush_at: self.count("flush_at")?,
            flush_interval: self.duration("flush_interval")?,
            max_queue_size: self.count("max_queue_size")?,
            max_queue_bytes: self.count("max_queue_bytes")?,
            max_batch_size: self.count("max_batch_size")?,
            max_batch_bytes: self.count("max_batch_bytes")?,
            max_event_bytes: self.count("max_event_bytes")?,
            shutdown_timeout: self.duration("shutdown_timeout")?,
            suspension: billdogeng::SUSPENSION,
            spool: self.spool()?,
            spool_sync: self.is("spool_sync", atoms::always())?,
            external_sleep: self.get("sleep_fn")?,
            endpoint: Endpoint::Events,
            geoip_resolution_level: self.get("geoip_resolution_level")?,
        };
        Ok((self.get::<Mode>("mode")?, config, events))
    }

    fn spool(self) -> Result<Option<spool::Options>, Unreadable> {
        let Some(dir) = self.path("spool_dir")? else {
            return Ok(None);
        };
        Ok(Some(spool::Options {
            dir,
            max_bytes: self.number("max_spool_bytes")?,
            max_age: self.duration("max_spool_age")?,
            // Only tests have this one.
            patience: self.duration("spool_patience").unwrap_or(spool::PATIENCE),
        }))
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
fn check<'a>(env: Env<'a>, options: Options<'a>) -> NifResult<Term<'a>> {
    Ok(match usable(options) {
        Ok(()) => atoms::ok().encode(env),
        Err((option, reason)) => (atoms::error(), Atom::from_str(env, option)?, reason).encode(env),
    })
}

fn usable(options: Options) -> Result<(), (&'static str, String)> {
    let unreadable = |unreadable: Unreadable| (unreadable.0, unreadable.to_string());
    let http = options.http().map_err(unreadable)?;
    let key: String = options.get("api_key").map_err(unreadable)?;
    core(&http, &key).map_err(|(option, reason)| match option {
        Unusable::Host => ("host", reason),
        Unusable::Proxy => ("proxy", reason),
        Unusable::CaCertFile => ("cacertfile", reason),
        Unusable::ApiKey => ("api_key", reason),
    })
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
