//! JSON text, written straight into bytes (RFC 8259).

use serde_json::Value;

/// Per byte: 0 as it is, 1 needs more than a look (not ASCII), else the letter after the backslash.
static ESCAPES: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 0x20 {
        table[i] = b'u';
        i += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0A] = b'n';
    table[0x0C] = b'f';
    table[0x0D] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    let mut i = 0x80;
    while i < 256 {
        table[i] = 1;
        i += 1;
    }
    table
};

/// Writes a string with its quotes. Invalid UTF-8 becomes U+FFFD, once for each bad sequence (the
/// Unicode standard's "maximal subparts", chapter 3.9); answers whether there was any.
pub fn write_str(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let plain = plain_len(bytes);
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    out.extend_from_slice(&bytes[..plain]);
    let replaced = plain < bytes.len() && write_rest(out, &bytes[plain..]);
    out.push(b'"');
    replaced
}

/// How many bytes at the start go out as they are: ASCII, and none that JSON escapes.
fn plain_len(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if let Some(special) = first_special(*word) {
            return at * 8 + special;
        }
    }
    match bytes.last_chunk::<8>() {
        // Some of them have been looked at already, and found plain.
        Some(word) => bytes.len() - 8 + first_special(*word).unwrap_or(8),
        None => {
            let plain = |byte: &&u8| ESCAPES[**byte as usize] == 0;
            rest.iter().take_while(plain).count()
        }
    }
}

/// A byte repeated.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// A byte's top bit comes out set if JSON escapes the byte; by a borrow also above such a byte, never below
/// the first. Of bytes that aren't ASCII it may come out set as well.
fn escaped(word: u64) -> u64 {
    let control = word.wrapping_sub(each(0x20));
    let quote = (word ^ each(b'"')).wrapping_sub(each(1));
    let backslash = (word ^ each(b'\\')).wrapping_sub(each(1));
    control | quote | backslash
}

fn first(bits: u64) -> Option<usize> {
    let bits = bits & each(0x80);
    (bits != 0).then(|| bits.trailing_zeros() as usize / 8)
}

/// The first byte that JSON escapes, or that isn't ASCII.
fn first_special(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    first(escaped(word) | word)
}

#[inline(never)]
fn write_rest(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    if std::str::from_utf8(bytes).is_ok() {
        write_escaped(out, bytes);
        return false;
    }
    for chunk in bytes.utf8_chunks() {
        write_escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
    true
}

/// Writes UTF-8 with its escapes.
fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut written = 0;
    let mut at = 0;
    while at < bytes.len() {
        if let Some(word) = bytes[at..].first_chunk::<8>() {
            let word = u64::from_le_bytes(*word);
            // Not those that aren't ASCII: no escape is among them.
            match first(escaped(word) & !word) {
                Some(ahead) => at += ahead,
                None => {
                    at += 8;
                    continue;
                }
            }
        }
        let byte = bytes[at];
        let escape = ESCAPES[byte as usize];
        at += 1;
        if escape <= 1 {
            continue;
        }
        out.extend_from_slice(&bytes[written..at - 1]);
        written = at;
        if escape == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let (high, low) = (HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

/// Writes an integer.
pub fn write_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes a finite float: the fewest digits that read back the same.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
}

/// Reads JSON; returns `None` unless `bytes` are exactly one value that every ingest can read: text of whole characters,
/// numbers that a float can represent. An ingest would refuse the whole batch for any other.
pub fn read(bytes: &[u8]) -> Option<Value> {
    let value = serde_json::from_slice(bytes).ok()?;
    is_readable(&value).then_some(value)
}

/// Returns how deep a value is, 0 for a scalar.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn is_readable(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let digits = number
                .as_str()
                .bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_digit());
            digits || number.as_f64().is_some_and(f64::is_finite)
        }
        Value::Array(values) => values.iter().all(is_readable),
        Value::Object(members) => members.values().all(is_readable),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> (String, bool) {
        let mut out = Vec::new();
        let replaced = write_str(&mut out, bytes);
        (String::from_utf8(out).unwrap(), replaced)
    }

    #[test]
    fn every_character_of_the_first_planes_reads_back() {
        for code in (0..0x11000).filter_map(char::from_u32) {
            let text = format!("a{code}\"b");
            let (json, replaced) = written(text.as_bytes());
            assert_eq!(
                serde_json::from_str::<Value>(&json).unwrap(),
                Value::String(text)
            );
            assert!(!replaced);
        }
    }

    #[test]
    fn what_needs_a_look_is_found_at_every_place() {
        let special = |byte: &u8| *byte < 0x20 || *byte >= 0x80 || b"\"\\".contains(byte);
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = [b'!'; 20];
                bytes[at] = byte;
                let plain = bytes.iter().position(special).unwrap_or(20);
                assert_eq!(plain_len(&bytes), plain, "{byte} at {at}");
                assert_eq!(
                    plain_len(&bytes[..=at]),
                    plain.min(at + 1),
                    "{byte} at the end {at}"
                );
            }
        }
    }

    #[test]
    fn what_is_escaped_is_so_at_every_place_among_other_letters() {
        for special in [
            '"', '\\', '\u{0}', '\n', '\u{1f}', '\u{7f}', ' ', 'é', '\u{2028}', '😀',
        ] {
            for before in 0..20 {
                for filler in ["a", "ü", "字"] {
                    let text = format!("é{}{special}{special}z", filler.repeat(before));
                    let (json, replaced) = written(text.as_bytes());
                    let read: Value = serde_json::from_str(&json).expect("valid JSON");
                    assert_eq!(read, Value::String(text));
                    assert!(!replaced);
                }
            }
        }
    }

    #[test]
    fn each_bad_sequence_becomes_one_replacement_character() {
        let cases: [(&[u8], &str); 4] = [
            (b"\x80", "\u{FFFD}"),
            (b"a\xE2\x82b", "a\u{FFFD}b"),
            (b"\xFF\xFE", "\u{FFFD}\u{FFFD}"),
            (b"\xED\xA0\x80", "\u{FFFD}\u{FFFD}\u{FFFD}"),
        ];
        for (bytes, text) in cases {
            assert_eq!(written(bytes), (format!("\"{text}\""), true));
        }
    }

    #[test]
    fn integers_are_written_to_the_last_digit() {
        for value in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }

    #[test]
    fn floats_read_back_the_same() {
        for value in [0.1, -0.0, 1.0, 1e21, 5e-324, f64::MAX, 1e300, 123456789.125] {
            let mut out = Vec::new();
            write_f64(&mut out, value);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(
                text.parse::<f64>().unwrap().to_bits(),
                value.to_bits(),
                "{text}"
            );
            assert_eq!(depth_of(text.as_bytes()), Some(0));
        }
    }

    fn depth_of(bytes: &[u8]) -> Option<usize> {
        read(bytes).as_ref().map(depth)
    }

    #[test]
    fn one_value_is_one_value() {
        assert_eq!(depth_of(b" {\"a\": [1, 2.5e3, null], \"b\": {}} "), Some(2));
        assert_eq!(depth_of(b"[]"), Some(1));
        assert_eq!(depth_of(&b"9".repeat(400)), Some(0));
        let bad: [&[u8]; 9] = [
            b"",
            b"1 2",
            b"{\"a\":}",
            b"nul",
            b"[1,]",
            b"\"caf\xE9\"",
            b"\"\\ud800\"",
            b"[{\"a\":1e999}]",
            b"{\"\xE9\":1}",
        ];
        for bad in bad {
            assert_eq!(depth_of(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
