//! A body as it goes on the wire.

use crate::config::{Config, Endpoint};
use crate::event::json;
use crate::queue::batch::Batch;
use bytes::Bytes;
use libdeflater::{CompressionLvl, Compressor};
use reqwest::header::{HeaderMap, HeaderValue, CONTENT_ENCODING, CONTENT_TYPE};
use std::sync::{Mutex, PoisonError};

/// Smaller bodies are not worth compressing.
const GZIP_FROM: usize = 1024;

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
        let mut press = Press::take();
        let body = &mut press.body;
        body.reserve(batch.bytes() + batch.len() + config.api_key.len() + 40);
        body.extend_from_slice(b"{\"api_key\":");
        json::write_str(body, config.api_key.as_bytes());
        body.push(b',');
        match config.endpoint {
            Endpoint::Events => {
                body.extend_from_slice(b"\"events\":[");
                batch.write_to(body);
                body.extend_from_slice(b"]}");
            }
            Endpoint::PersonUpdates => {
                let brace = body.len();
                batch.write_to(body);
                body.remove(brace);
            }
        }
        let payload = press.payload(config.http.gzip);
        press.put_away();
        payload
    }

    /// The body of a single request.
    pub fn of_body(body: Vec<u8>, gzip: bool) -> Self {
        let mut press = Press::take();
        press.body = body;
        let payload = press.payload(gzip);
        press.put_away();
        payload
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

/// The buffers in which bodies are made and compressed. They are reused: memory that is new to the process costs a page fault for each
/// 4 KiB, and to give it back holds up the VM's threads on all processors.
struct Press {
    body: Vec<u8>,
    /// As long as it ever had to be.
    packed: Vec<u8>,
    compressor: Compressor,
}

impl Press {
    /// Those that lie idle in this VM.
    const KEPT: usize = 2;
    /// Bytes of one body's buffers, up to which they are kept.
    const KEPT_BYTES: usize = 4 * 1024 * 1024;

    fn idle() -> &'static Mutex<Vec<Self>> {
        static IDLE: Mutex<Vec<Press>> = Mutex::new(Vec::new());
        &IDLE
    }

    fn take() -> Self {
        let idle = Self::idle()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.unwrap_or_else(|| Self {
            body: Vec::new(),
            packed: Vec::new(),
            // Level 1: of events, a sixth of the bytes at four times the speed of level 6. Not `fastest()`: that
            // is level 0, which compresses nothing.
            compressor: Compressor::new(CompressionLvl::new(1).expect("it has a level 1")),
        })
    }

    fn put_away(mut self) {
        self.body.clear();
        let mut idle = Self::idle().lock().unwrap_or_else(PoisonError::into_inner);
        let small = self.body.capacity() + self.packed.capacity() <= Self::KEPT_BYTES;
        if small && idle.len() < Self::KEPT {
            idle.push(self);
        }
    }

    fn payload(&mut self, gzip: bool) -> Payload {
        match gzip && self.body.len() >= GZIP_FROM {
            true => Payload {
                body: self.gzip(),
                gzipped: true,
            },
            false => Payload {
                body: std::mem::take(&mut self.body).into(),
                gzipped: false,
            },
        }
    }

    fn gzip(&mut self) -> Bytes {
        let bound = self.compressor.gzip_compress_bound(self.body.len());
        if self.packed.len() < bound {
            self.packed.resize(bound, 0);
        }
        let len = self
            .compressor
            .gzip_compress(&self.body, &mut self.packed)
            .expect("the bound is enough");
        Bytes::copy_from_slice(&self.packed[..len])
    }
}
