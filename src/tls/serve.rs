//! TLS settings of the servers, and a certificate that can be replaced while connections arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};

use super::client_verifier::ClientVerifier;
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

/// Returns a configuration with TLS 1.3 and 1.2, the safe suites of aws-lc-rs, HTTP/2 and HTTP/1.1, without client
/// certificates.
pub fn server_config(certificate: Arc<Certificate>) -> Result<ServerConfig, rustls::Error> {
    configured(certificate, WebPkiClientVerifier::no_client_auth())
}

/// As [`server_config`], only for clients with a certificate. No session is resumed: each client is verified again.
pub fn server_config_for(
    certificate: Arc<Certificate>,
    clients: Arc<ClientVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = configured(certificate, clients)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn configured(
    certificate: Arc<Certificate>,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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
