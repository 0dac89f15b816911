//! What an answer means: success, or which error.

use crate::error::Error;
use crate::policy;
use serde_json::Value;
use std::time::Duration;

/// Of a longer body the rest is discarded, unread by anyone.
pub const LONGEST_BODY: usize = 1024 * 1024;

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
    /// What the caller is told.
    pub error: Error,
    /// What to do about it.
    pub kind: Kind,
    /// How long the ingest asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The same request may pass later.
    Retryable,
    /// As `Retryable`, but nobody is there: the connection is refused or the host's name unknown.
    Unreachable,
    /// Something in the body is refused (400, 422): perhaps one event's fault.
    Refused,
    /// There is too much of it (413).
    TooLarge,
    /// No attempt helps: the key, the address, the ingest's own words.
    Final,
}

impl Failure {
    /// No answer came.
    pub fn network(message: impl Into<String>, unreachable: bool) -> Self {
        Self {
            error: Error::network(message),
            kind: if unreachable {
                Kind::Unreachable
            } else {
                Kind::Retryable
            },
            retry_after: None,
        }
    }

    /// The same without `secret`: see [`Error::hiding`].
    #[must_use]
    pub fn hiding(self, secret: &str) -> Self {
        Self {
            error: self.error.hiding(secret),
            ..self
        }
    }

    /// Whether the same request may pass later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Retryable | Kind::Unreachable)
    }
}

/// Reads an answer.
///
/// # Errors
/// Any status but 2xx; a 2xx that isn't the ingest's, or says itself that it is none.
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
            "the answer is an HTML page, not the ingest's",
            text(body),
        ));
    }
    let quota_limited = parsed.as_ref().is_some_and(is_quota_limited);
    let data = match parsed {
        Some(Value::Object(mut object)) => match object.get("success") {
            Some(Value::Bool(false)) => {
                let value = Value::Object(object);
                let message =
                    member(&value, "message").unwrap_or("the ingest answered success: false");
                let message = message.to_owned();
                return Err(malformed(status, &message, Some(value)));
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
        error: Error {
            message: message.unwrap_or_else(|| format!("HTTP {status}")),
            status,
            code,
            body: parsed.or_else(|| text(body)),
        },
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
        error: Error {
            message: message.into(),
            status,
            code: Some("MALFORMED_RESPONSE".into()),
            body,
        },
        kind: Kind::Final,
        retry_after: None,
    }
}

/// A member of the envelope's `error` object, where it is a string.
fn member<'a>(envelope: &'a Value, name: &str) -> Option<&'a str> {
    envelope.get("error")?.get(name)?.as_str()
}

fn text(body: &[u8]) -> Option<Value> {
    (!body.is_empty()).then(|| Value::String(String::from_utf8_lossy(body).into_owned()))
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
