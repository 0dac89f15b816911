//! The NIFs that send the events of a file, for `BilldogEng.send_file/2`.

use crate::options::Options;
use crate::{atoms, terms};
use billdogeng::history::{Fields, Order, Run};
use rustler::{Binary, Encoder, Env, NifMap, Resource, ResourceArc, Term};
use std::time::Duration;

/// A run. The caller keeps it: without it the run ends.
struct Handle(Run);

#[rustler::resource_impl]
impl Resource for Handle {}

/// The options of `BilldogEng.send_file/2` that are no client's.
#[derive(NifMap)]
struct Given {
    path: Option<String>,
    beside: String,
    csv: bool,
    dry_run: bool,
    resume: bool,
    rate: Option<u64>,
    retry_for: u64,
    event: String,
    distinct_id: String,
    timestamp: String,
    properties: String,
    groups: String,
}

#[derive(NifMap)]
struct Progress<'a> {
    read: u64,
    sent: u64,
    delivered: u64,
    rejected: u64,
    resumed: u64,
    bytes: u64,
    total: Option<u64>,
    examples: Vec<(u64, String)>,
    failure: Option<Term<'a>>,
    /// `{error, kept_from}`, once the run has ended.
    ended: Option<(Option<Term<'a>>, Option<u64>)>,
}

/// Starts a run. Returns `{:ok, run}` or `{:error, message}`.
#[rustler::nif(schedule = "DirtyIo")]
fn send_file<'a>(env: Env<'a>, options: Options<'a>, given: Given) -> Term<'a> {
    match start(options, given) {
        Ok(run) => (atoms::ok(), ResourceArc::new(Handle(run))).encode(env),
        Err(message) => (atoms::error(), message).encode(env),
    }
}

fn start(options: Options, given: Given) -> Result<Run, String> {
    let numbers = options.group_numbers().map_err(|error| error.to_string())?;
    let (_, config, _) = options.split().map_err(|error| error.to_string())?;
    Run::start(Order {
        path: given.path.map(Into::into),
        beside: given.beside.into(),
        fields: Fields {
            event: given.event,
            distinct_id: given.distinct_id,
            timestamp: given.timestamp,
            properties: given.properties,
            groups: given.groups,
        },
        csv: given.csv,
        group_numbers: numbers,
        dry_run: given.dry_run,
        resume: given.resume,
        rate: given.rate,
        retry_for: Duration::from_millis(given.retry_for),
        config,
    })
}

/// Takes more of the content of a run without a path; an empty binary is its end. Returns whether there was room.
#[rustler::nif]
fn send_file_feed(run: ResourceArc<Handle>, content: Binary) -> bool {
    run.0.feed(&content)
}

#[rustler::nif]
fn send_file_progress<'a>(env: Env<'a>, run: ResourceArc<Handle>) -> Progress<'a> {
    let progress = run.0.progress();
    let error = |error: &billdogeng::Error| terms::error(env, error);
    Progress {
        read: progress.read,
        sent: progress.sent,
        delivered: progress.delivered,
        rejected: progress.rejected,
        resumed: progress.resumed,
        bytes: run.0.bytes(),
        total: run.0.total,
        examples: progress.examples,
        failure: progress.failure.as_deref().map(error),
        ended: progress
            .ended
            .map(|ended| (ended.error.as_deref().map(error), ended.kept_from)),
    }
}
