//! Manifests as text: which images stand where, and the same text with some of them replaced.
//!
//! In flows YAML or JSON of one or more documents; [`Manifests::read`] finds the Pod templates in it. Out flows, from
//! [`Manifests::edit`], the text with just those scalars exchanged: comments, anchors, order, quotes, line endings and
//! separators stay byte for byte. What was written is read again and compared with what was meant, so a text that would
//! say anything else is never handed out.
//!
//! Two kinds of places name images. [`Manifests::templates`] has those that are images for certain: the containers of Pods and
//! of what Pods are made from, and fields that a table knows by kind ([`Fields`]). [`Manifests::mentions`] has all other texts
//! that name an image: arguments, variables, data, values, annotations. Not rewritten, but listed, is also what stands in
//! `metadata` and `status` of an object, in kinds of groups that hold patterns and schemas instead of workloads
//! ([`PATTERN_GROUPS`]), and in documents that are no object of Kubernetes (without `apiVersion` and `kind`).

mod edit;
mod fields;
mod mentions;
mod parts;
mod place;
mod pull_secrets;
mod refs;
mod shape;
mod tree;
mod value;
mod walk;
mod workloads;

pub use edit::{Edited, Unkept, Wish};
pub use fields::Fields;
pub use mentions::Mention;
pub use parts::separated;
pub use workloads::{Image, Manifests, Object, PATTERN_GROUPS, Placeholder, Role, Template};

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
