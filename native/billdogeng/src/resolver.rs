//! Names to addresses by the system's resolver. As reqwest asks it, but with an error that tells a name that does not
//! exist from one that can't be resolved for now.

use dns_lookup::{getaddrinfo, AddrInfoHints, LookupError, LookupErrorKind, SockType};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::error::Error;
use std::net::SocketAddr;
use tokio::task::{spawn_blocking, JoinHandle};

/// The system's resolver, asked on the runtime's thread for blocking calls.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let mut lookup = Lookup(spawn_blocking(move || addresses(name.as_str())));
        Box::pin(async move {
            let addresses = (&mut lookup.0).await??;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A lookup that has not begun is not made for a request that is over: those behind it would wait for it.
struct Lookup(JoinHandle<Result<Vec<SocketAddr>, LookupError>>);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn addresses(host: &str) -> Result<Vec<SocketAddr>, LookupError> {
    let hints = AddrInfoHints {
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let found = getaddrinfo(Some(host), None, Some(hints))?;
    // Those of a family that sockets don't have are left out.
    Ok(found.flatten().map(|found| found.sockaddr).collect())
}

/// Whether the resolver says that the name does not exist. It may have no address for now, too: that is `NoData`.
pub fn is_no_such_host(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<LookupError>()
        .is_some_and(|error| matches!(error.kind(), LookupErrorKind::NoName))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_its_own_name() {
        let found = addresses("127.0.0.1").expect("an address");
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 0))]);
    }

    #[test]
    fn a_name_that_can_not_be_one_does_not_exist() {
        // A label has 63 bytes at most: nobody is asked.
        let error = addresses(&format!("{}.invalid", "a".repeat(64))).expect_err("no name");
        assert!(is_no_such_host(&error), "{error:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_temporary_failure_says_nothing_of_the_name() {
        for code in [
            libc::EAI_AGAIN,
            libc::EAI_FAIL,
            libc::EAI_SYSTEM,
            libc::EAI_MEMORY,
        ] {
            assert!(!is_no_such_host(&LookupError::new(code)));
        }
        assert!(is_no_such_host(&LookupError::new(libc::EAI_NONAME)));
    }
}
