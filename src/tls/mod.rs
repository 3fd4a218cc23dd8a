//! Certificates: issued ([`issue`]), rotated ([`rotation`]) as two Secrets hold them ([`kept`]), read from files and watched
//! ([`files`]), and served ([`serve`]) without a restart, to anybody or to some ([`clients`]).
//!
//! In flow PEM files of a mounted Secret, or names to certify; out flows a rustls configuration whose certificate can be
//! exchanged under load. On the side of the controller: in flows what is kept, trusted and shown ([`probe`], [`x509`]); out
//! flows the next step of a rotation.

pub mod clients;
pub mod files;
pub mod issue;
pub mod kept;
pub mod probe;
pub mod rotation;
pub mod serve;
pub mod x509;

/// Makes aws-lc-rs the crypto provider of the process. Calling it again changes nothing.
pub fn install_crypto_provider() {
    // An error says that there is one already, which is what we want.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
}
