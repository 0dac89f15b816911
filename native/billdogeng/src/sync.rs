//! What callers, owners and the flush thread share things by: the system's locks and channels; in the tests of
//! interleavings (flush/tests/interleavings.rs) those of a scheduler that tries one order after the other.

#[cfg(not(shuttle))]
pub use {
    crossbeam_channel::{unbounded, Receiver, Sender},
    std::sync::{Mutex, MutexGuard},
    tokio::sync::Notify,
};

#[cfg(shuttle)]
pub use {
    scheduled::{unbounded, Notify, Receiver, Sender},
    shuttle::sync::{Mutex, MutexGuard},
};

/// As much of the real ones as is used.
#[cfg(shuttle)]
mod scheduled {
    use super::Mutex;
    use shuttle::sync::Condvar;
    use std::collections::VecDeque;
    use std::sync::Arc;

    type Channel<T> = Arc<Mutex<VecDeque<T>>>;

    pub struct Sender<T>(Channel<T>);
    pub struct Receiver<T>(Channel<T>);

    pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let channel = Channel::default();
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    impl<T> Sender<T> {
        pub fn send(&self, value: T) -> Result<(), T> {
            self.0.lock().expect("no panic").push_back(value);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub fn try_recv(&self) -> Result<T, ()> {
            self.0.lock().expect("no panic").pop_front().ok_or(())
        }
    }

    /// One permit at most, kept until somebody takes it.
    #[derive(Default)]
    pub struct Notify {
        permit: Mutex<bool>,
        given: Condvar,
    }

    impl Notify {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn notify_one(&self) {
            *self.permit.lock().expect("no panic") = true;
            self.given.notify_one();
        }

        pub fn try_take(&self) -> bool {
            std::mem::take(&mut *self.permit.lock().expect("no panic"))
        }

        pub fn wait(&self) {
            let mut permit = self.permit.lock().expect("no panic");
            while !std::mem::take(&mut *permit) {
                permit = self.given.wait(permit).expect("no panic");
            }
        }

        /// Of the real thread's loop, which does not run here.
        pub async fn notified(&self) {
            std::future::pending().await
        }
    }
}
