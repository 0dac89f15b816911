//! Walks a term once and writes it as JSON, within limits.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | scalars, lists, maps; the limits |
//! | `keys.rs` | keys, and objects in which keys can collide |
//! | `groups.rs` | an event's properties together with its groups |
//! | `normalised.rs` | terms that `BilldogEng.Terms.Normaliser` has rewritten |
//!
//! A term that needs Elixir (a struct, a pid, a function …) stops the walk with [`Stop::Normalise`]: Elixir rewrites the
//! event, and the event is walked again.

mod groups;
mod keys;
mod normalised;

pub use groups::GroupIndex;

use crate::atoms;
use crate::names::Names;
use crate::vm::{self, Elements, Pairs};
use billdogeng::{json, Noted};
use keys::{Kind, Member};
use num_bigint::{BigInt, Sign};
use rustler::{Term, TermType};

/// Containers deeper than this are written as `"…"`: a scheduler's stack is small.
const DEEPEST: usize = 100;
/// Bytes that a call may write, and terms that it may visit, before it must leave a normal scheduler.
const NORMAL_BYTES: usize = 32 * 1024;
const NORMAL_TERMS: usize = 4_000;
/// Capacity for members that is kept for the next event.
const KEPT_MEMBERS: usize = 1024;

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The event takes longer than a normal scheduler may be blocked.
    Dirty,
    /// The event is over its limit.
    TooLarge,
    /// The event has a term that only Elixir can write.
    Normalise,
}

/// Memory that one encoder leaves to the next.
#[derive(Default)]
pub struct Scratch {
    /// The JSON that was written.
    pub out: Vec<u8>,
    names: Names,
    /// The members of the map that is being written, and of those around it.
    members: Vec<Member>,
}

/// Writes one event.
pub struct Encoder<'a> {
    /// Memory that is left to the next encoder.
    scratch: Box<Scratch>,
    /// Values written in another form than their own.
    pub replaced: u64,
    /// Where the first of them begins.
    pub first_replaced: Option<usize>,
    /// The members of the outermost object that decide which others an event gets, if any can.
    pub noted: Option<Noted>,
    marker: Option<Term<'a>>,
    max_bytes: usize,
    terms: usize,
    normal: bool,
    /// Bytes written and terms visited, beyond which the walk stops.
    most_bytes: usize,
    most_terms: usize,
}

impl<'a> Encoder<'a> {
    /// `marker` is the reference that marks the terms of a normalised event.
    #[inline]
    pub fn new(
        mut scratch: Box<Scratch>,
        max_bytes: usize,
        normal: bool,
        marker: Option<Term<'a>>,
    ) -> Self {
        scratch.members.clear();
        scratch.members.shrink_to(KEPT_MEMBERS);
        Self {
            scratch,
            replaced: 0,
            first_replaced: None,
            noted: None,
            marker,
            max_bytes,
            terms: 0,
            normal,
            most_bytes: max_bytes.min(if normal { NORMAL_BYTES } else { usize::MAX }),
            most_terms: max_bytes.min(if normal { NORMAL_TERMS } else { usize::MAX }),
        }
    }

    /// Returns the JSON, with memory for the next encoder.
    pub fn into_scratch(self) -> Box<Scratch> {
        self.scratch
    }

    /// Returns the JSON written so far.
    pub fn written(&self) -> &[u8] {
        &self.scratch.out
    }

    /// Writes text that needs no escaping.
    pub fn literal(&mut self, text: &str) {
        self.scratch.out.extend_from_slice(text.as_bytes());
    }

    /// Writes an integer.
    pub fn integer(&mut self, value: i64) {
        json::write_i64(&mut self.scratch.out, value);
    }

    /// Appends a member to the object that was written from `start` on.
    pub fn append_member(&mut self, start: usize, name: &str, value: &str) {
        let empty = self.scratch.out.len() - start == 2;
        self.scratch.out.pop();
        self.literal(if empty { "\"" } else { ",\"" });
        for part in [name, "\":", value, "}"] {
            self.literal(part);
        }
    }

    /// Writes any term as a value.
    pub fn value(&mut self, term: Term<'a>) -> Result<(), Stop> {
        self.value_at(term, 0)
    }

    fn value_at(&mut self, term: Term<'a>, depth: usize) -> Result<(), Stop> {
        self.visit()?;
        // Most values are known atoms, strings or numbers. Each of these takes one call to the VM; to ask for the type
        // first would take a second one.
        if self
            .scratch
            .names
            .write_known_value(&mut self.scratch.out, term)
        {
            return Ok(());
        }
        if let Some(bytes) = vm::bytes(term) {
            return self.string(bytes);
        }
        if let Some(value) = vm::integer(term) {
            json::write_i64(&mut self.scratch.out, value);
            return Ok(());
        }
        if let Some(value) = vm::float(term) {
            json::write_f64(&mut self.scratch.out, value);
            return Ok(());
        }
        match term.get_type() {
            TermType::Atom => {
                self.scratch.names.write_value(&mut self.scratch.out, term);
                Ok(())
            }
            TermType::Integer => self.big_integer(term),
            TermType::Map if depth < DEEPEST => match Pairs::of(term) {
                Some(pairs) => self.map(term, pairs, depth),
                None => self.by_elixir(),
            },
            TermType::List if depth < DEEPEST => self.list(term, depth),
            TermType::Tuple => self.tuple(term, depth),
            TermType::Map if is_struct(term) => self.by_elixir(),
            TermType::Map | TermType::List => self.too_deep(),
            _ => self.by_elixir(),
        }
    }

    /// Counts a term, and stops the walk at a limit.
    fn visit(&mut self) -> Result<(), Stop> {
        self.terms += 1;
        if self.scratch.out.len() > self.most_bytes || self.terms > self.most_terms {
            return Err(self.stop(self.scratch.out.len().max(self.terms)));
        }
        Ok(())
    }

    /// Stops the walk if `more` bytes of input are over the limit.
    fn check_room(&self, more: usize) -> Result<(), Stop> {
        if more > self.most_bytes {
            return Err(self.stop(more));
        }
        Ok(())
    }

    #[cold]
    fn stop(&self, reached: usize) -> Stop {
        if reached > self.max_bytes {
            Stop::TooLarge
        } else {
            Stop::Dirty
        }
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.check_room(bytes.len())?;
        let at = self.scratch.out.len();
        if json::write_str(&mut self.scratch.out, bytes) {
            self.count_replaced(at);
        }
        Ok(())
    }

    fn count_replaced(&mut self, at: usize) {
        self.replaced += 1;
        self.first_replaced.get_or_insert(at);
    }

    fn too_deep(&mut self) -> Result<(), Stop> {
        self.count_replaced(self.scratch.out.len());
        self.literal("\"…\"");
        Ok(())
    }

    /// Stops the walk, for Elixir to rewrite this term. A term that is still unknown after that is replaced.
    fn by_elixir(&mut self) -> Result<(), Stop> {
        if self.marker.is_none() {
            return Err(Stop::Normalise);
        }
        self.count_replaced(self.scratch.out.len());
        self.literal("\"#Error<>\"");
        Ok(())
    }

    #[cold]
    fn big_integer(&mut self, term: Term<'a>) -> Result<(), Stop> {
        // 131, then 110 (SMALL_BIG_EXT) and one byte of length, or 111 (LARGE_BIG_EXT) and four; the sign;
        // the magnitude, least byte first.
        let external = term.to_binary();
        let (sign, magnitude) = match external.as_slice() {
            [131, 110, _, sign, magnitude @ ..] | [131, 111, _, _, _, _, sign, magnitude @ ..] => {
                (*sign, magnitude)
            }
            _ => return self.by_elixir(),
        };
        // Digits take quadratic time: the limit on a normal scheduler is lower than for a text of that length.
        let factor = if self.normal { 64 } else { 2 };
        self.check_room(magnitude.len().saturating_mul(factor))?;
        let sign = if sign == 0 { Sign::Plus } else { Sign::Minus };
        let digits = BigInt::from_bytes_le(sign, magnitude).to_string();
        self.literal(&digits);
        Ok(())
    }

    // Containers stay out of `value_at`: most values are scalars, and should not pay for their stack frame.
    #[inline(never)]
    fn tuple(&mut self, term: Term<'a>, depth: usize) -> Result<(), Stop> {
        if let Some([form, content]) = self.marked(term) {
            return self.normalised(form, content, depth);
        }
        if depth >= DEEPEST {
            return self.too_deep();
        }
        let Some(elements) = vm::elements(term) else {
            return self.by_elixir();
        };
        self.count_replaced(self.scratch.out.len());
        self.array(elements, depth)
    }

    fn array(
        &mut self,
        elements: impl Iterator<Item = Term<'a>>,
        depth: usize,
    ) -> Result<(), Stop> {
        self.scratch.out.push(b'[');
        for (at, element) in elements.enumerate() {
            if at > 0 {
                self.scratch.out.push(b',');
            }
            self.value_at(element, depth + 1)?;
        }
        self.scratch.out.push(b']');
        Ok(())
    }

    #[inline(never)]
    fn list(&mut self, term: Term<'a>, depth: usize) -> Result<(), Stop> {
        if let Some(entries) = self.keyword(term)? {
            return self.object(&entries, depth);
        }
        let start = self.scratch.out.len();
        let mut elements = Elements::of(term);
        self.array(elements.by_ref(), depth)?;
        if !elements.rest().is_empty_list() {
            self.scratch.out.truncate(start);
            return self.by_elixir();
        }
        Ok(())
    }

    #[inline(never)]
    fn map(&mut self, term: Term<'a>, pairs: Pairs<'a>, depth: usize) -> Result<(), Stop> {
        let (start, first) = (self.scratch.out.len(), self.scratch.members.len());
        let mut kinds = None;
        for (key, value) in pairs {
            if atoms::__struct__() == key && value.is_atom() {
                self.scratch.out.truncate(start);
                self.scratch.members.truncate(first);
                return self.by_elixir();
            }
            self.scratch.members.push(Member {
                at: self.scratch.out.len(),
                replaced: self.replaced,
            });
            let kind = self.member_key(key, start)?;
            if kind == Kind::Inexact || *kinds.get_or_insert(kind) != kind {
                // Keys that differ as terms may be equal as strings.
                self.mixed(term, start, first, depth)?;
                self.end_members(first, depth);
                return Ok(());
            }
            self.value_at(value, depth + 1)
                .or_else(|stop| self.unless_struct(stop, term))?;
        }
        self.end_members(first, depth);
        self.literal(if kinds.is_none() { "{}" } else { "}" });
        Ok(())
    }

    /// Prefers [`Stop::Normalise`] for a struct whose fields are over the limit: since OTP 26 the keys of a map have no
    /// order, so a large field may come before the key `:__struct__`.
    #[cold]
    fn unless_struct(&self, stop: Stop, map: Term<'a>) -> Result<(), Stop> {
        let normalise = matches!(stop, Stop::TooLarge) && self.marker.is_none() && is_struct(map);
        Err(if normalise { Stop::Normalise } else { stop })
    }
}

fn is_struct(term: Term) -> bool {
    term.map_get(atoms::__struct__())
        .is_ok_and(|module| module.is_atom())
}
