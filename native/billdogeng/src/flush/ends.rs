//! Takes the batches of a flush, and ends it: delivered, failed, purged, or with the whole client.

use crate::error::Error;
use crate::flush::delivery::Delivery;
use crate::flush::phase::Event;
use crate::flush::split::Parts;
use crate::flush::worker::{Worker, LINGER};
use crate::protocol::{LastWords, Notice};
use crate::queue::accounts::Reason;
use crate::queue::batch::Batch;
use crate::queue::store::Next;
use std::sync::Arc;
use tokio::time::Instant;

impl Worker {
    /// Takes the flush's next batch, or asks the spool for it.
    pub(super) fn take_batch(&mut self, now: Instant) {
        self.adopt_spool();
        let target = self.machine.phase().target();
        let mut state = self.client.state();
        let floor = state.floor();
        let next = match target {
            Some(target) if floor >= target => Next::Nothing,
            _ => state.take_batch(),
        };
        drop(state);
        match next {
            Next::Batch(batch) => self.batch(batch, now),
            Next::Fetching => self.handle(Event::Reading, now),
            Next::Nothing => self.handle(Event::Nothing(floor), now),
        }
    }

    /// Takes a batch that comes from the queue or from the disk.
    pub(super) fn batch(&mut self, batch: Batch, now: Instant) {
        self.delivery.take(batch);
        self.handle(Event::Batch, now);
    }

    pub(super) fn end_flush(&mut self, now: Instant) {
        let delivery = std::mem::take(&mut self.delivery);
        self.none_is_failing();
        // One that had nothing to send is no sign that more will come.
        self.lingers_until = (delivery.delivered > 0).then(|| now + LINGER);
        self.conclude(delivery.delivered, false);
    }

    pub(super) fn fail_flush(&mut self, error: Arc<Error>) {
        let delivery = std::mem::take(&mut self.delivery);
        if let Some(parts) = delivery.batch.as_ref().filter(|parts| parts.len() > 0) {
            self.batch_failed(parts, error.status);
        }
        let delivered = delivery.delivered;
        let count = self.put_back(delivery);
        self.conclude(delivered, true);
        self.client
            .pending()
            .notice(Notice::FlushFailed(count, error));
    }

    pub(super) fn purge_flush(&mut self) {
        let delivery = std::mem::take(&mut self.delivery);
        let delivered = delivery.delivered;
        self.attempt = None;
        self.drop_rest(delivery, Reason::Purged);
        self.report.gave_up(&Error::purged());
        self.conclude(delivered, false);
    }

    /// Drops the batch and the queue: nothing is stored for a while.
    pub(super) fn suspend(&mut self) {
        let delivery = std::mem::take(&mut self.delivery);
        let delivered = delivery.delivered;
        let before = self.client.state().dropped(Reason::Quota);
        self.drop_rest(delivery, Reason::Quota);
        self.client.state().suspend();
        self.conclude(delivered, false);
        if self.limited_from.is_none() {
            self.limited_from = Some(before);
            let suspension = self.client.config.suspension;
            self.client.pending().notice(Notice::Suspended(suspension));
        }
    }

    fn drop_rest(&self, delivery: Delivery, reason: Reason) {
        let mut state = self.client.state();
        for part in delivery.into_rest() {
            state.drop_in_flight(&part, reason);
        }
    }

    /// Puts the rest of the batch back to the front of the queue. Returns how many events that are.
    pub(super) fn put_back(&self, delivery: Delivery) -> u64 {
        let count = delivery.batch.as_ref().map_or(0, Parts::len) as u64;
        let mut state = self.client.state();
        for part in delivery.into_rest() {
            state.put_back(part);
        }
        count
    }

    /// Reports the end of a flush.
    fn conclude(&mut self, delivered: u64, failed: bool) {
        let lingers = self.lingers_until.is_some();
        self.client.state().end_flush(failed, lingers);
        self.report.ended(failed, &*self.listener);
        self.report_drops();
        if delivered > 0 {
            self.client.pending().notice(Notice::Flushed(delivered));
        }
    }

    /// Ends the client: what is left is on disk, or dropped and counted.
    pub(super) fn end(&mut self) {
        self.attempt = None;
        let delivery = std::mem::take(&mut self.delivery);
        self.put_back(delivery);
        self.client.state().close();
        self.close_spool();
        let (stopped, stats) = {
            let mut state = self.client.state();
            (state.drop_rest(), state.stats())
        };
        self.report.ended(true, &*self.listener);
        self.report_drops();
        let unreported = self.client.status().unreported(&stats);
        self.listener.ended(LastWords {
            stopped,
            stats,
            unreported,
        });
    }
}
