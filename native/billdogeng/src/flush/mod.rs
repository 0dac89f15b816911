//! The flush thread: when a batch leaves, how it is split, and who waits for it.

mod attempt;
mod delivery;
mod ends;
mod failing;
mod machine;
mod opening;
mod phase;
pub mod requests;
pub mod split;
mod spooling;
mod timer;
mod waiters;
mod worker;

#[cfg(test)]
mod tests;

use crate::client::Client;
use crate::config::Config;
use crate::protocol::Listener;
use std::io;
use std::sync::Arc;

impl Client {
    /// Starts a client and its flush thread. It ends after [`Command::Drain`](crate::Command::Drain). It takes events at once; a
    /// spool is opened behind them. The listener is notified once it is open, or takes long.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub fn start(config: Config, listener: Box<dyn Listener>) -> io::Result<Arc<Self>> {
        let client = Self::new(config);
        worker::Worker::start(Arc::clone(&client), listener)?;
        Ok(client)
    }
}
