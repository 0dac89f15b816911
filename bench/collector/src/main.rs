//! An ingest that only counts what it gets.
//!
//! ```text
//! POST anything        the events of its body are counted; `{"success":true,"data":{"accepted":N}}`
//! GET  /count          `{"events":N,"requests":N,"bytes":N,"json_bytes":N,"refused":N}`
//! POST /reset          all of them are 0 again
//! POST /delay/MS       from now on, batches are answered MS later
//! ```
//!
//! It listens on a free port of loopback, which its first line names, and ends with its standard input:
//! so it never outlives the program that started it.

mod count;
mod http;

use http::{Connection, Request};
use libdeflater::Decompressor;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

struct Counts {
    events: AtomicU64,
    requests: AtomicU64,
    /// Of the bodies as they came.
    bytes: AtomicU64,
    /// Of the bodies unpacked.
    json_bytes: AtomicU64,
    /// Requests whose body was no batch of events.
    refused: AtomicU64,
}

/// ms that pass before the answer to a batch, as on the way to an ingest that is far away.
static DELAY: AtomicU64 = AtomicU64::new(0);

static COUNTS: Counts = Counts {
    events: AtomicU64::new(0),
    requests: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
    json_bytes: AtomicU64::new(0),
    refused: AtomicU64::new(0),
};

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("listening on {}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    for stream in listener.incoming().flatten() {
        // A thread for each: a client has one connection, and a blocking read wakes sooner than a poll.
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}

/// Until the peer closes, or sends what isn't HTTP.
fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut connection = Connection::new(stream);
    let mut unpacker = Unpacker::default();
    while let Some(request) = connection.next()? {
        let (status, body) = answer(&request, &mut unpacker);
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
        writer
            .write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn answer(request: &Request, unpacker: &mut Unpacker) -> (&'static str, String) {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/count") => ("200 OK", counts()),
        ("POST", "/reset") => {
            for count in each() {
                count.1.store(0, Relaxed);
            }
            ("200 OK", "{}".into())
        }
        ("POST", path) => match path.strip_prefix("/delay/").map(str::parse) {
            Some(Ok(ms)) => {
                DELAY.store(ms, Relaxed);
                ("200 OK", "{}".into())
            }
            Some(Err(_)) => ("400 Bad Request", "{}".into()),
            None => {
                std::thread::sleep(Duration::from_millis(DELAY.load(Relaxed)));
                take(request, unpacker)
            }
        },
        _ => ("404 Not Found", "{}".into()),
    }
}

fn take(request: &Request, unpacker: &mut Unpacker) -> (&'static str, String) {
    let json = match request.gzip {
        true => unpacker.unpack(request.body),
        false => Some(request.body),
    };
    COUNTS.requests.fetch_add(1, Relaxed);
    COUNTS.bytes.fetch_add(request.body.len() as u64, Relaxed);
    match json.and_then(|json| Some((json.len(), count::events(json)?))) {
        Some((bytes, events)) => {
            COUNTS.json_bytes.fetch_add(bytes as u64, Relaxed);
            COUNTS.events.fetch_add(events, Relaxed);
            let body = format!("{{\"success\":true,\"data\":{{\"accepted\":{events}}}}}");
            ("200 OK", body)
        }
        None => {
            COUNTS.refused.fetch_add(1, Relaxed);
            let error = r#"{"code":"MALFORMED","message":"the body is no batch"}"#;
            (
                "400 Bad Request",
                format!("{{\"success\":false,\"error\":{error}}}"),
            )
        }
    }
}

fn each() -> [(&'static str, &'static AtomicU64); 5] {
    [
        ("events", &COUNTS.events),
        ("requests", &COUNTS.requests),
        ("bytes", &COUNTS.bytes),
        ("json_bytes", &COUNTS.json_bytes),
        ("refused", &COUNTS.refused),
    ]
}

fn counts() -> String {
    let members = each().map(|(name, count)| format!("\"{name}\":{}", count.load(Relaxed)));
    format!("{{{}}}", members.join(","))
}

/// Unpacks gzip into a buffer that it keeps.
struct Unpacker {
    decompressor: Decompressor,
    out: Vec<u8>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self {
            decompressor: Decompressor::new(),
            out: Vec::new(),
        }
    }
}

impl Unpacker {
    fn unpack(&mut self, body: &[u8]) -> Option<&[u8]> {
        // A gzip member ends in its length unpacked (RFC 1952, ISIZE).
        let isize = body.last_chunk().map(|tail| u32::from_le_bytes(*tail))? as usize;
        if isize > http::LARGEST_BODY {
            return None;
        }
        if self.out.len() < isize {
            self.out.resize(isize, 0);
        }
        let len = self
            .decompressor
            .gzip_decompress(body, &mut self.out)
            .ok()?;
        Some(&self.out[..len])
    }
}
