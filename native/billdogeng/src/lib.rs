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
mod client;
mod config;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
pub mod json;
mod news;
mod parts;
mod place;
mod policy;
mod queue;
pub mod spool;
mod state;
mod store;
pub mod transport;
mod waiters;
mod worker;

pub use answer::Failure;
pub use client::{Capture, Client};
pub use config::{Config, HttpConfig, Proxy};
pub use error::Error;
pub use http::has_roots;
pub use news::{LastWords, Listener, Notice, Reply, Tidings};
pub use place::Place;
pub use policy::SUSPENSION;
pub use state::{Reason, Stats};
pub use worker::Command;
