//! Certificates: issued ([`issue`]), read from files and watched ([`files`]), and served ([`serve`]) without a restart.
//!
//! In flow PEM files of a mounted Secret, or names to certify; out flows a rustls configuration whose certificate can be
//! exchanged under load.

pub mod files;
pub mod issue;
pub mod serve;
