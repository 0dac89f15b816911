//! The flush thread: when a batch leaves, how it is split, and who waits for it.

pub mod split;
pub mod waiters;
pub mod worker;
