//! Where in an event something is: its name, and the way to a value, as a log may show them. Never a value.

/// The name of an event and the way to one of its values, such as `properties.user.token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The event's name as its JSON has it; empty where that is no string.
    pub event: String,
    /// Keys and, from 0, places in arrays, joined by dots.
    pub path: String,
}

/// Characters of a name or a path that are shown.
const SHOWN: usize = 200;

/// A container that is open, and where in it the reader is.
enum Open {
    Object { key: Option<String>, in_value: bool },
    Array { index: usize },
}

impl Place {
    /// The place of what begins at byte `at` of an event's JSON, of which no more needs to be written.
    #[must_use]
    pub fn in_event(json: &[u8], at: usize) -> Self {
        let mut rest = json.get(..at).unwrap_or(json).iter();
        let mut open: Vec<Open> = Vec::new();
        let mut event = String::new();
        while let Some(byte) = rest.next() {
            match byte {
                b'{' => open.push(Open::Object {
                    key: None,
                    in_value: false,
                }),
                b'[' => open.push(Open::Array { index: 0 }),
                b'}' | b']' => {
                    open.pop();
                }
                b':' => {
                    if let Some(Open::Object { in_value, .. }) = open.last_mut() {
                        *in_value = true;
                    }
                }
                b',' => match open.last_mut() {
                    Some(Open::Object { key, in_value }) => (*key, *in_value) = (None, false),
                    Some(Open::Array { index }) => *index += 1,
                    None => {}
                },
                b'"' => {
                    let text = string(&mut rest);
                    let depth = open.len();
                    match open.last_mut() {
                        Some(Open::Object {
                            key,
                            in_value: false,
                        }) => *key = Some(text),
                        Some(Open::Object { key: Some(key), .. })
                            if depth == 1 && key == "event_name" =>
                        {
                            event = text;
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        let path = open.into_iter().filter_map(|container| match container {
            Open::Object { key, .. } => key,
            Open::Array { index } => Some(index.to_string()),
        });
        let path = path.collect::<Vec<_>>().join(".");
        Self {
            event: shortened(event),
            path: shortened(path),
        }
    }
}

/// The rest of a string whose first quote has been read, with its escapes.
fn string<'a>(rest: &mut impl Iterator<Item = &'a u8>) -> String {
    let mut text = Vec::new();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => break,
            b'\\' => {
                text.push(*byte);
                text.extend(rest.next());
            }
            byte => text.push(*byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(json: &str) -> (String, String) {
        let place = Place::in_event(json.as_bytes(), json.find('@').expect("a mark"));
        (place.event, place.path)
    }

    #[test]
    fn a_place_is_the_keys_and_indexes_on_the_way_to_it() {
        let cases = [
            (r#"{"event_name":@"#, "", "event_name"),
            (
                r#"{"event_name":"e","properties":{"a":1,"user":{"b":[],"token":@"#,
                "e",
                "properties.user.token",
            ),
            (
                r#"{"event_name":"e","properties":{"a":[{"x":1},[1,2,@"#,
                "e",
                "properties.a.1.2",
            ),
            (
                r#"{"event_name":"a\"b","properties":{"a,{\"[":@"#,
                r#"a\"b"#,
                r#"properties.a,{\"["#,
            ),
            (
                r#"{"event_name":"e","properties":{"a":{"event_name":"no"},@"#,
                "e",
                "properties",
            ),
            (
                r#"{"event_name":5,"properties":{},"user_id":@"#,
                "",
                "user_id",
            ),
        ];
        for (json, event, path) in cases {
            assert_eq!(at(json), (event.to_owned(), path.to_owned()), "{json}");
        }
    }

    #[test]
    fn long_names_are_cut() {
        let json = format!("{{\"event_name\":\"{}\",\"user_id\":@", "é".repeat(1000));
        assert_eq!(at(&json).0.chars().count(), SHOWN + 1);
    }
}
