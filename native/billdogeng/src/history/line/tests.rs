use super::*;

fn written(line: &str, fields: &Fields) -> Result<Value, String> {
    let writer = Writer {
        fields,
        group_numbers: &[("team".into(), 1)],
        max_event_bytes: 10_000,
        name: "a.ndjson",
    };
    let mut out = b"before,".to_vec();
    let result = writer.write(line.as_bytes(), 7, &mut out);
    match result {
        Err(_) => assert_eq!(out, b"before,", "nothing is appended"),
        Ok(()) => assert!(out.ends_with(b"},")),
    }
    let event = &out[7..out.len().max(8) - 1];
    result.map(|()| serde_json::from_slice(event).expect("valid JSON"))
}

fn properties(line: &str) -> Value {
    let mut event = written(line, &Fields::default()).unwrap();
    let mut properties = event["properties"].take();
    let id = properties.as_object_mut().unwrap().remove("$insert_id");
    assert!(id.is_some());
    properties
}

#[test]
fn properties_are_copied_and_groups_override_their_own() {
    let of = |more: &str| properties(&format!(r#"{{"event":"a","distinct_id":1{more}}}"#));
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for (more, expected) in [
        ("", "{}"),
        (r#","properties":null,"groups":null"#, "{}"),
        (r#","properties": { } "#, "{}"),
        (
            r#","properties":{"x":1e3,"y":"\u00e9"}"#,
            r#"{"x":1e3,"y":"é"}"#,
        ),
        (r#","groups":{}"#, "{}"),
        (r#","groups":{"a":1}"#, r#"{"$groups":{"a":1}}"#),
        (
            r#","groups":{"team":"t"},"properties":{"$group_1":0,"$groups":1,"x":2}"#,
            r#"{"$groups":{"team":"t"},"$group_1":"t","x":2}"#,
        ),
    ] {
        assert_eq!(of(more), json(expected), "{more}");
    }
    let twice = r#","properties":{"x":1},"properties":{"x":2}"#;
    assert_eq!(
        of(twice),
        json(r#"{"x":2}"#),
        "the last of equal names counts"
    );
}

#[test]
fn an_insert_id_depends_on_the_name_the_number_and_the_text() {
    let id = insert_id("a", 1, b"{}");
    assert_eq!(id, insert_id("a", 1, b"{}"));
    for other in [
        insert_id("b", 1, b"{}"),
        insert_id("a", 2, b"{}"),
        insert_id("a", 1, b"[]"),
    ] {
        assert_ne!(id, other);
    }
    assert_eq!((id.len(), &id[14..15]), (36, "8"));
    assert!("89ab".contains(&id[19..20]), "{id}");
}

#[test]
fn a_time_is_iso_8601_or_milliseconds() {
    let ms = |raw: &str| timestamp(raw, "timestamp");
    for (raw, expected) in [
        ("1700000000000", 1_700_000_000_000),
        (r#""2023-11-14T22:13:20Z""#, 1_700_000_000_000),
        (r#""2023-11-14T22:13:20.123456Z""#, 1_700_000_000_123),
        (r#""2023-11-14t22:13:20+00:00""#, 1_700_000_000_000),
        (r#""2023-11-15T03:43:20+05:30""#, 1_700_000_000_000),
        (r#""20231114T221320Z""#, 1_700_000_000_000),
        (r#"" 2023-11-14 22:13:20 ""#, 1_700_000_000_000),
        (r#""2023-11-14""#, 1_699_920_000_000),
        (r#""1969-12-31T23:59:59Z""#, -1_000),
    ] {
        assert_eq!(ms(raw), Ok(expected), "{raw}");
    }
    for raw in [
        "0",
        "1700000000",
        "-1",
        "1.5",
        "true",
        "[]",
        "99999999999999999999",
        r#""""#,
        r#""now""#,
    ] {
        assert!(ms(raw).is_err(), "{raw}");
    }
}

#[test]
fn what_no_ingest_can_read_is_found_whatever_stands_around_it() {
    for (raw, good) in [
        (r#"{"a":"5e3 is a sha: 8e99e999"}"#, true),
        (r#"{"a":1e308}"#, true),
        (r#"{"a":1e309}"#, false),
        (r#"{"a":-1E999}"#, false),
        (r#"{"a":"\ud83d\ude00"}"#, true),
        (r#"{"a":"\ud83d"}"#, false),
        (r#"{"\udead":1}"#, false),
    ] {
        assert_eq!(readable(raw, "properties").is_ok(), good, "{raw}");
    }
    let digits = |fraction: &str| format!(r#"{{"a":{}{fraction}}}"#, "9".repeat(400));
    assert!(
        readable(&digits(""), "").is_ok(),
        "integers are exact at any size"
    );
    assert!(readable(&digits(".0"), "").is_err());
    let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(readable(&nested(100), "").is_ok());
    assert!(readable(&nested(101), "").is_err());
    assert!(readable(&"[],".repeat(500).replacen("[],", "[", 1), "").is_err());
}

#[test]
fn a_field_is_found_by_its_whole_name_first() {
    let fields = Fields {
        event: "a.b".into(),
        distinct_id: "user.id.value".into(),
        ..Fields::default()
    };
    let named = |line: &str| written(line, &fields).map(|event| event["event_name"].clone());
    let user = r#""user":{"id":{"value":"u"}}"#;
    assert_eq!(
        named(&format!(r#"{{"a":{{"b":"in"}},{user}}}"#)),
        Ok("in".into())
    );
    assert_eq!(
        named(&format!(r#"{{"a":{{"b":"in"}},"a.b":"out",{user}}}"#)),
        Ok("out".into())
    );
    assert_eq!(
        named(&format!(r#"{{"a":1,{user}}}"#)),
        Err("a.b is missing".into())
    );
    let error = named(r#"{"a.b":"x","user":{"id":7}}"#);
    assert_eq!(error, Err("user.id.value is missing".into()));
}

#[test]
fn any_bytes_are_an_event_or_have_a_reason() {
    let whole = r#"{"event":"a\u00e9","distinct_id":"u","timestamp":"2026-01-02T03:04:05Z","properties":{"x":[1,{"y":null}]},"groups":{"team":1}}"#;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut line = whole.as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..line.len());
            match random.u8(..3) {
                0 => line[at] = random.u8(..),
                1 => drop(line.drain(at..)),
                _ => line.insert(at, *random.choice(b"{}[]\",:\\e9").unwrap()),
            }
            if line.is_empty() {
                break;
            }
        }
        if let Ok(text) = std::str::from_utf8(&line) {
            // Checks that what is written is valid.
            let _ = written(text, &Fields::default());
        }
    }
}
