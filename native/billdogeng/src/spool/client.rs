//! Notices that a directory's events were captured for another host or key.
//!
//! The file `client` has a salt and a slow hash of the host and the key, so that neither can be read or cheaply guessed
//! from it.

use super::files::{self, CLIENT};
use super::platform::OpenOptionsExt;
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::path::Path;

/// About 20 ms of work, once per start.
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
const SALT: usize = 16;
const HASH: usize = 32;

/// Notes the host and key that a directory's events are for. Returns whether another host or key was noted before.
///
/// # Errors
/// The file can't be read or written.
pub fn replace(dir: &Path, host: &str, api_key: &str) -> io::Result<bool> {
    let path = dir.join(CLIENT);
    // No host has this byte.
    let secret = [host.as_bytes(), b"\0", api_key.as_bytes()].concat();
    let known = match files::open(&path, OpenOptions::new().read(true)) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take((SALT + HASH) as u64 + 1)
                .read_to_end(&mut bytes)?;
            // A file that was cut off is ignored.
            (bytes.len() == SALT + HASH).then_some(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(known) = &known {
        let (salt, hash) = known.split_at(SALT);
        if pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, &secret, hash).is_ok() {
            return Ok(false);
        }
    }
    let mut bytes = [0; SALT + HASH];
    let (salt, hash) = bytes.split_at_mut(SALT);
    let random = SystemRandom::new();
    random
        .fill(salt)
        .map_err(|_| io::Error::other("the system has no random numbers"))?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, &secret, hash);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let written = files::open(&path, &mut options).and_then(|mut file| file.write_all(&bytes));
    if written.is_err() {
        // Half a file is of no use.
        let _ = fs::remove_file(&path);
    }
    written.map(|()| known.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn another_host_or_key_is_noticed_once_and_neither_is_in_the_file() {
        let dir = TempDir::new().unwrap();
        let replace = |host, key| replace(dir.path(), host, key).unwrap();
        assert!(!replace("http://a", "secret-key"), "nobody was before");
        assert!(!replace("http://a", "secret-key"));
        assert!(replace("http://a", "another-key"));
        assert!(!replace("http://a", "another-key"));
        assert!(replace("http://b", "another-key"));
        let bytes = fs::read(dir.path().join(CLIENT)).unwrap();
        assert_eq!(bytes.len(), SALT + HASH);
        for text in ["another-key", "http"] {
            assert!(!bytes.windows(text.len()).any(|w| w == text.as_bytes()));
        }
    }

    #[test]
    fn two_directories_of_one_client_do_not_look_alike() {
        let bytes = [(); 2].map(|()| {
            let dir = TempDir::new().unwrap();
            super::replace(dir.path(), "http://a", "key").unwrap();
            fs::read(dir.path().join(CLIENT)).unwrap()
        });
        assert_ne!(bytes[0], bytes[1]);
    }

    #[test]
    fn a_file_that_was_cut_off_says_nothing() {
        let dir = TempDir::new().unwrap();
        assert!(!replace(dir.path(), "http://a", "key").unwrap());
        fs::write(dir.path().join(CLIENT), "short").unwrap();
        assert!(!replace(dir.path(), "http://b", "key").unwrap());
    }
}
