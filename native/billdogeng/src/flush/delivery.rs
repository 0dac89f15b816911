//! The batch of the flush that has begun, and what the ingest answered to it so far.

use crate::flush::split::{Parts, Seen};
use crate::http::payload::Payload;
use crate::http::response::Failure;
use crate::queue::batch::Batch;

/// The worker's data of a flush.
#[derive(Default)]
pub(super) struct Delivery {
    pub delivered: u64,
    pub batch: Option<Parts>,
    /// How the ingest answered to the batches before.
    pub seen: Seen,
    /// The request of the batch's next part, once it is made.
    pub payload: Option<Payload>,
    /// Why a part of the batch was last refused.
    pub refusal: Option<Failure>,
}

impl Delivery {
    /// Takes the next batch.
    pub fn take(&mut self, batch: Batch) {
        self.batch = Some(Parts::new(batch, self.seen));
        self.payload = None;
    }

    /// Returns whether the part to be sent is everything below this number that is not delivered.
    pub fn carries(&self, target: u64) -> bool {
        let until = self.batch.as_ref().and_then(Parts::whole_until);
        until.is_some_and(|until| until >= target)
    }

    /// Returns the parts that are left, newest first.
    pub fn into_rest(self) -> impl Iterator<Item = Batch> {
        self.batch.into_iter().flat_map(Parts::into_rest)
    }
}
