//! The value that a document has: aliases followed, merge keys applied, each part knowing where it stands.

use std::collections::HashMap;

use granit_parser::ScalarStyle;

use super::{
    Error,
    tree::{Content, NodeId, Tree},
};

/// A text of whose values aliases and merge keys make so many more is refused.
const MAX_REPEATED: usize = 1_000_000;
/// Values within values.
const MAX_DEPTH: usize = 200;

/// A value. Two are equal when they say the same, wherever they stand.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// The node that stands at this place: it may be an alias.
    pub(super) token: NodeId,
    /// The node that holds the content.
    pub(super) target: NodeId,
    pub(super) data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Text(String),
    /// Null, a boolean or a number, as written.
    Other(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

/// How often each node is part of the value of a text.
#[derive(Debug, Default)]
pub(super) struct Visits {
    /// By the node at the place.
    pub(super) tokens: HashMap<NodeId, usize>,
    /// By the node that holds the content.
    pub(super) targets: HashMap<NodeId, usize>,
}

/// The values of all documents.
///
/// # Errors
/// Aliases or nesting without bounds.
pub(super) fn values(tree: &Tree) -> Result<Vec<Value>, Error> {
    let mut expanding = Expanding { tree, left: tree.len() + MAX_REPEATED };
    tree.documents.iter().map(|root| expanding.value(*root, 0)).collect()
}

impl Value {
    /// The value of a key, with its index.
    pub(super) fn entry(&self, key: &str) -> Option<(usize, &Self)> {
        let Data::Map(entries) = &self.data else { return None };
        let found = entries.iter().enumerate().find(|(_, (name, _))| name.text() == Some(key));
        found.map(|(index, (_, value))| (index, value))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The text of a text.
    pub(super) fn text(&self) -> Option<&str> {
        if let Data::Text(text) = &self.data { Some(text) } else { None }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<&[Self]> {
        if let Data::List(items) = &self.data { Some(items) } else { None }
    }

    /// What stands at a path of indexes.
    pub(super) fn at_mut(&mut self, path: &[usize]) -> Option<&mut Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match &mut self.data {
            Data::List(items) => items.get_mut(*first)?.at_mut(rest),
            Data::Map(entries) => entries.get_mut(*first)?.1.at_mut(rest),
            _ => None,
        }
    }

    /// Counts this value and all in it.
    pub(super) fn count(&self, visits: &mut Visits) {
        *visits.tokens.entry(self.token).or_default() += 1;
        *visits.targets.entry(self.target).or_default() += 1;
        match &self.data {
            Data::List(items) => items.iter().for_each(|item| item.count(visits)),
            Data::Map(entries) => entries.iter().for_each(|(key, value)| {
                key.count(visits);
                value.count(visits);
            }),
            Data::Text(_) | Data::Other(_) => {}
        }
    }
}

struct Expanding<'t> {
    tree: &'t Tree,
    left: usize,
}

impl Expanding<'_> {
    fn value(&mut self, token: NodeId, depth: usize) -> Result<Value, Error> {
        let too_much = |what: &str| self.tree.error(token, format!("{what}: this is refused"));
        if depth > MAX_DEPTH {
            return Err(too_much(&format!("more than {MAX_DEPTH} values within one another")));
        }
        self.left =
            self.left.checked_sub(1).ok_or_else(|| too_much(&format!("more than {MAX_REPEATED} values by aliases")))?;
        let target = self.tree.resolve(token);
        let data = match self.tree.node(target).map(|node| &node.content) {
            Some(Content::Scalar { text, is_text: true, .. }) => Data::Text(text.clone()),
            Some(Content::Scalar { text, .. }) => Data::Other(text.clone()),
            Some(Content::Sequence { items, .. }) => {
                Data::List(items.iter().map(|item| self.value(*item, depth + 1)).collect::<Result<_, _>>()?)
            }
            Some(Content::Mapping { .. }) => Data::Map(self.entries(target, depth)?),
            Some(Content::Alias(_)) | None => Data::Other(String::new()),
        };
        Ok(Value { token, target, data })
    }

    /// A mapping's own entries, then those that it merges and does not have itself.
    fn entries(&mut self, mapping: NodeId, depth: usize) -> Result<Vec<(Value, Value)>, Error> {
        let Some(Content::Mapping { entries, .. }) = self.tree.node(mapping).map(|node| &node.content) else {
            return Err(self.tree.error(mapping, "a merge key takes a mapping, or a list of mappings"));
        };
        let mut own = Vec::with_capacity(entries.len());
        let mut merged = Vec::new();
        for (key, value) in entries {
            if self.is_merge(*key) {
                merged.extend(self.sources(*value));
            } else {
                own.push((self.value(*key, depth + 1)?, self.value(*value, depth + 1)?));
            }
        }
        for source in merged {
            self.left = self.left.saturating_sub(1);
            if depth > MAX_DEPTH || self.left == 0 {
                return Err(self.tree.error(mapping, "merge keys without end: this is refused"));
            }
            for (key, value) in self.entries(source, depth + 1)? {
                if !own.iter().any(|(known, _)| *known == key) {
                    own.push((key, value));
                }
            }
        }
        Ok(own)
    }

    fn is_merge(&self, key: NodeId) -> bool {
        matches!(self.tree.node(key).map(|node| &node.content),
            Some(Content::Scalar { text, style: ScalarStyle::Plain, .. }) if text == "<<")
    }

    fn sources(&self, value: NodeId) -> Vec<NodeId> {
        let target = self.tree.resolve(value);
        match self.tree.node(target).map(|node| &node.content) {
            Some(Content::Sequence { items, .. }) => items.iter().map(|item| self.tree.resolve(*item)).collect(),
            _ => vec![target],
        }
    }
}
