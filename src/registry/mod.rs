//! TODO-registry
