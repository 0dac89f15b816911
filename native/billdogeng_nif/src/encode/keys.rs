//! Keys, and objects in which keys can collide: keys that differ as terms may be equal as strings, and then the last one
//! wins.

use super::{Encoder, Stop};
use crate::atoms;
use crate::vm::{self, Elements, Pairs};
use rustler::{Term, TermType};
use std::collections::HashMap;

/// The VM walks larger maps in another order here than `Map.to_list/1` does.
const LARGEST_FLAT_MAP: usize = 32;

/// A member of a map that is being written.
pub struct Member {
    /// Where it begins.
    pub at: usize,
    /// Values that were replaced before it.
    pub replaced: u64,
}

/// The type of a key. Keys of one type are equal as strings only if they are equal as terms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Atom,
    String,
    Integer,
    /// Written in another form than its own, so equal to any other key.
    Inexact,
}

/// A key as JSON, with its quotes, and the value that follows it.
pub struct Entry<'a> {
    pub kind: Kind,
    pub key: Vec<u8>,
    pub value: Term<'a>,
}

/// Returns the index of the last entry of each key.
fn last_of<'e>(entries: &'e [Entry]) -> HashMap<&'e [u8], usize> {
    let indices = entries.iter().enumerate();
    indices
        .map(|(index, entry)| (entry.key.as_slice(), index))
        .collect()
}

impl<'a> Encoder<'a> {
    /// Writes a comma, a key and a colon. Replaces the object's first comma with its brace.
    pub(super) fn member_key(&mut self, term: Term<'a>, start: usize) -> Result<Kind, Stop> {
        if self
            .scratch
            .names
            .write_known_member(&mut self.scratch.out, term)
        {
            self.scratch.out[start] = b'{';
            return Ok(Kind::Atom);
        }
        self.scratch.out.push(b',');
        self.scratch.out[start] = b'{';
        let kind = self.key(term)?;
        self.scratch.out.push(b':');
        Ok(kind)
    }

    /// Forgets the members of a map that is complete.
    pub(super) fn end_members(&mut self, first: usize, depth: usize) {
        if let (0, Some(noted)) = (depth, &mut self.noted) {
            for member in &self.scratch.members[first..] {
                noted.key(self.scratch.out.get(member.at + 1..).unwrap_or_default());
            }
        }
        self.scratch.members.truncate(first);
    }

    fn key(&mut self, term: Term<'a>) -> Result<Kind, Stop> {
        if let Some(bytes) = vm::bytes(term) {
            let before = self.replaced;
            self.string(bytes)?;
            let exact = self.replaced == before;
            return Ok(if exact { Kind::String } else { Kind::Inexact });
        }
        match term.get_type() {
            TermType::Atom => {
                self.scratch.names.write(&mut self.scratch.out, term);
                Ok(Kind::Atom)
            }
            TermType::Integer => {
                self.scratch.out.push(b'"');
                match vm::integer(term) {
                    Some(value) => self.integer(value),
                    None => self.big_integer(term)?,
                }
                self.scratch.out.push(b'"');
                Ok(Kind::Integer)
            }
            _ => {
                self.by_elixir()?;
                Ok(Kind::Inexact)
            }
        }
    }

    /// Writes an object.
    pub(super) fn object(&mut self, entries: &[Entry<'a>], depth: usize) -> Result<(), Stop> {
        let start = self.scratch.out.len();
        self.append_from(0, entries, &last_of(entries), depth)?;
        match entries {
            [] => self.scratch.out.push(b'{'),
            _ => self.scratch.out[start] = b'{',
        }
        self.scratch.out.push(b'}');
        Ok(())
    }

    /// Continues a map in which the key that was written last is not of the others' type. The members before it stay,
    /// but for those that a later one overrides: to write them again would take twice the time at each level.
    #[inline(never)]
    pub(super) fn mixed(
        &mut self,
        term: Term<'a>,
        start: usize,
        first: usize,
        depth: usize,
    ) -> Result<(), Stop> {
        let written = self.scratch.members.len() - first - 1;
        let Member { at, replaced } = self.scratch.members[first + written];
        self.scratch.out.truncate(at);
        self.replaced = replaced;
        self.first_replaced.take_if(|first| *first >= at);
        let Some(entries) = self.entries(term)? else {
            self.scratch.out.truncate(start);
            return self.by_elixir();
        };
        let last = last_of(&entries);
        for index in (0..written).rev() {
            if last[entries[index].key.as_slice()] != index {
                self.cut(first + index);
            }
        }
        self.append_from(written, &entries, &last, depth)?;
        // The first comma: that of the first member may have been cut with it.
        self.scratch.out[start] = b'{';
        self.scratch.out.push(b'}');
        Ok(())
    }

    /// Writes the entries from an index on, each behind a comma.
    fn append_from(
        &mut self,
        index: usize,
        entries: &[Entry<'a>],
        last: &HashMap<&[u8], usize>,
        depth: usize,
    ) -> Result<(), Stop> {
        for (index, entry) in entries.iter().enumerate().skip(index) {
            if last[entry.key.as_slice()] == index {
                self.scratch.out.push(b',');
                let at = self.scratch.out.len();
                self.scratch.out.extend_from_slice(&entry.key);
                self.scratch.out.push(b':');
                if let (0, Some(noted)) = (depth, &mut self.noted) {
                    noted.key(&self.scratch.out[at..]);
                }
                self.value_at(entry.value, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Removes a member of the map that is being written, up to where the next one begins.
    fn cut(&mut self, index: usize) {
        let (start, end) = (
            self.scratch.members[index].at,
            self.scratch.members[index + 1].at,
        );
        let replaced =
            self.scratch.members[index + 1].replaced - self.scratch.members[index].replaced;
        self.scratch.out.drain(start..end);
        self.replaced -= replaced;
        for member in &mut self.scratch.members[index + 1..] {
            member.at -= end - start;
            member.replaced -= replaced;
        }
        self.first_replaced = match self.first_replaced {
            Some(_) if self.replaced == 0 => None,
            Some(at) if at >= end => Some(at - (end - start)),
            // The next one is somewhere behind this; its exact place is not known.
            Some(at) if at >= start => Some(start),
            before => before,
        };
    }

    /// Returns the entries of a map or keyword list, keys written; `None` for any other term.
    pub(super) fn entries(&mut self, term: Term<'a>) -> Result<Option<Vec<Entry<'a>>>, Stop> {
        let Some(map) = Pairs::of(term) else {
            return match self.marked_pairs(term) {
                Some(pairs) => self.normalised_entries(pairs).map(Some),
                None => self.keyword(term),
            };
        };
        let mut entries = Vec::new();
        for (key, value) in map {
            self.visit()?;
            if atoms::__struct__() == key && value.is_atom() {
                return match self.marker {
                    None => Err(Stop::Normalise),
                    Some(_) => Ok(None),
                };
            }
            entries.push(self.entry(key, value)?);
        }
        let mixed = entries
            .iter()
            .any(|entry| entry.kind == Kind::Inexact || entry.kind != entries[0].kind);
        if mixed && entries.len() > LARGEST_FLAT_MAP && self.marker.is_none() {
            return Err(Stop::Normalise);
        }
        Ok(Some(entries))
    }

    /// Returns the entries of a keyword list that is not empty; `None` for any other term.
    pub(super) fn keyword(&mut self, term: Term<'a>) -> Result<Option<Vec<Entry<'a>>>, Stop> {
        let mut entries = Vec::new();
        let mut elements = Elements::of(term);
        for element in elements.by_ref() {
            match vm::tuple(element) {
                Some([key, value]) if key.is_atom() => {
                    self.visit()?;
                    entries.push(self.entry(key, value)?);
                }
                _ => return Ok(None),
            }
        }
        let keyword = elements.rest().is_empty_list() && !entries.is_empty();
        Ok(keyword.then_some(entries))
    }

    pub(super) fn entry(&mut self, key: Term<'a>, value: Term<'a>) -> Result<Entry<'a>, Stop> {
        let start = self.scratch.out.len();
        let kind = self.key(key)?;
        let key = self.scratch.out.split_off(start);
        Ok(Entry { kind, key, value })
    }
}
