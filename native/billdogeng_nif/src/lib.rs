//! The edge to the BEAM: terms become bytes, updates become messages.
//!
//! From the files that need none of the others to those that need most:
//!
//! | file | what it does |
//! |---|---|
//! | `atoms.rs` | all atoms |
//! | `vm.rs` | the VM's clock and terms without rustler's overhead; the only file with `unsafe` |
//! | `word.rs`, `names.rs` | a hash for terms of one word; atoms as JSON, cached |
//! | `terms.rs` | JSON, errors and counters as terms; the NIF that decodes JSON |
//! | `encode/` | writes a term as JSON, within limits |
//! | `options.rs` | the options of clients and requests; the NIFs that check them |
//! | `reports.rs` | the NIFs of telemetry |
//! | `lanes.rs` | a client's two lanes, and the messages of their flush threads |
//! | `registry.rs` | from an owner's pid to its client |
//! | `event.rs` | the NIFs of a capture: a term becomes a queued event or person update |
//! | `updates.rs` | the NIFs that return notices, replies and counters |
//! | `debug.rs` | the NIF that shows what a client waits for |
//! | `owner.rs` | the NIFs of the owner: start, commands, modes; and its end |
//! | `request.rs` | the NIF of `Transport.request/2` |
//! | `history.rs` | the NIFs of `BilldogEng.send_file/2` |

mod atoms;
mod debug;
mod encode;
mod event;
mod history;
mod lanes;
mod names;
mod options;
mod owner;
mod registry;
mod reports;
mod request;
mod terms;
mod updates;
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
