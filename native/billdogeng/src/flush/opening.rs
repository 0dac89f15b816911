//! Opens the spool beside the flush thread: a disk may be slow, and a directory not to be had for now.
//!
//! ```text
//! start ─▶ "billdogeng-open" ── opened ──▶ the flush thread adopts it between two batches
//!               │      ▲
//!            failed    └── after 1, 2, 4 … 60 s
//!               └─────▶ events stay in memory meanwhile, and are sent from there
//! ```

use crate::client::Client;
use crate::spool::{self, OpenError, Recovered, Spool, Ticket};
use crate::threads;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a start waits for the spool: for as long the client's accounts may lack what it has.
const START: Duration = Duration::from_secs(2);
/// How long flushes wait for a spool that is being read: what it has is older than what they would send.
const HOLD: Duration = Duration::from_secs(10);
/// Between attempts, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const STACK: usize = 512 * 1024;

/// A spool that was opened.
pub struct Opened {
    pub spool: Spool,
    pub recovered: Recovered,
    /// Its events were captured for another key or host.
    pub of_another: bool,
}

/// The flush thread's side.
pub struct Opening {
    shared: Arc<Shared>,
    /// Why the last attempt failed.
    pub failure: Option<String>,
    /// Purges that wait for it.
    pub purges: Vec<u64>,
    /// It was purged while it could not be opened.
    pub purged: bool,
    hold_until: Option<Instant>,
    start_until: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    opened: Option<Opened>,
    failed: Option<OpenError>,
    /// Nobody wants it any more.
    ended: bool,
}

impl Opening {
    /// Takes the client's place among those of this process that want the same directory: as it starts, and not once its
    /// threads run.
    pub fn ticket(client: &Client) -> Option<Ticket> {
        let options = client.config.spool.as_ref()?;
        Some(Ticket::take(&options.dir))
    }

    /// Begins to open the spool that a client is to have, if any.
    pub fn begin(client: &Arc<Client>, ticket: Option<Ticket>) -> Option<Self> {
        let options = client.config.spool.clone()?;
        let shared = Arc::new(Shared::default());
        let dir = options.dir.clone();
        let opener = Opener {
            ticket,
            shared: Arc::clone(&shared),
            client: Arc::clone(client),
            options,
        };
        let started = threads::spawn("billdogeng-open", STACK, move || opener.run());
        if let Err(error) = started {
            shared.lock().failed = Some(OpenError::io("start a thread for", &dir, &error));
        }
        let now = Instant::now();
        Some(Self {
            shared,
            failure: None,
            purges: Vec::new(),
            purged: false,
            hold_until: Some(now + HOLD),
            start_until: Some(now + START),
        })
    }

    /// Takes the spool, if it is open.
    pub fn opened(&self) -> Option<Opened> {
        self.shared.lock().opened.take()
    }

    /// Takes the latest failure, if there is a new one. Flushes wait no longer.
    pub fn failed(&mut self) -> Option<OpenError> {
        let failed = self.shared.lock().failed.take()?;
        self.failure = Some(failed.to_string());
        self.let_go();
        Some(failed)
    }

    /// Whether flushes wait for it.
    pub fn holds(&mut self, now: Instant) -> bool {
        self.hold_until.take_if(|until| *until <= now);
        self.hold_until.is_some()
    }

    /// The same without a look at the time.
    pub fn is_holding(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Flushes wait no longer than that. A client whose owner has ended still waits: the client before it may be sending
    /// older events, and hands the directory over.
    pub fn hold_until(&mut self, latest: Instant) {
        self.hold_until = self.hold_until.map(|until| until.min(latest));
    }

    /// No flush waits for it any more.
    pub fn let_go(&mut self) {
        self.hold_until = None;
    }

    /// Whether the start has waited long enough; once.
    pub fn is_late(&mut self, now: Instant) -> bool {
        self.start_until.take_if(|until| *until <= now).is_some()
    }

    /// When to look again, if nothing comes before.
    pub fn deadline(&self) -> Option<Instant> {
        [self.hold_until, self.start_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Waits for the first attempt to end. Blocks.
    pub fn wait(&self, patience: Duration) {
        if self.failure.is_none() {
            let state = self.shared.lock();
            let pending = |state: &mut State| state.opened.is_none() && state.failed.is_none();
            let _ = self
                .shared
                .changed
                .wait_timeout_while(state, patience, pending);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let opened = state.opened.take();
        self.shared.changed.notify_all();
        drop(state);
        drop(opened);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Opener {
    /// For the first attempt.
    ticket: Option<Ticket>,
    shared: Arc<Shared>,
    client: Arc<Client>,
    options: spool::Options,
}

impl Opener {
    fn run(mut self) {
        for failures in 0.. {
            let opened = catch_unwind(AssertUnwindSafe(|| self.open()));
            let mut state = self.shared.lock();
            if state.ended {
                return;
            }
            match opened {
                Ok(Ok(opened)) => state.opened = Some(opened),
                Ok(Err(error)) => state.failed = Some(error),
                Err(_) => {
                    let panic = std::io::Error::other("its thread panicked");
                    let error = OpenError::io("open", &self.options.dir, &panic);
                    state.failed = Some(error);
                }
            }
            let done = state.opened.is_some();
            self.shared.changed.notify_all();
            self.client.wake.notify_one();
            if done {
                return;
            }
            let pause = (PAUSES.0 * 2u32.pow(failures.min(6))).min(PAUSES.1);
            let waited = self
                .shared
                .changed
                .wait_timeout_while(state, pause, |state| !state.ended);
            if waited.unwrap_or_else(PoisonError::into_inner).0.ended {
                return;
            }
        }
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        let wake = Arc::clone(&self.client.wake);
        let (spool, recovered) =
            Spool::open_in_turn(&self.options, self.ticket.take(), move || wake.notify_one())?;
        let config = &self.client.config;
        // Nothing is logged if that can't be known or noted.
        let replaced =
            spool::client::replace(&self.options.dir, &config.http.host, &config.api_key);
        Ok(Opened {
            of_another: replaced.unwrap_or(false) && recovered.events > 0,
            spool,
            recovered,
        })
    }
}
