//! The flush thread: one a client, asleep unless something is to be done. It reports what happens to the
//! [`Machine`] and carries out the actions that follow.

use crate::client::Client;
use crate::error::Error;
use crate::flush::delivery::Delivery;
use crate::flush::failing::Failing;
use crate::flush::machine::Machine;
use crate::flush::opening::Opening;
use crate::flush::phase::{Action, Event, Facts, Rules};
use crate::flush::requests::{Attempt, Requests};
use crate::protocol::{Command, Listener, Notice, Reply, Report};
use crate::queue::accounts::Reason;
use crate::queue::chunks;
use crate::report::flush_report::FlushReport;
use crate::report::status::MOST_CALLERS;
use crate::threads;
use std::collections::VecDeque;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep_until, Instant};

/// Bytes of the thread's stack.
const STACK: usize = 1024 * 1024;

/// How long after a flush the thread looks at the queue again by itself. Until then a capture that makes the next flush due
/// need not wake it, which would cost that capture ten times its own work.
pub(super) const LINGER: Duration = Duration::from_millis(1);

/// Drops are reported at most this often: under overload every capture is one.
const DROP_NOTICES: Duration = Duration::from_millis(100);

pub(crate) struct Worker {
    pub(super) client: Arc<Client>,
    pub(super) listener: Box<dyn Listener>,
    pub(super) machine: Machine,
    pub(super) requests: Requests,
    pub(super) attempt: Option<Attempt>,
    pub(super) delivery: Delivery,
    pub(super) report: FlushReport,
    /// The batch that fails again and again, if one does.
    pub(super) failing: Failing,
    /// It was read from the spool.
    pub(super) failing_read: bool,
    /// The status that was last reported for rejected events.
    pub(super) refused_with: u16,
    /// Events that were dropped for the quota before the suspension, until a batch is accepted.
    pub(super) limited_from: Option<u64>,
    /// When the thread looks at the queue again after a flush.
    pub(super) lingers_until: Option<Instant>,
    /// When drops may be reported again.
    drops_reported: Option<Instant>,
    /// Replies that wait for the disk: the number of the sync, and they.
    pub(super) unsynced: VecDeque<(u64, Vec<Reply>)>,
    /// Until when another client waits for the directory.
    pub(super) wanted_until: Option<Instant>,
    /// The spool, until it is open.
    pub(super) opening: Option<Opening>,
}

impl Worker {
    pub(super) fn new(client: Arc<Client>, listener: Box<dyn Listener>) -> Self {
        Self {
            machine: Machine::new(Rules::from(&client.config), Instant::now()),
            requests: Requests::new(&client.config),
            client,
            listener,
            attempt: None,
            delivery: Delivery::default(),
            report: FlushReport::default(),
            failing: Failing::default(),
            failing_read: false,
            refused_with: 0,
            limited_from: None,
            lingers_until: None,
            drops_reported: None,
            unsynced: VecDeque::new(),
            wanted_until: None,
            opening: None,
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
            while !worker.machine.has_ended() {
                let run = AssertUnwindSafe(|| runtime.block_on(worker.run()));
                if catch_unwind(run).is_err() {
                    worker.recover(Instant::now());
                }
            }
            // A name that is being looked up must not hold the thread.
            runtime.shutdown_background();
        })?;
        Ok(())
    }

    pub(super) async fn run(&mut self) {
        let client = Arc::clone(&self.client);
        loop {
            let now = Instant::now();
            if !self.machine.has_ended() {
                self.handle_commands(now);
                self.step(now);
            }
            self.publish(now);
            chunks::make_ready();
            if self.machine.has_ended() {
                return;
            }
            let deadline = self.deadline();
            let attempt = &mut self.attempt;
            tokio::select! {
                biased;
                () = client.wake.notified() => {}
                result = async { attempt.as_mut().expect("guarded").await }, if attempt.is_some() => {
                    self.attempt = None;
                    self.attempted(result, Instant::now());
                }
                () = async { sleep_until(deadline.expect("guarded")).await }, if deadline.is_some() => {}
            }
        }
    }

    pub(super) fn handle_commands(&mut self, now: Instant) {
        while let Ok(command) = self.client.commands.try_recv() {
            match command {
                Command::Flush(id) => self.flush(id, false, now),
                Command::Shutdown(id) => self.flush(id, true, now),
                Command::Settle(id) => {
                    let target = self.client.state().next();
                    self.handle(Event::Settle { id, target }, now);
                }
                Command::Slept(id) => self.handle(Event::Slept(id), now),
                Command::Purge(id) => self.purge(id, now),
                Command::Tick => self.handle(Event::Tick, now),
                Command::Drain => {
                    if let Some(opening) = &mut self.opening {
                        opening.hold_until(now + self.client.config.shutdown_timeout / 2);
                    }
                    self.handle(Event::Drain, now);
                }
                #[cfg(test)]
                Command::Panic => panic!("asked to"),
            }
        }
    }

    fn flush(&mut self, id: u64, shutdown: bool, now: Instant) {
        let target = self.client.state().next();
        let event = Event::Flush {
            id,
            target,
            carried: self.delivery.carries(target),
            shutdown,
        };
        self.handle(event, now);
    }

    /// Reports an event to the machine, and carries out what follows.
    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        for action in self.machine.handle(event, now) {
            self.carry_out(action, now);
        }
    }

    fn carry_out(&mut self, action: Action, now: Instant) {
        match action {
            Action::Begin(trigger) => {
                self.report.due(trigger);
                self.delivery = Delivery::default();
                self.lingers_until = None;
                let target = self.client.state().begin_flush();
                self.handle(Event::Begun(target), now);
            }
            Action::Take => self.take_batch(now),
            Action::Send => self.send(now),
            Action::Sleep(id, delay) => self.client.pending().sleep(id, delay),
            Action::CountRetry => self.client.state().count_retry(),
            Action::EndFlush => self.end_flush(now),
            Action::FailFlush(error) => self.fail_flush(error),
            Action::PurgeFlush => self.purge_flush(),
            Action::Suspend => self.suspend(),
            Action::Resume => self.client.state().resume(),
            Action::Reply(replies) => self.reply(replies),
            Action::Settle => self.settle(),
            Action::Close => {
                if self.client.state().close_if_empty() {
                    self.handle(Event::Closed, now);
                    self.end();
                }
            }
            Action::End => self.end(),
        }
    }

    /// Goes on as far as possible without waiting.
    pub(super) fn step(&mut self, now: Instant) {
        let held = self.look_at_opening(now);
        self.look_at_spool(now);
        loop {
            let facts = self.facts(held, now);
            let actions = self.machine.handle(Event::Look(facts), now);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out(action, now);
            }
        }
        if !self.machine.has_ended() {
            self.settle();
        }
    }

    fn facts(&mut self, held: bool, now: Instant) -> Facts {
        let lingered = self.lingers_until.take_if(|until| *until <= now).is_some();
        let mut state = self.client.state();
        if lingered {
            // Under the lock of `is_due`: a capture after this wakes the thread.
            state.stop_lingering();
        }
        if self.machine.is_timer_due(now) {
            // Under the lock of `empty`: a capture into an empty queue arms the timer again.
            state.disarm();
        }
        Facts {
            due: state.is_due(),
            empty: state.is_empty(),
            held,
            handover: self.handover(),
        }
    }

    fn settle(&mut self) {
        if !self.machine.want_settling() {
            return;
        }
        let state = self.client.state();
        let (floor, due, queued) = (state.floor(), state.is_due(), state.stats().queued);
        drop(state);
        let replies = self.machine.settled(floor, due, queued);
        self.client.pending().reply(replies);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [
            self.machine.deadline(self.is_held()),
            self.opening.as_ref().and_then(Opening::deadline),
            self.handover(),
            self.lingers_until,
            self.drops_reported,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Reports drops, whenever the last report was.
    pub(super) fn report_drops(&mut self) {
        let (unreported, full_by) = {
            let mut state = self.client.state();
            (state.take_unreported().collect::<Vec<_>>(), state.full_by())
        };
        for (reason, count) in unreported {
            if let (Reason::QueueFull, Some(limit)) = (reason, full_by) {
                self.client.pending().notice(Notice::QueueFullBy(limit));
            }
            self.client.pending().notice(Notice::Dropped(reason, count));
            self.listener.report(Report::Dropped(reason, count));
        }
    }

    /// Publishes drops, the status and, with it, the replies. Wakes the listener if there is anything for it.
    pub(super) fn publish(&mut self, now: Instant) {
        if self.drops_reported.is_none_or(|until| until <= now) {
            let before = self.client.pending().notices();
            self.report_drops();
            let reported = self.client.pending().notices() > before;
            self.drops_reported = reported.then(|| now + DROP_NOTICES);
        }
        // The lock of the state is taken before that of the status.
        let due = || self.client.state().is_due();
        let activity = self.machine.activity(due, self.is_held());
        let callers = self.machine.callers().chain(self.unsynced_callers());
        let callers = callers.take(MOST_CALLERS);
        self.client.status().publish(activity, callers);
        if self.client.pending().must_wake() {
            self.listener.pending();
        }
    }

    /// Goes on after a panic: the batch goes back, calls are ended.
    pub(super) fn recover(&mut self, now: Instant) {
        self.attempt = None;
        self.requests.forget();
        self.report.panicked(&*self.listener);
        self.client.pending().notice(Notice::Panicked);
        let error = Arc::new(Error::panicked());
        self.handle(Event::Panicked(error), now);
        // Also where the panic came between an action and the event that reports it.
        let delivery = std::mem::take(&mut self.delivery);
        self.put_back(delivery);
    }
}
