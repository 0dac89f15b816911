//! Walks a term once and writes it as JSON, within bounds.
//!
//! What needs Elixir (structs, pids, functions …) stops the walk: the event is handed back, normalised
//! there, and walked again. A normalised term carries ready-made text as `{marker, form, binary}`, and maps
//! whose order decides between keys that collide as `{marker, :pairs, list}`, where
//! `marker` is a reference made for that one event, so that nobody else's tuple is taken for it.

use crate::names::Names;
use crate::vm::{self, Elements, Pairs};
use billdogeng::json;
use billdogeng::{PersonProfiles, PROCESS_PERSON_PROFILE};
use num_bigint::{BigInt, Sign};
use rustler::{Atom, Term, TermType};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// Containers deeper than this are written as `"…"`: a scheduler's stack is small.
const DEEPEST: usize = 100;
/// What a call may write, and look at, before it leaves a normal scheduler.
const NORMAL_BYTES: usize = 32 * 1024;
const NORMAL_TERMS: usize = 4_000;

/// Room for members that is kept for the next event.
const KEPT_MEMBERS: usize = 1024;

/// The kind of a key that isn't written as it was.
const INEXACT: u8 = 0;
/// The VM's larger maps are walked here in another order than `Map.to_list/1` gives.
const LARGEST_FLAT_MAP: usize = 32;

rustler::atoms! { __struct__, nil, raw, replaced, improper, array, pairs }

fn is_struct(term: Term) -> bool {
    term.map_get(__struct__())
        .is_ok_and(|module| module.is_atom())
}

fn keyed<'a>(entries: Vec<(u8, Vec<u8>, Term<'a>)>) -> Vec<(Vec<u8>, Term<'a>)> {
    entries
        .into_iter()
        .map(|(_, key, value)| (key, value))
        .collect()
}

/// Of each key the last place.
fn last_of<'k>(pairs: &'k [(Vec<u8>, Term)]) -> HashMap<&'k [u8], usize> {
    let places = pairs.iter().enumerate();
    places.map(|(at, (key, _))| (key.as_slice(), at)).collect()
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// More than a normal scheduler should be held for.
    Dirty,
    /// More than an event may have.
    TooLarge,
    /// A term that only Elixir knows how to write.
    Normalise,
}

/// Which group types have a number, as `:group_type_index` says.
#[derive(Default)]
pub struct GroupIndex(HashMap<Vec<u8>, Option<u8>>);

impl GroupIndex {
    /// From `{kind, name, number}`; a kind is `a` (atom), `s` (string) or `i` (integer).
    pub fn new(entries: Vec<(String, String, Option<u8>)>) -> Self {
        Self(
            entries
                .into_iter()
                .map(|(kind, name, number)| ((kind + &name).into(), number))
                .collect(),
        )
    }

    /// A type's number: by the type itself, else by its name as a string.
    fn number(&self, kind: u8, name: &[u8]) -> Option<u8> {
        let of = |kind| self.0.get([&[kind], name].concat().as_slice()).copied();
        of(kind).or_else(|| of(b's')).flatten()
    }
}

/// What an encoder uses and leaves to the next one.
#[derive(Default)]
pub struct Scratch {
    /// What is written.
    pub out: Vec<u8>,
    names: Names,
    members: Vec<Member>,
}

/// A member of a map that is being written.
struct Member {
    /// Where it begins.
    at: usize,
    /// Values that were replaced before it.
    replaced: u64,
}

/// One event on its way to bytes.
pub struct Encoder<'a> {
    out: Vec<u8>,
    names: Names,
    /// Of the map that is being written, and of those around it.
    members: Vec<Member>,
    /// Values written in another form than their own.
    pub replaced: u64,
    /// Where the first of them begins.
    pub first_replaced: Option<usize>,
    marker: Option<Term<'a>>,
    max_bytes: usize,
    terms: usize,
    normal: bool,
    /// Bytes written and terms looked at, beyond which the walk stops.
    most_bytes: usize,
    most_terms: usize,
}

/// A key as it is written, quotes and all, and what kind of term it was.
struct Key {
    kind: u8,
    exact: bool,
}

impl<'a> Encoder<'a> {
    pub fn new(scratch: Scratch, max_bytes: usize, normal: bool, marker: Option<Term<'a>>) -> Self {
        let mut members = scratch.members;
        members.clear();
        members.shrink_to(KEPT_MEMBERS);
        Self {
            out: scratch.out,
            names: scratch.names,
            members,
            replaced: 0,
            first_replaced: None,
            marker,
            max_bytes,
            terms: 0,
            normal,
            most_bytes: max_bytes.min(if normal { NORMAL_BYTES } else { usize::MAX }),
            most_terms: max_bytes.min(if normal { NORMAL_TERMS } else { usize::MAX }),
        }
    }

    /// What has been written, and more to use again.
    pub fn into_scratch(self) -> Scratch {
        Scratch {
            out: self.out,
            names: self.names,
            members: self.members,
        }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Gives the object written from `start` on an `$insert_id`, a UUIDv7 (RFC 9562, 5.7), unless it has one.
    pub fn insert_id(&mut self, start: usize) {
        if !self.lacks(start, "$insert_id") {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        let id = uuid::Builder::from_unix_timestamp_millis(now.as_millis() as u64, &random);
        self.member(start, "$insert_id", &format!("\"{}\"", id.into_uuid()));
    }

    /// Has the object written from `start` on say whether its event makes a profile, unless it does so itself.
    pub fn person_profile(&mut self, profiles: PersonProfiles, name: Range<usize>, start: usize) {
        if self.lacks(start, PROCESS_PERSON_PROFILE) {
            let process = profiles.process(&self.out[name], &self.out[start..]);
            self.member(
                start,
                PROCESS_PERSON_PROFILE,
                if process { "true" } else { "false" },
            );
        }
    }

    /// Whether what is written from `start` on is an object without that member.
    fn lacks(&self, start: usize, name: &str) -> bool {
        let object = &self.out[start..];
        object.ends_with(b"}") && !json::has_member(object, name)
    }

    /// Puts a member at the end of the object written from `start` on.
    fn member(&mut self, start: usize, name: &str, value: &str) {
        let empty = self.out.len() - start == 2;
        self.out.pop();
        self.literal(if empty { "\"" } else { ",\"" });
        for part in [name, "\":", value, "}"] {
            self.literal(part);
        }
    }

    /// Writes text that needs no escaping.
    pub fn literal(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Writes an integer.
    pub fn integer(&mut self, value: i64) {
        json::write_i64(&mut self.out, value);
    }

    /// Writes any term as a value.
    pub fn value(&mut self, term: Term<'a>) -> Result<(), Stop> {
        self.value_at(term, 0)
    }

    /// Writes properties with their groups beside them, as the original's `with_groups` does.
    pub fn properties(
        &mut self,
        properties: Term<'a>,
        groups: Term<'a>,
        index: &GroupIndex,
    ) -> Result<(), Stop> {
        let none = groups.map_size().is_ok_and(|size| size == 0);
        if none || groups.is_empty_list() || nil() == groups {
            // Nearly always a map, which is asked for first.
            return match Pairs::of(properties) {
                Some(entries) => self.map(properties, entries, 0),
                None => self.value(properties),
            };
        }
        let mut added: Vec<(Vec<u8>, Term<'a>)> = vec![(b"\"$groups\"".to_vec(), groups)];
        let types = self.entries(groups)?;
        for (kind, name, group) in types.into_iter().flatten() {
            let name = name.get(1..name.len() - 1).unwrap_or_default();
            if let Some(number) = index.number(kind, name) {
                added.push((format!("\"$group_{number}\"").into_bytes(), group));
            }
        }
        let mut pairs = match self.entries(properties)? {
            Some(entries) => keyed(entries),
            None if properties.is_empty_list() || nil() == properties => Vec::new(),
            None => vec![(b"\"$properties\"".to_vec(), properties)],
        };
        pairs.append(&mut added);
        self.pairs(pairs, 0)
    }

    fn value_at(&mut self, term: Term<'a>, depth: usize) -> Result<(), Stop> {
        self.look()?;
        // Most values are known atoms, strings or numbers: each is asked for by one call, where to ask for the type
        // before is a second one.
        if self.names.write_known_value(&mut self.out, term) {
            return Ok(());
        }
        if let Some(bytes) = vm::bytes(term) {
            return self.string(bytes);
        }
        if let Some(value) = vm::integer(term) {
            json::write_i64(&mut self.out, value);
            return Ok(());
        }
        if let Some(value) = vm::float(term) {
            json::write_f64(&mut self.out, value);
            return Ok(());
        }
        match term.get_type() {
            TermType::Atom => {
                self.names.write_value(&mut self.out, term);
                Ok(())
            }
            TermType::Integer => self.big_integer(term),
            TermType::Map if depth < DEEPEST => match Pairs::of(term) {
                Some(entries) => self.map(term, entries, depth),
                None => self.by_elixir(),
            },
            TermType::List if depth < DEEPEST => self.list(term, depth),
            TermType::Tuple => self.tuple(term, depth),
            TermType::Map if is_struct(term) => self.by_elixir(),
            TermType::Map | TermType::List => self.too_deep(),
            _ => self.by_elixir(),
        }
    }

    /// Counts a term, and stops the walk at a bound.
    fn look(&mut self) -> Result<(), Stop> {
        self.terms += 1;
        if self.out.len() > self.most_bytes || self.terms > self.most_terms {
            return Err(self.stop(self.out.len().max(self.terms)));
        }
        Ok(())
    }

    /// Whether `more` bytes of input may be written here.
    fn room(&self, more: usize) -> Result<(), Stop> {
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
        self.room(bytes.len())?;
        let at = self.out.len();
        if json::write_str(&mut self.out, bytes) {
            self.count_replaced(at);
        }
        Ok(())
    }

    fn count_replaced(&mut self, at: usize) {
        self.replaced += 1;
        self.first_replaced.get_or_insert(at);
    }

    fn too_deep(&mut self) -> Result<(), Stop> {
        self.count_replaced(self.out.len());
        self.literal("\"…\"");
        Ok(())
    }

    /// The walk stops for Elixir to write this term; where it had its turn already, the term stays out.
    fn by_elixir(&mut self) -> Result<(), Stop> {
        if self.marker.is_none() {
            return Err(Stop::Normalise);
        }
        self.count_replaced(self.out.len());
        self.literal("\"#Error<>\"");
        Ok(())
    }

    #[cold]
    fn big_integer(&mut self, term: Term<'a>) -> Result<(), Stop> {
        // 131, then 110 (SMALL_BIG_EXT) and a byte of length, or 111 (LARGE_BIG_EXT) and four; the sign;
        // the magnitude, least byte first.
        let external = term.to_binary();
        let (sign, magnitude) = match external.as_slice() {
            [131, 110, _, sign, magnitude @ ..] | [131, 111, _, _, _, _, sign, magnitude @ ..] => {
                (*sign, magnitude)
            }
            _ => return self.by_elixir(),
        };
        // Digits take quadratic time: a normal scheduler is left sooner than for a text of that length.
        self.room(
            magnitude
                .len()
                .saturating_mul(if self.normal { 64 } else { 2 }),
        )?;
        let sign = if sign == 0 { Sign::Plus } else { Sign::Minus };
        let digits = BigInt::from_bytes_le(sign, magnitude).to_string();
        self.literal(&digits);
        Ok(())
    }

    // Containers stay out of `value_at`: most values are scalars, and should not pay for their stack frame.
    #[inline(never)]
    fn tuple(&mut self, term: Term<'a>, depth: usize) -> Result<(), Stop> {
        let Some(elements) = vm::elements(term) else {
            return self.by_elixir();
        };
        if self.marker.is_some() && elements.len() == 3 {
            let mut parts = elements.clone();
            if let (marker, Some(form), Some(text)) = (parts.next(), parts.next(), parts.next()) {
                if marker == self.marker {
                    return self.marked(term, form, text, depth);
                }
            }
        }
        if depth >= DEEPEST {
            return self.too_deep();
        }
        self.count_replaced(self.out.len());
        self.array(elements, depth)
    }

    /// What Elixir has made of a term.
    fn marked(
        &mut self,
        term: Term<'a>,
        form: Term<'a>,
        text: Term<'a>,
        depth: usize,
    ) -> Result<(), Stop> {
        if array() == form {
            if depth >= DEEPEST {
                return self.too_deep();
            }
            self.count_replaced(self.out.len());
            return self.array(text.into_list_iterator().into_iter().flatten(), depth);
        }
        match self.marked_pairs(term)? {
            Some(_) if depth >= DEEPEST => self.too_deep(),
            Some(entries) => self.pairs(keyed(entries), depth),
            None if depth >= DEEPEST && improper() == form => self.too_deep(),
            None => self.ready_made(form, text, depth),
        }
    }

    fn ready_made(&mut self, form: Term<'a>, text: Term<'a>, depth: usize) -> Result<(), Stop> {
        let Some(text) = vm::bytes(text) else {
            return self.by_elixir();
        };
        if raw() != form {
            if replaced() == form || improper() == form {
                self.count_replaced(self.out.len());
            }
            return self.string(text);
        }
        self.room(text.len())?;
        match json::depth(text) {
            None => return self.by_elixir(),
            Some(deep) if depth + deep > DEEPEST => return self.too_deep(),
            Some(_) => {}
        }
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn array(
        &mut self,
        elements: impl Iterator<Item = Term<'a>>,
        depth: usize,
    ) -> Result<(), Stop> {
        self.out.push(b'[');
        for (at, element) in elements.enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            self.value_at(element, depth + 1)?;
        }
        self.out.push(b']');
        Ok(())
    }

    #[inline(never)]
    fn list(&mut self, term: Term<'a>, depth: usize) -> Result<(), Stop> {
        if let Some(entries) = self.keyword(term)? {
            let pairs = keyed(entries);
            return self.pairs(pairs, depth);
        }
        let start = self.out.len();
        self.out.push(b'[');
        let mut elements = Elements::of(term);
        let mut first = true;
        for element in elements.by_ref() {
            if !std::mem::take(&mut first) {
                self.out.push(b',');
            }
            self.value_at(element, depth + 1)?;
        }
        if !elements.rest().is_empty_list() {
            self.out.truncate(start);
            return self.by_elixir();
        }
        self.out.push(b']');
        Ok(())
    }

    #[inline(never)]
    fn map(&mut self, term: Term<'a>, entries: Pairs<'a>, depth: usize) -> Result<(), Stop> {
        let (start, first) = (self.out.len(), self.members.len());
        let mut kinds = None;
        for (key, value) in entries {
            if __struct__() == key && value.is_atom() {
                self.out.truncate(start);
                self.members.truncate(first);
                return self.by_elixir();
            }
            self.members.push(Member {
                at: self.out.len(),
                replaced: self.replaced,
            });
            let key = self.member_key(key, start)?;
            if !key.exact || *kinds.get_or_insert(key.kind) != key.kind {
                // Keys that were apart as terms may be one as strings.
                self.mixed(term, start, first, depth)?;
                self.members.truncate(first);
                return Ok(());
            }
            self.value_at(value, depth + 1)
                .or_else(|stop| self.unless_struct(stop, term))?;
        }
        self.members.truncate(first);
        self.literal(if kinds.is_none() { "{}" } else { "}" });
        Ok(())
    }

    /// A struct is for Elixir, however large its fields are: since OTP 26 the keys of a map are in no order, so one that is
    /// too large may come before the key that makes a struct of it.
    #[cold]
    fn unless_struct(&self, stop: Stop, map: Term<'a>) -> Result<(), Stop> {
        let normalise = matches!(stop, Stop::TooLarge) && self.marker.is_none() && is_struct(map);
        Err(if normalise { Stop::Normalise } else { stop })
    }

    /// Goes on with a map of which the last of equal keys wins, where the key that was written last is not of the
    /// others' kind. The members before it stay as they are written, but for those that a later one overrides: to write
    /// them again would take twice the time at each level.
    #[inline(never)]
    fn mixed(
        &mut self,
        term: Term<'a>,
        start: usize,
        first: usize,
        depth: usize,
    ) -> Result<(), Stop> {
        let written = self.members.len() - first - 1;
        let Member { at, replaced } = self.members[first + written];
        self.out.truncate(at);
        self.replaced = replaced;
        self.first_replaced.take_if(|first| *first >= at);
        let Some(entries) = self.entries(term)? else {
            self.out.truncate(start);
            return self.by_elixir();
        };
        let pairs = keyed(entries);
        let last = last_of(&pairs);
        for index in (0..written).rev() {
            if last[pairs[index].0.as_slice()] != index {
                self.cut(first + index);
            }
        }
        for (index, (key, value)) in pairs.iter().enumerate().skip(written) {
            if last[key.as_slice()] == index {
                self.out.push(b',');
                self.out.extend_from_slice(key);
                self.out.push(b':');
                self.value_at(*value, depth + 1)?;
            }
        }
        // The first one's comma: that of the first that was written may have gone with it.
        self.out[start] = b'{';
        self.out.push(b'}');
        Ok(())
    }

    /// Takes a member of the map that is being written out of it, up to where the next one begins.
    fn cut(&mut self, index: usize) {
        let (start, end) = (self.members[index].at, self.members[index + 1].at);
        let replaced = self.members[index + 1].replaced - self.members[index].replaced;
        self.out.drain(start..end);
        self.replaced -= replaced;
        for member in &mut self.members[index + 1..] {
            member.at -= end - start;
            member.replaced -= replaced;
        }
        self.first_replaced = match self.first_replaced {
            Some(_) if self.replaced == 0 => None,
            Some(at) if at >= end => Some(at - (end - start)),
            // The next one is not known: somewhere behind this.
            Some(at) if at >= start => Some(start),
            before => before,
        };
    }

    /// Writes an object of which the last of equal keys wins.
    fn pairs(&mut self, pairs: Vec<(Vec<u8>, Term<'a>)>, depth: usize) -> Result<(), Stop> {
        let last = last_of(&pairs);
        self.out.push(b'{');
        let mut first = true;
        for (at, (key, value)) in pairs.iter().enumerate() {
            if last[key.as_slice()] != at {
                continue;
            }
            if !std::mem::take(&mut first) {
                self.out.push(b',');
            }
            self.out.extend_from_slice(key);
            self.out.push(b':');
            self.value_at(*value, depth + 1)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// The entries of a map or keyword list, keys written; `None` for any other term.
    #[allow(clippy::type_complexity)]
    fn entries(&mut self, term: Term<'a>) -> Result<Option<Vec<(u8, Vec<u8>, Term<'a>)>>, Stop> {
        let Some(map) = Pairs::of(term) else {
            return match self.marked_pairs(term)? {
                Some(entries) => Ok(Some(entries)),
                None => self.keyword(term),
            };
        };
        let mut entries = Vec::new();
        for (key, value) in map {
            self.look()?;
            if __struct__() == key && value.is_atom() {
                return match self.marker {
                    None => Err(Stop::Normalise),
                    Some(_) => Ok(None),
                };
            }
            entries.push(self.entry(key, value)?);
        }
        let mixed = entries
            .iter()
            .any(|(kind, ..)| *kind == INEXACT || *kind != entries[0].0);
        if mixed && entries.len() > LARGEST_FLAT_MAP && self.marker.is_none() {
            return Err(Stop::Normalise);
        }
        Ok(Some(entries))
    }

    /// The entries of a map that Elixir has put in order.
    #[allow(clippy::type_complexity)]
    fn marked_pairs(
        &mut self,
        term: Term<'a>,
    ) -> Result<Option<Vec<(u8, Vec<u8>, Term<'a>)>>, Stop> {
        let (Some(own), Ok((marker, form, list))) =
            (self.marker, term.decode::<(Term, Term, Term)>())
        else {
            return Ok(None);
        };
        if marker != own || pairs() != form {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for (key, value) in list
            .decode::<Vec<(Term<'a>, Term<'a>)>>()
            .unwrap_or_default()
        {
            self.look()?;
            entries.push(self.entry(key, value)?);
        }
        Ok(Some(entries))
    }

    #[allow(clippy::type_complexity)]
    fn keyword(&mut self, term: Term<'a>) -> Result<Option<Vec<(u8, Vec<u8>, Term<'a>)>>, Stop> {
        let mut entries = Vec::new();
        let mut elements = Elements::of(term);
        for element in elements.by_ref() {
            if !element.is_tuple() {
                return Ok(None);
            }
            let Ok((key, value)) = element.decode::<(Atom, Term<'a>)>() else {
                return Ok(None);
            };
            self.look()?;
            entries.push(self.entry(key.to_term(term.get_env()), value)?);
        }
        let keyword = elements.rest().is_empty_list() && !entries.is_empty();
        Ok(keyword.then_some(entries))
    }

    fn entry(&mut self, key: Term<'a>, value: Term<'a>) -> Result<(u8, Vec<u8>, Term<'a>), Stop> {
        let start = self.out.len();
        let key = self.key(key)?;
        let kind = if key.exact { key.kind } else { INEXACT };
        Ok((kind, self.out.split_off(start), value))
    }

    /// Writes a comma, a key and a colon; for the comma a brace where the object starts.
    fn member_key(&mut self, term: Term<'a>, start: usize) -> Result<Key, Stop> {
        if self.names.write_known_member(&mut self.out, term) {
            self.out[start] = b'{';
            return Ok(Key {
                kind: b'a',
                exact: true,
            });
        }
        self.out.push(b',');
        self.out[start] = b'{';
        let key = self.key(term)?;
        self.out.push(b':');
        Ok(key)
    }

    fn key(&mut self, term: Term<'a>) -> Result<Key, Stop> {
        if let Some(bytes) = vm::bytes(term) {
            let before = self.replaced;
            self.string(bytes)?;
            return Ok(Key {
                kind: b's',
                exact: self.replaced == before,
            });
        }
        match term.get_type() {
            TermType::Atom => {
                self.names.write(&mut self.out, term);
                Ok(Key {
                    kind: b'a',
                    exact: true,
                })
            }
            TermType::Integer => {
                self.out.push(b'"');
                match vm::integer(term) {
                    Some(value) => json::write_i64(&mut self.out, value),
                    None => self.big_integer(term)?,
                }
                self.out.push(b'"');
                Ok(Key {
                    kind: b'i',
                    exact: true,
                })
            }
            _ => {
                self.by_elixir()?;
                Ok(Key {
                    kind: b's',
                    exact: false,
                })
            }
        }
    }
}
