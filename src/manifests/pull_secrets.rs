//! Adds names to the `imagePullSecrets` of a spec, in the style of its text.

use std::fmt::Write as _;

use super::{
    kind_table::PullSecretsField,
    scalar::{quoted, secret_name},
    template::SecretsPlace,
    tree::{Node, NodeContent, NodeId, Tree},
    value::{Value, ValueData},
};

/// A text to insert, and the value that it adds.
#[derive(Debug, Clone)]
pub(super) struct TextInsertion {
    at: usize,
    end: usize,
    text: String,
    names: Vec<String>,
    taking: PullSecretsField,
    place: InsertPosition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InsertPosition {
    /// The field is new, and becomes the first one.
    Field,
    /// The names become the first ones of the existing list.
    List,
    /// The field exists without a value.
    Null,
}

impl TextInsertion {
    /// Returns the text to insert for these names; none of them is there yet.
    pub(super) fn new(tree: &Tree, text: &str, place: &SecretsPlace, names: &[&str]) -> Result<Self, &'static str> {
        let taking = &place.taking;
        let spec = tree.node(place.node).ok_or("its field is missing")?;
        let NodeContent::Mapping { flow, entries } = &spec.content else { return Err("it is not a mapping") };
        let field = |(key, value): &(NodeId, NodeId)| {
            matches!(tree.node(*key).map(|key| &key.content), Some(NodeContent::Scalar { text, .. }) if **text == *taking.field)
                .then_some(*value)
        };
        let merges = |(key, _): &(NodeId, NodeId)| matches!(tree.node(*key).map(|key| &key.content), Some(NodeContent::Scalar { text, .. }) if &**text == "<<");
        let (at, end, new, place) = match entries.iter().rev().find_map(field) {
            Some(list) => in_list(tree, text, list, taking, names)?,
            None if entries.iter().any(merges) => return Err("it has merge keys"),
            None if *flow => {
                (spec.span.start + 1, spec.span.start + 1, flow_field(taking, names), InsertPosition::Field)
            }
            None => {
                let first = entries.first().and_then(|(key, _)| tree.node(*key)).ok_or("it is empty")?;
                let at = begin_of_line(text, first)?;
                (at, at, block_field(text, first, taking, names), InsertPosition::Field)
            }
        };
        Ok(Self {
            at,
            end,
            text: new,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            taking: taking.clone(),
            place,
        })
    }

    /// Returns the first byte of the replaced text.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Returns the byte after the replaced text.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Returns the new text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Applies the addition to the value of the spec, as the new text does.
    pub(super) fn expect(&self, spec: &mut Value) {
        let value = |data| Value { token: 0, target: 0, data };
        let text = |text: &str| value(ValueData::Text(text.into()));
        let item = |name: &String| match self.taking.names {
            true => text(name),
            false => value(ValueData::Map(vec![(text("name"), text(name))])),
        };
        let new = || self.names.iter().map(item);
        let field = self.taking.field.as_str();
        let ValueData::Map(entries) = &mut spec.data else { return };
        if self.place == InsertPosition::Field {
            entries.insert(0, (text(field), value(ValueData::List(new().collect()))));
            return;
        }
        let Some((_, list)) = entries.iter_mut().find(|(key, _)| key.text() == Some(field)) else { return };
        match &mut list.data {
            ValueData::List(items) => {
                items.splice(0..0, new());
            }
            data => *data = ValueData::List(new().collect()),
        }
    }
}

fn in_list(
    tree: &Tree,
    text: &str,
    list: NodeId,
    taking: &PullSecretsField,
    names: &[&str],
) -> Result<(usize, usize, String, InsertPosition), &'static str> {
    let node = tree.node(list).ok_or("its field is missing")?;
    match &node.content {
        NodeContent::Sequence { flow: true, items } => {
            let at = node.span.start + 1;
            let comma = if items.is_empty() { "" } else { ", " };
            Ok((at, at, format!("{}{comma}", flow_items(taking, names)), InsertPosition::List))
        }
        NodeContent::Sequence { items, .. } => {
            let first = items.first().and_then(|item| tree.node(*item)).ok_or("its list cannot be read")?;
            let line_start = text.get(..first.span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
            let before = text.get(line_start..first.span.start).unwrap_or_default();
            let indent = before.len() - before.trim_start_matches(' ').len();
            if before.trim() != "-" {
                return Err("the first entry of its list is not on its own line");
            }
            let at = line_start + indent;
            let mut new = String::new();
            for name in names {
                let _ = write!(new, "{}{}{:indent$}", block_item(taking, name), line_end(text), "");
            }
            Ok((at, at, new, InsertPosition::List))
        }
        NodeContent::Scalar { is_text: false, .. } if !node.span.is_empty() => {
            Ok((node.span.start, node.span.end, format!("[{}]", flow_items(taking, names)), InsertPosition::Null))
        }
        NodeContent::Alias(_) => Err("its list is an alias"),
        _ => Err("its list is empty and not written as []"),
    }
}

/// Returns where the first key of a block-style mapping begins, if only indentation or list dashes precede it.
fn begin_of_line(text: &str, key: &Node) -> Result<usize, &'static str> {
    let line_start = text.get(..key.span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let before = text.get(line_start..key.span.start).unwrap_or_default();
    let only_indentation = before.trim_start_matches('\u{feff}').bytes().all(|byte| byte == b' ' || byte == b'-');
    if key.has_properties || !only_indentation {
        return Err("its first key is not on its own line");
    }
    Ok(key.span.start)
}

fn block_field(text: &str, first: &Node, taking: &PullSecretsField, names: &[&str]) -> String {
    let (end, indent) = (line_end(text), first.column - 1);
    let mut new = format!("{}:{end}", taking.field);
    for name in names {
        let _ = write!(new, "{:indent$}{}{end}", "", block_item(taking, name));
    }
    let _ = write!(new, "{:indent$}", "");
    new
}

fn block_item(taking: &PullSecretsField, name: &str) -> String {
    format!("- {}{}", if taking.names { "" } else { "name: " }, secret_name(name))
}

fn flow_field(taking: &PullSecretsField, names: &[&str]) -> String {
    format!("{}: [{}], ", quoted(&taking.field), flow_items(taking, names))
}

fn flow_items(taking: &PullSecretsField, names: &[&str]) -> String {
    let item = |name: &&str| match taking.names {
        true => quoted(name),
        false => format!("{{\"name\": {}}}", quoted(name)),
    };
    let items: Vec<String> = names.iter().map(item).collect();
    items.join(", ")
}

/// Returns the line ending of a text.
fn line_end(text: &str) -> &'static str {
    match text.find('\n').and_then(|at| at.checked_sub(1)).and_then(|at| text.as_bytes().get(at)) {
        Some(b'\r') => "\r\n",
        _ => "\n",
    }
}
