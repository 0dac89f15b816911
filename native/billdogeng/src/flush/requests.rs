//! The requests of a client: their headers, address and connection.

use crate::config::Config;
use crate::http::client::Http;
use crate::http::payload::Payload;
use crate::http::request;
use crate::http::response::{Answer, Failure, Unreachable};
use reqwest::header::HeaderMap;
use reqwest::Method;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A request that was made.
pub type Attempt = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// Makes requests. The HTTP client is created by the first one.
pub struct Requests {
    pub(super) http: Option<Arc<Http>>,
    headers: Result<HeaderMap, String>,
    url: String,
}

impl Requests {
    pub fn new(config: &Config) -> Self {
        let key = config.api_key.as_bytes();
        let geoip = config.geoip_resolution_level.as_ref();
        let headers = [
            Some(("x-api-key", key)),
            Some(("x-billdog-api-key", key)),
            geoip.map(|level| ("x-geoip-resolution-level", level.as_bytes())),
        ];
        let headers = headers.into_iter().flatten();
        let host = config.http.host.trim_end_matches('/');
        Self {
            http: None,
            headers: headers
                .map(|(name, value)| request::header(name.as_bytes(), value))
                .collect(),
            url: format!("{host}{}", config.endpoint.path()),
        }
    }

    /// Drops the HTTP client with its connections: the next request resolves the host's name again.
    pub fn forget(&mut self) {
        self.http = None;
    }

    /// Starts a request. Returns it, and the bytes of its body.
    pub fn start(
        &mut self,
        config: &Config,
        payload: &Payload,
    ) -> Result<(Attempt, usize), Failure> {
        let http = match &self.http {
            Some(http) => Arc::clone(http),
            None => Arc::clone(self.http.insert(Arc::new(Http::new(&config.http)?))),
        };
        let mut headers = self
            .headers
            .clone()
            .map_err(|message| Failure::unreachable(message, Unreachable::Other))?;
        let (body, described) = payload.parts();
        let bytes = body.len();
        headers.extend(described);
        let url = self.url.clone();
        let send = async move { http.send(Method::POST, &url, headers, Some(body)).await };
        Ok((Box::pin(send), bytes))
    }
}
