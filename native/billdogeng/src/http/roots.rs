//! What the environment's variables for certificate authorities name, for those who have to explain it.

use rustls::RootCertStore;
use std::env;
use std::ffi::OsString;
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
    NAMED.get_or_init(|| named(env::var_os("SSL_CERT_FILE"), env::var_os("SSL_CERT_DIR")))
}

fn named(file: Option<OsString>, dirs: Option<OsString>) -> Vec<NamedRoots> {
    let file = file.map(|file| NamedRoots {
        variable: "SSL_CERT_FILE",
        authorities: authorities(Some(Path::new(&file)), None),
        path: file.to_string_lossy().into_owned(),
    });
    let dirs = dirs.filter(|dirs| !dirs.is_empty());
    let dirs = dirs.map(|dirs| NamedRoots {
        variable: "SSL_CERT_DIR",
        authorities: env::split_paths(&dirs)
            .map(|dir| authorities(None, Some(&dir)))
            .sum(),
        path: dirs.to_string_lossy().into_owned(),
    });
    file.into_iter().chain(dirs).collect()
}

fn authorities(file: Option<&Path>, dir: Option<&Path>) -> usize {
    let certs = rustls_native_certs::load_certs_from_paths(file, dir).certs;
    RootCertStore::empty().add_parsable_certificates(certs).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    /// Made with `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1`.
    const AUTHORITY: &str = "\
        -----BEGIN CERTIFICATE-----\n\
        MIIBbzCCARWgAwIBAgIUNu9KXqV65Jyr8kXr5TYur71Msk0wCgYIKoZIzj0EAwIw\n\
        DTELMAkGA1UEAwwCY2EwHhcNMjYxMTI2MDYxMzE0WhcNMzYxMTIzMDYxMzE0WjAN\n\
        MQswCQYDVQQDDAJjYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABE8C3JQr1yNd\n\
        UpGeTR98zkEt/kr++Yoe+UkKDHV8DKHd3Gh85FcN8XBbMLsxacB8+qiJH3dMZYaB\n\
        XlJMfYzqTdujUzBRMB0GA1UdDgQWBBSNiWqq/W5pu4Pxnsdhj3yADL6G1TAfBgNV\n\
        HSMEGDAWgBSNiWqq/W5pu4Pxnsdhj3yADL6G1TAPBgNVHRMBAf8EBTADAQH/MAoG\n\
        CCqGSM49BAMCA0gAMEUCIFTq/Ze746nqZ+ZtCY+5TPNjgtkXv4qV3fCZXQe3pcQn\n\
        AiEA7AdSI+CRTZ/3cFstEK6PN5jSRAeBQmxzntA2v0yzhYM=\n\
        -----END CERTIFICATE-----\n\
        ";

    fn roots(variable: &'static str, path: &str, authorities: usize) -> NamedRoots {
        NamedRoots {
            variable,
            path: path.into(),
            authorities,
        }
    }

    #[test]
    fn the_authorities_of_a_file_and_of_several_directories_are_counted() {
        let dir = TempDir::new().unwrap();
        let dirs = ["a", "b", "none"].map(|name| dir.path().join(name));
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let file = dirs[0].join("ca.pem");
        fs::write(&file, AUTHORITY).unwrap();
        fs::write(dirs[0].join("0a0a0a0a.0"), AUTHORITY).unwrap();
        fs::write(dirs[1].join("0b0b0b0b.0"), AUTHORITY).unwrap();
        let joined = env::join_paths(&dirs).unwrap();
        let found = named(Some(file.clone().into()), Some(joined.clone()));
        let expected = [
            roots("SSL_CERT_FILE", file.to_str().unwrap(), 1),
            roots("SSL_CERT_DIR", joined.to_str().unwrap(), 2),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_variable_that_names_nothing_has_no_authority() {
        assert_eq!(named(None, None), []);
        let found = named(Some("/nowhere.pem".into()), Some("/nowhere".into()));
        let expected = [
            roots("SSL_CERT_FILE", "/nowhere.pem", 0),
            roots("SSL_CERT_DIR", "/nowhere", 0),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_empty_directory_variable_counts_as_not_set() {
        assert_eq!(named(None, Some("".into())), []);
    }
}
