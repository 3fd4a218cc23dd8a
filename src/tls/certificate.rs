//! A certificate that can be replaced while connections arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::issue::Validity;
use super::x509::X509;

/// The reason why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is not valid PEM.
    #[error("cannot read the {what}: {error}; it must be PEM")]
    Pem {
        /// The file: certificate or key.
        what: &'static str,
        /// The problem.
        error: rustls::pki_types::pem::Error,
    },
    /// The PEM holds no certificate.
    #[error("the chain has no certificate")]
    Empty,
    /// The key type is not supported, or the key belongs to another certificate.
    #[error("certificate and key do not match: {0}")]
    Pair(rustls::Error),
    /// The new certificate is not valid now, and the served one is.
    #[error("it is valid from {} until {}, and the local clock says {now}; check the clock and the issuer", validity.from, validity.until)]
    NotValid {
        /// The validity of the new certificate.
        validity: Validity,
        /// The current time.
        now: Timestamp,
    },
}

/// The served certificate: read by each handshake, replaced as a whole. Existing sessions keep theirs.
#[derive(Debug)]
pub struct Certificate {
    served: ArcSwap<CertifiedKey>,
    rejected: AtomicBool,
}

impl Certificate {
    /// Creates it from a chain (the server's certificate first) and its private key, both PEM. They must match.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self { served: ArcSwap::from_pointee(read_pair(chain, key)?), rejected: AtomicBool::new(false) })
    }

    /// Serves another certificate from now on. After an error the old one is still served: a certificate that is not valid at
    /// `now` does not replace one that is.
    pub fn replace(&self, chain: &[u8], key: &[u8], now: Timestamp) -> Result<(), CertificateError> {
        let replaced = self.try_replace(chain, key, now);
        self.rejected.store(replaced.is_err(), Ordering::Relaxed);
        replaced
    }

    fn try_replace(&self, chain: &[u8], key: &[u8], now: Timestamp) -> Result<(), CertificateError> {
        let pair = read_pair(chain, key)?;
        let is_valid = |validity: Option<Validity>| validity.is_some_and(|validity| validity.holds(now));
        if let Some(validity) = validity(&pair)
            && !validity.holds(now)
            && is_valid(self.validity())
        {
            return Err(CertificateError::NotValid { validity, now });
        }
        self.served.store(Arc::new(pair));
        Ok(())
    }

    /// Returns the validity of the served certificate; `None` if it cannot be read.
    pub fn validity(&self) -> Option<Validity> {
        validity(&self.served.load())
    }

    /// Returns whether the last new certificate was rejected.
    pub fn has_rejected(&self) -> bool {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Records that the served certificate is the desired one.
    pub(super) fn is_as_wanted(&self) {
        self.rejected.store(false, Ordering::Relaxed);
    }
}

fn validity(pair: &CertifiedKey) -> Option<Validity> {
    Some(X509::from_der(pair.cert.first()?.clone()).ok()?.validity())
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.served.load_full())
    }
}

fn read_pair(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let pem = |what| move |error| CertificateError::Pem { what, error };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(pem("certificate chain"))?;
    if chain.is_empty() {
        return Err(CertificateError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("private key"))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(CertificateError::Pair)
}
