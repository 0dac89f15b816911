//! Requests off a connection that stays open (HTTP/1.1), with their length given or in chunks.

use std::io::{self, ErrorKind, Read};

/// No client here has a larger one.
pub const LARGEST_BODY: usize = 256 * 1024 * 1024;
/// How much is read at a time, at least.
const READ: usize = 256 * 1024;

/// One request; its body lies in the connection's buffer.
pub struct Request<'a> {
    pub method: String,
    pub path: String,
    pub gzip: bool,
    /// The peer wants no other answer on this connection.
    pub close: bool,
    pub body: &'a [u8],
}

/// The reading half of a connection.
pub struct Connection<R> {
    reader: R,
    buffer: Vec<u8>,
    /// The part of the buffer that is not consumed.
    from: usize,
    to: usize,
    /// A body that came in chunks, put together.
    joined: Vec<u8>,
}

#[derive(Default)]
struct Head {
    method: String,
    path: String,
    length: usize,
    chunked: bool,
    gzip: bool,
    close: bool,
}

impl<R: Read> Connection<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: vec![0; READ],
            from: 0,
            to: 0,
            joined: Vec::new(),
        }
    }

    /// The next request, or `None` after the last.
    pub fn next(&mut self) -> io::Result<Option<Request<'_>>> {
        let Some(end) = self.find(b"\r\n\r\n")? else {
            return Ok(None);
        };
        let head = Head::parse(&self.buffer[self.from..end])?;
        self.from = end;
        let chunked = head.chunked;
        let body = if chunked {
            self.join_chunks()?;
            self.joined.as_slice()
        } else {
            let at = self.take(head.length)?;
            &self.buffer[at..at + head.length]
        };
        Ok(Some(Request {
            method: head.method,
            path: head.path,
            gzip: head.gzip,
            close: head.close,
            body,
        }))
    }

    fn join_chunks(&mut self) -> io::Result<()> {
        self.joined.clear();
        loop {
            let end = self.find(b"\r\n")?.ok_or(ErrorKind::UnexpectedEof)?;
            let line = text(&self.buffer[self.from..end])?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| ErrorKind::InvalidData)?;
            self.from = end;
            // Each chunk ends in a line's end, and so do the trailers, of which no client here sends any.
            let at = self.take(size.min(LARGEST_BODY) + 2)?;
            self.joined.extend_from_slice(&self.buffer[at..at + size]);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Where the first `mark` ends; `None` if the peer closes before it sends anything.
    fn find(&mut self, mark: &[u8]) -> io::Result<Option<usize>> {
        let mut seen = 0;
        loop {
            let held = &self.buffer[self.from..self.to];
            let found = held[seen..].windows(mark.len()).position(|at| at == mark);
            if let Some(found) = found {
                return Ok(Some(self.from + seen + found + mark.len()));
            }
            seen = held.len().saturating_sub(mark.len() - 1);
            if held.len() > READ {
                return Err(ErrorKind::InvalidData.into());
            }
            let nothing = held.is_empty();
            match self.fill(1) {
                Err(error) if nothing && error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(None)
                }
                result => result?,
            }
        }
    }

    /// Uses up the next `len` bytes; answers where they lie in the buffer.
    fn take(&mut self, len: usize) -> io::Result<usize> {
        if len > LARGEST_BODY + 2 {
            return Err(ErrorKind::InvalidData.into());
        }
        let held = self.to - self.from;
        if held < len {
            self.fill(len - held)?;
        }
        self.from += len;
        Ok(self.from - len)
    }

    /// Reads `more` bytes at least.
    fn fill(&mut self, more: usize) -> io::Result<()> {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        let wanted = self.to + more;
        if self.buffer.len() < wanted + READ {
            self.buffer.resize(wanted + READ, 0);
        }
        while self.to < wanted {
            match self.reader.read(&mut self.buffer[self.to..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.to += read,
            }
        }
        Ok(())
    }
}

impl Head {
    fn parse(head: &[u8]) -> io::Result<Self> {
        let mut lines = text(head)?.split("\r\n");
        let mut parts = lines.next().unwrap_or_default().split(' ');
        let mut this = Self {
            method: parts.next().unwrap_or_default().to_owned(),
            path: parts.next().unwrap_or_default().to_owned(),
            ..Self::default()
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let named = |other: &str| name.eq_ignore_ascii_case(other);
            if named("content-length") {
                this.length = value.parse().map_err(|_| ErrorKind::InvalidData)?;
            } else if named("transfer-encoding") {
                this.chunked = value.eq_ignore_ascii_case("chunked");
            } else if named("content-encoding") {
                this.gzip = value.eq_ignore_ascii_case("gzip");
            } else if named("connection") {
                this.close = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(this)
    }
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one at a time, as a slow network might.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut out[..1])
        }
    }

    const TWO: &[u8] = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
        POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n\
        2\r\nde\r\n1;x=y\r\nf\r\n0\r\n\r\n";

    fn read_both(reader: impl Read) {
        let mut connection = Connection::new(reader);
        let first = connection.next().unwrap().unwrap();
        assert_eq!((first.path.as_str(), first.body), ("/a", &b"abc"[..]));
        assert!(!first.gzip && !first.close);
        let second = connection.next().unwrap().unwrap();
        assert_eq!((second.path.as_str(), second.body), ("/b", &b"def"[..]));
        assert!(second.gzip && second.close);
        assert!(connection.next().unwrap().is_none());
    }

    #[test]
    fn requests_follow_each_other_on_a_connection() {
        read_both(TWO);
    }

    #[test]
    fn requests_may_come_byte_by_byte() {
        read_both(Slow(TWO));
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        let cut = &b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc"[..];
        assert!(Connection::new(cut).next().is_err());
    }
}
