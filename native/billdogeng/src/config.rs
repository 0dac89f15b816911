//! The configuration of a client, checked and complete.

use crate::spool;
use std::path::PathBuf;
use std::time::Duration;

/// By which proxy requests go.
#[derive(Clone)]
pub enum Proxy {
    /// No proxy, whatever the environment has.
    None,
    /// The proxies of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    Environment,
    /// By this one. Its address may hold a password.
    Address(String),
}

/// How requests are made.
#[derive(Clone)]
pub struct HttpConfig {
    /// The ingest's base address, such as `https://api.billdog.io/v1`.
    pub host: String,
    /// How long one attempt may take, from connecting to the answer's last byte.
    pub request_timeout: Duration,
    /// Whether bodies of 1,024 bytes or more are compressed.
    pub gzip: bool,
    /// Attempts after the first one of a request.
    pub max_retries: u32,
    /// By which proxy.
    pub proxy: Proxy,
    /// Certificates (PEM) of the authorities to trust, in place of the system's.
    pub cacertfile: Option<PathBuf>,
}

/// The kind of items that a client sends, which decides the path and the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// Events, in batches.
    #[default]
    Events,
    /// Updates of persons, each in a request of its own.
    PersonUpdates,
}

impl Endpoint {
    /// Appended to the host.
    pub fn path(self) -> &'static str {
        match self {
            Self::Events => "/ingest-events",
            Self::PersonUpdates => "/user-properties",
        }
    }
}

/// Updates of persons that are kept while the ingest fails, and bytes of them.
const MOST_PERSON_UPDATES: usize = 1_000;
const MOST_PERSON_UPDATE_BYTES: usize = 8 * 1024 * 1024;

/// The configuration of one client. A bound without a limit is `usize::MAX`.
#[derive(Clone)]
pub struct Config {
    /// The project's key; sent as header and in the body, shown nowhere.
    pub api_key: String,
    /// How requests are made.
    pub http: HttpConfig,
    /// The kind of items that are sent.
    pub endpoint: Endpoint,
    /// How exactly the ingest may resolve a request's address to a place: a header, if set.
    pub geoip_resolution_level: Option<String>,
    /// A flush is due when this many events are queued.
    pub flush_at: usize,
    /// A flush is due this often while anything is queued.
    pub flush_interval: Duration,
    /// Events kept while the ingest fails; the oldest are dropped first.
    pub max_queue_size: usize,
    /// Bytes of events kept, always; the oldest are dropped first.
    pub max_queue_bytes: usize,
    /// Events in one POST.
    pub max_batch_size: usize,
    /// Bytes of JSON in one POST, before gzip.
    pub max_batch_bytes: usize,
    /// Bytes of JSON in one event; a larger one is dropped.
    pub max_event_bytes: usize,
    /// How long a client whose owner has ended goes on sending.
    pub shutdown_timeout: Duration,
    /// How long nothing is sent after the ingest has reported that the quota is used up.
    pub suspension: Duration,
    /// Where events are on disk too, if anywhere.
    pub spool: Option<spool::Options>,
    /// Answers to a flush wait until the disk has what is left.
    pub spool_sync: bool,
    /// Waits between attempts are asked of the listener instead of being slept here.
    pub external_sleep: bool,
}

impl Config {
    /// Returns options for tests and benchmarks, which state the others: no limits, no retries, nothing due by itself.
    #[must_use]
    pub fn unlimited(host: &str) -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            api_key: "key".into(),
            http: HttpConfig {
                host: host.into(),
                request_timeout: HOUR,
                gzip: false,
                max_retries: 0,
                proxy: Proxy::None,
                cacertfile: None,
            },
            endpoint: Endpoint::Events,
            geoip_resolution_level: None,
            flush_at: usize::MAX,
            flush_interval: HOUR,
            max_queue_size: usize::MAX,
            max_queue_bytes: usize::MAX,
            max_batch_size: usize::MAX,
            max_batch_bytes: usize::MAX,
            max_event_bytes: usize::MAX,
            shutdown_timeout: HOUR,
            suspension: HOUR,
            spool: None,
            spool_sync: false,
            external_sleep: false,
        }
    }

    /// The configuration of the lane of person updates beside the events' lane: nothing waits for a batch,
    /// and nothing is on disk.
    #[must_use]
    pub fn for_person_updates(&self) -> Self {
        let mut config = self.clone();
        config.endpoint = Endpoint::PersonUpdates;
        config.http.gzip = false;
        config.flush_at = 1;
        config.max_batch_size = 1;
        config.max_queue_size = MOST_PERSON_UPDATES;
        config.max_queue_bytes = self.max_queue_bytes.min(MOST_PERSON_UPDATE_BYTES);
        config.spool = None;
        config.spool_sync = false;
        config.external_sleep = false;
        config
    }
}
