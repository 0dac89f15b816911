//! Clients that send on after their owners have ended.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts clients that drain.
#[derive(Debug, Default)]
pub struct Draining(AtomicUsize);

impl Draining {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// So many more drain.
    pub fn add(&self, clients: usize) {
        self.0.fetch_add(clients, Ordering::AcqRel);
    }

    /// How many drain.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// A client has ended. Its last words are sent first: the reporter waits for them no longer than the count
    /// is above zero.
    pub fn end(&self, send_last_words: impl FnOnce()) {
        send_last_words();
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_counts_as_draining_until_its_last_words_are_sent() {
        let draining = Draining::new();
        draining.add(1);
        draining.end(|| assert_eq!(draining.count(), 1));
        assert_eq!(draining.count(), 0);
    }
}
