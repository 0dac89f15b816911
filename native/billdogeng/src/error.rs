//! The one error of a request or a flush.

use serde_json::Value;
use std::fmt;

/// Why a request failed, in the words that the caller is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// For people.
    pub message: String,
    /// The HTTP status; 0 where no answer came.
    pub status: u16,
    /// For programs: the ingest's own code, or `NETWORK_ERROR` and the like.
    pub code: Option<String>,
    /// The answer's body: parsed where it is JSON, else its text.
    pub body: Option<Value>,
}

impl Error {
    /// No answer came: the connection failed, broke or timed out.
    pub fn network(message: impl Into<String>) -> Self {
        Self::without_answer("NETWORK_ERROR", message)
    }

    /// The flush thread panicked during a flush; its events are queued still.
    pub fn panicked() -> Self {
        Self::without_answer(
            "INTERNAL_ERROR",
            "the flush thread panicked; its events are kept",
        )
    }

    /// The client has ended, and what it had begun to send with it.
    pub fn out_of_time() -> Self {
        Self::without_answer(
            "TIMEOUT",
            "the time to send after the client's end was over",
        )
    }

    /// The app has purged the client in the middle of a flush.
    pub fn purged() -> Self {
        Self::without_answer("PURGED", "the client was purged")
    }

    /// The spool's disk failed.
    pub fn spool(message: impl Into<String>) -> Self {
        Self::without_answer("SPOOL_ERROR", message)
    }

    /// The ingest stores nothing for now: the project's quota is used up.
    pub fn quota_limited() -> Self {
        Self {
            message: "the project's quota is used up: events are dropped until it is not".into(),
            status: 200,
            code: Some("QUOTA_LIMITED".into()),
            body: None,
        }
    }

    /// The same without `secret`, which an answer may have quoted. A shorter one than `SECRET_FROM`
    /// could be part of any word.
    #[must_use]
    pub fn hiding(mut self, secret: &str) -> Self {
        if secret.len() >= SECRET_FROM {
            self.message = hide(&self.message, secret);
            self.code = self.code.map(|code| hide(&code, secret));
            self.body = self.body.map(|body| hide_in(body, secret));
        }
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

/// Bytes from which on a key is worth hiding.
const SECRET_FROM: usize = 8;

const HIDDEN: &str = "[api_key]";

fn hide(text: &str, secret: &str) -> String {
    let mut hidden = text.replace(secret, HIDDEN);
    // As a text that quotes the request has it.
    let escaped = Value::from(secret).to_string();
    let escaped = &escaped[1..escaped.len() - 1];
    if escaped != secret {
        hidden = hidden.replace(escaped, HIDDEN);
    }
    // An answer that was too long to be read whole may end within it.
    let begun = (SECRET_FROM..secret.len())
        .rev()
        .filter_map(|len| secret.get(..len))
        .find(|begun| hidden.ends_with(begun));
    if let Some(begun) = begun {
        hidden.truncate(hidden.len() - begun.len());
        hidden.push_str(HIDDEN);
    }
    hidden
}

fn hide_in(value: Value, secret: &str) -> Value {
    match value {
        Value::String(text) => Value::String(hide(&text, secret)),
        Value::Array(values) => values
            .into_iter()
            .map(|value| hide_in(value, secret))
            .collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| (hide(&key, secret), hide_in(value, secret)))
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
    fn a_key_is_hidden_as_json_escapes_it_and_where_the_text_ends_within_it() {
        assert_eq!(
            hide(r#"{"k":"a\"b-1234"}"#, r#"a"b-1234"#),
            r#"{"k":"[api_key]"}"#
        );
        assert_eq!(
            hide("cut within key-12345", "key-123456789"),
            "cut within [api_key]"
        );
        assert_eq!(hide("this is no key", "key-123456789"), "this is no key");
    }

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
