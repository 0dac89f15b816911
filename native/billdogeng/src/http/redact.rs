//! Takes a secret out of a text that may quote it: as it is, percent-encoded, or escaped as in JSON or HTML.

/// Bytes from which on a secret is taken out. A shorter one could be part of any word.
const SHORTEST: usize = 8;

/// In place of the secret.
const HIDDEN: &str = "[api_key]";

/// The longest escape of one byte or character: `&#x10FFFF;`.
const LONGEST_ESCAPE: usize = 10;

/// Returns `text` without `secret`, whichever way each of its characters is written. Where the text ends within it,
/// for it was cut, that part is taken out too.
#[must_use]
pub fn redact(text: &str, secret: &str) -> String {
    let (bytes, secret) = (text.as_bytes(), secret.as_bytes());
    if secret.len() < SHORTEST {
        return text.to_owned();
    }
    let mut redacted = String::with_capacity(text.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        match quoted(&bytes[at..], secret) {
            Some(len) => {
                redacted.push_str(&text[copied..at]);
                redacted.push_str(HIDDEN);
                at += len;
                copied = at;
            }
            None => at += 1,
        }
    }
    redacted.push_str(&text[copied..]);
    redacted
}

/// The length of what `text` begins with, if that is the secret.
fn quoted(text: &[u8], secret: &[u8]) -> Option<usize> {
    // A byte can be read in two ways, as `%` or as the start of an escape: these are the ends of all readings so far,
    // each with the secret's bytes that it has accounted for.
    let mut readings: Vec<(usize, usize)> = next(text, secret).collect();
    while let Some((at, read)) = readings.pop() {
        let (rest, left) = (&text[at..], &secret[read..]);
        if left.is_empty() {
            return Some(at);
        }
        if read >= SHORTEST && (rest.is_empty() || is_cut_escape(rest)) {
            return Some(text.len());
        }
        readings.extend(next(rest, left).map(|(len, bytes)| (at + len, read + bytes)));
    }
    None
}

/// The ways in which `text` may begin with `secret`'s next bytes: how many bytes of either that takes.
fn next<'a>(text: &'a [u8], secret: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let literal = (text.first() == secret.first()).then_some((1, 1));
    let escaped = unescape(text).and_then(|(character, len)| {
        let mut buffer = [0; 4];
        let bytes: &[u8] = match character {
            Unescaped::Byte(byte) => {
                buffer[0] = byte;
                &buffer[..1]
            }
            Unescaped::Char(char) => char.encode_utf8(&mut buffer).as_bytes(),
        };
        secret.starts_with(bytes).then_some((len, bytes.len()))
    });
    literal
        .filter(|_| !secret.is_empty())
        .into_iter()
        .chain(escaped)
}

enum Unescaped {
    Byte(u8),
    Char(char),
}

/// Reads one escape, and returns its length with it.
fn unescape(text: &[u8]) -> Option<(Unescaped, usize)> {
    match text {
        [b'+', ..] => Some((Unescaped::Byte(b' '), 1)),
        [b'%', high, low, ..] => {
            let byte = hex(&[*high, *low])?;
            Some((Unescaped::Byte(u8::try_from(byte).ok()?), 3))
        }
        [b'\\', b'u', digits @ ..] => {
            let char = char::from_u32(hex(digits.get(..4)?)?)?;
            Some((Unescaped::Char(char), 6))
        }
        [b'\\', byte @ (b'/' | b'"' | b'\\'), ..] => Some((Unescaped::Byte(*byte), 2)),
        [b'&', rest @ ..] => {
            let end = rest
                .iter()
                .take(LONGEST_ESCAPE)
                .position(|byte| *byte == b';')?;
            let char = match &rest[..end] {
                b"amp" => '&',
                b"lt" => '<',
                b"gt" => '>',
                b"quot" => '"',
                b"apos" => '\'',
                [b'#', b'x' | b'X', digits @ ..] => char::from_u32(hex(digits)?)?,
                [b'#', digits @ ..] => {
                    char::from_u32(std::str::from_utf8(digits).ok()?.parse().ok()?)?
                }
                _ => return None,
            };
            Some((Unescaped::Char(char), end + 2))
        }
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok()?;
    let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    all.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// Whether the text ends within an escape.
fn is_cut_escape(rest: &[u8]) -> bool {
    rest.len() < LONGEST_ESCAPE
        && matches!(rest[0], b'%' | b'\\' | b'&')
        && unescape(rest).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_however_it_is_written() {
        let secret = r#"a"b/c d&é%41-key"#;
        for quoted in [
            r#"a"b/c d&é%41-key"#,
            // JSON.
            r#"a\"b/c d&é%41-key"#,
            r#"a\"b\/c d&é%41-key"#,
            r#"a\u0022b\u002Fc d\u0026\u00e9%41-key"#,
            // A URL, a form, in either case.
            "a%22b%2Fc%20d%26%C3%A9%2541-key",
            "a%22b%2fc+d%26%c3%a9%2541-key",
            "%61%22%62%2f%63%20%64%26%c3%a9%25%34%31%2d%6b%65%79",
            // HTML.
            "a&quot;b/c d&amp;é%41-key",
            "a&#34;b&#x2F;c d&#38;&eacute;%41-key",
        ] {
            let text = format!("no project has {quoted}, is it right? é");
            // An entity that isn't known is no quotation.
            let expected = if quoted.contains("&eacute;") {
                text.clone()
            } else {
                "no project has [api_key], is it right? é".to_owned()
            };
            assert_eq!(redact(&text, secret), expected, "{quoted}");
        }
    }

    #[test]
    fn a_text_that_ends_within_the_secret_loses_that_part() {
        for (text, redacted) in [
            ("cut within key-12345", "cut within [api_key]"),
            ("cut within key-12345%2", "cut within [api_key]"),
            ("cut within key-12345\\", "cut within [api_key]"),
            ("cut within key-123", "cut within key-123"),
            ("this is no key", "this is no key"),
            ("key-12345/6 and key-12345%2F6", "[api_key] and [api_key]"),
        ] {
            assert_eq!(redact(text, "key-12345/6"), redacted, "{text}");
        }
    }

    #[test]
    fn a_short_secret_could_be_part_of_any_word() {
        assert_eq!(redact("a key", "key"), "a key");
    }

    #[test]
    fn readings_of_an_ambiguous_secret_do_not_multiply() {
        let secret = "%25".repeat(40);
        let text = "%25".repeat(2_000);
        assert!(!redact(&text, &secret).contains(&secret));
    }
}
