//! Terms that `BilldogEng.Terms.Normaliser` has rewritten: `{marker, form, content}`.
//!
//! The marker is a reference made for this one event, so that no tuple of the app's is taken for one of these.

use super::keys::Entry;
use super::{Encoder, Stop, DEEPEST};
use crate::atoms;
use crate::vm::{self, Elements};
use billdogeng::json;
use rustler::Term;
use serde_json::Value;

impl<'a> Encoder<'a> {
    /// Returns the form and content of a normalised term; `None` for any other term.
    pub(super) fn marked(&self, term: Term<'a>) -> Option<[Term<'a>; 2]> {
        let own = self.marker?;
        let [marker, form, content] = vm::tuple(term)?;
        (marker == own).then_some([form, content])
    }

    /// Returns the list of pairs of a map that Elixir has put in order; `None` for any other term.
    pub(super) fn marked_pairs(&self, term: Term<'a>) -> Option<Term<'a>> {
        let [form, pairs] = self.marked(term)?;
        (atoms::pairs() == form).then_some(pairs)
    }

    pub(super) fn normalised_entries(&mut self, pairs: Term<'a>) -> Result<Vec<Entry<'a>>, Stop> {
        let mut entries = Vec::new();
        for [key, value] in Elements::of(pairs).filter_map(vm::tuple) {
            self.visit()?;
            entries.push(self.entry(key, value)?);
        }
        Ok(entries)
    }

    /// Writes a normalised term.
    pub(super) fn normalised(
        &mut self,
        form: Term<'a>,
        content: Term<'a>,
        depth: usize,
    ) -> Result<(), Stop> {
        let (array, pairs) = (atoms::array() == form, atoms::pairs() == form);
        if depth >= DEEPEST && (array || pairs || atoms::improper() == form) {
            return self.too_deep();
        }
        if array {
            self.count_replaced(self.scratch.out.len());
            return self.array(Elements::of(content), depth);
        }
        if pairs {
            let entries = self.normalised_entries(content)?;
            return self.object(&entries, depth);
        }
        let Some(text) = vm::bytes(content) else {
            return self.by_elixir();
        };
        if atoms::raw() == form {
            return self.raw(text, depth);
        }
        if atoms::replaced() == form || atoms::improper() == form {
            self.count_replaced(self.scratch.out.len());
        }
        self.string(text)
    }

    /// Writes JSON of the app's own encoder, once it has proved to be one value.
    fn raw(&mut self, text: &[u8], depth: usize) -> Result<(), Stop> {
        self.check_room(text.len())?;
        let Some(value) = json::read(text) else {
            return self.by_elixir();
        };
        if depth + json::depth(&value) > DEEPEST {
            return self.too_deep();
        }
        if let (0, Value::Object(members), Some(noted)) = (depth, &value, &mut self.noted) {
            for name in members.keys() {
                noted.name(name.as_bytes());
            }
        }
        self.scratch.out.extend_from_slice(text);
        Ok(())
    }
}
