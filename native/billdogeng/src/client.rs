//! The handle that callers hold: captures go into the queue, commands to the flush thread.

use crate::config::Config;
use crate::event::place::Place;
use crate::protocol::{Command, Notice, Updates};
use crate::queue::accounts::{Reason, Stats};
use crate::queue::state::{Accepted, State};
use crate::queue::store::FIRST;
use crate::report::status::Status;
use crate::report::updates::Pending;
use crate::spool::{Recovered, Spool, Usage};
use crate::sync::{self, Mutex, MutexGuard, Notify, Receiver, Sender};
use crossbeam_utils::CachePadded;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

/// The result of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// It is in the accounts.
    Taken,
    /// The client has ended. The event is in its accounts as dropped, and nothing else becomes of it.
    Closed,
}

/// One client: a queue and the thread that empties it.
pub struct Client {
    pub(crate) config: Config,
    pub(crate) wake: Arc<Notify>,
    pub(crate) commands: Receiver<Command>,
    /// Once it is open.
    pub(crate) spool: OnceLock<Arc<Spool>>,
    sender: Sender<Command>,
    /// On cache lines of its own: every capture writes to them, and reads the fields around it.
    state: CachePadded<Mutex<State>>,
    pending: Mutex<Pending>,
    /// No lock of the scheduled kind: nothing is waited for while it is held.
    status: std::sync::Mutex<Status>,
    open: AtomicBool,
    reported_replaced: AtomicBool,
    reported_too_large: AtomicBool,
}

impl Client {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let (sender, commands) = sync::unbounded();
        Arc::new(Self {
            spool: OnceLock::new(),
            state: CachePadded::new(Mutex::new(State::new(&config))),
            open: AtomicBool::new(config.spool.is_none()),
            config,
            wake: Arc::new(Notify::new()),
            commands,
            sender,
            pending: Mutex::new(Pending::default()),
            status: std::sync::Mutex::default(),
            reported_replaced: AtomicBool::new(false),
            reported_too_large: AtomicBool::new(false),
        })
    }

    /// Adds a spool that was opened. With `purge` its events are dropped first.
    pub(crate) fn adopt(&self, spool: Spool, recovered: &Recovered, purge: bool) -> Arc<Spool> {
        let spool = Arc::new(spool.counting_from(FIRST));
        let mut state = self.state();
        state.adopt(Arc::clone(&spool), recovered);
        if purge {
            // No event may come in between: its file would be deleted too.
            state.drop_recovered(Reason::Purged);
            spool.purge();
        }
        drop(state);
        // In parts, for callers want the lock.
        while !self.state().catch_up() {}
        let _ = self.spool.set(Arc::clone(&spool));
        spool
    }

    /// Whether its accounts are complete: its spool is open, or there is none for now.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn opened(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// A client that only keeps accounts: no thread, no disk, nothing is sent. Its captures are those of
    /// [`Client::count_kept`] and [`Client::count_drop`], and it gets no commands.
    #[must_use]
    pub fn idle(config: Config) -> Arc<Self> {
        Self::new(Config {
            spool: None,
            ..config
        })
    }

    /// Returns a client that has ended without having sent anything: it counts every event as dropped.
    #[must_use]
    pub fn ended(config: Config) -> Arc<Self> {
        let client = Self::idle(config);
        client.state().close();
        client
    }

    /// Counts an event that the caller itself keeps, as delivered.
    pub fn count_kept(&self, replaced: u64) {
        self.state().count_kept(replaced);
    }

    /// Counts a kept event as dropped: no test owns it.
    pub fn disown(&self) {
        self.state().disown();
    }

    /// Takes one event's JSON. Costs a short lock and a copy, which a large event that is owned is spared; waits
    /// for nothing else.
    pub fn capture<'a>(&self, event: impl Into<Cow<'a, [u8]>>, replaced: u64) -> Capture {
        let mut event = event.into();
        if let Cow::Owned(bytes) = &mut event {
            // As it will be queued: with a comma, and no room for more. Not under the lock.
            bytes.reserve_exact(1);
            bytes.shrink_to(bytes.len() + 1);
        }
        let accepted = self.state().capture(event, replaced);
        self.notify(accepted)
    }

    /// Counts an event that could not be taken.
    pub fn count_drop(&self, reason: Reason) -> Capture {
        let accepted = self.state().count_drop(reason);
        self.notify(accepted)
    }

    /// Reports once where a value was written in another form than its own.
    pub fn report_replaced(&self, place: impl FnOnce() -> Place) {
        if !self.reported_replaced.swap(true, Ordering::Relaxed) {
            self.pending().notice(Notice::Replaced(place()));
            self.wake.notify_one();
        }
    }

    /// Reports once where an event became too large.
    pub fn report_too_large(&self, place: impl FnOnce() -> Place) {
        if !self.reported_too_large.swap(true, Ordering::Relaxed) {
            self.pending().notice(Notice::TooLarge(place()));
            self.wake.notify_one();
        }
    }

    fn notify(&self, accepted: Accepted) -> Capture {
        match accepted {
            Accepted::Quiet => Capture::Taken,
            Accepted::Notify => {
                self.wake.notify_one();
                Capture::Taken
            }
            Accepted::Closed => Capture::Closed,
        }
    }

    /// Hands a command to the flush thread. A client that has ended ignores it.
    pub fn command(&self, command: Command) {
        // Pushed first: the thread looks at the channel after it wakes.
        let _ = self.sender.send(command);
        self.wake.notify_one();
    }

    /// The accounts as they stand.
    pub fn stats(&self) -> Stats {
        self.state().stats()
    }

    /// Returns how many undelivered events a call waits for: those below this number. `None` waits for none.
    pub fn events_below(&self, number: Option<u64>) -> u64 {
        let state = self.state();
        let left = number.map_or(0, |number| number.saturating_sub(state.floor()));
        left.min(state.stats().queued)
    }

    /// Returns `event_timestamp` (ms) of the oldest event that waits in memory.
    pub fn oldest(&self) -> Option<u64> {
        #[derive(serde::Deserialize)]
        struct Event {
            event_timestamp: Option<u64>,
        }
        let event = self.state().oldest()?;
        let event: Event = serde_json::from_slice(&event).ok()?;
        event.event_timestamp
    }

    /// Returns what the spool contains, if one is open.
    pub fn spool_usage(&self) -> Option<Usage> {
        self.spool.get().map(|spool| spool.usage())
    }

    /// The configuration. It contains the key.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns what the client is doing.
    pub fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Client::updates`], unless to make something else of them may take long, for the bodies in them.
    pub fn short_updates(&self) -> Option<Updates> {
        let mut pending = self.pending();
        (!pending.has_long_bodies()).then(|| pending.take())
    }

    /// Returns the pending updates. The listener is notified of later ones, unless there are [`more`](Updates::more).
    pub fn updates(&self) -> Updates {
        self.pending().take()
    }

    /// Returns the configuration of the lane of person updates beside this client.
    #[must_use]
    pub fn config_for_person_updates(&self) -> Config {
        self.config.for_person_updates()
    }

    /// Bytes of JSON that one event may have.
    pub fn max_event_bytes(&self) -> usize {
        self.config.max_event_bytes
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
