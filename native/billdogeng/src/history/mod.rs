//! Sends the events of a file: a history that an app has collected, or exported from elsewhere.
//!
//! ```text
//! file ─▶ "billdogeng-read": lines ─▶ events ─▶ portions ──(a few wait)──▶ "billdogeng-send": one request at a time
//!                                                                           │ after each portion
//!                                      FILE.rejected, FILE.resume ◀─────────┘
//! ```
//!
//! Reading waits for sending, so memory is bounded for a file of any size. A portion is settled when each of its lines is
//! delivered or rejected. Only then is the state written, and only then is the next portion sent: a run that is killed at
//! any time and resumed sends at most one portion twice.
//!
//! | file | what it does |
//! |---|---|
//! | `portion.rs` | the events of consecutive lines, and where a run is |
//! | `line.rs` | a line of JSON becomes an event |
//! | `table.rs` | a record of CSV becomes an event |
//! | `source.rs` | opens a file, also a compressed one, and divides it into portions |
//! | `journal.rs` | the rejected lines, and the state that a later run resumes from |
//! | `ahead.rs` | the portions that wait |
//! | `stop.rs` | why a run ends early |
//! | `sender.rs` | delivers portions: retries, splits, rejects |

mod ahead;
mod journal;
mod line;
mod portion;
mod sender;
mod source;
mod stop;
mod table;

pub use line::Fields;

use crate::config::Config;
use crate::error::Error;
use crate::threads;
use crossbeam_channel::{bounded, TrySendError};
use journal::Journal;
use portion::Portion;
use sender::Sender;
use source::Open;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

const STACK: usize = 1024 * 1024;
/// Portions that wait while one is being sent.
const AHEAD: usize = 3;
/// Pieces of content that wait to be read, of an order without a path.
const FED: usize = 4;

/// A file to be sent, and how.
pub struct Order {
    /// The file. Without one the content comes by [`Run::feed`].
    pub path: Option<PathBuf>,
    /// Where each field of an event is in a line.
    pub fields: Fields,
    /// The file is CSV with a header.
    pub csv: bool,
    /// The numbers of group types.
    pub group_numbers: Vec<(String, u8)>,
    /// Check every line and send nothing.
    pub dry_run: bool,
    /// Go on where an earlier run of this file ended.
    pub resume: bool,
    /// Events per second, at most.
    pub rate: Option<u64>,
    /// How long to retry without any success, before the run ends.
    pub retry_for: Duration,
    /// Where rejected lines and the state go, without their extensions.
    pub beside: PathBuf,
    /// The ingest and the bounds of a batch.
    pub config: Config,
}

/// The state of a run.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Lines that were read, without blank ones.
    pub read: u64,
    /// Events that were in a request.
    pub sent: u64,
    /// Events that the ingest accepted.
    pub delivered: u64,
    /// Lines that are no event, and events that the ingest refused.
    pub rejected: u64,
    /// Of these counters, what an earlier run has done.
    pub resumed: u64,
    /// Some of the rejected lines with their reason, for a dry run.
    pub examples: Vec<(u64, String)>,
    /// The latest failure, until the next success.
    pub failure: Option<Arc<Error>>,
    /// The result, once the run has ended.
    pub ended: Option<Ended>,
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why it ended before the end of the file, if so.
    pub error: Option<Arc<Error>>,
    /// The first line that is neither delivered nor rejected, if there is one.
    pub kept_from: Option<u64>,
}

/// A run. Dropping it ends the run, and the request in flight.
pub struct Run {
    shared: Arc<Shared>,
    /// Bytes of the file.
    pub total: Option<u64>,
    /// Takes the content of an order without a path.
    feed: Mutex<Option<crossbeam_channel::Sender<Vec<u8>>>>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    bytes: Arc<AtomicU64>,
    cancelled: Notify,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, error: Option<Arc<Error>>, kept_from: Option<u64>) {
        self.progress().ended = Some(Ended { error, kept_from });
    }
}

impl Run {
    /// Starts a run.
    ///
    /// # Errors
    /// The file can't be read, an earlier run of it has not ended and is not to be resumed, or there is no thread.
    pub fn start(order: Order) -> Result<Self, String> {
        let shared = Arc::new(Shared::default());
        let order = Arc::new(order);
        let journal = match order.dry_run {
            true => None,
            false => Some(Journal::open(&order)?),
        };
        let from = journal.as_ref().map(Journal::position).unwrap_or_default();
        let (feed, fed) = bounded(FED);
        let is_fed = order.path.is_none();
        let open = Open {
            order: Arc::clone(&order),
            bytes: Arc::clone(&shared.bytes),
            from: from.clone(),
            fed,
        };
        // The content that is fed comes after this returns: its beginning is read on the thread.
        let (total, source) = match is_fed {
            true => (None, None),
            false => {
                let source = open.source()?;
                (source.total, Some(source))
            }
        };
        {
            let mut progress = shared.progress();
            progress.delivered = from.delivered;
            progress.rejected = from.rejected;
            progress.sent = from.delivered;
            progress.read = from.delivered + from.rejected;
            progress.resumed = progress.read;
        }
        let (portions, next) = bounded(AHEAD);
        let failed = |error: std::io::Error| format!("no thread can be started: {error}");
        threads::spawn("billdogeng-read", STACK, move || {
            match source.map_or_else(|| open.source(), Ok) {
                Ok(source) => source.run(&portions),
                Err(reason) => {
                    let _ = portions.send(Portion::failed(reason));
                }
            }
        })
        .map_err(failed)?;
        let sender = Sender::new(order, Arc::clone(&shared), next, journal);
        threads::spawn("billdogeng-send", STACK, move || sender.run()).map_err(failed)?;
        let feed = Mutex::new(is_fed.then_some(feed));
        Ok(Self {
            shared,
            total,
            feed,
        })
    }

    /// Takes more of the content of an order without a path; nothing is its end. Returns whether there was room.
    pub fn feed(&self, content: &[u8]) -> bool {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        if content.is_empty() {
            *feed = None;
        }
        match feed.as_ref() {
            Some(feed) => !matches!(
                feed.try_send(content.to_owned()),
                Err(TrySendError::Full(_))
            ),
            None => true,
        }
    }

    /// Returns the state.
    pub fn progress(&self) -> Progress {
        self.shared.progress().clone()
    }

    /// Returns the bytes of the file that were read.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.cancelled.notify_one();
    }
}

/// Writes the event of a line so many times. Returns how often that worked.
#[cfg(all(test, not(shuttle)))]
pub(crate) fn write_lines(line: &[u8], times: u64, out: &mut Vec<u8>) -> u64 {
    let writer = line::Writer {
        fields: &Fields::default(),
        group_numbers: &[],
        max_event_bytes: usize::MAX,
        name: "events.ndjson",
    };
    (0..times)
        .filter(|number| writer.write(line, *number, out).is_ok())
        .count() as u64
}
