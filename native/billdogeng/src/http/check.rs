//! Whether requests can be made with a client's options, found out by those who will make them.

use crate::config::HttpConfig;
use crate::http::client::Http;
use crate::http::request;
use reqwest::Url;

/// An option that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// [`HttpConfig::host`].
    Host,
    /// [`HttpConfig::proxy`].
    Proxy,
    /// [`HttpConfig::cacertfile`].
    CaCertFile,
    /// [`crate::Config::api_key`].
    ApiKey,
}

/// Checks what a client is given for its requests.
///
/// # Errors
/// The option, and what is wrong with it: never its value.
pub fn check(http: &HttpConfig, api_key: &str) -> Result<(), (Unusable, String)> {
    let refused = |option| move |reason: String| (option, reason);
    let url = Url::parse(&http.host).map_err(|error| (Unusable::Host, error.to_string()))?;
    if !url.has_host() {
        return Err((Unusable::Host, "it has no host".into()));
    }
    request::header(b"x-api-key", api_key.as_bytes()).map_err(refused(Unusable::ApiKey))?;
    Http::proxy(http).map_err(refused(Unusable::Proxy))?;
    Http::tls(http).map_err(refused(Unusable::CaCertFile))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Proxy};

    fn config() -> HttpConfig {
        Config::unlimited("https://api.billdog.io/v1").http
    }

    fn unusable(change: impl FnOnce(&mut HttpConfig)) -> Option<Unusable> {
        let mut http = config();
        change(&mut http);
        check(&http, "key").err().map(|(option, reason)| {
            assert!(!reason.contains("s3cret"), "{reason}");
            option
        })
    }

    #[test]
    fn what_requests_can_be_made_with_passes() {
        assert_eq!(unusable(|_| ()), None);
        assert_eq!(
            unusable(|http| http.host = "http://[::1]:9/v1/".into()),
            None
        );
        let address = "http://me:s3cret@proxy:3128".to_owned();
        assert_eq!(unusable(|http| http.proxy = Proxy::Address(address)), None);
    }

    #[test]
    fn what_they_can_not_be_made_with_is_named_without_its_value() {
        for host in [
            "http://256.1.1.1",
            "http://a:s3cret@",
            "http://xn--a-ecp.ru",
            "http://a:99999",
        ] {
            assert_eq!(
                unusable(|http| http.host = host.into()),
                Some(Unusable::Host),
                "{host}"
            );
        }
        let address = "http://me:s3cret@256.1.1.1".to_owned();
        assert_eq!(
            unusable(|http| http.proxy = Proxy::Address(address)),
            Some(Unusable::Proxy)
        );
        assert_eq!(
            check(&config(), "a\nb").map_err(|(option, _)| option),
            Err(Unusable::ApiKey)
        );
    }

    #[test]
    fn a_file_without_a_readable_certificate_is_named() {
        let dir = std::env::temp_dir().join(format!("billdogeng_check_{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        for (name, pem) in [
            (
                "broken",
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            ),
            (
                "garbage",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ),
            ("empty", ""),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, pem).expect("a file");
            assert_eq!(
                unusable(|http| http.cacertfile = Some(path)),
                Some(Unusable::CaCertFile),
                "{name}"
            );
        }
        let _ = std::fs::remove_dir_all(dir);
    }
}
