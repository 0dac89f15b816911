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
        Self::without_answer("INTERNAL_ERROR", "the flush thread panicked; its events are kept")
    }

    fn without_answer(code: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 0, code: Some(code.into()), body: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
