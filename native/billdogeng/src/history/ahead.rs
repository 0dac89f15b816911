//! Portions that wait to be sent. Single events of them may be sent ahead of their turn.

use crate::history::portion::Portion;
use crate::history::AHEAD;
use crate::queue::batch::Batch;
use crossbeam_channel::Receiver;
use std::collections::VecDeque;

pub struct Ahead {
    portions: Receiver<Portion>,
    /// Those that an event was looked for in.
    received: VecDeque<Portion>,
}

impl Ahead {
    pub fn new(portions: Receiver<Portion>) -> Self {
        Self {
            portions,
            received: VecDeque::new(),
        }
    }

    /// Returns the next portion. Waits for it.
    pub fn next(&mut self) -> Option<Portion> {
        let next = self.received.pop_front();
        next.or_else(|| self.portions.recv().ok())
    }

    /// Returns a copy of any event that is left of this portion, or of any in those behind it. If the ingest accepts it, a
    /// refusal is the fault of the refused event.
    pub fn copy_of_any(&mut self, current: &Portion) -> Option<Batch> {
        while self.received.len() < AHEAD {
            match self.portions.recv() {
                Ok(portion) => self.received.push_back(portion),
                Err(_) => break,
            }
        }
        let portions = || std::iter::once(current).chain(&self.received);
        let pieces = || portions().flat_map(|portion| &portion.pieces);
        let events: usize = pieces().map(Batch::len).sum();
        let mut at = fastrand::usize(..events.max(1));
        for piece in pieces() {
            if at < piece.len() {
                return piece.copy_of(at);
            }
            at -= piece.len();
        }
        None
    }

    /// Removes an event that was delivered. Returns the number of its line.
    pub fn take(&mut self, current: &mut Portion, event: u64) -> Option<u64> {
        let holds = |piece: &Batch| piece.numbers().contains(&event);
        for portion in std::iter::once(current).chain(&mut self.received) {
            let Some(index) = portion.pieces.iter().position(holds) else {
                continue;
            };
            let piece = portion.pieces.remove(index)?;
            let at = (event - piece.numbers().start) as usize;
            let (before, rest) = piece.split_at(at);
            let (_, behind) = rest.split_at(1);
            for part in [behind, before].into_iter().filter(|part| part.len() > 0) {
                portion.pieces.insert(index, part);
            }
            return Some(portion.line(event).number);
        }
        None
    }
}
