//! The NIFs of telemetry: reports of flush threads, for the one process of the VM that emits them as events.
//!
//! A client that was started without a label reports nothing. The reports outlive their owner, so that those of a drain
//! are emitted too.

use crate::{atoms, terms, vm};
use billdogeng::{Report, Reports, Trigger};
use rustler::env::OwnedEnv;
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The name of a client in its reports, in the external format.
pub struct Label(Arc<[u8]>);

static REPORTS: Mutex<Reports<Arc<[u8]>>> = Mutex::new(Reports::new());
/// The process that emits them.
static EMITTER: Mutex<Option<LocalPid>> = Mutex::new(None);

fn reports() -> MutexGuard<'static, Reports<Arc<[u8]>>> {
    REPORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Label {
    pub fn new(term: Term) -> Self {
        Self(term.to_binary().as_slice().into())
    }

    /// Takes a report, on a flush thread.
    pub fn report(&self, report: Report) {
        if !reports().add(Arc::clone(&self.0), report) {
            return;
        }
        let emitter = *EMITTER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(emitter) = emitter {
            let _ = OwnedEnv::new().send_and_clear(&emitter, |_| atoms::billdogeng_reports());
        }
    }
}

/// From now on the calling process is sent `:billdogeng_reports`, once until it takes the reports.
#[rustler::nif]
fn report_flushes_to_me(env: Env<'_>) -> Atom {
    *EMITTER.lock().unwrap_or_else(PoisonError::into_inner) = Some(env.pid());
    atoms::ok()
}

/// Returns `{spans, dropped, missed}`, all since the last call. Times are in ns; a span begins at Erlang's monotonic time.
#[rustler::nif]
fn take_reports(env: Env<'_>) -> Term<'_> {
    let taken = reports().take();
    let now = (Instant::now(), vm::monotonic_time_ns());
    let spans = taken
        .spans
        .iter()
        .filter_map(|(label, report)| Some((client(env, label)?, span_to_term(env, now, report)?)));
    let dropped = taken.dropped.iter().filter_map(|(label, reason, count)| {
        Some((client(env, label)?, terms::reason(*reason), *count))
    });
    let missed = taken
        .missed
        .iter()
        .filter_map(|(label, count)| Some((client(env, label)?, *count)));
    (
        spans.collect::<Vec<_>>(),
        dropped.collect::<Vec<_>>(),
        missed.collect::<Vec<_>>(),
    )
        .encode(env)
}

fn client<'a>(env: Env<'a>, label: &[u8]) -> Option<Term<'a>> {
    env.binary_to_term(label).map(|(term, _)| term)
}

fn span_to_term<'a>(
    env: Env<'a>,
    (now, now_ns): (Instant, i64),
    report: &Report,
) -> Option<Term<'a>> {
    let (kind, span, rest) = match report {
        Report::Started(span) => (atoms::started(), span, ().encode(env)),
        Report::Stopped(span, took, outcome) => {
            let error = outcome.error.as_ref();
            let rest = (
                took.as_nanos() as u64,
                outcome.events,
                outcome.bytes,
                outcome.wire_bytes,
                outcome.attempts,
                outcome.status,
                error.map(|error| terms::error(env, error)),
            );
            (atoms::stopped(), span, rest.encode(env))
        }
        Report::Panicked(span, took) => (
            atoms::panicked(),
            span,
            (took.as_nanos() as u64,).encode(env),
        ),
        Report::Dropped(..) => return None,
    };
    let ago = now.saturating_duration_since(span.began).as_nanos() as i64;
    let trigger = trigger_to_atom(span.trigger);
    Some((kind, span.id, trigger, now_ns - ago, rest).encode(env))
}

fn trigger_to_atom(trigger: Trigger) -> Atom {
    match trigger {
        Trigger::Size => atoms::size(),
        Trigger::Interval => atoms::interval(),
        Trigger::Call => atoms::call(),
        Trigger::Shutdown => atoms::shutdown(),
        Trigger::Retry => atoms::retry(),
    }
}
