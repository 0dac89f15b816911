//! The flush thread: when a batch leaves, how it is split, and who waits for it.

pub mod phase;
pub mod split;
pub mod waiters;
pub mod worker;

mod attempt;
mod delivery;
mod failing;
mod machine;
mod opening;
mod requests;
mod spooling;
mod timer;

#[cfg(all(test, not(shuttle)))]
mod old;
#[cfg(test)]
mod tests;
