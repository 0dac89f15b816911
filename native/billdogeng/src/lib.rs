//! The analytics client in plain Rust: events come in as JSON bytes, leave as batches over HTTP.
//!
//! ```text
//! Client::capture ──▶ Queue ──▶ Batch ──▶ Payload (gzip) ──▶ Http ──▶ answer
//!   (any thread)        ▲                                             │
//!                       └──────────── back to the front ◀─────────────┘ failed
//!                    flush thread (flush/), one a client ──▶ Updates ──▶ Listener
//! ```
//!
//! Nothing here knows the BEAM: the crate is built, tested and fuzzed by `cargo test` alone.

mod client;
mod clock;
mod config;
#[cfg(all(test, not(shuttle)))]
mod counted;
mod draining;
mod error;
mod event;
mod flush;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod history;
mod http;
mod protocol;
mod queue;
mod report;
pub mod spool;
mod sync;
mod threads;

pub use client::{Capture, Client};
pub use clock::nearest;
pub use config::{Config, Endpoint, HttpConfig, Proxy};
pub use draining::Draining;
pub use error::Error;
pub use event::json;
pub use event::place::Place;
pub use event::profiles::{Noted, PersonProfiles, PROPERTY as PROCESS_PERSON_PROFILE};
pub use http::check::{check, Unusable};
pub use http::client::has_roots;
pub use http::policy::SUSPENSION;
pub use http::redact::redact;
pub use http::request;
pub use http::response::{Answer, Failure};
pub use http::roots::{named_roots, NamedRoots};
pub use protocol::{
    Command, LastWords, Listener, Notice, Outcome, Reply, Report, Span, Trigger, Updates,
};
pub use queue::accounts::{Limit, Reason, Stats};
pub use report::reports::{Reports, Taken};
pub use report::status::{Activity, Call, Caller, LastError, PhaseName, Status, WaitsFor};
pub use threads::keep_mapped;
