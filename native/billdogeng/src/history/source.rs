//! Opens a file, also a compressed one, and divides its events into portions.

use crate::history::line::Writer;
use crate::history::portion::{Line, Next, Portion, Position, Rejected};
use crate::history::table::Table;
use crate::history::Order;
use crate::queue::batch::Batch;
use crossbeam_channel::{Receiver, Sender};
use flate2::bufread::MultiGzDecoder;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

const BUFFER: usize = 256 * 1024;
/// Bytes of a line; what is behind them is not kept in memory.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// A file that is being read.
pub struct Source {
    order: Arc<Order>,
    records: Records,
    name: String,
    /// Bytes of the file, where that is known.
    pub total: Option<u64>,
    /// Lines that an earlier run has settled.
    settled: HashSet<u64>,
}

enum Records {
    Lines(Lines),
    Table(Box<Table>),
}

/// A file that is to be opened.
pub struct Open {
    pub order: Arc<Order>,
    /// Counts the bytes that are read.
    pub bytes: Arc<AtomicU64>,
    /// Where an earlier run ended.
    pub from: Position,
    /// The content, where there is no file.
    pub fed: Receiver<Vec<u8>>,
}

impl Open {
    /// Opens the file and goes to where an earlier run ended.
    pub fn source(&self) -> Result<Source, String> {
        let (reader, total, name): (Box<dyn Read + Send>, _, _) = match &self.order.path {
            None => (
                Box::new(Fed::new(&self.fed)),
                None,
                "standard input".to_owned(),
            ),
            Some(path) => {
                let (file, size) = open(path)?;
                let name = path.file_name().unwrap_or_default();
                (
                    Box::new(file),
                    Some(size),
                    name.to_string_lossy().into_owned(),
                )
            }
        };
        let bytes = Arc::clone(&self.bytes);
        let failed = |error: io::Error| format!("can't read {name}: {error}");
        let reader = decompressed(Counted { reader, bytes }).map_err(failed)?;
        let records = match self.order.csv {
            false => Records::Lines(Lines::new(reader, &self.from).map_err(failed)?),
            true => Records::Table(Box::new(Table::new(
                reader,
                &self.order.fields,
                &self.from,
            )?)),
        };
        Ok(Source {
            order: Arc::clone(&self.order),
            records,
            name,
            total,
            settled: self.from.ahead.iter().copied().collect(),
        })
    }
}

impl Source {
    /// Reads the file to its end, or until the sender has ended.
    pub fn run(mut self, portions: &Sender<Portion>) {
        let mut first = 0;
        while let Some(portion) = self.portion(first) {
            first += portion.lines.len() as u64;
            let failed = portion.failed.is_some();
            if portions.send(portion).is_err() || failed {
                return;
            }
        }
    }

    fn portion(&mut self, first: u64) -> Option<Portion> {
        let config = &self.order.config;
        let writer = Writer {
            fields: &self.order.fields,
            group_numbers: &self.order.group_numbers,
            max_event_bytes: config.max_event_bytes,
            name: &self.name,
        };
        // At a low rate a portion is a second's worth.
        let rate = self.order.rate.map_or(usize::MAX, |rate| rate as usize);
        let most = config.max_batch_size.min(rate).max(1);
        let mut portion = Portion::new(first);
        let (mut events, mut lens) = (Vec::new(), Vec::new());
        let mut ended = false;
        while lens.len() < most
            && events.len() < config.max_batch_bytes
            && portion.malformed.len() < most
        {
            let before = events.len();
            let text = portion.texts.len();
            let written = match &mut self.records {
                Records::Lines(lines) => lines.next(&writer, &mut events, &mut portion.texts),
                Records::Table(table) => table.next(&writer, &mut events, &mut portion.texts),
            };
            let (line, result) = match written {
                Ok(Some(next)) => next,
                Ok(None) => {
                    ended = true;
                    break;
                }
                Err(reason) => {
                    portion.failed = Some(reason);
                    break;
                }
            };
            if self.settled.contains(&line.number) {
                events.truncate(before);
                portion.texts.truncate(text);
                continue;
            }
            portion.read += 1;
            match result {
                Ok(()) => {
                    lens.push((events.len() - before) as u32);
                    portion.lines.push((line, text..portion.texts.len()));
                }
                Err(reason) => {
                    let content = String::from_utf8_lossy(&portion.texts[text..]).into_owned();
                    portion.malformed.push(Rejected {
                        number: line.number,
                        reason,
                        content,
                    });
                    portion.texts.truncate(text);
                }
            }
        }
        portion.end = match &self.records {
            Records::Lines(lines) => lines.line(),
            Records::Table(table) => table.line(),
        };
        if !lens.is_empty() {
            portion.pieces.push_back(Batch::new(first, lens, events));
        }
        let nothing = portion.read == 0 && portion.failed.is_none();
        (!ended || !nothing).then_some(portion)
    }
}

fn open(path: &Path) -> Result<(File, u64), String> {
    let failed = |error: io::Error| format!("can't read {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(format!("{} is a directory", path.display()));
    }
    Ok((file, meta.len()))
}

/// Lines of JSON.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    line: Line,
}

impl Lines {
    fn new(mut reader: Box<dyn BufRead + Send>, from: &Position) -> io::Result<Self> {
        let line = from.line.clone();
        io::copy(&mut (&mut reader).take(line.offset), &mut io::sink())?;
        Ok(Self { reader, line })
    }

    fn line(&self) -> Line {
        self.line.clone()
    }

    /// Appends the next line's event to `events`, and its text to `texts`. Blank lines are passed over.
    fn next(&mut self, writer: &Writer, events: &mut Vec<u8>, texts: &mut Vec<u8>) -> Next {
        loop {
            let line = self.line.clone();
            let start = texts.len();
            let (bytes, whole) = self
                .read(texts)
                .map_err(|error| format!("can't read line {}: {error}", line.number))?;
            if bytes == 0 {
                return Ok(None);
            }
            self.line.number += 1;
            self.line.offset += bytes;
            if !whole {
                texts.truncate(start + 1024);
                let reason = format!("longer than {} MiB", LONGEST_LINE / 1024 / 1024);
                return Ok(Some((line, Err(reason))));
            }
            let mut text = texts[start..].trim_ascii();
            if line.number == 1 {
                text = text.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(text);
            }
            if text.is_empty() {
                texts.truncate(start);
                continue;
            }
            let written = writer.write(text, line.number, events);
            return Ok(Some((line, written)));
        }
    }

    /// Appends a line. Returns its bytes, and whether all of them were appended.
    fn read(&mut self, texts: &mut Vec<u8>) -> io::Result<(u64, bool)> {
        let mut limited = (&mut self.reader).take(LONGEST_LINE);
        let bytes = limited.read_until(b'\n', texts)? as u64;
        if bytes < LONGEST_LINE || texts.ends_with(b"\n") {
            return Ok((bytes, true));
        }
        let skipped = self.reader.skip_until(b'\n')? as u64;
        Ok((bytes + skipped, skipped == 0))
    }
}

/// Content that comes in pieces.
struct Fed {
    pieces: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Fed {
    fn new(pieces: &Receiver<Vec<u8>>) -> Self {
        Self {
            pieces: pieces.clone(),
            piece: io::Cursor::default(),
        }
    }
}

impl Read for Fed {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.piece.read(to)?;
        if read > 0 || to.is_empty() {
            return Ok(read);
        }
        match self.pieces.recv() {
            Ok(piece) => self.piece = io::Cursor::new(piece),
            Err(_) => return Ok(0),
        }
        self.piece.read(to)
    }
}

/// Counts what is read of the file.
struct Counted {
    reader: Box<dyn Read + Send>,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(to)?;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

fn decompressed(counted: Counted) -> io::Result<Box<dyn BufRead + Send>> {
    let mut reader = BufReader::with_capacity(BUFFER, counted);
    // Not by the name: standard input has none.
    Ok(match reader.fill_buf()?.starts_with(&GZIP) {
        true => Box::new(BufReader::with_capacity(
            BUFFER,
            MultiGzDecoder::new(reader),
        )),
        false => Box::new(reader),
    })
}
