//! Events of consecutive lines, and where a run is in its file.

use crate::queue::batch::Batch;
use std::collections::VecDeque;
use std::ops::Range;

/// A line of the file, or a record of CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// Where it begins, in bytes of the file when decompressed.
    pub offset: u64,
}

/// A line that is rejected, and why.
#[derive(Debug)]
pub struct Rejected {
    pub number: u64,
    pub reason: String,
    pub content: String,
}

/// Events of consecutive lines, as many as go into one request.
#[derive(Debug)]
pub struct Portion {
    /// The events: one batch, or its pieces.
    pub pieces: VecDeque<Batch>,
    /// The number of the first event.
    pub first: u64,
    /// The line of each event, and where its text is in `texts`.
    pub lines: Vec<(Line, Range<usize>)>,
    pub texts: Vec<u8>,
    /// Lines that are no events.
    pub malformed: Vec<Rejected>,
    /// The line behind the portion.
    pub end: Line,
    /// Lines in it, without blank ones and those that an earlier run has settled.
    pub read: u64,
    /// Reading ended here, for this reason.
    pub failed: Option<String>,
}

impl Portion {
    pub fn new(first: u64) -> Self {
        Self {
            pieces: VecDeque::new(),
            first,
            lines: Vec::new(),
            texts: Vec::new(),
            malformed: Vec::new(),
            end: Line {
                number: 0,
                offset: 0,
            },
            read: 0,
            failed: None,
        }
    }

    /// A portion of a file that can't be read.
    pub fn failed(reason: String) -> Self {
        Self {
            failed: Some(reason),
            ..Self::new(0)
        }
    }

    /// Returns the line of an event.
    pub fn line(&self, event: u64) -> &Line {
        &self.lines[(event - self.first) as usize].0
    }

    /// Returns its events with their lines.
    pub fn events(&self) -> impl Iterator<Item = (u64, &Line)> {
        let lines = self.lines.iter().map(|(line, _)| line);
        (self.first..).zip(lines)
    }

    /// Returns the text of the line of an event.
    pub fn text(&self, event: u64) -> String {
        let range = self.lines[(event - self.first) as usize].1.clone();
        String::from_utf8_lossy(&self.texts[range]).into_owned()
    }
}

/// A line that was read, and whether its event was written. `None` at the end.
pub type Next = Result<Option<(Line, Result<(), String>)>, String>;

/// Where a run is in its file.
#[derive(Clone, Debug)]
pub struct Position {
    /// The first line that is not settled.
    pub line: Line,
    /// Settled lines behind it.
    pub ahead: Vec<u64>,
    pub delivered: u64,
    pub rejected: u64,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            line: Line {
                number: 1,
                offset: 0,
            },
            ahead: Vec::new(),
            delivered: 0,
            rejected: 0,
        }
    }
}
