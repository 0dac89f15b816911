//! From an owner's pid to its client, without asking any process.
//!
//! Readers load a snapshot and wait for nothing; a start or an end replaces it.

use crate::lanes::Lanes;
use crate::options::{EventOptions, Mode};
use crate::word::WordHasher;
use arc_swap::ArcSwap;
use rustler::sys::ErlNifTerm;
use rustler::{Env, Term};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};

/// A client, and what its captures need besides its lanes.
pub struct Entry {
    pub lanes: Lanes,
    /// The mode that it was started in.
    pub started: Mode,
    /// Switched off at run time: captures are counted, and queued events are still sent.
    pub off: AtomicBool,
    pub options: EventOptions,
    pub hooks: Option<Hooks>,
    /// The failures of its hooks that were reported, one bit for each hook.
    pub failures: AtomicU8,
}

impl Entry {
    /// Returns the mode for events that are captured now.
    pub fn mode(&self) -> Mode {
        if self.off.load(Ordering::Acquire) {
            Mode::Disabled
        } else {
            self.started
        }
    }
}

/// The hooks that a client's events pass through in Elixir, in the external format: a term in an environment of its own
/// cannot be shared between threads.
pub struct Hooks(Vec<u8>);

impl Hooks {
    pub fn new(term: Term) -> Self {
        Self(term.to_binary().as_slice().to_vec())
    }

    pub fn copy<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        env.binary_to_term(&self.0).map(|(term, _)| term)
    }
}

/// A pid as one word.
pub type Key = ErlNifTerm;

pub type Entries = HashMap<Key, Arc<Entry>, BuildHasherDefault<WordHasher>>;

static ENTRIES: LazyLock<ArcSwap<Entries>> = LazyLock::new(Default::default);

/// Returns the word of a local pid: no two living processes share it. Any other term is a word of another kind, and is
/// in no registry.
pub fn key(pid: Term) -> Key {
    pid.as_c_arg()
}

/// Runs `with` on the client that `pid` owns, if it owns one.
pub fn with<R>(pid: Term, with: impl FnOnce(&Entry) -> R) -> Option<R> {
    ENTRIES.load().get(&key(pid)).map(|entry| with(entry))
}

/// Returns all clients.
pub fn all() -> Arc<Entries> {
    ENTRIES.load_full()
}

/// From now on captures to the pid of `key` reach `entry`.
pub fn insert(key: Key, entry: Arc<Entry>) {
    ENTRIES.rcu(|entries| {
        let mut entries = Entries::clone(entries);
        entries.insert(key, Arc::clone(&entry));
        entries
    });
}

/// From now on captures to the pid of `key` do not reach `entry`. A later client's owner may have that pid by now.
pub fn remove(key: Key, entry: &Entry) {
    ENTRIES.rcu(|entries| {
        let mut entries = Entries::clone(entries);
        if entries
            .get(&key)
            .is_some_and(|found| std::ptr::eq(&**found, entry))
        {
            entries.remove(&key);
        }
        entries
    });
}
