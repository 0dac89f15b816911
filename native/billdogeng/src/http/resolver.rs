//! Resolves names by the system's resolver, as reqwest does, with an error that differs between a name that does not
//! exist and one that cannot be resolved for now.

use crate::threads;
use dns_lookup::{getaddrinfo, AddrInfoHints, LookupError, LookupErrorKind, SockType};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{oneshot, Semaphore};

/// Bytes of a lookup's stack: the system may load modules of its own into it.
const STACK: usize = 1024 * 1024;

/// The system's resolver, asked on a thread of its own. tokio's threads for blocking calls would panic where the
/// system has no thread left.
pub struct SystemResolver {
    /// Held by the one lookup at a time: one may take long after its request is over.
    turn: Arc<Semaphore>,
    stack: usize,
}

impl SystemResolver {
    pub fn new() -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { turn, stack: STACK }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (turn, stack) = (Arc::clone(&self.turn), self.stack);
        Box::pin(async move {
            let turn = turn.acquire_owned().await?;
            let (sender, receiver) = oneshot::channel();
            threads::spawn("billdogeng-dns", stack, move || {
                let _ = sender.send(addresses(name.as_str()));
                drop(turn);
            })
            .map_err(no_thread)?;
            Ok(Box::new(receiver.await??.into_iter()) as Addrs)
        })
    }
}

fn no_thread(error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("no thread to resolve the host's name: {error}"),
    )
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

/// Whether the resolver knows that the name does not exist. It may have no address for now, too: that is `NoData`.
pub fn is_no_such_host(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<LookupError>()
        .is_some_and(|error| matches!(error.kind(), LookupErrorKind::NoName))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(resolver: &SystemResolver, name: &str) -> Result<Vec<SocketAddr>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let found = resolver.resolve(name.parse().expect("a name"));
        let found = runtime.expect("a runtime").block_on(found);
        found
            .map(Iterator::collect)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_lookup_has_a_thread_of_its_own_and_the_next_one_follows() {
        let resolver = SystemResolver::new();
        for _ in 0..3 {
            let found = resolve(&resolver, "127.0.0.1");
            assert_eq!(found, Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]));
        }
    }

    #[test]
    fn a_lookup_without_a_thread_is_an_error() {
        let resolver = SystemResolver {
            // More than there is to address.
            stack: usize::MAX / 4,
            ..SystemResolver::new()
        };
        for _ in 0..2 {
            let error = resolve(&resolver, "127.0.0.1").expect_err("no thread");
            assert!(error.starts_with("no thread to resolve"), "{error}");
        }
    }

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
