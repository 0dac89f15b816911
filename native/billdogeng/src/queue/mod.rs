//! Queued events as bytes: their order, their bounds, and the counters of one client.

pub mod accounts;
pub mod batch;
pub mod chunks;
pub mod events;
pub mod state;
pub mod store;
