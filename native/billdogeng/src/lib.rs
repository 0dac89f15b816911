//! The analytics client in plain Rust: events come in as JSON bytes, leave as batches over HTTP.
//!
//! ```text
//! Client::capture ──▶ Queue ──▶ Batch ──▶ Payload (gzip) ──▶ Http ──▶ answer
//!   (any thread)        ▲                                             │
//!                       └──────────── back to the front ◀─────────────┘ failed
//!                    flush thread (worker.rs), one a client ──▶ News ──▶ Listener
//! ```
//!
//! Nothing here knows the BEAM: the crate is built, tested and fuzzed by `cargo test` alone.

mod answer;
mod check;
mod chunks;
mod client;
mod config;
mod error;
mod flush_report;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
pub mod json;
mod news;
mod parts;
mod payload;
mod place;
mod policy;
mod queue;
mod redact;
mod reports;
mod resolver;
mod roots;
pub mod spool;
mod state;
mod status;
mod store;
mod sync;
mod threads;
pub mod transport;
mod waiters;
mod worker;

pub use answer::{Answer, Failure};
pub use check::{check, Unusable};
pub use client::{Capture, Client};
pub use config::{Config, Endpoint, HttpConfig, Proxy};
pub use error::Error;
pub use flush_report::{Outcome, Report, Span, Trigger};
pub use http::has_roots;
pub use news::{LastWords, Listener, Notice, Reply, Tidings};
pub use place::Place;
pub use policy::SUSPENSION;
pub use redact::redact;
pub use reports::{Reports, Told};
pub use roots::{named_roots, NamedRoots};
pub use state::{Reason, Stats};
pub use status::{LastError, Phase, Status};
pub use worker::Command;
