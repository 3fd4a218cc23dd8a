//! Manifests as text: finds their images, and replaces some of them in the text.
//!
//! In: YAML or JSON of one or more documents; [`ManifestText::read`] finds its Pod templates. Out of [`ManifestText::edit`]: the
//! text with only those scalars replaced. Comments, anchors, order, quotes, line endings and separators stay byte for byte.
//! The new text is parsed again and compared with the expected value, so a text with another meaning is never returned.
//!
//! Two kinds of fields name images. [`ManifestText::templates`] has the fields that are images for certain: the containers of
//! Pods and Pod templates, and the fields of a table by kind ([`KindTable`]). [`ManifestText::mentions`] has all other texts that
//! name an image: arguments, variables, data, values, annotations. It also lists, without rewriting, images in `metadata` and
//! `status` of an object, in kinds of groups that hold patterns and schemas instead of workloads ([`PATTERN_GROUPS`]), and in
//! documents that are not Kubernetes objects (without `apiVersion` and `kind`).

mod edit;
mod field_path;
mod kind_table;
mod mentions;
mod object;
mod parts;
mod pull_secrets;
mod refs;
mod scalar;
mod shape;
mod template;
mod tree;
mod value;
mod walk;
mod workloads;

pub use edit::{Edit, EditedText, RejectedEdit};
pub use kind_table::KindTable;
pub use mentions::Mention;
pub use object::{Object, PATTERN_GROUPS};
pub use parts::separated;
pub use template::{ImageRole, Placeholder, Template, TemplateImage};
pub use workloads::ManifestText;

/// The error of a text that cannot be read or edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("document {document}, line {line}, column {column}: {detail}")]
pub struct ManifestError {
    /// The document, counted from 1.
    pub document: usize,
    /// The line of the text, counted from 1.
    pub line: usize,
    /// The column of the text in characters, counted from 1.
    pub column: usize,
    /// The problem, and the fix.
    pub detail: String,
}

#[cfg(test)]
mod tests;
