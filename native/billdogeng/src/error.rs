//! The one error of a request or a flush.

use crate::http::redact::redact;
use serde_json::Value;
use std::fmt;

/// The reason why a request or a flush failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// A text for people.
    pub message: String,
    /// The HTTP status; 0 if there was no response.
    pub status: u16,
    /// A string for programs: the ingest's own code, or one of this library's.
    pub code: Option<String>,
    /// The response's body: parsed if it is JSON, else its text.
    pub body: Option<Value>,
}

impl Error {
    /// There was no response: the connection failed, broke or timed out.
    pub fn network(message: impl Into<String>) -> Self {
        Self::without_answer("NETWORK_ERROR", message)
    }

    /// The flush thread panicked during a flush; its events are still queued.
    pub fn panicked() -> Self {
        Self::without_answer(
            "INTERNAL_ERROR",
            "the flush thread panicked and goes on; its events are still queued",
        )
    }

    /// The client has ended before all events of a flush were sent.
    pub fn out_of_time() -> Self {
        Self::without_answer(
            "ENDED",
            "the client has ended, and shutdown_timeout was over before all events were sent",
        )
    }

    /// The app has purged the client during a flush.
    pub fn purged() -> Self {
        Self::without_answer("PURGED", "the client was purged during the flush")
    }

    /// The spool's disk failed.
    pub fn spool(message: impl Into<String>) -> Self {
        Self::without_answer("SPOOL_ERROR", message)
    }

    /// A file of events can't be read, or what belongs beside it can't be written.
    pub fn file(message: impl Into<String>) -> Self {
        Self::without_answer("FILE_ERROR", message)
    }

    /// The project's quota is used up, and the ingest stores nothing.
    pub fn quota_limited() -> Self {
        Self {
            message: "the project's quota is used up: events are dropped until the ingest accepts them again".into(),
            status: 200,
            code: Some("QUOTA_LIMITED".into()),
            body: None,
        }
    }

    /// Returns the error without `secret`, which a response may quote.
    #[must_use]
    pub fn hiding(mut self, secret: &str) -> Self {
        self.message = redact(&self.message, secret);
        self.code = self.code.map(|code| redact(&code, secret));
        self.body = self.body.map(|body| redact_in(body, secret));
        self
    }

    fn without_answer(code: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: 0,
            code: Some(code.into()),
            body: None,
        }
    }
}

fn redact_in(value: Value, secret: &str) -> Value {
    match value {
        Value::String(text) => Value::String(redact(&text, secret)),
        Value::Array(values) => values
            .into_iter()
            .map(|value| redact_in(value, secret))
            .collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| (redact(&key, secret), redact_in(value, secret)))
            .collect(),
        other => other,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quoted_key_is_hidden_wherever_it_stands() {
        let error = Error {
            message: "no project has the key key-1234".into(),
            status: 401,
            code: None,
            body: Some(json!({"error": ["key-1234", {"key-1234": 1}]})),
        };
        let hidden = error.hiding("key-1234");
        assert_eq!(hidden.message, "no project has the key [api_key]");
        assert_eq!(
            hidden.body,
            Some(json!({"error": ["[api_key]", {"[api_key]": 1}]}))
        );
    }
}
