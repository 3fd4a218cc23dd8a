//! Image references.
/// Placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef;
