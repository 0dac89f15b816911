//! An event's properties together with its groups: `$groups`, and `$group_N` for group types that have a number.

use super::keys::{Entry, Kind};
use super::{Encoder, Stop};
use crate::atoms;
use crate::vm::{self, Pairs};
use rustler::Term;
use std::collections::HashMap;

/// The numbers of group types, from `:group_type_index`.
#[derive(Default)]
pub struct GroupIndex(HashMap<Vec<u8>, Option<u8>>);

impl GroupIndex {
    /// Takes `{kind, name, number}`, where kind is `a` (atom), `s` (string) or `i` (integer).
    pub fn new(entries: Vec<(String, String, Option<u8>)>) -> Self {
        let entries = entries.into_iter();
        Self(
            entries
                .map(|(kind, name, number)| ((kind + &name).into(), number))
                .collect(),
        )
    }

    /// Returns the number of a type: by the type itself, else by its name as a string.
    fn number(&self, kind: Kind, name: &[u8]) -> Option<u8> {
        let kind = match kind {
            Kind::Atom => b'a',
            Kind::Integer => b'i',
            Kind::String | Kind::Inexact => b's',
        };
        let of = |kind| self.0.get([&[kind], name].concat().as_slice()).copied();
        of(kind).or_else(|| of(b's')).flatten()
    }
}

impl<'a> Encoder<'a> {
    /// Writes properties and groups as one object, as the original's `with_groups` does.
    pub fn properties(
        &mut self,
        properties: Term<'a>,
        groups: Term<'a>,
        index: &GroupIndex,
    ) -> Result<(), Stop> {
        if vm::is_empty_map(groups) || groups.is_empty_list() || atoms::nil() == groups {
            // Nearly always a map: look for one first.
            return match Pairs::of(properties) {
                Some(pairs) => self.map(properties, pairs, 0),
                None => self.value(properties),
            };
        }
        let entry = |key: &str, value| Entry {
            kind: Kind::String,
            key: key.into(),
            value,
        };
        let mut added = vec![entry("\"$groups\"", groups)];
        for Entry { kind, key, value } in self.entries(groups)?.into_iter().flatten() {
            let name = key.get(1..key.len() - 1).unwrap_or_default();
            if let Some(number) = index.number(kind, name) {
                added.push(entry(&format!("\"$group_{number}\""), value));
            }
        }
        let mut entries = match self.entries(properties)? {
            Some(entries) => entries,
            None if properties.is_empty_list() || atoms::nil() == properties => Vec::new(),
            None => vec![entry("\"$properties\"", properties)],
        };
        entries.append(&mut added);
        self.object(&entries, 0)
    }
}
