//! A cache of atoms as JSON strings: nearly all are keys that come with every event, and the VM's own table of atoms has
//! a lock that all schedulers share.

use crate::word;
use billdogeng::json;
use rustler::sys::ErlNifTerm;
use rustler::Term;

/// The size of the cache. Each atom has one place, where it replaces another.
const PLACES: usize = 256;

/// Names up to this length are copied without looking at their length.
const SHORT: usize = 32;

/// An atom as the start of a member: `,"name":`.
#[derive(Clone, Default)]
struct Name {
    /// The atom as a value, if that is not its name.
    literal: Option<&'static str>,
    len: usize,
    short: [u8; SHORT],
    /// Empty for a short name.
    long: Box<[u8]>,
}

impl Name {
    fn new(text: &[u8]) -> Self {
        let mut short = [0; SHORT];
        let long = match short.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                Box::default()
            }
            None => text.into(),
        };
        Self {
            literal: match text {
                b",\"true\":" => Some("true"),
                b",\"false\":" => Some("false"),
                b",\"nil\":" => Some("null"),
                _ => None,
            },
            len: text.len(),
            short,
            long,
        }
    }

    fn text(&self) -> &[u8] {
        self.short.get(..self.len).unwrap_or(&self.long)
    }

    fn write_value(&self, out: &mut Vec<u8>) {
        match self.literal {
            Some(literal) => out.extend_from_slice(literal.as_bytes()),
            None => out.extend_from_slice(&self.text()[1..self.len - 1]),
        }
    }
}

/// The cache of one thread. An atom keeps its word for as long as the VM runs.
#[derive(Default)]
pub struct Names {
    /// Apart from the names, and so close to each other: every term is looked up here.
    atoms: Vec<ErlNifTerm>,
    names: Vec<Name>,
}

impl Names {
    /// Writes `,"name":` if `term` is a cached atom; returns whether it is.
    pub fn write_known_member(&self, out: &mut Vec<u8>, term: Term) -> bool {
        let Some(name) = self.known(term) else {
            return false;
        };
        if name.len <= SHORT {
            // Copies the whole array, which takes a few instructions, and then cuts it to the name.
            let end = out.len() + name.len;
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
        let place = place(atom);
        if *self.atoms.get(place)? != atom {
            return None;
        }
        self.names.get(place)
    }

    #[cold]
    fn keep(&mut self, term: Term) -> &Name {
        let mut text = vec![b','];
        write_name(&mut text, term);
        text.push(b':');
        let atom = term.as_c_arg();
        let place = place(atom);
        if self.atoms.is_empty() {
            // In a place that is not its own, an atom is never found.
            self.atoms.resize(PLACES, atom);
            self.names.resize_with(PLACES, Name::default);
        }
        self.atoms[place] = atom;
        self.names[place] = Name::new(&text);
        &self.names[place]
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
