//! The counters of a client: every captured event is delivered, dropped for a reason, or queued.

/// Why an event was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// A bound was reached; the oldest made room.
    QueueFull,
    /// Larger than `max_event_bytes`, or than the ingest takes (413).
    TooLarge,
    /// The ingest refused it, and accepted others.
    Rejected,
    /// The project's quota is used up.
    Quota,
    /// The app's own `before_send` took it out, or failed.
    BeforeSend,
    /// Captured by a hook of the client itself, which would call that hook again.
    InHook,
    /// It could not be captured: app code or this library failed on it.
    Failed,
    /// Still queued when the time of a client without owner was over, or captured after that.
    Stopped,
    /// The spool was at its bound; the oldest made room.
    SpoolFull,
    /// On disk for longer than the spool keeps events.
    Expired,
    /// It was on disk, and could not be read back.
    SpoolLost,
    /// The app purged the client.
    Purged,
    /// The client is a disabled one.
    Disabled,
    /// In tests: of a process that no test answers for.
    Unowned,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 14] = [
        Reason::QueueFull,
        Reason::TooLarge,
        Reason::Rejected,
        Reason::Quota,
        Reason::BeforeSend,
        Reason::InHook,
        Reason::Failed,
        Reason::Stopped,
        Reason::SpoolFull,
        Reason::Expired,
        Reason::SpoolLost,
        Reason::Purged,
        Reason::Disabled,
        Reason::Unowned,
    ];
}

/// The limit of the queue for which the oldest events are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_queue_size`.
    Events,
    /// `max_queue_bytes`.
    Bytes,
}

/// The accounts: `captured = delivered + dropped + queued`, always.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Events that were handed in, and those that the spool held at the start.
    pub captured: u64,
    /// Events whose batch the ingest accepted.
    pub delivered: u64,
    /// Events held, those in flight among them.
    pub queued: u64,
    /// Bytes of the JSON of those that are in memory.
    pub queued_bytes: u64,
    /// Events of the batch being sent.
    pub in_flight: u64,
    /// Attempts after the first of a request.
    pub retries: u64,
    /// Values written in another form than their own.
    pub replaced: u64,
    /// Events dropped, by reason, in the order of [`Reason::ALL`].
    pub dropped: [u64; Reason::ALL.len()],
}

/// Counts events and drops.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Accounts {
    pub captured: u64,
    pub replaced: u64,
    /// The sum of `unreported`: every capture looks at it.
    all_unreported: u64,
    pub delivered: u64,
    pub retries: u64,
    dropped: [u64; Reason::ALL.len()],
    unreported: [u64; Reason::ALL.len()],
}

impl Accounts {
    /// Counts drops, of which no notice was reported yet.
    pub fn drop(&mut self, reason: Reason, count: u64) {
        self.dropped[reason as usize] += count;
        self.unreported[reason as usize] += count;
        self.all_unreported += count;
    }

    /// Returns how many events were dropped for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Returns whether there are drops that no notice has reported.
    pub fn has_unreported(&self) -> bool {
        self.all_unreported > 0
    }

    /// Returns those drops once.
    pub fn take_unreported(&mut self) -> impl Iterator<Item = (Reason, u64)> {
        self.all_unreported = 0;
        let unreported = std::mem::take(&mut self.unreported);
        Reason::ALL
            .into_iter()
            .zip(unreported)
            .filter(|(_, count)| *count > 0)
    }

    /// Returns the counters; what is queued or in flight is left to the caller.
    pub fn stats(&self) -> Stats {
        Stats {
            captured: self.captured,
            delivered: self.delivered,
            retries: self.retries,
            replaced: self.replaced,
            dropped: self.dropped,
            ..Stats::default()
        }
    }
}
