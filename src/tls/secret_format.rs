//! The content of the two Secrets for the webhook's certificates.
//!
//! The Secret of the CA has `ca.crt` and `ca.key`, which issue certificates, and `previous.crt`: previous CAs, which issue no
//! certificates. Their keys are deleted, and they stay trusted while a certificate needs them. The Secret of the webhook has
//! `tls.crt`, `tls.key` and `ca.crt`.

use std::collections::BTreeMap;

use rcgen::{KeyPair, PublicKeyData};

use super::certificate::Certificate;
use super::files::{AUTHORITY, CERTIFICATE, KEY};
use super::issue::{Authority, Issued};
use super::x509::X509;

/// The data of a Secret.
pub type SecretData = BTreeMap<String, Vec<u8>>;

const CA_KEY: &str = "ca.key";
const PREVIOUS: &str = "previous.crt";

/// The state of an object that a Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredState<T> {
    /// The Secret does not exist.
    Missing,
    /// The Secret has another owner, and is not modified. Holds the evidence.
    NotOurs(String),
    /// The Secret is ours, and its content cannot be used. Holds the problem.
    Damaged(String),
    /// The Secret is ours and valid.
    Held(T),
}

/// The current CA, and the previous ones.
#[derive(Clone)]
pub struct AuthoritySet {
    /// Issues certificates.
    pub current: X509,
    /// CAs that are still trusted, newest first.
    pub previous: Vec<X509>,
    issued: Issued,
}

impl AuthoritySet {
    /// Reads the content of the Secret.
    pub fn read(data: &SecretData) -> StoredState<Self> {
        Self::parse(data).map_or_else(StoredState::Damaged, StoredState::Held)
    }

    /// Returns the content of the Secret with `authority` as the current CA.
    pub fn data(authority: &Authority, previous: &[X509]) -> SecretData {
        let Issued { certificate_pem, key_pem } = authority.issued();
        Self::write(certificate_pem, key_pem, previous)
    }

    /// Returns the content of the Secret with only these previous CAs.
    pub fn keeping(&self, previous: &[X509]) -> SecretData {
        Self::write(&self.issued.certificate_pem, &self.issued.key_pem, previous)
    }

    /// Returns all trusted CAs, the current one first.
    pub fn all(&self) -> Vec<X509> {
        std::iter::once(&self.current).chain(&self.previous).cloned().collect()
    }

    /// Returns the CA with its key, to issue certificates.
    ///
    /// # Errors
    /// When the stored key is invalid.
    pub fn authority(&self) -> Result<Authority, super::issue::IssueError> {
        Authority::restore(self.issued.clone())
    }

    fn parse(data: &SecretData) -> Result<Self, String> {
        let certificate_pem = text(data, AUTHORITY)?;
        let key_pem = text(data, CA_KEY)?;
        let mut certificates = certificates(data, AUTHORITY)?;
        let (Some(current), true) = (certificates.pop(), certificates.is_empty()) else {
            return Err(format!("`{AUTHORITY}` must have exactly one certificate"));
        };
        if !current.is_authority() {
            return Err(format!("the certificate in `{AUTHORITY}` is not a CA certificate"));
        }
        let key = KeyPair::from_pem(&key_pem).map_err(|error| format!("`{CA_KEY}` has no private key: {error}"))?;
        if key.subject_public_key_info() != current.public_key() {
            return Err(format!("`{AUTHORITY}` and `{CA_KEY}` do not match"));
        }
        let previous = if data.contains_key(PREVIOUS) { self::certificates(data, PREVIOUS)? } else { Vec::new() };
        Ok(Self { current, previous, issued: Issued { certificate_pem, key_pem } })
    }

    fn write(certificate: &str, key: &str, previous: &[X509]) -> SecretData {
        let mut data = SecretData::from([
            (AUTHORITY.to_owned(), certificate.as_bytes().to_vec()),
            (CA_KEY.to_owned(), key.as_bytes().to_vec()),
        ]);
        if !previous.is_empty() {
            data.insert(PREVIOUS.to_owned(), X509::to_pem(previous).into_bytes());
        }
        data
    }
}

impl std::fmt::Debug for AuthoritySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { current, previous, issued: _ } = self;
        f.debug_struct("Authorities").field("current", current).field("previous", previous).finish_non_exhaustive()
    }
}

/// Reads the serving certificate from the webhook's Secret.
pub fn read_leaf(data: &SecretData) -> StoredState<X509> {
    let parse = || {
        let (chain, key) = (text(data, CERTIFICATE)?, text(data, KEY)?);
        Certificate::from_pem(chain.as_bytes(), key.as_bytes()).map_err(|error| error.to_string())?;
        let first = certificates(data, CERTIFICATE)?.into_iter().next();
        first.ok_or_else(|| format!("`{CERTIFICATE}` has no certificate"))
    };
    parse().map_or_else(StoredState::Damaged, StoredState::Held)
}

/// Returns the content of the webhook's Secret with this certificate.
pub fn leaf_data(leaf: &Issued, authority: &Authority) -> SecretData {
    SecretData::from([
        (CERTIFICATE.to_owned(), leaf.certificate_pem.as_bytes().to_vec()),
        (KEY.to_owned(), leaf.key_pem.as_bytes().to_vec()),
        (AUTHORITY.to_owned(), authority.issued().certificate_pem.as_bytes().to_vec()),
    ])
}

/// Returns the CAs that are still readable in a Secret of either kind, even if other parts are damaged.
pub fn recover(data: &SecretData) -> Vec<X509> {
    let readable = [AUTHORITY, PREVIOUS].map(|key| certificates(data, key).unwrap_or_default());
    readable.into_iter().flatten().filter(X509::is_authority).collect()
}

fn text(data: &SecretData, key: &str) -> Result<String, String> {
    let bytes =
        data.get(key).filter(|bytes| !bytes.is_empty()).ok_or_else(|| format!("`{key}` is missing or empty"))?;
    String::from_utf8(bytes.clone()).map_err(|_| format!("`{key}` is not UTF-8"))
}

fn certificates(data: &SecretData, key: &str) -> Result<Vec<X509>, String> {
    let bytes = data.get(key).map(Vec::as_slice).unwrap_or_default();
    X509::read_all(bytes).map_err(|error| format!("`{key}`: {error}"))
}
