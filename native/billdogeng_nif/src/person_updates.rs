//! The NIFs of person updates: their lane beside an owner's client, a queue and a thread of its own from the first
//! update on, so that a slow answer to either holds up nothing of the other.

use crate::capture::{answer, dirty, encoded, no_client, normalise};
use crate::client::{atom_to_reason, start_lane, tidings_of};
use crate::encode::Stop;
use crate::options::Mode;
use crate::registry::{self, Entry};
use crate::value;
use billdogeng::{Client, Command, Place, Reason};
use rustler::{Atom, Encoder as _, Term};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

rustler::atoms! { update, no_thread }

/// Where updates go.
#[derive(Default)]
pub struct Lane(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unopened,
    Open(Arc<Client>),
    /// The owner has ended, or the VM stops. The client counts late updates; there is none until the first of them,
    /// or until the owner's end.
    Closed(Option<Arc<Client>>),
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the lane's client. The first update starts it; after the owner's end the first late one makes a client
    /// that counts it.
    fn open(
        &self,
        start: impl FnOnce() -> io::Result<Arc<Client>>,
        ended: impl FnOnce() -> Arc<Client>,
    ) -> io::Result<Arc<Client>> {
        let mut state = self.state();
        let client = match &*state {
            State::Open(client) | State::Closed(Some(client)) => return Ok(Arc::clone(client)),
            State::Unopened => {
                let client = start()?;
                *state = State::Open(Arc::clone(&client));
                client
            }
            State::Closed(None) => {
                let client = ended();
                *state = State::Closed(Some(Arc::clone(&client)));
                client
            }
        };
        Ok(client)
    }

    /// The lane's client, if there is one.
    pub fn client(&self) -> Option<Arc<Client>> {
        match &*self.state() {
            State::Open(client) | State::Closed(Some(client)) => Some(Arc::clone(client)),
            State::Unopened | State::Closed(None) => None,
        }
    }

    /// Returns the lane's client if it is open, and keeps it for what is late.
    pub fn close(&self) -> Option<Arc<Client>> {
        let mut state = self.state();
        match std::mem::take(&mut *state) {
            State::Open(client) => {
                *state = State::Closed(Some(Arc::clone(&client)));
                Some(client)
            }
            State::Unopened => {
                *state = State::Closed(None);
                None
            }
            closed @ State::Closed(_) => {
                *state = closed;
                None
            }
        }
    }

    /// Hands its client a command, if there is one; answers whether.
    pub fn command(&self, command: Command) -> bool {
        self.client()
            .map(|client| client.command(command))
            .is_some()
    }
}

#[rustler::nif]
fn update_person<'a>(owner: Term<'a>, update: Term<'a>, marker: Term<'a>) -> Term<'a> {
    take(owner, update, marker, true)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn update_person_dirty<'a>(owner: Term<'a>, update: Term<'a>, marker: Term<'a>) -> Term<'a> {
    take(owner, update, marker, false)
}

fn take<'a>(owner: Term<'a>, update: Term<'a>, marker: Term<'a>, normal: bool) -> Term<'a> {
    let env = owner.get_env();
    registry::with(owner, |entry| match lane_of(owner, entry) {
        Ok(client) => update_by(&client, entry, update, marker, normal),
        Err(_) => no_thread().encode(env),
    })
    .unwrap_or_else(|| no_client().encode(env))
}

fn lane_of(owner: Term, entry: &Entry) -> io::Result<Arc<Client>> {
    entry.lane.open(
        || start_lane(owner, entry),
        || Client::ended(entry.client.config_for_person_updates()),
    )
}

fn update_by<'a>(
    client: &Client,
    entry: &Entry,
    update: Term<'a>,
    marker: Term<'a>,
    normal: bool,
) -> Term<'a> {
    let env = update.get_env();
    if entry.mode() == Mode::Disabled {
        return answer(Some(client.give_up(Reason::Disabled))).encode(env);
    }
    encoded(
        client.max_event_bytes(),
        normal,
        marker,
        |encoder| encoder.value(update),
        |written, bytes, replaced| match written {
            Ok(()) => {
                if let Some(at) = replaced.first {
                    client.tell_replaced(|| Place::in_event(&bytes, at));
                }
                if entry.started == Mode::Test {
                    client.hand_back(replaced.count);
                    return (self::update(), value::decode(env, &bytes)).encode(env);
                }
                answer(Some(client.capture(bytes, replaced.count))).encode(env)
            }
            Err(Stop::TooLarge) => {
                client.tell_too_large(|| Place::in_event(&bytes, bytes.len()));
                answer(Some(client.give_up(Reason::TooLarge))).encode(env)
            }
            Err(Stop::Dirty) => dirty().encode(env),
            Err(Stop::Normalise) => normalise().encode(env),
        },
    )
}

/// Counts an update that is dropped before it is encoded, by the reason's name.
#[rustler::nif]
fn give_up_person_update<'a>(owner: Term<'a>, reason: Atom) -> Atom {
    let reason = atom_to_reason(reason).unwrap_or(Reason::Failed);
    answer(
        registry::with(owner, |entry| {
            let lane = lane_of(owner, entry).ok()?;
            Some(lane.give_up(reason))
        })
        .flatten(),
    )
}

/// The tidings of its flush thread, as those of the events'; or nil.
#[rustler::nif]
fn person_tidings<'a>(owner: Term<'a>) -> Term<'a> {
    lane_tidings(owner, true)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn person_tidings_dirty<'a>(owner: Term<'a>) -> Term<'a> {
    lane_tidings(owner, false)
}

fn lane_tidings<'a>(owner: Term<'a>, normal: bool) -> Term<'a> {
    registry::with(owner, |entry| entry.lane.client())
        .flatten()
        .map_or_else(
            || rustler::types::atom::nil().encode(owner.get_env()),
            |lane| tidings_of(owner, &lane, normal),
        )
}
