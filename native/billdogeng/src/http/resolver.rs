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
    lookup: Lookup,
}

type Lookup = fn(&str) -> Result<Vec<SocketAddr>, LookupError>;

impl SystemResolver {
    pub fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            stack: STACK,
            lookup: addresses,
        }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (turn, stack, lookup) = (Arc::clone(&self.turn), self.stack, self.lookup);
        Box::pin(async move {
            let turn = turn.acquire_owned().await?;
            let (sender, receiver) = oneshot::channel();
            threads::spawn("billdogeng-dns", stack, move || {
                let _ = sender.send(lookup(name.as_str()));
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
    use std::future::{poll_fn, Future};
    use std::pin::Pin;
    use std::sync::{Condvar, Mutex, MutexGuard};
    use std::task::Poll;

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

    /// The names that are looked up, until the test lets them go.
    static LOOKED_UP: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static CHANGED: Condvar = Condvar::new();

    fn gated(name: &str) -> Result<Vec<SocketAddr>, LookupError> {
        let mut names = LOOKED_UP.lock().unwrap();
        names.push(format!("{name} {:?}", std::thread::current().name()));
        CHANGED.notify_all();
        let _end = CHANGED
            .wait_while(names, |names| !names.is_empty())
            .unwrap();
        Ok(Vec::new())
    }

    fn await_lookup() -> MutexGuard<'static, Vec<String>> {
        let names = LOOKED_UP.lock().unwrap();
        CHANGED.wait_while(names, |names| names.is_empty()).unwrap()
    }

    fn next_lookup() -> Vec<String> {
        let mut names = await_lookup();
        CHANGED.notify_all();
        std::mem::take(&mut names)
    }

    #[test]
    fn one_name_is_looked_up_at_a_time_also_after_its_request_is_over() {
        let resolver = SystemResolver {
            lookup: gated,
            ..SystemResolver::new()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let mut first = resolver.resolve("first".parse().expect("a name"));
            let mut second = resolver.resolve("second".parse().expect("a name"));
            // Each begins as it is polled, and blocks nobody.
            assert!(poll_once(&mut first).await.is_none());
            drop(await_lookup());
            assert_eq!(resolver.turn.available_permits(), 0);
            assert!(poll_once(&mut second).await.is_none());
            drop(first);
            assert!(poll_once(&mut second).await.is_none());
            assert_eq!(next_lookup(), [r#"first Some("billdogeng-dns")"#]);
            let looked_up = std::thread::spawn(next_lookup);
            assert_eq!(second.await.expect("addresses").count(), 0);
            let looked_up = looked_up.join().expect("names");
            assert_eq!(looked_up, [r#"second Some("billdogeng-dns")"#]);
        });
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        poll_fn(|context| match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
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
