//! One HTTP client on the current tokio runtime: no redirects, no environment unless asked for, answers up to
//! 1 MiB, decoded where they are gzip'd.

use crate::config::{HttpConfig, Proxy};
use crate::http::policy;
use crate::http::resolver::{is_no_such_host, SystemResolver};
use crate::http::response::{self, Answer, Failure, Unreachable};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use reqwest::dns::Resolve;
use reqwest::header::{
    HeaderMap, HeaderValue, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER,
};
use reqwest::{redirect, Method, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::ClientConfig;
use std::error::Error as _;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Which client a request is from.
const USER_AGENT: &str = concat!("billdogeng-elixir/", env!("CARGO_PKG_VERSION"));

/// Headers of one response. Proxies add to those of an ingest.
const MOST_HEADERS: usize = 1_000;

/// After the time-out, for what has arrived by then.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// A client for one host. Connections stay with the runtime that they were opened on.
pub struct Http {
    client: reqwest::Client,
    timeout: Duration,
}

impl Http {
    /// Fails only where TLS can't be set up for an `https` host.
    pub fn new(config: &HttpConfig) -> Result<Self, Failure> {
        Self::with_resolver(config, Arc::new(SystemResolver::new()))
    }

    /// The same, with names resolved by another than the system's resolver.
    pub fn with_resolver(config: &HttpConfig, resolver: Arc<dyn Resolve>) -> Result<Self, Failure> {
        let tls = match Self::tls(config).map_err(Failure::network)? {
            Some(tls) => tls,
            None => Arc::clone(&verifying_tls().0),
        };
        let client = reqwest::Client::builder();
        let client = match &config.proxy {
            Proxy::None => client.no_proxy(),
            Proxy::Environment => client,
            Proxy::Address(_) => {
                let proxy = Self::proxy(config);
                match proxy.map_err(Failure::network)? {
                    Some(proxy) => client.proxy(proxy),
                    None => client,
                }
            }
        };
        let client = client
            .tls_backend_preconfigured(ClientConfig::clone(&tls))
            .http1_only()
            // The ingest has stored the batch: a malformed header, of a proxy for example, must not send it again.
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_max_headers(MOST_HEADERS)
            .redirect(redirect::Policy::none())
            .referer(false)
            .dns_resolver(resolver)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| failure_of(&error))?;
        Ok(Self {
            client,
            timeout: config.request_timeout,
        })
    }

    /// The proxy of this address, if there is to be one.
    pub fn proxy(config: &HttpConfig) -> Result<Option<reqwest::Proxy>, String> {
        let Proxy::Address(address) = &config.proxy else {
            return Ok(None);
        };
        let proxy = reqwest::Proxy::all(address);
        proxy
            .map(Some)
            .map_err(|error| failure_of(&error).error.message.clone())
    }

    /// The trusted certificates, without the system's, which take a while to read.
    pub fn tls(config: &HttpConfig) -> Result<Option<Arc<ClientConfig>>, String> {
        let scheme = config.host.get(..6).unwrap_or_default();
        match &config.cacertfile {
            _ if !scheme.eq_ignore_ascii_case("https:") => Ok(Some(Arc::clone(rootless_tls()))),
            Some(path) => tls_of_file(path).map(Some),
            None => Ok(None),
        }
    }

    /// One attempt, answered within the request's time-out.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        mut headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Answer, Failure> {
        headers
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static("identity"));
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let exchange = async {
            let response = request.send().await.map_err(|error| failure_of(&error))?;
            read(response).await
        };
        within(self.timeout, exchange).await.unwrap_or_else(|| {
            let ms = self.timeout.as_millis();
            Err(Failure::network(format!(
                "no response within request_timeout ({ms} ms)"
            )))
        })
    }
}

/// The result of an exchange, if there is one in time.
async fn within<T>(timeout: Duration, exchange: impl Future<Output = T>) -> Option<T> {
    let mut exchange = pin!(exchange);
    if let Ok(result) = tokio::time::timeout(timeout, &mut exchange).await {
        return Some(result);
    }
    // A machine that was suspended wakes up after the time-out, with the response received but not read.
    tokio::time::timeout(LAST_LOOK, exchange).await.ok()
}

async fn read(mut response: Response) -> Result<Answer, Failure> {
    let status = response.status().as_u16();
    let content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| policy::retry_after(value.as_bytes(), SystemTime::now()));
    let gzipped = response
        .headers()
        .get(CONTENT_ENCODING)
        .is_some_and(|value| is_gzip(value.as_bytes()));
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure_of(&error))? {
        let room = response::LONGEST_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    let answer = match gzipped {
        true => response::read(status, &content_type, &decoded(&body)),
        false => response::read(status, &content_type, &body),
    };
    answer.map_err(|failure| Failure {
        retry_after,
        ..failure
    })
}

/// Though `identity` was asked for. Of several encodings none is undone.
fn is_gzip(encoding: &[u8]) -> bool {
    let encoding = encoding.trim_ascii();
    encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip")
}

/// As much as is decoded before an error or a body's bound.
fn decoded(body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let _ = MultiGzDecoder::new(body)
        .take(response::LONGEST_BODY as u64)
        .read_to_end(&mut decoded);
    decoded
}

/// The innermost cause is the clearest: "Connection refused (os error 111)".
fn failure_of(error: &reqwest::Error) -> Failure {
    let mut message = error.to_string();
    let mut unreachable = None;
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = inner.to_string();
        let refused = inner
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        if refused {
            unreachable = Some(Unreachable::Refused);
        } else if is_no_such_host(inner) {
            unreachable = Some(Unreachable::NoSuchHost);
        } else if message.starts_with("dns error") {
            unreachable = Some(Unreachable::Other);
        }
        cause = inner.source();
    }
    match unreachable {
        Some(why) => Failure::unreachable(message, why),
        None => Failure::network(message),
    }
}

/// Whether there is an authority to trust, of `SSL_CERT_FILE`, `SSL_CERT_DIR` or the system.
pub fn has_roots() -> bool {
    verifying_tls().1
}

/// Against the roots that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, else the system's; and whether there are
/// any. Built once a VM.
fn verifying_tls() -> &'static (Arc<ClientConfig>, bool) {
    static TLS: OnceLock<(Arc<ClientConfig>, bool)> = OnceLock::new();
    TLS.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let any = !roots.is_empty();
        (tls_with(roots), any)
    })
}

fn tls_of_file(path: &Path) -> Result<Arc<ClientConfig>, String> {
    let shown = path.display();
    let certs =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certs = certs.map_err(|error| format!("cacertfile {shown} can't be read: {error}"))?;
    let mut roots = rustls::RootCertStore::empty();
    // Those that are no certificates after all would be left out in silence.
    if roots.add_parsable_certificates(certs).0 == 0 {
        return Err(format!("cacertfile {shown} has no certificate"));
    }
    Ok(tls_with(roots))
}

/// For `http` hosts, so that they work where there are no roots at all.
fn rootless_tls() -> &'static Arc<ClientConfig> {
    static TLS: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    TLS.get_or_init(|| tls_with(rustls::RootCertStore::empty()))
}

fn tls_with(roots: rustls::RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has every protocol version's cipher suites")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn a_response_that_arrived_while_the_machine_was_suspended_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = format!("http://{}", listener.local_addr().expect("bound"));
        let (events, seen) = channel();
        let (suspended, go) = channel();
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let mut lines = BufReader::new(&stream).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            events.send("request").expect("the test waits");
            let () = go.recv().expect("the test goes on");
            let response = b"HTTP/1.1 204 No Content\r\n\r\n";
            (&stream).write_all(response).expect("the client is there");
            events.send("response").expect("the test waits");
            let _ = lines.next();
        });
        let timeout = Duration::from_secs(3);
        let http = Http::new(&HttpConfig {
            host: host.clone(),
            request_timeout: timeout,
            gzip: false,
            max_retries: 0,
            proxy: Proxy::None,
            cacertfile: None,
        });
        let http = http.expect("no TLS");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let answer = runtime.expect("a runtime").block_on(async {
            // From the request to the time-out this thread, and so the client, stands still.
            tokio::spawn(async move {
                while seen.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
                suspended.send(()).expect("the server waits");
                seen.recv().expect("the server answers");
                thread::sleep(timeout);
            });
            http.send(Method::GET, &host, HeaderMap::new(), None).await
        });
        assert_eq!(answer.map(|answer| answer.status), Ok(204));
    }
}
