//! A record of CSV becomes an event. The header names the columns: those of the fields, and a property each.

use crate::event::json;
use crate::history::line::{readable, timestamp, Fields, Parts, Writer};
use crate::history::portion::{Line, Next, Position as Place};
use csv::{ByteRecord, Position, Reader, ReaderBuilder, Terminator};
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::BufRead;

/// A file of CSV.
pub struct Table {
    reader: Reader<Box<dyn BufRead + Send>>,
    columns: Vec<Column>,
    record: ByteRecord,
}

/// The content of a column.
enum Column {
    Event,
    DistinctId,
    Timestamp,
    /// An object of properties in JSON.
    Properties,
    /// An object of groups in JSON.
    Groups,
    /// One property of this name.
    Property(String),
    /// One group of this type.
    Group(String),
}

impl Table {
    /// Reads the header, and goes to where an earlier run ended.
    pub fn new(
        reader: Box<dyn BufRead + Send>,
        fields: &Fields,
        from: &Place,
    ) -> Result<Self, String> {
        // A line that ends in CR LF leaves the CR in its last cell, which is trimmed. If the CR ended the record, the LF
        // would count as a part of the next one.
        let mut reader = ReaderBuilder::new()
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(reader);
        let failed = |error: csv::Error| format!("can't read the header: {error}");
        let header = reader.headers().map_err(failed)?.clone();
        let mut names = HashSet::new();
        let mut columns = Vec::new();
        for name in &header {
            let name = name.strip_prefix('\u{FEFF}').unwrap_or(name).trim();
            if !names.insert(name.to_owned()) {
                return Err(format!("the header has the column {name:?} twice"));
            }
            columns.push(column(name, fields));
        }
        for name in [&fields.event, &fields.distinct_id] {
            if !names.contains(name) {
                let names: Vec<_> = header.iter().collect();
                let names = names.join(", ");
                return Err(format!(
                    "the header has no column {name:?}, it has: {names}"
                ));
            }
        }
        let mut table = Self {
            reader,
            columns,
            record: ByteRecord::new(),
        };
        while table.reader.position().byte() < from.line.offset {
            let read = table.reader.read_byte_record(&mut table.record);
            if !read.map_err(|error| error.to_string())? {
                break;
            }
        }
        Ok(table)
    }

    pub fn line(&self) -> Line {
        line(self.reader.position())
    }

    /// Appends the next record's event to `events`, and its text to `texts`.
    pub fn next(&mut self, writer: &Writer, events: &mut Vec<u8>, texts: &mut Vec<u8>) -> Next {
        loop {
            let at = line(self.reader.position());
            let read = self.reader.read_byte_record(&mut self.record);
            if !read.map_err(|error| format!("can't read line {}: {error}", at.number))? {
                return Ok(None);
            }
            if self.record.iter().all(|cell| cell.trim_ascii().is_empty()) {
                continue;
            }
            let at = self.record.position().map_or(at, line);
            let start = texts.len();
            write_record(&self.record, texts);
            let written = self.write(writer, &texts[start..], at.number, events);
            return Ok(Some((at, written)));
        }
    }

    fn write(
        &self,
        writer: &Writer,
        text: &[u8],
        number: u64,
        events: &mut Vec<u8>,
    ) -> Result<(), String> {
        let (cells, columns) = (self.record.len(), self.columns.len());
        if cells != columns {
            return Err(format!("{cells} cells, the header has {columns}"));
        }
        let fields = writer.fields;
        let mut event = None;
        let mut distinct_id = None;
        let mut time = None;
        let (mut properties, mut groups) = (b"{".to_vec(), b"{".to_vec());
        for (column, cell) in self.columns.iter().zip(&self.record) {
            let cell = std::str::from_utf8(cell).map_err(|_| "not UTF-8".to_owned())?;
            let cell = cell.trim();
            if cell.is_empty() {
                continue;
            }
            match column {
                Column::Event => event = Some(quoted(cell)),
                Column::DistinctId => distinct_id = Some(quoted(cell)),
                Column::Timestamp => {
                    let number = cell.bytes().all(|byte| byte.is_ascii_digit());
                    let raw = if number {
                        cell.to_owned()
                    } else {
                        quoted(cell)
                    };
                    time = Some(timestamp(&raw, &fields.timestamp)?);
                }
                Column::Properties => members(&mut properties, cell, &fields.properties)?,
                Column::Groups => members(&mut groups, cell, &fields.groups)?,
                Column::Property(name) => member(&mut properties, name, cell),
                Column::Group(name) => member(&mut groups, name, cell),
            }
        }
        let missing = |name: &str| format!("{name} is empty");
        let text_of = |object: Vec<u8>| {
            String::from_utf8(object)
                .map(|object| object + "}")
                .map_err(|_| "not UTF-8".to_owned())
        };
        let parts = Parts {
            event: Cow::Owned(event.ok_or_else(|| missing(&fields.event))?),
            distinct_id: Cow::Owned(distinct_id.ok_or_else(|| missing(&fields.distinct_id))?),
            timestamp: time,
            properties: Cow::Owned(text_of(properties)?),
            groups: Some(Cow::Owned(text_of(groups)?)),
        };
        writer.write_parts(&parts, text, number, events)
    }
}

fn column(name: &str, fields: &Fields) -> Column {
    let within = |field: &str| name.strip_prefix(field)?.strip_prefix('.');
    match name {
        _ if name == fields.event => Column::Event,
        _ if name == fields.distinct_id => Column::DistinctId,
        _ if name == fields.timestamp => Column::Timestamp,
        _ if name == fields.properties => Column::Properties,
        _ if name == fields.groups => Column::Groups,
        _ => match (within(&fields.properties), within(&fields.groups)) {
            (_, Some(group)) => Column::Group(group.to_owned()),
            (Some(property), _) => Column::Property(property.to_owned()),
            _ => Column::Property(name.to_owned()),
        },
    }
}

fn line(position: &Position) -> Line {
    Line {
        number: position.line(),
        offset: position.byte(),
    }
}

fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    json::write_str(&mut out, text.as_bytes());
    String::from_utf8(out).unwrap_or_default()
}

/// Appends the members of an object in JSON.
fn members(out: &mut Vec<u8>, cell: &str, path: &str) -> Result<(), String> {
    let is_object =
        serde_json::from_str::<serde_json::Value>(cell).is_ok_and(|value| value.is_object());
    if !is_object {
        return Err(format!("{path} is not a JSON object"));
    }
    readable(cell, path)?;
    let inner = cell[1..cell.len() - 1].trim();
    if !inner.is_empty() {
        separate(out);
        out.extend_from_slice(inner.as_bytes());
    }
    Ok(())
}

/// Appends a member: a number, true or false where the cell is one in JSON, else text.
fn member(out: &mut Vec<u8>, name: &str, cell: &str) {
    separate(out);
    json::write_str(out, name.as_bytes());
    out.push(b':');
    let scalar = matches!(cell, "true" | "false") || is_number(cell);
    match scalar {
        true => out.extend_from_slice(cell.as_bytes()),
        false => {
            json::write_str(out, cell.as_bytes());
        }
    }
}

fn is_number(cell: &str) -> bool {
    let first = cell.as_bytes().first();
    first.is_some_and(|byte| matches!(byte, b'-' | b'0'..=b'9'))
        && json::read(cell.as_bytes()).is_some_and(|value| value.is_number())
}

fn separate(out: &mut Vec<u8>) {
    if out.len() > 1 {
        out.push(b',');
    }
}

/// Writes a record as CSV.
fn write_record(record: &ByteRecord, out: &mut Vec<u8>) {
    let mut writer = csv::Writer::from_writer(out);
    let cells = record.iter().map(<[u8]>::trim_ascii);
    // To memory, which takes everything.
    let _ = writer
        .write_record(cells)
        .and_then(|()| Ok(writer.flush()?));
}
