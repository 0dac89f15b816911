//! A cache of atoms as JSON strings: nearly all are keys that come with every event, and the VM's own table of atoms has
//! a lock that all schedulers share.

use crate::{atoms, word};
use billdogeng::json;
use rustler::sys::ErlNifTerm;
use rustler::Term;

/// The size of the cache. Each atom has one place, where it replaces another.
const PLACES: usize = 256;

/// Names up to this length are copied without looking at their length.
const SHORT: usize = 32;

/// An atom as the start of a member: `,"name":`. A place is one cache line, and a capture needs no other for a key.
#[derive(Clone, Default)]
#[repr(align(64))]
struct Name {
    atom: ErlNifTerm,
    /// The length of `short`; 0 for a name that is in `long`.
    len: u8,
    /// Whether the atom as a value is its name, and not `true`, `false` or `null`.
    is_string: bool,
    short: [u8; SHORT],
    long: Box<[u8]>,
}

impl Name {
    fn new(atom: ErlNifTerm, text: &[u8]) -> Self {
        let mut short = [0; SHORT];
        let (len, long) = match short.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                (text.len() as u8, Box::default())
            }
            None => (0, text.into()),
        };
        let is_string = ![&b",\"true\":"[..], b",\"false\":", b",\"nil\":"].contains(&text);
        Self {
            atom,
            len,
            is_string,
            short,
            long,
        }
    }

    fn text(&self) -> &[u8] {
        match self.len {
            0 => &self.long,
            len => &self.short[..usize::from(len)],
        }
    }

    fn write_value(&self, out: &mut Vec<u8>) {
        let text = self.text();
        let value = match text {
            b",\"nil\":" => &b"null"[..],
            _ if self.is_string => &text[1..text.len() - 1],
            // Without its quotes.
            _ => &text[2..text.len() - 2],
        };
        out.extend_from_slice(value);
    }
}

/// The cache of one thread. An atom keeps its word for as long as the VM runs.
#[derive(Default)]
pub struct Names(Vec<Name>);

impl Names {
    /// Writes `,"name":` if `term` is a cached atom; returns whether it is.
    pub fn write_known_member(&self, out: &mut Vec<u8>, term: Term) -> bool {
        let Some(name) = self.known(term) else {
            return false;
        };
        if name.len > 0 {
            // Copies the whole array, which takes a few instructions, and then cuts it to the name.
            let end = out.len() + usize::from(name.len);
            out.extend_from_slice(&name.short);
            out.truncate(end);
        } else {
            out.extend_from_slice(&name.long);
        }
        true
    }

    /// Writes `term` as a value if it is a cached atom; returns whether it is.
    #[inline(always)]
    pub fn write_known_value(&self, out: &mut Vec<u8>, term: Term) -> bool {
        // Most values are no atoms, and a place that is looked at is a cache line.
        if word::tag(term.as_c_arg()) != word::tag(atoms::nil().as_c_arg()) {
            return false;
        }
        let known = self.known(term);
        if let Some(name) = known {
            name.write_value(out);
        }
        known.is_some()
    }

    /// Writes the atom `term` as a value.
    pub fn write_value(&mut self, out: &mut Vec<u8>, term: Term) {
        self.keep(term).write_value(out);
    }

    /// Writes the name of the atom `term` as a string.
    pub fn write(&mut self, out: &mut Vec<u8>, term: Term) {
        let text = match self.known(term) {
            Some(name) => name.text(),
            None => self.keep(term).text(),
        };
        out.extend_from_slice(&text[1..text.len() - 1]);
    }

    #[inline(always)]
    fn known(&self, term: Term) -> Option<&Name> {
        let atom = term.as_c_arg();
        self.0.get(place(atom)).filter(|name| name.atom == atom)
    }

    #[cold]
    fn keep(&mut self, term: Term) -> &Name {
        let mut text = vec![b','];
        write_name(&mut text, term);
        text.push(b':');
        let atom = term.as_c_arg();
        let place = place(atom);
        if self.0.is_empty() {
            // No atom is the word 0.
            self.0.resize_with(PLACES, Name::default);
        }
        self.0[place] = Name::new(atom, &text);
        &self.0[place]
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
