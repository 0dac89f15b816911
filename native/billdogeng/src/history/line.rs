//! A line of JSON becomes an event as it goes on the wire. The properties are checked, and copied as they are.

use crate::event::json;
use jiff::civil;
use jiff::tz::TimeZone;
use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Levels of nesting, as for a captured event.
const DEEPEST: usize = 100;
/// Milliseconds of March 1973: as seconds these are in the year 5138.
const FEWEST_MS: i64 = 100_000_000_000;
/// Bytes of a line that a reason shows.
const SHOWN: usize = 100;

/// Where the fields of an event are in a line: the names of members, outermost first, joined by dots.
#[derive(Clone, Debug)]
pub struct Fields {
    /// The event's name.
    pub event: String,
    /// The user.
    pub distinct_id: String,
    /// The time: ISO 8601, or an integer of milliseconds.
    pub timestamp: String,
    /// The properties, an object.
    pub properties: String,
    /// The groups, an object.
    pub groups: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            event: "event".into(),
            distinct_id: "distinct_id".into(),
            timestamp: "timestamp".into(),
            properties: "properties".into(),
            groups: "groups".into(),
        }
    }
}

/// Makes events.
pub struct Writer<'a> {
    pub fields: &'a Fields,
    pub group_numbers: &'a [(String, u8)],
    pub max_event_bytes: usize,
    /// The file's name: a part of each event's `$insert_id`.
    pub name: &'a str,
}

/// The parts of an event, each as JSON.
pub struct Parts<'a> {
    pub event: Cow<'a, str>,
    pub distinct_id: Cow<'a, str>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub properties: Cow<'a, str>,
    /// An object, or nothing.
    pub groups: Option<Cow<'a, str>>,
}

impl Writer<'_> {
    /// Appends the event of a line to `out`, with a comma behind it.
    ///
    /// # Errors
    /// The line is no event: the reason. Nothing is appended.
    pub fn write(&self, line: &[u8], number: u64, out: &mut Vec<u8>) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
        let object = object(text, "the line")?;
        let fields = self.fields;
        let parts = Parts {
            event: name(&object, &fields.event)?,
            distinct_id: distinct_id(&object, &fields.distinct_id)?,
            timestamp: match find(&object, &fields.timestamp)? {
                Some(raw) if raw != "null" => Some(timestamp(&raw, &fields.timestamp)?),
                _ => None,
            },
            properties: members(&object, &fields.properties)?.unwrap_or(Cow::Borrowed("{}")),
            groups: members(&object, &fields.groups)?,
        };
        self.write_parts(&parts, line, number, out)
    }

    /// The same of parts that were found in the line.
    pub fn write_parts(
        &self,
        parts: &Parts,
        line: &[u8],
        number: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let start = out.len();
        out.extend_from_slice(b"{\"event_name\":");
        out.extend_from_slice(parts.event.as_bytes());
        out.extend_from_slice(b",\"event_timestamp\":");
        json::write_i64(out, parts.timestamp.unwrap_or_else(now));
        out.extend_from_slice(b",\"properties\":");
        self.write_properties(parts, line, number, out);
        out.extend_from_slice(b",\"user_id\":");
        out.extend_from_slice(parts.distinct_id.as_bytes());
        out.push(b'}');
        let bytes = out.len() - start;
        if bytes > self.max_event_bytes {
            out.truncate(start);
            let most = self.max_event_bytes;
            return Err(format!("{bytes} bytes of JSON, :max_event_bytes is {most}"));
        }
        out.push(b',');
        Ok(())
    }

    /// Writes properties and groups as one object, as a capture does, and an `$insert_id` unless there is one.
    fn write_properties(&self, parts: &Parts, line: &[u8], number: u64, out: &mut Vec<u8>) {
        let mut added = Vec::new();
        if let Some(groups) = parts.groups.as_deref().filter(|groups| *groups != "{}") {
            added.push(("$groups".to_owned(), groups.to_owned()));
            for (name, value) in object(groups, "").into_iter().flat_map(|object| object.0) {
                let number = self.group_numbers.iter().find(|(group, _)| *group == *name);
                if let Some((_, number)) = number {
                    added.push((format!("$group_{number}"), value.get().to_owned()));
                }
            }
        }
        let properties = parts.properties.trim_end();
        let mut kept = Cow::Borrowed(properties);
        if !added.is_empty() && properties.contains("\"$group") {
            kept = Cow::Owned(without(properties, &added));
        }
        if !properties.contains("$insert_id") || !has_member(properties, "$insert_id") {
            let id = format!("\"{}\"", insert_id(self.name, number, line));
            added.push(("$insert_id".to_owned(), id));
        }
        // All but the brace at the end.
        out.extend_from_slice(&kept.as_bytes()[..kept.len() - 1]);
        let mut empty = kept[1..kept.len() - 1].trim().is_empty();
        for (name, value) in &added {
            if !std::mem::replace(&mut empty, false) {
                out.push(b',');
            }
            json::write_str(out, name.as_bytes());
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
    }
}

/// Returns an id that the same line of the same file always gets: a UUID of version 8 (RFC 9562, 5.8).
fn insert_id(name: &str, number: u64, line: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(name.as_bytes());
    context.update(&[0]);
    context.update(&number.to_le_bytes());
    context.update(line);
    let mut id = u128::from_be_bytes(*context.finish().as_ref().first_chunk().expect("32 bytes"));
    id = id & !(0xF << 76) & !(0b11 << 62) | 8 << 76 | 0b10 << 62;
    let hex = format!("{id:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

// ── the fields ──

fn name<'a>(object: &Object<'a>, path: &str) -> Result<Cow<'a, str>, String> {
    let raw = find(object, path)?.ok_or_else(|| format!("{path} is missing"))?;
    match raw.as_bytes() {
        [b'"', b'"'] => Err(format!("{path} is empty")),
        [b'"', ..] => readable(&raw, path).map(|()| raw),
        _ => Err(format!("{path} is not a string")),
    }
}

fn distinct_id<'a>(object: &Object<'a>, path: &str) -> Result<Cow<'a, str>, String> {
    let raw = find(object, path)?.ok_or_else(|| format!("{path} is missing"))?;
    match raw.as_bytes() {
        [b'"', b'"'] => Err(format!("{path} is empty")),
        [b'"', ..] => readable(&raw, path).map(|()| raw),
        [b'-' | b'0'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => Ok(raw),
        _ => Err(format!("{path} is not a string or integer")),
    }
}

/// Returns the milliseconds of a value in JSON.
pub fn timestamp(raw: &str, path: &str) -> Result<i64, String> {
    if !raw.starts_with('"') {
        let wrong = || format!("{path} is neither ISO 8601 nor integer milliseconds");
        let ms: i64 = raw.parse().map_err(|_| wrong())?;
        if ms < FEWEST_MS {
            return Err(format!(
                "{path} {ms} is before March 1973: milliseconds are expected, this looks like seconds"
            ));
        }
        return Ok(ms);
    }
    let text: String = serde_json::from_str(raw).map_err(|_| format!("{path} is no text"))?;
    iso_8601(&text).ok_or_else(|| format!("{path} {} is not ISO 8601", shown(&text)))
}

/// Returns the milliseconds of a date and time. Without an offset it is in UTC.
fn iso_8601(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let time = text.parse::<civil::DateTime>().ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?;
    Some(time.timestamp().as_millisecond())
}

fn members<'a>(object: &Object<'a>, path: &str) -> Result<Option<Cow<'a, str>>, String> {
    match find(object, path)? {
        None => Ok(None),
        Some(raw) if raw == "null" => Ok(None),
        Some(raw) if raw.starts_with('{') => readable(&raw, path).map(|()| Some(raw)),
        Some(_) => Err(format!("{path} is not an object")),
    }
}

/// Checks what every ingest can read: text of whole characters, numbers that a float can represent, no deep nesting. Most
/// values show at a glance that they are.
pub fn readable(raw: &str, path: &str) -> Result<(), String> {
    let bytes = raw.as_bytes();
    let nested = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{'));
    let exponent = |pair: &[u8]| pair[0].is_ascii_digit() && matches!(pair[1], b'e' | b'E');
    let suspect = |pair: &[u8]| pair == b"\\u" || exponent(pair);
    let long = bytes.len() > 300
        && bytes
            .windows(300)
            .any(|run| run.iter().all(u8::is_ascii_digit));
    if nested.count() <= DEEPEST && !bytes.windows(2).any(suspect) && !long {
        return Ok(());
    }
    let value = json::read(bytes);
    let value = value.ok_or_else(|| format!("{path} has text or a number that can't be read"))?;
    match json::depth(&value) > DEEPEST {
        true => Err(format!("{path} is nested deeper than {DEEPEST} levels")),
        false => Ok(()),
    }
}

// ── objects ──

/// The members of an object, their values unread.
pub struct Object<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// Reads an object.
fn object<'a>(text: &'a str, what: &str) -> Result<Object<'a>, String> {
    if !text.trim_start().starts_with('{') {
        let valid = serde_json::from_str::<&RawValue>(text).is_ok();
        return Err(match valid {
            true => format!("{what} is not a JSON object"),
            false => format!("not JSON: {}", shown(text)),
        });
    }
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {message} at column {}", error.column())
    })
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Key(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(Self)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Returns the value of a member, as JSON: of this name, or else of this path. The last of equal names counts.
fn find<'a>(object: &Object<'a>, path: &str) -> Result<Option<Cow<'a, str>>, String> {
    let member = |name: &str| object.0.iter().rev().find(|(key, _)| key == name);
    if let Some((_, value)) = member(path) {
        return Ok(Some(Cow::Borrowed(value.get())));
    }
    let Some((outer, rest)) = path.split_once('.') else {
        return Ok(None);
    };
    match member(outer) {
        Some((_, value)) if value.get().starts_with('{') => {
            find(&self::object(value.get(), outer)?, rest)
        }
        _ => Ok(None),
    }
}

fn has_member(object: &str, name: &str) -> bool {
    let members = self::object(object, "").map(|object| object.0);
    members.is_ok_and(|members| members.iter().any(|(key, _)| key == name))
}

/// Returns an object without the members of these names.
fn without(object: &str, names: &[(String, String)]) -> String {
    let mut value: Value = serde_json::from_str(object).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        members.retain(|key, _| !names.iter().any(|(name, _)| name == key));
    }
    value.to_string()
}

fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    let more = if end < text.len() { "…" } else { "" };
    format!("{:?}{more}", &text[..end])
}

#[cfg(test)]
mod tests;
