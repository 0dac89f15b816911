//! The reasons for which a run ends before the end of its file, besides those of a request.

use crate::error::Error;
use std::sync::Arc;

/// Why a run ends before the end of its file.
pub type Stop = Arc<Error>;

pub fn quota_limited() -> Stop {
    Arc::new(Error {
        message: "the project's quota is used up: the ingest stored nothing of the request".into(),
        ..Error::quota_limited()
    })
}

pub fn panicked() -> Stop {
    Arc::new(Error {
        message: "the thread that sends the file panicked: report this".into(),
        ..Error::panicked()
    })
}

pub fn cancelled() -> Stop {
    file_error("the run was cancelled".to_owned())
}

pub fn file_error(message: String) -> Stop {
    Arc::new(Error::file(message))
}
