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
//! Whatever the state, [`Command::Drain`] makes everything go at once and ends the thread.

use crate::answer::Failure;
use crate::client::Client;
use crate::error::Error;
use crate::http::Http;
use crate::news::{LastWords, Listener, Notice, Reply};
use crate::policy;
use crate::queue::Batch;
use crate::transport::{self, Payload};
use reqwest::header::HeaderMap;
use reqwest::Method;
use std::future::Future;
use std::io;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep_until, Instant};

/// Drops are told at most this often: under overload every capture is one.
const DROP_NOTICES: Duration = Duration::from_millis(100);

/// What the owner asks. The numbers come back in the [`Reply`].
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
    /// The timer's flush, now.
    Tick,
    /// The owner has ended: send what is left within the shutdown time-out, then end.
    Drain,
    /// For the tests of what a panic leaves behind.
    #[cfg(test)]
    Panic,
}

#[cfg(test)]
mod tests;

type Attempt = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A call that waits for events up to a number.
struct Waiter {
    id: u64,
    target: u64,
    attempts_left: u32,
    /// It came while an attempt was in flight: that one's failure is not its own.
    fresh: bool,
}

/// A flush under way.
struct Flush {
    target: u64,
    /// Attempts that an automatic flush may still make; 0 where only callers want more.
    attempts_left: u32,
    delivered: u64,
    /// Failed attempts of the batch since the last that was made at once.
    failed: u32,
    batch: Option<(Batch, Payload)>,
    wait: Option<Wait>,
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
    waiters: Vec<Waiter>,
    settlers: Vec<(u64, u64)>,
    started: Instant,
    /// The next tick of the timer, while it runs and there is something to look for.
    tick: Option<Instant>,
    timer_stopped: bool,
    failures: u32,
    paused_until: Option<Instant>,
    drops_told: Option<Instant>,
    sleeps: u64,
    drain_until: Option<Instant>,
    ended: bool,
}

impl Worker {
    pub fn start(client: Arc<Client>, listener: Box<dyn Listener>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .thread_keep_alive(Duration::from_secs(1))
            .build()?;
        let key = client.config.api_key.as_bytes();
        let headers = ["x-api-key", "x-billdog-api-key"]
            .into_iter()
            .map(|name| transport::header(name.as_bytes(), key))
            .collect();
        let url = format!(
            "{}/ingest-events",
            client.config.http.host.trim_end_matches('/')
        );
        let mut worker = Self {
            client,
            listener,
            http: None,
            headers,
            url,
            flush: None,
            waiters: Vec::new(),
            settlers: Vec::new(),
            started: Instant::now(),
            tick: None,
            timer_stopped: false,
            failures: 0,
            paused_until: None,
            drops_told: None,
            sleeps: 0,
            drain_until: None,
            ended: false,
        };
        let thread = std::thread::Builder::new().name("billdogeng-flush".into());
        thread.stack_size(1024 * 1024).spawn(move || {
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
                Command::Flush(id) => self.flush_for(id),
                Command::Shutdown(id) => {
                    self.timer_stopped = true;
                    self.flush_for(id);
                }
                Command::Settle(id) => {
                    let target = self.client.state().next();
                    self.settlers.push((id, target));
                }
                Command::Slept(id) => {
                    if let Some(flush) = &mut self.flush {
                        flush
                            .wait
                            .take_if(|wait| matches!(wait, Wait::External(n) if *n == id));
                    }
                }
                Command::Tick if self.flush.is_none() => self.begin_flush(self.attempts()),
                Command::Tick => {}
                Command::Drain => {
                    let timeout = self.client.config.shutdown_timeout;
                    self.drain_until = Some(Instant::now() + timeout);
                    self.waiters.clear();
                    self.settlers.clear();
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

    fn flush_for(&mut self, id: u64) {
        let target = self.client.state().next();
        let fresh = self
            .flush
            .as_ref()
            .is_some_and(|flush| flush.batch.is_some() && flush.wait.is_none());
        self.waiters.push(Waiter {
            id,
            target,
            attempts_left: self.attempts(),
            fresh,
        });
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

    fn begin_flush(&mut self, attempts_left: u32) {
        let target = self.client.state().begin_flush();
        self.paused_until = None;
        self.flush = Some(Flush {
            target,
            attempts_left,
            delivered: 0,
            failed: 0,
            batch: None,
            wait: None,
        });
    }

    /// Brings things forward as far as they go without waiting.
    fn step(&mut self, attempt: &mut Option<Attempt>) {
        let now = Instant::now();
        if self.drain_until.is_some_and(|until| until <= now) {
            *attempt = None;
            return self.end();
        }
        loop {
            if self.flush.is_none() && !self.start_what_is_due(now) {
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
            if flush.batch.is_none() && !self.take_batch() {
                self.end_flush();
                continue;
            }
            match self.attempt() {
                Ok(started) => *attempt = Some(started),
                Err(failure) => self.attempted(Err(failure)),
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
        if !self.waiters.is_empty() || (self.drain_until.is_some() && !empty) {
            self.begin_flush(if self.drain_until.is_some() {
                u32::MAX
            } else {
                0
            });
            return true;
        }
        if let Some(until) = self.paused_until {
            if until > now {
                return false;
            }
            self.paused_until = None;
            if due || (!self.timer_stopped && !empty) {
                self.begin_flush(self.attempts());
                return true;
            }
        }
        let ticked = self.ticked(now);
        if due || (ticked && !empty) {
            self.begin_flush(self.attempts());
            return true;
        }
        false
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

    fn take_batch(&mut self) -> bool {
        let newest = self
            .waiters
            .iter()
            .map(|waiter| waiter.target)
            .max()
            .unwrap_or(0);
        let Some(flush) = &mut self.flush else {
            return false;
        };
        let mut state = self.client.state();
        flush.target = flush.target.max(newest);
        if state.head() >= flush.target && self.drain_until.is_none() {
            return false;
        }
        let Some(batch) = state.take_batch() else {
            return false;
        };
        drop(state);
        // A panic here must not take the batch along.
        let pack = AssertUnwindSafe(|| Payload::of_batch(&self.client.config, &batch));
        let payload = match catch_unwind(pack) {
            Ok(payload) => payload,
            Err(panic) => {
                self.client.state().put_back(batch);
                resume_unwind(panic);
            }
        };
        flush.batch = Some((batch, payload));
        flush.failed = 0;
        true
    }

    fn attempt(&mut self) -> Result<Attempt, Failure> {
        let http = match &self.http {
            Some(http) => Arc::clone(http),
            None => Arc::clone(
                self.http
                    .insert(Arc::new(Http::new(&self.client.config.http)?)),
            ),
        };
        let mut headers = self
            .headers
            .clone()
            .map_err(|message| Failure::network(message, true))?;
        let Some((_, payload)) = self.flush.as_ref().and_then(|flush| flush.batch.as_ref()) else {
            return Err(Failure::network("no batch", false));
        };
        let (body, described) = payload.parts();
        headers.extend(described);
        let url = self.url.clone();
        Ok(Box::pin(async move {
            http.send(Method::POST, &url, headers, Some(body))
                .await
                .map(drop)
        }))
    }

    fn attempted(&mut self, result: Result<(), Failure>) {
        let attempts = self.attempts();
        let Some(flush) = &mut self.flush else { return };
        match result {
            Ok(()) => {
                if let Some((batch, _)) = flush.batch.take() {
                    flush.delivered += batch.len() as u64;
                    self.client.state().delivered(batch);
                }
                self.failures = 0;
                if flush.attempts_left > 0 {
                    flush.attempts_left = flush.attempts_left.max(attempts);
                }
                for waiter in &mut self.waiters {
                    waiter.attempts_left = attempts;
                    waiter.fresh = false;
                }
            }
            Err(failure) => self.attempt_failed(failure),
        }
    }

    fn attempt_failed(&mut self, failure: Failure) {
        let error = failure.error.hiding(&self.client.config.api_key);
        let draining = self.drain_until.is_some();
        if draining && (failure.unreachable || !failure.retryable) {
            return self.end();
        }
        let Some(flush) = &mut self.flush else { return };
        let mut spent = Vec::new();
        let mut at_once = false;
        for waiter in &mut self.waiters {
            if std::mem::take(&mut waiter.fresh) {
                at_once = true;
                continue;
            }
            waiter.attempts_left = waiter.attempts_left.saturating_sub(1);
            if waiter.attempts_left == 0 || !failure.retryable {
                spent.push(waiter.id);
            }
        }
        flush.attempts_left = flush.attempts_left.saturating_sub(1);
        let wanted = flush.attempts_left > 0 || spent.len() < self.waiters.len();
        let more = at_once || (failure.retryable && wanted);
        if !spent.is_empty() || !more || !failure.retryable {
            self.flush_failed(error, &spent, more);
        }
        if more && !at_once {
            self.wait_to_retry();
        } else if more {
            self.client.state().count_retry();
        }
    }

    fn wait_to_retry(&mut self) {
        let external = self.client.config.external_sleep && self.drain_until.is_none();
        let Some(flush) = &mut self.flush else { return };
        flush.failed += 1;
        let delay = policy::retry_delay(flush.failed);
        flush.wait = Some(if external {
            self.sleeps += 1;
            self.client.news().sleep(self.sleeps, delay);
            Wait::External(self.sleeps)
        } else {
            Wait::Until(Instant::now() + policy::jitter(delay))
        });
        self.client.state().count_retry();
    }

    /// Ends the flush for those who have had their attempts; with `more`, callers that came later go on.
    fn flush_failed(&mut self, error: Error, spent: &[u64], more: bool) {
        let Some(mut flush) = self.flush.take() else {
            return;
        };
        let count = flush
            .batch
            .as_ref()
            .map_or(0, |(batch, _)| batch.len() as u64);
        if let Some((batch, _)) = flush.batch.take() {
            self.client.state().put_back(batch);
        }
        self.client.state().end_flush(true);
        self.tell_drops();
        let mut news = self.client.news();
        if flush.delivered > 0 {
            news.notice(Notice::Flushed(flush.delivered));
        }
        news.notice(Notice::FlushFailed(count, error.clone()));
        for id in spent {
            news.reply(Reply::Flushed(*id, Err(error.clone())));
        }
        drop(news);
        self.waiters.retain(|waiter| !spent.contains(&waiter.id));
        if more {
            self.begin_flush(flush.attempts_left);
            self.take_batch();
            if let Some(begun) = &mut self.flush {
                begun.failed = flush.failed;
            }
        } else {
            self.failures += 1;
            self.paused_until = Some(Instant::now() + policy::jitter(policy::pause(self.failures)));
            self.settle();
        }
    }

    /// Everything up to the flush's target is delivered, or given up by a bound.
    fn end_flush(&mut self) {
        let Some(flush) = self.flush.take() else {
            return;
        };
        self.client.state().end_flush(false);
        self.tell_drops();
        let head = self.client.state().head();
        let mut news = self.client.news();
        if flush.delivered > 0 {
            news.notice(Notice::Flushed(flush.delivered));
        }
        self.waiters.retain(|waiter| {
            let waits = waiter.target > head;
            if !waits {
                news.reply(Reply::Flushed(waiter.id, Ok(())));
            }
            waits
        });
    }

    /// Answers those whose events are through their flush, or for whom none is due.
    fn settle(&mut self) {
        if self.settlers.is_empty() {
            return;
        }
        let state = self.client.state();
        let idle = self.flush.is_none() && (!state.is_due() || self.paused_until.is_some());
        let (head, queued) = (state.head(), state.stats().queued);
        drop(state);
        let in_flight = self.flush.as_ref().and_then(|flush| flush.batch.as_ref());
        let head = head - in_flight.map_or(0, |(batch, _)| batch.len() as u64);
        let mut news = self.client.news();
        self.settlers.retain(|(id, target)| {
            let settled = idle || *target <= head;
            if settled {
                news.reply(Reply::Settled(*id, queued));
            }
            !settled
        });
    }

    fn deadline(&self) -> Option<Instant> {
        let wait = match self.flush.as_ref().map(|flush| &flush.wait) {
            Some(Some(Wait::Until(until))) => Some(*until),
            Some(_) => None,
            None => self.paused_until.or(self.tick),
        };
        [wait, self.drain_until, self.drops_told]
            .into_iter()
            .flatten()
            .min()
    }

    /// Drops are gathered; before a reply they are told whatever the time.
    fn tell_drops(&mut self) {
        let untold: Vec<_> = self.client.state().take_untold().collect();
        let mut news = self.client.news();
        for (reason, count) in untold {
            news.notice(Notice::Dropped(reason, count));
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
        if self.client.news().must_wake() {
            self.listener.news();
        }
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some((batch, _)) = self.flush.take().and_then(|flush| flush.batch) {
            self.client.state().put_back(batch);
        }
        let (stopped, stats) = {
            let mut state = self.client.state();
            (state.close(), state.stats())
        };
        self.listener.ended(LastWords { stopped, stats });
    }

    /// After a panic: the batch goes back, callers are answered, the thread goes on.
    fn recover(&mut self) {
        let spent: Vec<u64> = self.waiters.iter().map(|waiter| waiter.id).collect();
        self.http = None;
        self.client.news().notice(Notice::Panicked);
        if self.flush.is_some() {
            self.flush_failed(Error::panicked(), &spent, false);
        } else {
            let mut news = self.client.news();
            for waiter in self.waiters.drain(..) {
                news.reply(Reply::Flushed(waiter.id, Err(Error::panicked())));
            }
        }
    }
}
