//! Atoms as JSON strings, kept for the next time: nearly all are keys that come with every event, and the
//! VM's own table has a lock that all schedulers share.

use crate::word;
use billdogeng::json;
use rustler::sys::ErlNifTerm;
use rustler::Term;

/// Atoms that are kept at most. Each has one place, where it takes the place of another.
const PLACES: usize = 256;

/// Belongs to one thread at a time. An atom is one word, its own for as long as the VM runs.
#[derive(Default)]
pub struct Names(Vec<Option<(ErlNifTerm, Box<[u8]>)>>);

impl Names {
    /// Writes the name of `term` if it is an atom that is kept; answers whether it was.
    pub fn write_known(&self, out: &mut Vec<u8>, term: Term) -> bool {
        let atom = term.as_c_arg();
        match self.0.get(place(atom)) {
            Some(Some((kept, json))) if *kept == atom => {
                out.extend_from_slice(json);
                true
            }
            _ => false,
        }
    }

    /// Writes the name of the atom `term`.
    pub fn write(&mut self, out: &mut Vec<u8>, term: Term) {
        if self.write_known(out, term) {
            return;
        }
        let start = out.len();
        write_name(out, term);
        if self.0.is_empty() {
            self.0.resize(PLACES, None);
        }
        let atom = term.as_c_arg();
        self.0[place(atom)] = Some((atom, out[start..].into()));
    }
}

fn place(atom: ErlNifTerm) -> usize {
    word::hash(atom) as usize % PLACES
}

/// Before NIF 2.17 the VM spells out atoms beyond Latin-1 only in its external format.
fn write_name(out: &mut Vec<u8>, term: Term) {
    if let Ok(name) = term.atom_to_string() {
        json::write_str(out, name.as_bytes());
        return;
    }
    // 131, then 119 (SMALL_ATOM_UTF8_EXT) and a byte of length, or 118 (ATOM_UTF8_EXT) and two.
    let external = term.to_binary();
    let name = match external.as_slice() {
        [131, 119, _, name @ ..] | [131, 118, _, _, name @ ..] => name,
        _ => b"",
    };
    json::write_str(out, name);
}
