//! What a run leaves beside its file: the rejected lines, and the state that a later run resumes from.
//!
//! `FILE.rejected` has a JSON object per line: `line`, `reason` and `content`, the text of the line. `FILE.resume` is one
//! object, and is there while a run has not come to the end of its file. It is replaced as a whole, so a process that is
//! killed leaves one state or the next.

use crate::history::portion::{Line, Position, Rejected};
use crate::history::Order;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes at the start of a file by which it is known again.
const HEAD: u64 = 64 * 1024;

/// The state as it is in the file.
#[derive(Deserialize, Serialize)]
struct State {
    version: u32,
    line: u64,
    offset: u64,
    ahead: Vec<u64>,
    delivered: u64,
    rejected: u64,
    /// Bytes of `FILE.rejected` that belong to the settled lines.
    rejected_bytes: u64,
    head: u32,
    head_bytes: u64,
}

const VERSION: u32 = 1;

/// Both files of a run.
pub struct Journal {
    position: Position,
    rejected: Rejects,
    /// None for standard input and pipes, which can't be read again.
    resume: Option<PathBuf>,
    head: (u32, u64),
}

struct Rejects {
    path: PathBuf,
    /// Once there is something to write.
    file: Option<BufWriter<File>>,
    bytes: u64,
}

impl Journal {
    /// Reads the state of an earlier run, if there is one and it is to be resumed.
    pub fn open(order: &Order) -> Result<Self, String> {
        let rejected = with_extension(&order.beside, "rejected");
        let mut journal = Self {
            position: Position::default(),
            rejected: Rejects {
                path: rejected,
                file: None,
                bytes: 0,
            },
            resume: None,
            head: (0, 0),
        };
        // A pipe can't be read again.
        let regular = |path: &&PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_file());
        if let Some(path) = order.path.as_ref().filter(regular) {
            let resume = with_extension(&order.beside, "resume");
            journal.head = head(path, HEAD)
                .map_err(|error| format!("can't read {}: {error}", path.display()))?;
            let state = read(&resume)?;
            let shown = resume.display();
            match (state, order.resume) {
                (Some(state), true) => journal.resume_from(path, &state)?,
                (Some(state), false) => {
                    return Err(format!(
                        "an earlier run ended at line {}, see {shown}: resume it with --resume (resume: true), or delete \
                         that file to send all lines again",
                        state.line
                    ));
                }
                (None, _) => {}
            }
            journal.resume = Some(resume);
            // Whether it can be written is known before anything is sent.
            journal.write(&journal.position.clone())?;
        }
        journal.rejected.begin()?;
        Ok(journal)
    }

    fn resume_from(&mut self, path: &Path, state: &State) -> Result<(), String> {
        let now = head(path, state.head_bytes);
        if now.ok() != Some((state.head, state.head_bytes)) {
            return Err(format!(
                "{} has changed since the run that is to be resumed",
                path.display()
            ));
        }
        self.head = (state.head, state.head_bytes);
        self.rejected.bytes = state.rejected_bytes;
        self.position = Position {
            line: Line {
                number: state.line,
                offset: state.offset,
            },
            ahead: state.ahead.clone(),
            delivered: state.delivered,
            rejected: state.rejected,
        };
        Ok(())
    }

    /// Returns where the run begins.
    pub fn position(&self) -> Position {
        self.position.clone()
    }

    /// Appends rejected lines.
    pub fn reject(&mut self, lines: &[Rejected]) -> Result<(), String> {
        self.rejected.append(lines)
    }

    /// Notes where the run is now.
    pub fn write(&mut self, position: &Position) -> Result<(), String> {
        self.rejected.flush()?;
        let Some(path) = &self.resume else {
            return Ok(());
        };
        let state = State {
            version: VERSION,
            line: position.line.number,
            offset: position.line.offset,
            ahead: position.ahead.clone(),
            delivered: position.delivered,
            rejected: position.rejected,
            rejected_bytes: self.rejected.bytes,
            head: self.head.0,
            head_bytes: self.head.1,
        };
        let failed = |error: io::Error| format!("can't write {}: {error}", path.display());
        let json = serde_json::to_vec(&state).map_err(|error| failed(error.into()))?;
        let next = with_extension(path, "next");
        fs::write(&next, json).map_err(failed)?;
        fs::rename(&next, path).map_err(failed)
    }

    /// The end of the file is reached: nothing is left to resume.
    pub fn finish(&mut self) -> Result<(), String> {
        self.rejected.flush()?;
        match &self.resume {
            Some(path) => fs::remove_file(path)
                .map_err(|error| format!("can't delete {}: {error}", path.display())),
            None => Ok(()),
        }
    }
}

impl Rejects {
    fn failed(&self, error: &io::Error) -> String {
        format!("can't write {}: {error}", self.path.display())
    }

    /// Removes what does not belong to the settled lines: of a run that is not resumed, everything.
    fn begin(&mut self) -> Result<(), String> {
        if self.bytes == 0 {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed(&error)),
                _ => Ok(()),
            };
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let opened = options.open(&self.path).and_then(|mut file| {
            file.set_len(self.bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        });
        let file = opened.map_err(|error| self.failed(&error))?;
        self.file = Some(BufWriter::new(file));
        Ok(())
    }

    fn append(&mut self, lines: &[Rejected]) -> Result<(), String> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.write(lines);
        written.map_err(|error| self.failed(&error))
    }

    fn write(&mut self, lines: &[Rejected]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(BufWriter::new(File::create(&self.path)?)),
        };
        for Rejected {
            number,
            reason,
            content,
        } in lines
        {
            let entry = serde_json::json!({"line": number, "reason": reason, "content": content.trim_end()});
            let entry = format!("{entry}\n");
            file.write_all(entry.as_bytes())?;
            self.bytes += entry.len() as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let flushed = self.file.as_mut().map_or(Ok(()), Write::flush);
        flushed.map_err(|error| self.failed(&error))
    }
}

/// Returns the state in a file, if there is such a file.
fn read(path: &Path) -> Result<Option<State>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("can't read {}: {error}", path.display())),
    };
    match serde_json::from_slice::<State>(&bytes) {
        Ok(state) if state.version == VERSION => Ok(Some(state)),
        _ => Err(format!(
            "{} is no state of a run that this version can resume; delete it to send all lines again",
            path.display()
        )),
    }
}

/// Returns a checksum of the first bytes of a file, and how many these are.
fn head(path: &Path, bytes: u64) -> io::Result<(u32, u64)> {
    let mut head = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut head)?;
    Ok((crc32fast::hash(&head), head.len() as u64))
}

/// `events.ndjson` becomes `events.ndjson.rejected`.
fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}
