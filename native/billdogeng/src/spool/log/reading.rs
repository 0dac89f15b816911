//! Reads events back from the segments.

use super::{Limits, Log, Segment, Unread};
use crate::spool::files;
use crate::spool::page::Page;
use crate::spool::segment::{Payload, Records, SEGMENT_HEADER};
use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

impl Log {
    /// Reads events of a run of live ones, from its start on: at least one, unless it can't be read.
    pub fn read(&self, run: Range<u64>, limits: Limits) -> Result<Page, Unread> {
        let Some(segment) = self.segments.iter().find(|s| s.numbers.end > run.start) else {
            return Err(Unread::Lost(run));
        };
        let end = run.end.min(segment.numbers.end);
        let lost = |next: u64| Err(Unread::Lost(run.start..next.min(end)));
        let path = self.path(segment.id);
        let mut page = Page {
            first: run.start,
            ..Page::default()
        };
        match read_segment(&path, segment, end, limits, &mut page) {
            // The events that were read before an error are whole.
            _ if !page.lens.is_empty() => Ok(page),
            Ok(next) => lost(next),
            Err(error) if files::is_gone(&error) || files::is_irregular(&error) => lost(u64::MAX),
            Err(error) => Err(Unread::Failed(path, error)),
        }
    }

    pub fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(files::segment_name(id))
    }
}

/// Reads events below `end` of a segment into a page. If there are none, returns the number of the next event behind those
/// that are lost.
fn read_segment(
    path: &Path,
    segment: &Segment,
    end: u64,
    limits: Limits,
    page: &mut Page,
) -> io::Result<u64> {
    let file = files::open(path, OpenOptions::new().read(true))?;
    let mut records = Records::new(&file, segment.id, SEGMENT_HEADER, segment.size)?;
    while page.next() < end {
        let Some(record) = records.header()? else {
            break;
        };
        if record.numbers.end <= page.next() {
            continue;
        }
        if record.numbers.start > page.next() {
            return Ok(record.numbers.start);
        }
        let Some(payload) = records.payload(&record)? else {
            return Ok(record.numbers.end);
        };
        if take(page, record.numbers, end, &payload, limits) {
            break;
        }
    }
    Ok(u64::MAX)
}

/// Takes the events that are wanted from a record. Returns whether the page is full.
fn take(page: &mut Page, numbers: Range<u64>, end: u64, payload: &Payload, limits: Limits) -> bool {
    let mut at = 0;
    for (number, len) in numbers.zip(payload.lens()) {
        let event = &payload.events[at..at + len as usize];
        at += len as usize;
        if number < page.next() {
            continue;
        }
        let any = !page.lens.is_empty();
        let over = page.lens.len() >= limits.max_events
            || page.bytes.len() + event.len() > limits.max_bytes;
        if number == end || (any && over) {
            return true;
        }
        page.lens.push(len);
        page.bytes.extend_from_slice(event);
    }
    false
}
