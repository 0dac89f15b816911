//! From an owner's pid to its client, without asking any process.
//!
//! Readers load a snapshot and wait for nobody; a start or an end replaces it.

use crate::options::{EventOptions, Mode};
use crate::person_updates::Lane;
use crate::word::WordHasher;
use arc_swap::ArcSwap;
use billdogeng::Client;
use rustler::sys::ErlNifTerm;
use rustler::{Env, Term};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};

/// A client and what its captures need beside it.
pub struct Entry {
    pub client: Arc<Client>,
    /// As which it was started: only a live one has a flush thread.
    pub started: Mode,
    /// Switched off at run time: captures are counted, what is queued is still sent.
    pub off: AtomicBool,
    pub events: EventOptions,
    /// Updates of persons.
    pub lane: Lane,
    /// What the app has done to its events in Elixir, before they come here for good.
    pub hooks: Option<Hooks>,
    /// Its owner has ended, or the VM stops.
    pub draining: AtomicBool,
    /// Kinds of failures of its hooks that were reported, one bit each.
    pub failures: AtomicU8,
}

impl Entry {
    /// What becomes of events that are captured now.
    pub fn mode(&self) -> Mode {
        if self.off.load(Ordering::Acquire) {
            Mode::Disabled
        } else {
            self.started
        }
    }
}

/// A term of Elixir's, kept for whoever captures: in the external format, since terms of an environment of
/// their own can't be shared between threads.
pub struct Hooks(Vec<u8>);

impl Hooks {
    pub fn new(term: Term) -> Self {
        Self(term.to_binary().as_slice().to_vec())
    }

    pub fn copy<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        env.binary_to_term(&self.0).map(|(term, _)| term)
    }
}

/// What a pid is known by here.
pub type Key = ErlNifTerm;

pub type Entries = HashMap<Key, Arc<Entry>, BuildHasherDefault<WordHasher>>;

static ENTRIES: LazyLock<ArcSwap<Entries>> = LazyLock::new(Default::default);

/// A local pid is one word, its own; two living processes never share it. What is no local pid is a word
/// of another kind, and found nowhere.
pub fn key(pid: Term) -> Key {
    pid.as_c_arg()
}

/// Runs `with` on the client that `pid` owns, if it owns one.
pub fn with<R>(pid: Term, with: impl FnOnce(&Entry) -> R) -> Option<R> {
    ENTRIES.load().get(&key(pid)).map(|entry| with(entry))
}

/// The clients there are at this moment.
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
