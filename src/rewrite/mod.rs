//! TODO-rewrite
