//! What an answer means: success, or which error.

use crate::error::Error;
use crate::policy;
use serde_json::Value;

/// Of a longer body the rest is discarded, unread by anyone.
pub const LONGEST_BODY: usize = 1024 * 1024;

/// An attempt that did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What the caller is told.
    pub error: Error,
    /// Whether the same request may pass later.
    pub retryable: bool,
    /// Whether nobody is there: the connection is refused or the host's name unknown.
    pub unreachable: bool,
}

impl Failure {
    /// No answer came.
    pub fn network(message: impl Into<String>, unreachable: bool) -> Self {
        Self {
            error: Error::network(message),
            retryable: true,
            unreachable,
        }
    }
}

/// Reads an answer. A success gives its data, unwrapped from `{"success": true, "data": …}`.
pub fn read(status: u16, content_type: &str, body: &[u8]) -> Result<Value, Failure> {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    if !(200..300).contains(&status) {
        let retryable = policy::is_retryable(status);
        return Err(failure(status, retryable, parsed, body));
    }
    if is_html(content_type, body) {
        return Err(malformed(
            status,
            "the answer is an HTML page, not the ingest's",
            text(body),
        ));
    }
    match parsed {
        Some(Value::Object(mut object)) => match object.get("success") {
            Some(Value::Bool(false)) => {
                let value = Value::Object(object);
                let message =
                    member(&value, "message").unwrap_or("the ingest answered success: false");
                let message = message.to_owned();
                Err(malformed(status, &message, Some(value)))
            }
            Some(Value::Bool(true)) => Ok(object.remove("data").unwrap_or(Value::Null)),
            _ => Ok(Value::Object(object)),
        },
        Some(value) => Ok(value),
        None => Ok(Value::Null),
    }
}

fn failure(status: u16, retryable: bool, parsed: Option<Value>, body: &[u8]) -> Failure {
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
        retryable,
        unreachable: false,
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
        retryable: false,
        unreachable: false,
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
                Ok(data),
                "{body}"
            );
        }
    }

    #[test]
    fn a_page_is_no_success_whatever_its_status_says() {
        for (content_type, body) in [("text/HTML; charset=utf-8", ""), ("", " \n<!doctype html>")] {
            let failure = read(200, content_type, body.as_bytes()).unwrap_err();
            assert_eq!(failure.error.code.as_deref(), Some("MALFORMED_RESPONSE"));
            assert!(!failure.retryable);
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
        assert!(!failure.retryable);
    }

    #[test]
    fn without_an_envelope_the_message_is_the_status() {
        let failure = read(503, "text/html", b"<h1>busy</h1>").unwrap_err();
        assert_eq!(failure.error.message, "HTTP 503");
        assert_eq!(failure.error.code, None);
        assert_eq!(failure.error.body, Some(json!("<h1>busy</h1>")));
        assert!(failure.retryable);
    }

    #[test]
    fn a_redirect_is_an_error() {
        let failure = read(302, "", b"").unwrap_err();
        assert_eq!((failure.error.status, failure.retryable), (302, false));
    }
}
