//! A client's two lanes, events and person updates, and the messages that their flush threads send.
//!
//! Each lane has a queue and a flush thread of its own, so that a slow response on one delays nothing on the other. The
//! lane of person updates starts with the first update.

use crate::options::Mode;
use crate::reports::Label;
use crate::{atoms, terms};
use billdogeng::{Client, Command, Config, Draining, LastWords, Listener, Report};
use rustler::env::OwnedEnv;
use rustler::{Atom, Env, LocalPid, NifUnitEnum};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The kind of items that a lane sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NifUnitEnum)]
pub enum Lane {
    Event,
    PersonUpdate,
}

/// The lanes of one client.
pub struct Lanes {
    owner: LocalPid,
    mode: Mode,
    events: Arc<Client>,
    person_updates: OnceLock<Arc<Client>>,
    /// Whether the owner has ended, or the VM stops. Locked while a lane starts.
    closed: Mutex<bool>,
}

impl Lanes {
    /// Starts the lane of events. Only a live client has flush threads; `label` names the client in its reports.
    pub fn start(
        owner: LocalPid,
        mode: Mode,
        config: Config,
        label: Option<Label>,
    ) -> io::Result<Self> {
        Ok(Self {
            owner,
            mode,
            events: start(owner, mode, config, Lane::Event, label)?,
            person_updates: OnceLock::new(),
            closed: Mutex::new(false),
        })
    }

    pub fn get(&self, lane: Lane) -> Option<&Client> {
        match lane {
            Lane::Event => Some(&self.events),
            Lane::PersonUpdate => self.person_updates.get().map(|client| &**client),
        }
    }

    pub fn events(&self) -> &Client {
        &self.events
    }

    /// Returns a lane for a capture; starts it if this is its first one. A lane that would start after the owner's end
    /// only counts.
    ///
    /// # Errors
    /// The system has no thread left.
    #[inline]
    pub fn open(&self, lane: Lane) -> io::Result<&Client> {
        match self.get(lane) {
            Some(client) => Ok(client),
            None => self.first(lane),
        }
    }

    #[cold]
    fn first(&self, lane: Lane) -> io::Result<&Client> {
        let closed = self.closed();
        if self.person_updates.get().is_none() {
            let config = self.events.config_for_person_updates();
            let client = if *closed && self.mode == Mode::Live {
                Client::ended(config)
            } else {
                start(self.owner, self.mode, config, lane, None)?
            };
            let _ = self.person_updates.set(client);
        }
        drop(closed);
        self.get(lane).ok_or(io::ErrorKind::NotFound.into())
    }

    /// Sends a command to the lane of events, or to both. Returns how many flush threads will reply; `None` once they
    /// may have ended.
    pub fn command(&self, command: Command, both: bool) -> Option<usize> {
        let closed = self.closed();
        if *closed {
            return None;
        }
        if self.mode != Mode::Live {
            return Some(0);
        }
        Some(self.send(command, both))
    }

    /// Has the flush threads send what is queued, and end. Only signals them: this runs on schedulers.
    pub fn drain(&self) {
        let mut closed = self.closed();
        if std::mem::replace(&mut *closed, true) || self.mode != Mode::Live {
            return;
        }
        DRAINING.add(1 + self.person_updates.get().iter().len());
        self.send(Command::Drain, true);
    }

    fn send(&self, command: Command, both: bool) -> usize {
        let second = self.person_updates.get().filter(|_| both);
        let clients = second.into_iter().chain([&self.events]);
        clients.map(|client| client.command(command)).count()
    }

    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(
    owner: LocalPid,
    mode: Mode,
    config: Config,
    lane: Lane,
    label: Option<Label>,
) -> io::Result<Arc<Client>> {
    match mode {
        Mode::Live => Client::start(config, Box::new(Messages { owner, lane, label })),
        Mode::Test | Mode::Disabled => Ok(Client::idle(config)),
    }
}

/// The messages of one flush thread.
struct Messages {
    owner: LocalPid,
    lane: Lane,
    label: Option<Label>,
}

/// Clients without owner that have not ended yet.
static DRAINING: Draining = Draining::new();

/// The process that is notified of ended clients.
static REPORTER: Mutex<Option<LocalPid>> = Mutex::new(None);

impl Listener for Messages {
    fn pending(&self) {
        let message = (atoms::billdogeng_updates(), self.lane);
        let _ = OwnedEnv::new().send_and_clear(&self.owner, |_| message);
    }

    fn opened(&self) {
        let _ = OwnedEnv::new().send_and_clear(&self.owner, |_| atoms::billdogeng_open());
    }

    fn report(&self, report: Report) {
        if let Some(label) = &self.label {
            label.report(report);
        }
    }

    fn ended(&self, last: LastWords) {
        DRAINING.end(|| {
            let reporter = *REPORTER.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(reporter) = reporter {
                let _ = OwnedEnv::new().send_and_clear(&reporter, |env| {
                    let stats = terms::stats(env, &last.stats, &[]);
                    let unreported = terms::dropped(env, last.unreported);
                    (
                        atoms::billdogeng_ended(),
                        self.owner,
                        self.lane,
                        last.stopped,
                        stats,
                        unreported,
                    )
                });
            }
        });
    }
}

/// From now on the calling process is notified of ended clients.
#[rustler::nif]
fn report_to_me(env: Env<'_>) -> Atom {
    *REPORTER.lock().unwrap_or_else(PoisonError::into_inner) = Some(env.pid());
    atoms::ok()
}

/// Returns how many lanes without owner have not ended yet.
#[rustler::nif]
fn draining() -> usize {
    DRAINING.count()
}
