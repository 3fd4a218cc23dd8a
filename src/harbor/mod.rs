//! TODO-harbor
