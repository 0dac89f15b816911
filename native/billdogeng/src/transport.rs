//! Requests on their own: what a batch's body becomes on the wire, and single requests for any caller.

use crate::answer::{Answer, Failure};
use crate::config::{Config, Endpoint, HttpConfig};
use crate::http::Http;
use crate::queue::Batch;
use bytes::Bytes;
use libdeflater::{CompressionLvl, Compressor};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::Method;
use std::io;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};

/// Smaller bodies are not worth compressing.
pub const GZIP_FROM: usize = 1024;

/// A body ready to be sent, as often as it takes.
#[derive(Clone)]
pub struct Payload {
    body: Bytes,
    gzipped: bool,
}

impl Payload {
    /// The POST of a batch: the events between what stands around them, or an update of a person, an object
    /// that the key goes into first.
    pub fn of_batch(config: &Config, batch: &Batch) -> Self {
        let mut body = Vec::with_capacity(batch.bytes() + batch.len() + config.api_key.len() + 40);
        body.extend_from_slice(b"{\"api_key\":");
        crate::json::write_str(&mut body, config.api_key.as_bytes());
        body.push(b',');
        match config.endpoint {
            Endpoint::Events => {
                body.extend_from_slice(b"\"events\":[");
                batch.write_to(&mut body);
                body.extend_from_slice(b"]}");
            }
            Endpoint::PersonUpdates => {
                let brace = body.len();
                batch.write_to(&mut body);
                body.remove(brace);
            }
        }
        Self::new(body, config.http.gzip)
    }

    fn new(body: Vec<u8>, gzip: bool) -> Self {
        match gzip && body.len() >= GZIP_FROM {
            true => Self {
                body: compress(&body).into(),
                gzipped: true,
            },
            false => Self {
                body: body.into(),
                gzipped: false,
            },
        }
    }

    /// The body and the headers that describe it.
    pub fn parts(&self) -> (Bytes, HeaderMap) {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.gzipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        (self.body.clone(), headers)
    }
}

/// Level 1: of events, a sixth of the bytes at four times the speed of level 6.
fn compress(body: &[u8]) -> Vec<u8> {
    // Not `fastest()`: that is level 0, which compresses nothing.
    let level = CompressionLvl::new(1).expect("it has a level 1");
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(body.len())];
    let len = compressor
        .gzip_compress(body, &mut out)
        .expect("the bound is enough");
    out.truncate(len);
    out
}

/// A header from a caller's name and value.
///
/// # Errors
/// What is wrong with it, without the value.
pub fn header(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let shown = String::from_utf8_lossy(name);
    let key = HeaderName::from_bytes(name).map_err(|_| format!("{shown:?} is no header name"))?;
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| format!("the value of header {shown:?} has a control character in it"))?;
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
        let result = async {
            let http = Http::new(&self.http)?;
            let url = format!("{}{}", self.http.host.trim_end_matches('/'), self.path);
            let Some(body) = self.body else {
                return http.send(Method::GET, &url, self.headers, None).await;
            };
            let (body, mut headers) = Payload::new(body, self.http.gzip).parts();
            headers.extend(self.headers);
            http.send(Method::POST, &url, headers, Some(body)).await
        };
        (self.answer)(result.await);
    }
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
    std::thread::Builder::new()
        .name("billdogeng-http".into())
        .spawn(move || runtime.block_on(serve(requests)))?;
    let _ = sender.send(rejected);
    *lane = Some(sender);
    Ok(())
}

async fn serve(mut requests: UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        tokio::spawn(request.attempt());
    }
}
