//! The flush thread: one a client, asleep unless something is to be done.
//!
//! ```text
//!            due, tick, flush            attempt fails, retries left
//!   Idle ───────────────────▶ InFlight ─────────────────────────────▶ Waiting
//!    ▲ ▲                       │    ▲                                    │
//!    │ └── all delivered ──────┘    └───── the wait is over, or flush/1 ─┘
//!    └──── failed: the batch goes back, automatic flushes pause ──── InFlight
//! ```
//!
//! A refused batch goes on in halves ([`Parts`]). An ingest whose quota is used up suspends the client:
//! nothing is sent for a while, then one batch tries.
//!
//! Whatever the state, [`Command::Drain`] makes everything go at once and ends the thread.

use crate::client::Client;
use crate::error::Error;
use crate::flush::split::{Parts, Seen};
use crate::flush::waiters::Waiters;
use crate::http::client::Http;
use crate::http::payload::Payload;
use crate::http::request;
use crate::http::response::{Answer, Failure};
use crate::queue::batch::Batch;
use crate::queue::state::Reason;
use crate::queue::store::Next;
use crate::report::flush_report::{FlushReport, Report, Trigger};
use crate::report::status::Phase;
use crate::report::updates::{LastWords, Listener, Notice, Reply};
use crate::threads;
use failing::Failing;
use opening::Opening;
use reqwest::header::HeaderMap;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep_until, Instant};

/// Bytes of the thread's stack.
const STACK: usize = 1024 * 1024;

/// Drops are told at most this often: under overload every capture is one.
const DROP_NOTICES: Duration = Duration::from_millis(100);

/// What the owner asks. The numbers come back in the [`Reply`](crate::Reply).
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Try everything captured so far, at once.
    Flush(u64),
    /// Answer once the flush that is due by now has ended.
    Settle(u64),
    /// Stop the timer, then as `Flush`.
    Shutdown(u64),
    /// The wait of this number, asked of the listener, is over.
    Slept(u64),
    /// Give up all that is queued, on disk too, and what is in flight.
    Purge(u64),
    /// The timer's flush, now.
    Tick,
    /// The owner has ended: send what is left within the shutdown time-out, then end.
    Drain,
    /// For the tests of what a panic leaves behind.
    #[cfg(test)]
    Panic,
}

mod attempts;
mod failing;
#[cfg(all(test, shuttle))]
mod interleavings;
mod opening;
mod spooling;
#[cfg(all(test, not(shuttle)))]
mod tests;

type Attempt = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// A flush under way.
struct Flush {
    target: u64,
    /// Attempts that an automatic flush may still make; 0 where only callers want more.
    attempts_left: u32,
    delivered: u64,
    /// Failed attempts of the request since the last that was made at once.
    failed: u32,
    /// The next batch is being read from the disk.
    fetching: bool,
    batch: Option<Parts>,
    /// How the ingest answered to the batches before.
    seen: Seen,
    /// The request of the batch's next part, once it is made.
    payload: Option<Payload>,
    /// Why a part of the batch was last refused.
    refusal: Option<Failure>,
    wait: Option<Wait>,
}

impl Flush {
    fn send(&mut self, batch: Batch) {
        self.fetching = false;
        self.batch = Some(Parts::new(batch, self.seen));
        self.payload = None;
        self.failed = 0;
    }
}

enum Wait {
    Until(Instant),
    External(u64),
}

pub(crate) struct Worker {
    client: Arc<Client>,
    listener: Box<dyn Listener>,
    http: Option<Arc<Http>>,
    headers: Result<HeaderMap, String>,
    url: String,
    flush: Option<Flush>,
    report: FlushReport,
    waiters: Waiters,
    started: Instant,
    /// The next tick of the timer, while it runs and there is something to look for.
    tick: Option<Instant>,
    timer_stopped: bool,
    failures: u32,
    /// The batch that fails again and again, if one does.
    failing: Failing,
    /// It was read from the spool.
    failing_read: bool,
    /// The status that was last told of events that were rejected.
    refused_with: u16,
    paused_until: Option<Instant>,
    suspended_until: Option<Instant>,
    /// Events given up for the quota before the suspension; while it lasts, and until a batch is accepted.
    limited_from: Option<u64>,
    drops_told: Option<Instant>,
    sleeps: u64,
    /// The batch of the attempt in flight was given up.
    abandoned: bool,
    /// Answers that wait for the disk: the number of the sync, and they.
    unsynced: VecDeque<(u64, Vec<Reply>)>,
    /// Until when another client waits for the directory.
    wanted_until: Option<Instant>,
    /// The spool, until it is open.
    opening: Option<Opening>,
    drain_until: Option<Instant>,
    ended: bool,
}

impl Worker {
    fn new(client: Arc<Client>, listener: Box<dyn Listener>) -> Self {
        let key = client.config.api_key.as_bytes();
        let geoip = client.config.geoip_resolution_level.as_ref();
        let headers = [
            Some(("x-api-key", key)),
            Some(("x-billdog-api-key", key)),
            geoip.map(|level| ("x-geoip-resolution-level", level.as_bytes())),
        ]
        .into_iter()
        .flatten()
        .map(|(name, value)| request::header(name.as_bytes(), value))
        .collect();
        let host = client.config.http.host.trim_end_matches('/');
        let url = format!("{host}{}", client.config.endpoint.path());
        Self {
            client,
            listener,
            http: None,
            headers,
            url,
            flush: None,
            report: FlushReport::default(),
            waiters: Waiters::default(),
            started: Instant::now(),
            tick: None,
            timer_stopped: false,
            failures: 0,
            failing: Failing::default(),
            failing_read: false,
            refused_with: 0,
            paused_until: None,
            suspended_until: None,
            limited_from: None,
            drops_told: None,
            sleeps: 0,
            abandoned: false,
            unsynced: VecDeque::new(),
            wanted_until: None,
            opening: None,
            drain_until: None,
            ended: false,
        }
    }

    pub fn start(client: Arc<Client>, listener: Box<dyn Listener>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut worker = Self::new(client, listener);
        let ticket = Opening::ticket(&worker.client);
        threads::spawn("billdogeng-flush", STACK, move || {
            worker.opening = Opening::begin(&worker.client, ticket);
            while !worker.ended {
                let run = AssertUnwindSafe(|| runtime.block_on(worker.run()));
                if catch_unwind(run).is_err() {
                    worker.recover();
                }
            }
            // A name that is being looked up must not hold the thread.
            runtime.shutdown_background();
        })?;
        Ok(())
    }

    async fn run(&mut self) {
        let client = Arc::clone(&self.client);
        let mut attempt: Option<Attempt> = None;
        loop {
            if !self.ended {
                self.obey();
                self.step(&mut attempt);
            }
            self.tell();
            if self.ended {
                return;
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = client.wake.notified() => {}
                result = async { attempt.as_mut().expect("guarded").await }, if attempt.is_some() => {
                    attempt = None;
                    self.attempted(result);
                }
                () = async { sleep_until(deadline.expect("guarded")).await }, if deadline.is_some() => {}
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.client.commands.try_recv() {
            match command {
                Command::Flush(id) => self.flush_for(id, false),
                Command::Shutdown(id) => {
                    self.timer_stopped = true;
                    self.flush_for(id, true);
                }
                Command::Settle(id) => {
                    let target = self.client.state().next();
                    self.waiters.settle(id, target);
                }
                Command::Slept(id) => {
                    if let Some(flush) = &mut self.flush {
                        flush
                            .wait
                            .take_if(|wait| matches!(wait, Wait::External(n) if *n == id));
                    }
                }
                Command::Purge(id) => self.purge(id),
                Command::Tick if self.flush.is_none() => {
                    self.begin_flush(self.attempts(), Trigger::Interval);
                }
                Command::Tick => {}
                Command::Drain => {
                    let timeout = self.client.config.shutdown_timeout;
                    self.drain_until = Some(Instant::now() + timeout);
                    self.waiters.forget();
                    if let Some(opening) = &mut self.opening {
                        opening.hold_until(Instant::now() + timeout / 2);
                    }
                    self.now();
                    if let Some(flush) = &mut self.flush {
                        flush.attempts_left = u32::MAX;
                    }
                }
                #[cfg(test)]
                Command::Panic => panic!("asked to"),
            }
        }
    }

    /// Attempts of one request.
    fn attempts(&self) -> u32 {
        self.client.config.http.max_retries.saturating_add(1)
    }

    fn flush_for(&mut self, id: u64, shutdown: bool) {
        let target = self.client.state().next();
        // An attempt in flight that carries all of it is its own.
        let fresh = self.flush.as_ref().is_some_and(|flush| {
            let parts = flush.batch.as_ref().filter(|_| flush.wait.is_none());
            parts.is_some_and(|parts| parts.whole_until().is_none_or(|until| until < target))
        });
        let attempts = self.attempts();
        self.waiters.flush(id, target, attempts, fresh, shutdown);
        if self.suspended_until.is_some() {
            let replies = self.waiters.end_limited();
            self.reply(replies);
        }
        self.now();
    }

    /// Ends any wait and pause.
    fn now(&mut self) {
        self.paused_until = None;
        if let Some(flush) = &mut self.flush {
            flush.failed = 0;
            flush.wait = None;
        }
    }

    fn begin_flush(&mut self, attempts_left: u32, trigger: Trigger) {
        self.report.due(trigger);
        let target = self.client.state().begin_flush();
        self.paused_until = None;
        self.flush = Some(Flush {
            target,
            attempts_left,
            delivered: 0,
            failed: 0,
            fetching: false,
            batch: None,
            seen: Seen::default(),
            payload: None,
            refusal: None,
            wait: None,
        });
    }

    /// Brings things forward as far as they go without waiting.
    fn step(&mut self, attempt: &mut Option<Attempt>) {
        let now = Instant::now();
        let held = self.look_at_opening(now);
        self.look_at_spool(now);
        let out_of_time = [self.drain_until, self.handover()];
        let out_of_time = out_of_time.into_iter().flatten().any(|until| until <= now);
        // A client that waits for the directory sends what is left; the attempt in flight is not its to repeat.
        if out_of_time || (attempt.is_none() && self.handover().is_some()) {
            *attempt = None;
            return self.end();
        }
        if std::mem::take(&mut self.abandoned) {
            *attempt = None;
        }
        if self
            .suspended_until
            .take_if(|until| *until <= now)
            .is_some()
        {
            self.client.state().resume();
        }
        loop {
            if self.flush.is_none() && (held || !self.start_what_is_due(now)) {
                break;
            }
            let Some(flush) = &mut self.flush else { break };
            if attempt.is_some() {
                break;
            }
            if let Some(wait) = &flush.wait {
                match wait {
                    Wait::Until(until) if *until <= now => flush.wait = None,
                    _ => break,
                }
            }
            if flush.batch.is_none() {
                self.adopt_spool();
                match self.take_batch() {
                    Some(true) => {}
                    Some(false) => break,
                    None => {
                        self.end_flush();
                        continue;
                    }
                }
            }
            match self.attempt() {
                Ok(started) => *attempt = Some(started),
                Err(failure) => self.attempted(Err(failure)),
            }
            if self.ended {
                return;
            }
        }
        self.settle();
        if self.drain_until.is_some()
            && self.flush.is_none()
            && self.client.state().close_if_empty()
        {
            self.end();
        }
    }

    fn start_what_is_due(&mut self, now: Instant) -> bool {
        let (due, empty) = {
            let state = self.client.state();
            (state.is_due(), state.is_empty())
        };
        if !self.waiters.want_no_flush() || (self.drain_until.is_some() && !empty) {
            let (attempts, trigger) = match self.drain_until {
                Some(_) => (u32::MAX, Trigger::Shutdown),
                None => (0, self.called()),
            };
            self.begin_flush(attempts, trigger);
            return true;
        }
        if let Some(until) = self.paused_until {
            if until > now {
                return false;
            }
            self.paused_until = None;
            if due || (!self.timer_stopped && !empty) {
                self.begin_flush(self.attempts(), Trigger::Retry);
                return true;
            }
        }
        let ticked = self.ticked(now);
        if due || (ticked && !empty) {
            let trigger = if due {
                Trigger::Size
            } else {
                Trigger::Interval
            };
            self.begin_flush(self.attempts(), trigger);
            return true;
        }
        false
    }

    /// Why callers' flush begins.
    fn called(&self) -> Trigger {
        if self.waiters.want_shutdown() {
            Trigger::Shutdown
        } else {
            Trigger::Call
        }
    }

    /// Moves the timer on; answers whether it has fired. An empty queue stops it, a capture starts it
    /// again on the same grid.
    fn ticked(&mut self, now: Instant) -> bool {
        if self.timer_stopped {
            self.tick = None;
            return false;
        }
        let fired = self.tick.is_some_and(|tick| tick <= now);
        if fired && self.client.state().disarm() {
            self.tick = None;
        } else if fired || (self.tick.is_none() && !self.client.state().is_empty()) {
            let interval = self
                .client
                .config
                .flush_interval
                .max(Duration::from_millis(1));
            let past = now.duration_since(self.started).as_nanos() / interval.as_nanos();
            let next = interval.as_nanos() * (past + 1);
            self.tick =
                Some(self.started + Duration::from_nanos(next.min(u128::from(u64::MAX)) as u64));
        }
        fired
    }

    /// Takes the flush's next batch: `Some(false)` where it comes from the disk, with the spool's tidings;
    /// `None` where there is none.
    fn take_batch(&mut self) -> Option<bool> {
        let target = self.waiters.target();
        let flush = self.flush.as_mut()?;
        flush.target = flush.target.max(target);
        if flush.fetching {
            return Some(false);
        }
        let mut state = self.client.state();
        if state.floor() >= flush.target && self.drain_until.is_none() {
            return None;
        }
        match state.take_batch() {
            Next::Batch(batch) => {
                flush.send(batch);
                Some(true)
            }
            Next::Fetching => {
                flush.fetching = true;
                Some(false)
            }
            Next::Nothing => None,
        }
    }

    /// Answers those whose events are through their flush, or for whom none is due.
    fn settle(&mut self) {
        if self.waiters.want_no_settling() {
            return;
        }
        let state = self.client.state();
        let idle = self.flush.is_none() && (!state.is_due() || self.paused_until.is_some());
        let (floor, queued) = (state.floor(), state.stats().queued);
        drop(state);
        let replies = self.waiters.settled(floor, idle, queued);
        self.client.news().reply(replies);
    }

    fn deadline(&self) -> Option<Instant> {
        let wait = match self.flush.as_ref().map(|flush| &flush.wait) {
            Some(Some(Wait::Until(until))) => Some(*until),
            Some(_) => None,
            None if self.is_held() => None,
            None => self.paused_until.or(self.tick),
        };
        [
            wait,
            self.opening.as_ref().and_then(Opening::deadline),
            self.drain_until,
            self.handover(),
            self.suspended_until,
            self.drops_told,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Drops are gathered; before a reply they are told whatever the time.
    fn tell_drops(&mut self) {
        let (untold, full_by) = {
            let mut state = self.client.state();
            (state.take_untold().collect::<Vec<_>>(), state.full_by())
        };
        for (reason, count) in untold {
            if let (Reason::QueueFull, Some(limit)) = (reason, full_by) {
                self.client.news().notice(Notice::QueueFullBy(limit));
            }
            self.client.news().notice(Notice::Dropped(reason, count));
            self.listener.report(Report::Dropped(reason, count));
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        if self.drops_told.is_none_or(|until| until <= now) {
            let before = self.client.news().notices();
            self.tell_drops();
            let told = self.client.news().notices() > before;
            self.drops_told = told.then(|| now + DROP_NOTICES);
        }
        self.publish();
        if self.client.news().must_wake() {
            self.listener.news();
        }
    }

    /// For those who ask what the client is doing. Without the lock of the state, which is asked before.
    fn publish(&self) {
        let wait = self.flush.as_ref().map(|flush| &flush.wait);
        let until = match wait {
            Some(Some(Wait::Until(until))) => Some(*until),
            _ => None,
        };
        let (phase, next) = if self.drain_until.is_some() {
            (Phase::Draining, until)
        } else if let Some(until) = self.suspended_until {
            (Phase::Suspended, Some(until))
        } else if let Some(wait) = wait {
            let waits = if wait.is_some() {
                Phase::Waiting
            } else {
                Phase::InFlight
            };
            (waits, until)
        } else if let Some(until) = self.paused_until {
            let automatic = !self.timer_stopped || self.client.state().is_due();
            (Phase::BackingOff, automatic.then_some(until))
        } else {
            (Phase::Idle, self.tick)
        };
        self.client.status().set(phase, next);
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let batch = self.flush.take().and_then(|flush| flush.batch);
        self.put_back(batch);
        self.client.state().close();
        self.close_spool();
        let (stopped, stats) = {
            let mut state = self.client.state();
            (state.give_up_rest(), state.stats())
        };
        self.report.ended(true, &*self.listener);
        self.tell_drops();
        let untold = self.client.status().untold(&stats);
        self.listener.ended(LastWords {
            stopped,
            stats,
            untold,
        });
    }

    /// After a panic: the batch goes back, callers are answered, the thread goes on.
    fn recover(&mut self) {
        let panicked = Arc::new(Error::panicked());
        let replies = self.waiters.end_all(&panicked);
        self.http = None;
        self.report.panicked(&*self.listener);
        self.client.news().notice(Notice::Panicked);
        self.flush_failed(panicked, false, None);
        self.reply(replies);
    }
}
