//! The nodes of a YAML text, each with its position.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

use super::{ManifestError, parts::TextPart};

/// More nodes are refused: `rewrite` takes about 500 bytes for each. 10,000 Deployments with two containers each fit.
pub(super) const MAX_NODES: usize = 1_500_000;
/// Further keys that stand twice are not named.
const MAX_WARNINGS: usize = 100;

/// Index of a node in its [`Tree`].
pub(super) type NodeId = usize;

/// All documents of a text.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The root of each document.
    pub(super) documents: Vec<NodeId>,
    /// Duplicate keys of a mapping: the last one counts.
    pub(super) duplicates: Vec<ManifestError>,
}

/// One node of the text.
#[derive(Debug)]
pub(super) struct Node {
    /// The bytes of the node; for a block-style collection only its beginning.
    pub(super) span: Range<usize>,
    /// Line, counted from 1.
    pub(super) line: usize,
    /// Column in characters, counted from 1.
    pub(super) column: usize,
    /// Document, counted from 1.
    pub(super) document: usize,
    /// Whether an anchor or a tag precedes the node.
    pub(super) has_properties: bool,
    pub(super) content: NodeContent,
}

#[derive(Debug)]
pub(super) enum NodeContent {
    Scalar { text: Arc<str>, style: ScalarStyle, is_text: bool },
    Sequence { flow: bool, items: Vec<NodeId> },
    Mapping { flow: bool, entries: Vec<(NodeId, NodeId)> },
    Alias(NodeId),
}

impl Tree {
    /// Parses a text. Skips a byte order mark at its start. Several JSON values without a separator are several documents.
    ///
    /// # Errors
    /// When the text is not YAML, or has more than [`MAX_NODES`].
    pub(super) fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut reading = TreeBuilder::default();
        for part in super::parts::parts(text)? {
            let options = granit_parser::options! { emit_comments: false };
            let source = text.get(part.bytes.clone()).unwrap_or_default();
            for event in Parser::new_from_str_with_options(source, options) {
                let document = reading.document.max(1);
                let (event, span) = event.map_err(|error| {
                    let (line, column) = part.place(error.marker().line(), error.marker().col());
                    ManifestError { document, line, column, detail: with_advice(error.info()) }
                })?;
                reading.take(event, &span, &part)?;
            }
        }
        reading.tree.refuse_other_line_breaks(text)?;
        Ok(reading.tree)
    }

    /// Refuses three characters that end a line, and so a comment, for kubectl, and do not end one in YAML 1.2. Inside quotes
    /// they make no difference.
    fn refuse_other_line_breaks(&self, text: &str) -> Result<(), ManifestError> {
        const BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];
        if text.is_ascii() {
            return Ok(());
        }
        let is_quoted = |node: &&Node| match &node.content {
            NodeContent::Scalar { style, .. } => matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted),
            _ => false,
        };
        let mut quoted = self.nodes.iter().filter(is_quoted).map(|node| &node.span).peekable();
        for (at, found) in text.match_indices(BREAKS) {
            while quoted.next_if(|span| span.end <= at).is_some() {}
            if quoted.peek().is_some_and(|span| span.start < at) {
                continue;
            }
            let before = text.get(..at).unwrap_or_default();
            let document = self.nodes.iter().rev().find(|node| node.span.start < at).map_or(1, |node| node.document);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
            let code = found.chars().next().map_or(0, u32::from);
            let detail = format!(
                "the character U+{code:04X} ends a line for kubectl, and not in YAML 1.2: delete it, or write it as an escape \
                 in double quotes"
            );
            return Err(ManifestError { document, line, column, detail });
        }
        Ok(())
    }

    /// Returns a node; `None` only for an index of another tree.
    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// Returns the number of nodes.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the node that an alias refers to; any other node itself.
    pub(super) fn resolve(&self, id: NodeId) -> NodeId {
        match self.node(id).map(|node| &node.content) {
            Some(NodeContent::Alias(target)) => *target,
            _ => id,
        }
    }

    /// Returns an error at the position of a node.
    pub(super) fn error(&self, id: NodeId, detail: impl Into<String>) -> ManifestError {
        let (document, line, column) = self.node(id).map_or((1, 1, 1), |node| (node.document, node.line, node.column));
        ManifestError { document, line, column, detail: detail.into() }
    }
}

#[derive(Debug, Default)]
struct TreeBuilder {
    tree: Tree,
    document: usize,
    /// The open collections, each with the key that waits for its value.
    open: Vec<(NodeId, Option<NodeId>)>,
    anchors: HashMap<usize, NodeId>,
}

impl TreeBuilder {
    fn take(&mut self, event: Event<'_>, span: &Span, part: &TextPart) -> Result<(), ManifestError> {
        match event {
            Event::DocumentStart(..) => {
                self.document += 1;
                self.anchors.clear();
            }
            Event::Alias(anchor) => {
                let unknown = || self.tree.error(0, "an alias without an anchor");
                let target = *self.anchors.get(&anchor).ok_or_else(unknown)?;
                self.add(NodeContent::Alias(target), span, part, 0)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.as_ref().and_then(|tag| tag.core_suffix().map(str::to_owned));
                let is_text = match tagged.as_deref() {
                    Some("str") => true,
                    Some("null" | "bool" | "int" | "float") => false,
                    _ => style != ScalarStyle::Plain || (!span.is_empty() && !is_other_scalar(&text)),
                };
                self.add(NodeContent::Scalar { text: text.into(), style, is_text }, span, part, anchor)?;
            }
            Event::SequenceStart(style, anchor, _) => {
                let flow = style == StructureStyle::Flow;
                let id = self.add(NodeContent::Sequence { flow, items: Vec::new() }, span, part, anchor)?;
                self.open.push((id, None));
            }
            Event::MappingStart(style, anchor, _) => {
                let flow = style == StructureStyle::Flow;
                let id = self.add(NodeContent::Mapping { flow, entries: Vec::new() }, span, part, anchor)?;
                self.open.push((id, None));
            }
            Event::SequenceEnd => {
                self.open.pop();
            }
            Event::MappingEnd => {
                if let Some((id, _)) = self.open.pop() {
                    self.note_duplicates(id);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add(
        &mut self,
        content: NodeContent,
        span: &Span,
        part: &TextPart,
        anchor: usize,
    ) -> Result<NodeId, ManifestError> {
        let id = self.tree.nodes.len();
        let (line, column) = part.place(span.start.line(), span.start.col());
        let document = self.document;
        if id >= MAX_NODES {
            let detail = format!("more than {MAX_NODES} values in one text: split it into files of fewer documents");
            return Err(ManifestError { document, line, column, detail });
        }
        let bytes = span.byte_range().unwrap_or_default();
        let bytes = bytes.start + part.bytes.start..bytes.end + part.bytes.start;
        let has_properties = anchor != 0 || span.tag_start().is_some();
        self.tree.nodes.push(Node { span: bytes, line, column, document, has_properties, content });
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        let Some((parent, waiting)) = self.open.last_mut() else {
            self.tree.documents.push(id);
            return Ok(id);
        };
        match self.tree.nodes.get_mut(*parent).map(|parent| &mut parent.content) {
            Some(NodeContent::Sequence { items, .. }) => items.push(id),
            Some(NodeContent::Mapping { entries, .. }) => match waiting.take() {
                Some(key) => entries.push((key, id)),
                None => *waiting = Some(id),
            },
            _ => {}
        }
        Ok(id)
    }

    fn note_duplicates(&mut self, mapping: NodeId) {
        let Some(Node { content: NodeContent::Mapping { entries, .. }, .. }) = self.tree.node(mapping) else { return };
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
        let mut found = Vec::new();
        for (key, _) in entries {
            let node = self.tree.node(self.tree.resolve(*key));
            let Some(Node { content: NodeContent::Scalar { text, .. }, line, .. }) = node else { continue };
            if let Some(first) = seen.insert(text, *line) {
                let detail =
                    format!("key `{text}` is duplicated, first in line {first}: the last one counts, as in kubectl");
                found.push(self.tree.error(*key, detail));
            }
        }
        let room = MAX_WARNINGS.saturating_sub(self.tree.duplicates.len());
        self.tree.duplicates.extend(found.into_iter().take(room));
    }
}

/// Adds the fix to a problem, where it is not obvious.
fn with_advice(detail: String) -> String {
    if detail.contains("indentation in multiline quoted scalar") {
        return format!("{detail}: indent its further lines deeper than its key (kubectl also accepts it without)");
    }
    detail
}

/// Returns whether a plain scalar is null, a boolean or a number, in the core schema of YAML 1.2.
fn is_other_scalar(text: &str) -> bool {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL" | "true" | "True" | "TRUE" | "false" | "False" | "FALSE") {
        return true;
    }
    let number = text.trim_start_matches(['+', '-']);
    let digits = |prefix: &str| number.strip_prefix(prefix).is_some_and(|rest| u128::from_str_radix(rest, 16).is_ok());
    if matches!(number, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") || digits("0x") || digits("0o") {
        return true;
    }
    number.starts_with(|first: char| first.is_ascii_digit() || first == '.') && number.parse::<f64>().is_ok()
}
