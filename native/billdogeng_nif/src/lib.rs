//! The edge to the BEAM: terms become bytes here, and tidings become messages.
//!
//! | file | what it does |
//! |---|---|
//! | `capture.rs` | the NIFs of a capture: a pid and five terms become a queued event |
//! | `encode.rs` | walks a term and writes it as JSON, within bounds |
//! | `client.rs` | the NIFs of the owner: start, commands, tidings, accounts |
//! | `registry.rs` | from an owner's pid to its client |
//! | `request.rs` | the NIF of `Transport.request/2` |
//! | `value.rs` | JSON values and errors as terms |
//! | `clock.rs` | Erlang's system time: the one file with `unsafe` |

mod capture;
mod client;
mod clock;
mod encode;
mod registry;
mod request;
mod value;

rustler::init!("Elixir.BilldogEng.Native");
