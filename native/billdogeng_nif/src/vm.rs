//! Erlang's system time, as `System.system_time/1` gives it.
#![allow(unsafe_code)]

use rustler::sys::{enif_monotonic_time, enif_time_offset, ErlNifTimeUnit};

/// Milliseconds since 1970. The sum is made in ns and rounded down once, as the VM does: two roundings
/// could land before a time that the caller has read already.
pub fn system_time_ms() -> i64 {
    // SAFETY: both take a plain enum and touch no memory of ours; they answer on any thread of the VM.
    let ns = unsafe {
        enif_monotonic_time(ErlNifTimeUnit::ERL_NIF_NSEC)
            + enif_time_offset(ErlNifTimeUnit::ERL_NIF_NSEC)
    };
    ns.div_euclid(1_000_000)
}
