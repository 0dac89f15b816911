//! What an answer means: success, or which error.

use crate::error::Error;
use crate::http::policy;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Of a longer body the rest is discarded, unread by anyone.
pub const LONGEST_BODY: usize = 1024 * 1024;

/// Bytes of a body that an error keeps.
const LONGEST_KEPT: usize = 64 * 1024;
/// Bytes of an error's message, and of its code.
const LONGEST_WORDS: usize = 4 * 1024;

/// An attempt that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The body, unwrapped from `{"success": true, "data": …}`.
    pub data: Value,
    /// 2xx.
    pub status: u16,
    /// The top level has a list `quota_limited` with something in it: what was sent is not stored.
    pub quota_limited: bool,
}

/// An attempt that did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The error that callers get. They share it.
    pub error: Arc<Error>,
    /// How the client goes on.
    pub kind: Kind,
    /// How long the ingest asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// How the client goes on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The same request may pass later.
    Retryable,
    /// As `Retryable`, and nothing was sent.
    Unreachable(Unreachable),
    /// Something in the body is refused (400, 422): perhaps one event's fault.
    Refused,
    /// There is too much of it (413).
    TooLarge,
    /// No attempt helps: the key, the address, the ingest's own words.
    Final,
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The host's name does not exist, by the resolver.
    NoSuchHost,
    /// The connection was refused.
    Refused,
    /// The host's name can't be resolved for now, or the request can't be made.
    Other,
}

impl Failure {
    /// No answer came.
    pub fn network(message: impl Into<String>) -> Self {
        Self {
            error: Arc::new(Error::network(message)),
            kind: Kind::Retryable,
            retry_after: None,
        }
    }

    /// Nothing was sent.
    pub fn unreachable(message: impl Into<String>, why: Unreachable) -> Self {
        Self {
            kind: Kind::Unreachable(why),
            ..Self::network(message)
        }
    }

    /// The same where the batch has failed often enough: a status that may be an event's fault is a refusal.
    #[must_use]
    pub fn of_batch(self, failing: bool) -> Self {
        let refused = failing && policy::may_be_an_events_fault(self.error.status);
        Self {
            kind: if refused { Kind::Refused } else { self.kind },
            ..self
        }
    }

    /// The same without `secret`: see [`Error::hiding`].
    #[must_use]
    pub fn hiding(self, secret: &str) -> Self {
        Self {
            error: Arc::new(Arc::unwrap_or_clone(self.error).hiding(secret)),
            ..self
        }
    }

    /// Whether the same request may pass later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Retryable | Kind::Unreachable(_))
    }
}

/// Reads an answer.
///
/// # Errors
/// Any status but 2xx, a 2xx that is not the ingest's, and a 2xx whose body reports a failure.
pub fn read(status: u16, content_type: &str, body: &[u8]) -> Result<Answer, Failure> {
    // A byte order mark is no JSON, though some servers send one.
    let body = body.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(body);
    // One character in another encoding must not hide the rest.
    let parsed: Option<Value> = serde_json::from_str(&String::from_utf8_lossy(body)).ok();
    if !(200..300).contains(&status) {
        return Err(failure(status, parsed, body));
    }
    if is_html(content_type, body) {
        return Err(malformed(
            status,
            "the response is an HTML page",
            kept(None, body),
        ));
    }
    let quota_limited = parsed.as_ref().is_some_and(is_quota_limited);
    let data = match parsed {
        Some(Value::Object(mut object)) => match object.get("success") {
            Some(Value::Bool(false)) => {
                let value = Value::Object(object);
                let message =
                    member(&value, "message").unwrap_or("the ingest returned success: false");
                let message = message.to_owned();
                return Err(malformed(status, &message, kept(Some(value), body)));
            }
            Some(Value::Bool(true)) => object.remove("data").unwrap_or(Value::Null),
            _ => Value::Object(object),
        },
        Some(value) => value,
        None => Value::Null,
    };
    Ok(Answer {
        data,
        status,
        quota_limited,
    })
}

fn is_quota_limited(answer: &Value) -> bool {
    let limited = answer.get("quota_limited").and_then(Value::as_array);
    limited.is_some_and(|limited| !limited.is_empty())
}

fn failure(status: u16, parsed: Option<Value>, body: &[u8]) -> Failure {
    let message = parsed
        .as_ref()
        .and_then(|value| member(value, "message"))
        .map(str::to_owned);
    let code = parsed
        .as_ref()
        .and_then(|value| member(value, "code"))
        .map(str::to_owned);
    Failure {
        error: Arc::new(Error {
            message: message.unwrap_or_else(|| format!("HTTP {status}")),
            status,
            code,
            body: kept(parsed, body),
        }),
        kind: match status {
            400 | 422 => Kind::Refused,
            413 => Kind::TooLarge,
            _ if policy::is_retryable(status) => Kind::Retryable,
            _ => Kind::Final,
        },
        retry_after: None,
    }
}

fn malformed(status: u16, message: &str, body: Option<Value>) -> Failure {
    Failure {
        error: Arc::new(Error {
            message: message.into(),
            status,
            code: Some("MALFORMED_RESPONSE".into()),
            body,
        }),
        kind: Kind::Final,
        retry_after: None,
    }
}

/// A member of the envelope's `error` object, where it is a string: its beginning.
fn member<'a>(envelope: &'a Value, name: &str) -> Option<&'a str> {
    let text = envelope.get("error")?.get(name)?.as_str()?;
    Some(&text[..text.floor_char_boundary(LONGEST_WORDS)])
}

/// Returns an error's body: JSON, or text. A long one is cut.
fn kept(parsed: Option<Value>, body: &[u8]) -> Option<Value> {
    if body.is_empty() {
        return None;
    }
    if body.len() > LONGEST_KEPT {
        let mut end = LONGEST_KEPT;
        // Not within a character, which has four bytes at most.
        while end > LONGEST_KEPT - 4 && body[end] & 0b1100_0000 == 0b1000_0000 {
            end -= 1;
        }
        return Some(text(&body[..end]));
    }
    Some(parsed.unwrap_or_else(|| text(body)))
}

fn text(body: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(body).into_owned())
}

fn is_html(content_type: &str, body: &[u8]) -> bool {
    let content_type = content_type.trim_start().to_ascii_lowercase();
    content_type.starts_with("text/html")
        || content_type.starts_with("application/xhtml")
        || body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_success_is_unwrapped_to_its_data() {
        let cases = [
            (
                r#"{"success":true,"data":{"accepted":2},"more":1}"#,
                json!({"accepted": 2}),
            ),
            (r#"{"success":true}"#, Value::Null),
            (r#"{"flags":[]}"#, json!({"flags": []})),
            ("[1]", json!([1])),
            ("", Value::Null),
            ("nonsense", Value::Null),
        ];
        for (body, data) in cases {
            assert_eq!(
                read(200, "application/json", body.as_bytes()),
                Ok(Answer {
                    data,
                    status: 200,
                    quota_limited: false
                }),
                "{body}"
            );
        }
    }

    #[test]
    fn a_page_is_no_success_whatever_its_status_says() {
        for (content_type, body) in [
            ("text/HTML; charset=utf-8", ""),
            ("", " \n<!doctype html>"),
            ("", "\u{FEFF}<html>"),
        ] {
            let failure = read(200, content_type, body.as_bytes()).unwrap_err();
            assert_eq!(failure.error.code.as_deref(), Some("MALFORMED_RESPONSE"));
            assert_eq!(failure.kind, Kind::Final);
        }
    }

    #[test]
    fn success_false_is_an_error_with_a_2xx_too() {
        let failure = read(200, "application/json", br#"{"success":false}"#).unwrap_err();
        assert_eq!(failure.error.code.as_deref(), Some("MALFORMED_RESPONSE"));
        assert_eq!(failure.error.body, Some(json!({"success": false})));
    }

    #[test]
    fn an_error_answer_gives_its_code_and_message() {
        let body = br#"{"success":false,"error":{"code":"INVALID_KEY","message":"unknown key"}}"#;
        let failure = read(401, "application/json", body).unwrap_err();
        assert_eq!(failure.error.code.as_deref(), Some("INVALID_KEY"));
        assert_eq!(failure.error.message, "unknown key");
        assert_eq!(failure.kind, Kind::Final);
    }

    #[test]
    fn without_an_envelope_the_message_is_the_status() {
        let failure = read(503, "text/html", b"<h1>busy</h1>").unwrap_err();
        assert_eq!(failure.error.message, "HTTP 503");
        assert_eq!(failure.error.code, None);
        assert_eq!(failure.error.body, Some(json!("<h1>busy</h1>")));
        assert_eq!(failure.kind, Kind::Retryable);
    }

    #[test]
    fn of_a_long_body_an_error_has_the_beginning_as_a_string() {
        let body = |filler: usize| {
            format!(
                r#"{{"error":{{"message":"m"}},"x":"{}"}}"#,
                "ü".repeat(filler)
            )
        };
        let kept = |body: &str| {
            let failure = read(500, "", body.as_bytes()).unwrap_err();
            assert_eq!(failure.error.message, "m");
            failure.error.body.clone().expect("a body")
        };
        let longest = body(32_000);
        assert!(longest.len() <= LONGEST_KEPT && kept(&longest).is_object());
        for more in [0, 1] {
            let longer = format!("{}{}", " ".repeat(more), body(500_000));
            let text = kept(&longer).as_str().expect("text").to_owned();
            assert!(longer.starts_with(&text));
            assert!((LONGEST_KEPT - 1..=LONGEST_KEPT).contains(&text.len()));
        }
        let failure = read(200, "text/html", "<".repeat(1 << 20).as_bytes()).unwrap_err();
        let text = failure.error.body.clone().expect("a body");
        assert_eq!(text.as_str().map(str::len), Some(LONGEST_KEPT));
        let failure = read(500, "", &[0xBF; 1 << 17]).unwrap_err();
        assert!(failure.error.body.is_some());
    }

    #[test]
    fn a_long_message_is_cut() {
        let body = format!(
            r#"{{"error":{{"message":"{0}","code":"{0}"}}}}"#,
            "ü".repeat(50_000)
        );
        let error = read(500, "", body.as_bytes()).unwrap_err().error;
        assert_eq!(error.message.len(), LONGEST_WORDS);
        assert_eq!(error.code.as_deref().map(str::len), Some(LONGEST_WORDS));
    }

    #[test]
    fn a_redirect_is_an_error() {
        let failure = read(302, "", b"").unwrap_err();
        assert_eq!((failure.error.status, failure.kind), (302, Kind::Final));
    }

    #[test]
    fn a_status_says_what_to_do() {
        let cases = [
            (400, Kind::Refused),
            (401, Kind::Final),
            (404, Kind::Final),
            (408, Kind::Retryable),
            (413, Kind::TooLarge),
            (422, Kind::Refused),
            (429, Kind::Retryable),
            (500, Kind::Retryable),
        ];
        for (status, kind) in cases {
            assert_eq!(read(status, "", b"").unwrap_err().kind, kind, "{status}");
        }
    }

    #[test]
    fn a_quota_is_limited_by_a_list_at_the_top_alone() {
        let cases: [(&[u8], bool); 7] = [
            (
                br#"{"success":true,"data":{},"quota_limited":["events"]}"#,
                true,
            ),
            (
                b"{\"quota_limited\":[\"events\"],\"message\":\"d\xE9pass\xE9\"}",
                true,
            ),
            (b"\xEF\xBB\xBF{\"quota_limited\":[\"events\"]}", true),
            (br#"{"quota_limited":["events"]}"#, true),
            (br#"{"quota_limited":[]}"#, false),
            (br#"{"quota_limited":true}"#, false),
            (
                br#"{"success":true,"data":{"quota_limited":["events"]}}"#,
                false,
            ),
        ];
        for (body, limited) in cases {
            let answer = read(200, "application/json", body).unwrap();
            assert_eq!(answer.quota_limited, limited);
        }
    }
}
