//! TODO-tls
