//! The edge to the BEAM: terms become bytes here, and tidings become messages.
//!
//! | file | what it does |
//! |---|---|
//! | `capture.rs` | the NIFs of a capture: a pid and five terms become a queued event |
//! | `encode.rs` | walks a term and writes it as JSON, within bounds |
//! | `json.rs` | the NIF that decodes JSON for the collector |
//! | `names.rs` | atoms as JSON, kept |
//! | `client.rs` | the NIFs of the owner: start, commands, tidings, accounts |
//! | `options.rs` | the options of clients and requests, and the NIFs that check them |
//! | `person_updates.rs` | the NIFs of person updates, and their lane |
//! | `registry.rs` | from an owner's pid to its client |
//! | `reports.rs` | the NIFs of telemetry: what flush threads report |
//! | `request.rs` | the NIF of `Transport.request/2` |
//! | `status.rs` | what a client is doing, as terms |
//! | `value.rs` | JSON values and errors as terms |
//! | `word.rs` | a hash for terms that are one word |
//! | `vm.rs` | the VM's clock, and terms, straight: the one file with `unsafe` |

mod capture;
mod client;
mod encode;
mod json;
mod names;
mod options;
mod person_updates;
mod registry;
mod reports;
mod request;
mod status;
mod value;
mod vm;
mod word;

/// Called by the VM before any NIF; `false` refuses the load.
fn load(_env: rustler::Env, _info: rustler::Term) -> bool {
    match billdogeng::keep_mapped() {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("billdogeng: the native library can't be kept loaded: {reason}");
            false
        }
    }
}

rustler::init!("Elixir.BilldogEng.Client.Native", load = load);
