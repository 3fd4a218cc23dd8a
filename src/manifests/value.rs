//! The value of a document: aliases resolved, merge keys applied, each part with its position.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::ScalarStyle;

use super::{
    ManifestError,
    tree::{NodeContent, NodeId, Tree},
};

/// The most repetitions of values by aliases and merge keys: a small text can otherwise expand to a huge value.
const MAX_REPEATED: usize = 100_000;
/// The deepest nesting of values.
const MAX_DEPTH: usize = 200;

/// A value. Two are equal when they have the same content, at any position.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// The node at this place; it may be an alias.
    pub(super) token: NodeId,
    /// The node that holds the content.
    pub(super) target: NodeId,
    pub(super) data: ValueData,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum ValueData {
    Text(Arc<str>),
    /// Null, a boolean or a number, as written.
    Other(Arc<str>),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

/// How often each node occurs in the value of a text.
#[derive(Debug, Default)]
pub(super) struct VisitCounts {
    /// By the node at the place.
    tokens: Vec<u32>,
    /// By the node that holds the content.
    targets: Vec<u32>,
}

impl VisitCounts {
    /// Counts the nodes of these values.
    pub(super) fn of(tree: &Tree, values: &[Value]) -> Self {
        let mut visits = Self { tokens: vec![0; tree.len()], targets: vec![0; tree.len()] };
        values.iter().for_each(|value| value.count(&mut visits));
        visits
    }

    /// Returns the count of a node at its place.
    pub(super) fn token(&self, id: NodeId) -> usize {
        self.tokens.get(id).map_or(0, |count| *count as usize)
    }

    /// Returns the count of a node that holds content.
    pub(super) fn target(&self, id: NodeId) -> usize {
        self.targets.get(id).map_or(0, |count| *count as usize)
    }
}

/// Returns the values of all documents.
///
/// # Errors
/// When aliases repeat too much or the nesting is too deep.
pub(super) fn values(tree: &Tree) -> Result<Vec<Value>, ManifestError> {
    let mut expanding = Expanding { tree, left: tree.len() + MAX_REPEATED };
    tree.documents.iter().map(|root| expanding.value(*root, 0)).collect()
}

impl Value {
    /// Returns the value of a key, with its index.
    pub(super) fn entry(&self, key: &str) -> Option<(usize, &Self)> {
        let ValueData::Map(entries) = &self.data else { return None };
        let found = entries.iter().enumerate().find(|(_, (name, _))| name.text() == Some(key));
        found.map(|(index, (_, value))| (index, value))
    }

    /// Returns the value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Returns the string, if the value is one.
    pub(super) fn text(&self) -> Option<&str> {
        if let ValueData::Text(text) = &self.data { Some(text) } else { None }
    }

    /// Returns the text of a string or a number, as written.
    pub(super) fn scalar_text(&self) -> Option<&str> {
        match &self.data {
            ValueData::Text(text) | ValueData::Other(text) => Some(text),
            ValueData::List(_) | ValueData::Map(_) => None,
        }
    }

    /// Returns whether a document is empty.
    pub(super) fn is_empty_document(&self) -> bool {
        matches!(&self.data, ValueData::Other(_))
    }

    /// Converts to JSON; a YAML number that JSON does not have becomes a string.
    pub(super) fn json(&self) -> serde_json::Value {
        match &self.data {
            ValueData::Text(text) => (&**text).into(),
            ValueData::Other(text) => other(text),
            ValueData::List(items) => items.iter().map(Self::json).collect(),
            ValueData::Map(entries) => {
                let named =
                    entries.iter().filter_map(|(key, value)| Some((key.scalar_text()?.to_owned(), value.json())));
                serde_json::Value::Object(named.collect())
            }
        }
    }

    /// Returns the text of a string, a number, a boolean or null.
    fn scalar(&self) -> Option<Arc<str>> {
        match &self.data {
            ValueData::Text(text) | ValueData::Other(text) => Some(Arc::clone(text)),
            ValueData::List(_) | ValueData::Map(_) => None,
        }
    }

    /// Returns the entries of a mapping.
    pub(super) fn entries(&self) -> &[(Self, Self)] {
        if let ValueData::Map(entries) = &self.data { entries } else { &[] }
    }

    /// Returns whether it is the boolean `true`.
    pub(super) fn is_true(&self) -> bool {
        matches!(&self.data, ValueData::Other(text) if text.eq_ignore_ascii_case("true"))
    }

    /// Returns the items of a list.
    pub(super) fn items(&self) -> Option<&[Self]> {
        if let ValueData::List(items) = &self.data { Some(items) } else { None }
    }

    /// Returns the value at a path of indexes.
    pub(super) fn at_mut(&mut self, path: &[usize]) -> Option<&mut Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match &mut self.data {
            ValueData::List(items) => items.get_mut(*first)?.at_mut(rest),
            ValueData::Map(entries) => entries.get_mut(*first)?.1.at_mut(rest),
            _ => None,
        }
    }

    /// Counts this value and all values in it.
    fn count(&self, visits: &mut VisitCounts) {
        let VisitCounts { tokens, targets } = visits;
        for (counts, id) in [(tokens, self.token), (targets, self.target)] {
            counts.get_mut(id).into_iter().for_each(|count| *count += 1);
        }
        match &self.data {
            ValueData::List(items) => items.iter().for_each(|item| item.count(visits)),
            ValueData::Map(entries) => entries.iter().for_each(|(key, value)| {
                key.count(visits);
                value.count(visits);
            }),
            ValueData::Text(_) | ValueData::Other(_) => {}
        }
    }
}

/// Converts null, a boolean or a number.
fn other(text: &str) -> serde_json::Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => serde_json::Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        number => number.parse::<serde_json::Number>().map_or_else(|_| number.into(), serde_json::Value::Number),
    }
}

struct Expanding<'t> {
    tree: &'t Tree,
    left: usize,
}

impl Expanding<'_> {
    fn value(&mut self, token: NodeId, depth: usize) -> Result<Value, ManifestError> {
        let too_much = |what: &str| self.tree.error(token, format!("{what}: not allowed"));
        if depth > MAX_DEPTH {
            return Err(too_much(&format!("more than {MAX_DEPTH} nested values")));
        }
        self.left =
            self.left.checked_sub(1).ok_or_else(|| too_much(&format!("more than {MAX_REPEATED} values by aliases")))?;
        let target = self.tree.resolve(token);
        let data = match self.tree.node(target).map(|node| &node.content) {
            Some(NodeContent::Scalar { text, is_text: true, .. }) => ValueData::Text(text.clone()),
            Some(NodeContent::Scalar { text, .. }) => ValueData::Other(text.clone()),
            Some(NodeContent::Sequence { items, .. }) => {
                ValueData::List(items.iter().map(|item| self.value(*item, depth + 1)).collect::<Result<_, _>>()?)
            }
            Some(NodeContent::Mapping { .. }) => ValueData::Map(self.entries(target, depth)?),
            Some(NodeContent::Alias(_)) | None => ValueData::Other(Arc::from("")),
        };
        Ok(Value { token, target, data })
    }

    /// Returns a mapping's own entries, then the merged entries that it does not have itself. Of a duplicate key the last
    /// entry counts.
    fn entries(&mut self, mapping: NodeId, depth: usize) -> Result<Vec<(Value, Value)>, ManifestError> {
        let tree = self.tree;
        let Some(NodeContent::Mapping { entries, .. }) = tree.node(mapping).map(|node| &node.content) else {
            return Err(self.tree.error(mapping, "a merge key takes a mapping, or a list of mappings"));
        };
        let last: HashMap<&str, usize> =
            entries.iter().enumerate().filter_map(|(index, (key, _))| Some((scalar(tree, *key)?, index))).collect();
        let mut own = Vec::with_capacity(entries.len());
        let mut merged = Vec::new();
        for (index, (key, value)) in entries.iter().enumerate() {
            if self.is_merge(*key) {
                merged.extend(self.sources(*value));
            } else if scalar(tree, *key).is_none_or(|text| last.get(text) == Some(&index)) {
                own.push((self.value(*key, depth + 1)?, self.value(*value, depth + 1)?));
            }
        }
        if merged.is_empty() {
            return Ok(own);
        }
        let mut known: HashSet<Arc<str>> = own.iter().filter_map(|(key, _)| key.scalar()).collect();
        for source in merged {
            self.left = self.left.saturating_sub(1);
            if depth > MAX_DEPTH || self.left == 0 {
                return Err(self.tree.error(mapping, "endless merge keys: not allowed"));
            }
            for (key, value) in self.entries(source, depth + 1)? {
                let Some(text) = key.scalar() else {
                    return Err(self.tree.error(key.token, "a key that is not text cannot be merged: write it out"));
                };
                if known.insert(text) {
                    own.push((key, value));
                }
            }
        }
        Ok(own)
    }

    fn is_merge(&self, key: NodeId) -> bool {
        matches!(self.tree.node(key).map(|node| &node.content),
            Some(NodeContent::Scalar { text, style: ScalarStyle::Plain, .. }) if &**text == "<<")
    }

    fn sources(&self, value: NodeId) -> Vec<NodeId> {
        let target = self.tree.resolve(value);
        match self.tree.node(target).map(|node| &node.content) {
            Some(NodeContent::Sequence { items, .. }) => items.iter().map(|item| self.tree.resolve(*item)).collect(),
            _ => vec![target],
        }
    }
}

fn scalar(tree: &Tree, key: NodeId) -> Option<&str> {
    match tree.node(tree.resolve(key)).map(|node| &node.content) {
        Some(NodeContent::Scalar { text, .. }) => Some(text),
        _ => None,
    }
}
