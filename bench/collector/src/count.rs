//! How many events a body has, by one look at each byte.

/// The objects in the array that the body's member `events` holds, or `batch`, as posthog-elixir has it. `None` where the
/// text ends before its last bracket, or goes on after it: a body that was cut short must not count.
///
/// Brackets are matched by number and not by kind: the clients' JSON is judged by their tests, not here.
pub fn events(json: &[u8]) -> Option<u64> {
    let mut depth = 0usize;
    let mut count = 0;
    let mut member: &[u8] = b"";
    let mut in_events = false;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let text = &json[at + 1..];
                let len = string_len(text)?;
                if depth == 1 {
                    member = &text[..len];
                }
                at += len + 1;
            }
            b'{' | b'[' => {
                match depth {
                    1 => in_events = *byte == b'[' && (member == b"events" || member == b"batch"),
                    2 if in_events && *byte == b'{' => count += 1,
                    _ => {}
                }
                depth += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    let ends = json[at + 1..].iter().all(u8::is_ascii_whitespace);
                    return ends.then_some(count);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Bytes up to the quote that ends a string.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::events;

    #[test]
    fn only_the_objects_of_the_events_count() {
        let cases = [
            (r#"{"api_key":"k","events":[]}"#, 0),
            (r#"{"api_key":"k","events":[{"a":{"b":[{},{}]}},{}]}"#, 2),
            (r#"{"events":[{}],"more":[{}]} "#, 1),
            (r#"{"batch":[{"b":[{}]},{}],"api_key":"k"}"#, 2),
            (r#"{"events":{"events":[{}]}}"#, 0),
            (r#"{"api_key":"\"events\":[{","events":[{"s":"}]\\"}]}"#, 1),
        ];
        for (json, count) in cases {
            assert_eq!(events(json.as_bytes()), Some(count), "{json}");
        }
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_no_body() {
        for json in ["", "{\"events\":[{}]", "{\"events\":[{}]}}", "{\"eve", "]"] {
            assert_eq!(events(json.as_bytes()), None, "{json}");
        }
    }
}
