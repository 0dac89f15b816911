//! Single requests, for any caller.

use crate::config::HttpConfig;
use crate::http::client::Http;
use crate::http::payload::Payload;
use crate::http::response::{Answer, Failure};
use crate::threads;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Method;
use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};

/// Bytes of the thread's stack.
const STACK: usize = 1024 * 1024;

/// A header from a caller's name and value.
///
/// # Errors
/// The fault, without the value.
pub fn header(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let shown = String::from_utf8_lossy(name);
    let key =
        HeaderName::from_bytes(name).map_err(|_| format!("{shown:?} is not a header name"))?;
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| format!("the value of the header {shown:?} has a control character"))?;
    value.set_sensitive(true);
    Ok((key, value))
}

/// One request for a caller that waits for its answer.
pub struct Request {
    /// How it is made.
    pub http: HttpConfig,
    /// Appended to the host.
    pub path: String,
    /// The caller's headers, beside those that describe the body.
    pub headers: HeaderMap,
    /// JSON to POST; a GET without it.
    pub body: Option<Vec<u8>>,
    /// Called once, on the transport's thread.
    pub answer: Box<dyn FnOnce(Result<Answer, Failure>) + Send>,
}

impl Request {
    async fn attempt(self) {
        let answer = self.answer;
        let result = async move {
            let http = Http::new(&self.http)?;
            let url = format!("{}{}", self.http.host.trim_end_matches('/'), self.path);
            let Some(body) = self.body else {
                return http.send(Method::GET, &url, self.headers, None).await;
            };
            let (body, mut headers) = Payload::of_body(body, self.http.gzip).parts();
            headers.extend(self.headers);
            http.send(Method::POST, &url, headers, Some(body)).await
        };
        answer(settled(result).await);
    }
}

/// The result of an attempt that may panic: its caller waits without a time-out of its own.
async fn settled(
    attempt: impl Future<Output = Result<Answer, Failure>> + Send + 'static,
) -> Result<Answer, Failure> {
    let panicked = |_| Err(Failure::network("the request panicked"));
    tokio::spawn(attempt).await.unwrap_or_else(panicked)
}

/// Makes one attempt of `request` on the VM's transport thread, started by the first one.
///
/// # Errors
/// The thread could not be started.
pub fn send(request: Request) -> io::Result<()> {
    static LANE: Mutex<Option<UnboundedSender<Request>>> = Mutex::new(None);
    let mut lane = LANE.lock().unwrap_or_else(PoisonError::into_inner);
    let rejected = match lane.as_ref() {
        Some(sender) => match sender.send(request) {
            Ok(()) => return Ok(()),
            Err(rejected) => rejected.0,
        },
        None => request,
    };
    let (sender, requests) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    threads::spawn("billdogeng-http", STACK, move || {
        runtime.block_on(serve(requests))
    })?;
    let _ = sender.send(rejected);
    *lane = Some(sender);
    Ok(())
}

async fn serve(mut requests: UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        tokio::spawn(request.attempt());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_is_answered() {
        let failure = settled(async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(failure.error.message, "the request panicked");
        assert!(failure.is_retryable());
    }
}
