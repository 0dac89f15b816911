//! Room for queued events, a chunk at a time, used again: memory that is new to the process costs a page fault for each
//! 4 KiB of it, which takes longer than to write four events there. Flush threads make chunks ready, so that callers do not
//! wait for those faults.

use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a chunk.
pub const CHUNK: usize = 64 * 1024;

/// Chunks that are kept at most, by all clients together: 8 MiB.
const KEPT: usize = 128;

/// Bytes of the smallest page of memory that any system has.
const PAGE: usize = 4096;

/// Chunks that are made ready at once.
const READY: usize = 4;

static SPARE: Spare = Spare::new();

/// Returns an empty chunk, and whether it was the last one: a flush thread has to make others ready.
pub fn take() -> (BytesMut, bool) {
    SPARE.take()
}

/// Makes chunks ready if the last one was taken.
pub fn make_ready() {
    SPARE.make_ready();
}

/// Takes back events that are done with: the last of a chunk gives all of it back.
pub fn give_back(events: impl IntoIterator<Item = Bytes>) {
    SPARE.give_back(events);
}

/// Chunks that nothing is in.
struct Spare {
    /// The last that came back is the first to go: its memory is still near the processor.
    chunks: Mutex<Vec<BytesMut>>,
    /// The last one was taken.
    taken: AtomicBool,
}

impl Spare {
    const fn new() -> Self {
        Self {
            chunks: Mutex::new(Vec::new()),
            taken: AtomicBool::new(false),
        }
    }

    fn take(&self) -> (BytesMut, bool) {
        let mut chunks = self.chunks();
        let chunk = chunks.pop();
        let last = chunks.is_empty();
        drop(chunks);
        if last {
            self.taken.store(true, Ordering::Relaxed);
        }
        let chunk = chunk.unwrap_or_else(|| BytesMut::with_capacity(CHUNK));
        (chunk, last)
    }

    fn make_ready(&self) {
        if !self.taken.swap(false, Ordering::Relaxed) {
            return;
        }
        while self.chunks().len() < READY {
            let mut chunk = BytesMut::zeroed(CHUNK);
            // The allocator gets zeroed memory from the system, which has no pages before it is written to.
            for page in chunk.chunks_mut(PAGE) {
                page[0] = 1;
            }
            chunk.clear();
            self.chunks().push(chunk);
        }
    }

    fn give_back(&self, events: impl IntoIterator<Item = Bytes>) {
        let whole: Vec<_> = events.into_iter().filter_map(whole).collect();
        let mut chunks = self.chunks();
        let room = KEPT.saturating_sub(chunks.len());
        chunks.extend(whole.into_iter().take(room));
    }

    fn chunks(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunk that events are in, emptied, if nothing else is in it.
fn whole(events: Bytes) -> Option<BytesMut> {
    let mut chunk = events.try_into_mut().ok()?;
    chunk.clear();
    let whole = chunk.try_reclaim(CHUNK) && chunk.capacity() < 2 * CHUNK;
    whole.then_some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_chunk_gives_all_of_it_back() {
        let (mut chunk, _) = take();
        chunk.extend_from_slice(&[b'x'; 1000]);
        let place = chunk.as_ptr();
        let first = chunk.split_to(400).freeze();
        let second = chunk.split().freeze();
        assert!(whole(first).is_none(), "there is another part");
        assert!(whole(second.clone()).is_none(), "somebody reads it");
        drop(chunk);
        let again = whole(second).expect("it was the last");
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() >= CHUNK);
    }

    #[test]
    fn chunks_are_made_ready_once_the_last_one_was_taken() {
        let spare = Spare::new();
        spare.make_ready();
        assert_eq!(spare.chunks().len(), 0, "none was taken yet");
        assert!(spare.take().1, "there was none");
        spare.make_ready();
        for left in (0..READY).rev() {
            let (chunk, last) = spare.take();
            assert_eq!((chunk.len(), chunk.capacity()), (0, CHUNK));
            assert_eq!(last, left == 0);
            if left > 0 {
                spare.make_ready();
                assert_eq!(spare.chunks().len(), left, "there are some left");
            }
        }
    }

    #[test]
    fn what_is_of_another_size_is_let_go() {
        assert!(whole(vec![b'x'; 1000].into()).is_none());
        assert!(whole(vec![b'x'; 2 * CHUNK].into()).is_none());
        assert!(whole(Bytes::from_static(b"x")).is_none());
    }
}
