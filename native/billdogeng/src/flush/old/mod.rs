#![allow(dead_code)]
pub mod waiters;
pub mod worker;

use std::cell::Cell;
use tokio::time::Instant;
thread_local! { pub static NOW: Cell<Option<Instant>> = const { Cell::new(None) }; }
pub fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}
