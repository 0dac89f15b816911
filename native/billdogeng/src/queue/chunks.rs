//! Room for queued events, a chunk at a time, used again: memory that is new to the process costs a page fault for
//! each 4 KiB of it, which is more than it costs to fill, and those who capture would pay for it.

use bytes::{Bytes, BytesMut};
use std::sync::{Mutex, PoisonError};

/// Bytes of a chunk.
pub const CHUNK: usize = 64 * 1024;

/// Chunks that are kept at most, by all clients together: 8 MiB.
const KEPT: usize = 128;

/// The last that came back is the first to go: its memory is still near the processor.
static SPARE: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty chunk.
pub fn take() -> BytesMut {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    spare.unwrap_or_else(|| BytesMut::with_capacity(CHUNK))
}

/// Takes back events that are done with: the last of a chunk gives all of it back.
pub fn give_back(events: impl IntoIterator<Item = Bytes>) {
    let chunks: Vec<_> = events.into_iter().filter_map(whole).collect();
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let room = KEPT.saturating_sub(spare.len());
    spare.extend(chunks.into_iter().take(room));
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
        let mut chunk = take();
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
    fn what_is_of_another_size_is_let_go() {
        assert!(whole(vec![b'x'; 1000].into()).is_none());
        assert!(whole(vec![b'x'; 2 * CHUNK].into()).is_none());
        assert!(whole(Bytes::from_static(b"x")).is_none());
    }
}
