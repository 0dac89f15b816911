//! What the environment's variables for certificate authorities name, for those who have to explain it.

use rustls::RootCertStore;
use std::env;
use std::path::Path;
use std::sync::OnceLock;

/// A variable that is set. Where one is, the system's authorities are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRoots {
    /// `SSL_CERT_FILE` or `SSL_CERT_DIR`.
    pub variable: &'static str,
    /// Its value.
    pub path: String,
    /// Authorities that can be read from there.
    pub authorities: usize,
}

/// Returns those that are set. Reads the certificates at the first call.
pub fn named_roots() -> &'static [NamedRoots] {
    static NAMED: OnceLock<Vec<NamedRoots>> = OnceLock::new();
    NAMED.get_or_init(|| {
        let file = env::var_os("SSL_CERT_FILE").map(|file| NamedRoots {
            variable: "SSL_CERT_FILE",
            authorities: authorities(Some(Path::new(&file)), None),
            path: file.to_string_lossy().into_owned(),
        });
        let dirs = env::var_os("SSL_CERT_DIR").filter(|dirs| !dirs.is_empty());
        let dirs = dirs.map(|dirs| NamedRoots {
            variable: "SSL_CERT_DIR",
            authorities: env::split_paths(&dirs)
                .map(|dir| authorities(None, Some(&dir)))
                .sum(),
            path: dirs.to_string_lossy().into_owned(),
        });
        file.into_iter().chain(dirs).collect()
    })
}

fn authorities(file: Option<&Path>, dir: Option<&Path>) -> usize {
    let certs = rustls_native_certs::load_certs_from_paths(file, dir).certs;
    RootCertStore::empty().add_parsable_certificates(certs).0
}
