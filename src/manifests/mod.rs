//! Manifests as text: which images stand where, and the same text with some of them replaced.
//!
//! In flows YAML or JSON of one or more documents; [`Manifests::read`] finds the Pod templates in it. Out flows, from
//! [`Manifests::edit`], the text with just those scalars exchanged: comments, anchors, order, quotes, line endings and
//! separators stay byte for byte. What was written is read again and compared with what was meant, so a text that would
//! say anything else is never handed out.
//!
//! What counts as a Pod's specification, in an object of any kind: a mapping in which `containers`, `initContainers` or
//! `ephemeralContainers` is a list of mappings that all have a `name`. Its images are the `image` of each of these, and
//! `image.reference` of its `volumes`. Not looked into are `metadata` and `status` of an object, text inside of text (the
//! data of a ConfigMap), the kinds of groups that hold patterns and schemas instead of workloads ([`PATTERN_GROUPS`]), and
//! documents that are no object of Kubernetes (without `apiVersion` and `kind`).

mod edit;
mod pull_secrets;
mod tree;
mod value;
mod workloads;

pub use edit::{Edited, Unkept, Wish};
pub use workloads::{Image, Manifests, Object, PATTERN_GROUPS, Template};

/// Why a text cannot be read or edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("document {document}, line {line}, column {column}: {detail}")]
pub struct Error {
    /// The document, counted from 1.
    pub document: usize,
    /// The line of the text, counted from 1.
    pub line: usize,
    /// The column of the text in characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what to do about it.
    pub detail: String,
}

#[cfg(test)]
mod tests;
