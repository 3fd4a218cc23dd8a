//! Our own CA for the webhook's serving certificate.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// The longest common name in bytes (RFC 5280, ub-common-name). Clients verify the other names of a server anyway.
const MOST_COMMON_NAME: usize = 64;

/// How long before its issue a certificate is already valid, for clocks that are wrong.
pub const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// The reason why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A name is neither a DNS name nor an IP address, or a key is invalid.
    #[error("cannot issue the certificate: {0}; check its names, and the stored key of the CA")]
    Rcgen(#[from] rcgen::Error),
    /// The certificate would never be valid.
    #[error("cannot issue a certificate that is valid until {until}, but not before {from}")]
    Validity {
        /// The start of the validity.
        from: Timestamp,
        /// The end of the validity.
        until: Timestamp,
    },
}

/// The validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first valid second.
    pub from: Timestamp,
    /// The last valid second.
    pub until: Timestamp,
}

impl Validity {
    /// Returns the validity from one hour before `now`, for clocks that are wrong, until `lasting` after it.
    pub fn starting(now: Timestamp, lasting: SignedDuration) -> Self {
        Self {
            from: now.checked_sub(BACKDATED).unwrap_or(now),
            until: now.checked_add(lasting).unwrap_or(Timestamp::MAX),
        }
    }

    /// Returns whether `at` is within the validity.
    pub fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at <= self.until
    }
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The private key, PKCS #8 in PEM. This is a secret.
    pub key_pem: String,
}

/// A CA that signs serving certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issued: Issued,
}

impl Authority {
    /// Creates a CA with a new key. `name` becomes its common name.
    pub fn new(name: &str, validity: Validity) -> Result<Self, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(name);
        params.set_validity(validity)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        let issued = Issued { certificate_pem, key_pem: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), issued })
    }

    /// Restores a CA that [`Authority::new`] created earlier.
    pub fn restore(issued: Issued) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(&issued.key_pem)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&issued.certificate_pem, key)?, issued })
    }

    /// Returns the CA's own certificate and key, for storage.
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// Issues a serving certificate with a new key for DNS names and IP addresses.
    pub fn issue(&self, names: &[String], validity: Validity) -> Result<Issued, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        if let Some(first) = names.first().filter(|name| name.len() <= MOST_COMMON_NAME) {
            params.distinguished_name.push(DnType::CommonName, first.as_str());
        }
        params.set_validity(validity)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("issued", &self.issued).finish_non_exhaustive()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

trait SetValidity {
    fn set_validity(&mut self, validity: Validity) -> Result<(), IssueError>;
}

impl SetValidity for CertificateParams {
    fn set_validity(&mut self, Validity { from, until }: Validity) -> Result<(), IssueError> {
        let since_1970 = |time: Timestamp| u64::try_from(time.as_second()).ok().map(std::time::Duration::from_secs);
        let (Some(start), Some(end), true) = (since_1970(from), since_1970(until), from < until) else {
            return Err(IssueError::Validity { from, until });
        };
        self.not_before = date_time_ymd(1970, 1, 1) + start;
        self.not_after = date_time_ymd(1970, 1, 1) + end;
        Ok(())
    }
}
