//! The NIFs of the owner: start, commands, modes; and the end of one or all owners.
//!
//! A client is identified by its owner's pid, never by the handle: a reload of the stub module makes a new resource type,
//! and a handle of the old type would be refused. The handle only notices the owner's end.

use crate::atoms;
use crate::lanes::Lanes;
use crate::options::{Mode, Options};
use crate::registry::{self, Entry, Hooks};
use crate::reports::Label;
use billdogeng::Command;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::Arc;

/// Notices the owner's end: by a monitor, and by its own destruction.
struct Handle {
    key: registry::Key,
    entry: Arc<Entry>,
}

#[rustler::resource_impl]
impl Resource for Handle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.end();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

impl Handle {
    fn end(&self) {
        self.entry.lanes.drain();
        registry::remove(self.key, &self.entry);
    }
}

/// Starts the calling process's client, and returns a handle for the process to keep. `hooks` are what its captures pass
/// through in Elixir, or nil; `label` is its name in telemetry, or nil if nobody can listen. The label is passed here
/// because a client may have something to send at once. From here on captures reach the client. One with a spool opens it
/// in the background, and then sends the process `:billdogeng_open`.
#[rustler::nif]
fn start<'a>(env: Env<'a>, options: Options<'a>, hooks: Term<'a>, label: Term<'a>) -> Term<'a> {
    let owner = env.pid();
    let (mode, config, options) = match options.split() {
        Ok(split) => split,
        Err(unreadable) => return (atoms::error(), unreadable.to_string()).encode(env),
    };
    let label = (atoms::nil() != label).then(|| Label::new(label));
    let lanes = match Lanes::start(owner, mode, config, label) {
        Ok(lanes) => lanes,
        Err(failed) => return (atoms::error(), failed.to_string()).encode(env),
    };
    let key = registry::key(owner.encode(env));
    let entry = Arc::new(Entry {
        lanes,
        started: mode,
        off: AtomicBool::new(false),
        options,
        hooks: (atoms::nil() != hooks).then(|| Hooks::new(hooks)),
        failures: AtomicU8::new(0),
    });
    let handle = ResourceArc::new(Handle {
        key,
        entry: Arc::clone(&entry),
    });
    if env.monitor(&handle, &owner).is_none() {
        return (atoms::error(), "the owner has ended").encode(env);
    }
    registry::insert(key, entry);
    (atoms::ok(), handle).encode(env)
}

/// Sends the flush threads a command. Returns how many of them will reply, in their updates, under that number: that of
/// the events, and that of the person updates if there is one and the command is for both.
#[rustler::nif]
fn command<'a>(env: Env<'a>, owner: Term<'a>, name: Atom, id: u64) -> Term<'a> {
    let (command, both) = match name {
        name if name == atoms::flush() => (Command::Flush(id), true),
        name if name == atoms::shutdown() => (Command::Shutdown(id), true),
        name if name == atoms::purge() => (Command::Purge(id), true),
        name if name == atoms::settle() => (Command::Settle(id), false),
        name if name == atoms::slept() => (Command::Slept(id), false),
        name if name == atoms::tick() => (Command::Tick, false),
        _ => return atoms::error().encode(env),
    };
    registry::with(owner, |entry| entry.lanes.command(command, both))
        .flatten()
        .map_or_else(
            || atoms::no_client().encode(env),
            |replies| replies.encode(env),
        )
}

/// Switches the captures of `owner`'s client off and on again. Returns `:error` if it cannot be switched on because it
/// was started without a flush thread.
#[rustler::nif]
fn set_mode(owner: Term, mode: Mode) -> Atom {
    let off = mode == Mode::Disabled;
    registry::with(owner, |entry| {
        if !off && entry.started == Mode::Disabled {
            return atoms::error();
        }
        entry.off.store(off, Ordering::Release);
        atoms::ok()
    })
    .unwrap_or_else(atoms::no_client)
}

/// Returns the size limit of one event, 0 if there is no such client.
#[rustler::nif]
fn max_event_bytes(owner: Term) -> usize {
    registry::with(owner, |entry| entry.lanes.events().max_event_bytes()).unwrap_or(0)
}

/// Returns the hooks of `owner`'s client, or nil.
#[rustler::nif]
fn hooks<'a>(env: Env<'a>, owner: Term<'a>) -> Term<'a> {
    registry::with(owner, |entry| entry.hooks.as_ref()?.copy(env))
        .flatten()
        .unwrap_or_else(|| atoms::nil().encode(env))
}

/// Has all clients send what is queued, and end, because the VM stops. They still count later captures.
#[rustler::nif]
fn drain_all() -> Atom {
    for entry in registry::all().values() {
        entry.lanes.drain();
    }
    atoms::ok()
}
