//! Certificates: issued ([`issue`]), rotated ([`rotation`]) in two Secrets ([`secret_format`]), read from files and reloaded
//! ([`files`]), and served ([`serve`]) without a restart, to all clients or to clients with a certificate ([`client_verifier`]).
//!
//! In: PEM files of a mounted Secret, or names for a certificate. Out: a rustls configuration whose certificate can be
//! replaced under load. In the controller, in: the stored, trusted and served certificates ([`probe`], [`x509`]); out: the
//! next step of a rotation.

pub mod certificate;
pub mod client_verifier;
pub mod files;
pub mod issue;
pub mod probe;
pub mod rotation;
pub mod secret_format;
pub mod serve;
pub mod x509;

/// Installs aws-lc-rs as the crypto provider of the process. A second call changes nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is already installed.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
}
