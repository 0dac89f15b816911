//! The flush thread against real sockets, and against itself.

#[cfg(not(shuttle))]
mod exhaustive;
#[cfg(shuttle)]
mod interleavings;
#[cfg(not(shuttle))]
mod sockets;
