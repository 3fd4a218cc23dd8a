//! Parses certificates and verifies their issuers.

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::issue::Validity;

/// The most certificates of a bundle.
const MOST: usize = 64;

/// The reason why data is not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// The data is not PEM.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// The PEM holds another kind of object.
    #[error("it is not an X.509 certificate: {0}")]
    Der(String),
    /// The data holds too many certificates.
    #[error("it has more than {MOST} certificates")]
    TooMany,
}

/// An X.509 certificate. Two are equal if their bytes are.
#[derive(Clone)]
pub struct X509 {
    der: CertificateDer<'static>,
    validity: Validity,
    names: Vec<String>,
    subject: String,
    common_name: Option<String>,
    public_key: Vec<u8>,
    is_authority: bool,
}

impl X509 {
    /// Parses all certificates of a PEM text, in order; an empty text has none.
    ///
    /// # Errors
    /// When one of them is invalid.
    pub fn read_all(pem: &[u8]) -> Result<Vec<Self>, X509Error> {
        let mut found = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            if found.len() == MOST {
                return Err(X509Error::TooMany);
            }
            found.push(Self::from_der(der.map_err(|error| X509Error::Pem(error.to_string()))?)?);
        }
        Ok(found)
    }

    /// Parses a certificate in DER, as TLS handshakes send it.
    ///
    /// # Errors
    /// When it is invalid.
    pub fn from_der(der: CertificateDer<'_>) -> Result<Self, X509Error> {
        let der = der.into_owned();
        let no_certificate = |error: &dyn std::fmt::Display| X509Error::Der(error.to_string());
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| no_certificate(&error))?;
        let second = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| no_certificate(&error))
        };
        let validity =
            Validity { from: second(parsed.validity().not_before)?, until: second(parsed.validity().not_after)? };
        let alternative = parsed.subject_alternative_name().map_err(|error| no_certificate(&error))?;
        let names = alternative.into_iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            validity,
            names: names.collect(),
            subject: parsed.subject().to_string(),
            common_name: common_name.map(str::to_owned),
            public_key: parsed.public_key().raw.to_vec(),
            is_authority: parsed.is_ca(),
            der,
        })
    }

    /// Returns the validity.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Returns the DNS names (RFC 5280 subjectAltName).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the subject as text.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the first common name of the subject. Kubernetes uses it as the user name.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Returns the public key, as SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Returns whether it is a CA certificate.
    pub fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Returns whether this CA issued it, at any time.
    pub fn is_issued_by(&self, authority: &Self) -> bool {
        self.chains_to(std::slice::from_ref(authority), self.validity.from)
    }

    /// Returns whether a client that trusts these CAs accepts it for a server of this name at this time. As in Go, a CA that
    /// is not valid at that time does not count.
    pub fn is_trusted_as(&self, name: &str, authorities: &[Self], at: Timestamp) -> bool {
        let valid: Vec<Self> = authorities.iter().filter(|authority| authority.validity.holds(at)).cloned().collect();
        let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(&self.der), ServerName::try_from(name)) else {
            return false;
        };
        self.chains_to(&valid, at) && verify_server_name(&parsed, &name).is_ok()
    }

    /// Returns the certificates as one PEM text.
    pub fn to_pem<'a>(certificates: impl IntoIterator<Item = &'a Self>) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let encode = |one: &Self| pem::encode_config(&pem::Pem::new("CERTIFICATE", one.der.to_vec()), config);
        certificates.into_iter().map(encode).collect()
    }

    fn chains_to(&self, authorities: &[Self], at: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().map(|authority| authority.der.clone()));
        let (Ok(parsed), Ok(second)) = (ParsedCertificate::try_from(&self.der), u64::try_from(at.as_second())) else {
            return false;
        };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(second));
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], at, algorithms).is_ok()
    }
}

impl PartialEq for X509 {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for X509 {}

impl std::fmt::Debug for X509 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Validity { from, until } = self.validity;
        write!(f, "{} ({from} to {until})", self.subject)
    }
}
