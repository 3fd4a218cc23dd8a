//! A certificate authority of our own, for the webhook's certificate.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// A common name may have so many bytes (RFC 5280, ub-common-name); who checks a server goes by the other names anyway.
const MOST_COMMON_NAME: usize = 64;

/// How long before it is issued a certificate is valid, for clocks that go wrong.
pub const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A name is neither a DNS name nor an IP address, or a key could not be read.
    #[error("cannot issue the certificate: {0}; check its names, and the stored key of the authority")]
    Rcgen(#[from] rcgen::Error),
    /// The certificate would never be valid.
    #[error("cannot issue a certificate that is valid until {until}, but not before {from}")]
    Validity {
        /// Its beginning.
        from: Timestamp,
        /// Its end.
        until: Timestamp,
    },
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From this second on.
    pub from: Timestamp,
    /// Up to and with this second.
    pub until: Timestamp,
}

impl Validity {
    /// From an hour before `now`, for clocks that go wrong, until `lasting` after it.
    pub fn starting(now: Timestamp, lasting: SignedDuration) -> Self {
        Self {
            from: now.checked_sub(BACKDATED).unwrap_or(now),
            until: now.checked_add(lasting).unwrap_or(Timestamp::MAX),
        }
    }

    /// Whether `at` lies in it.
    pub fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at <= self.until
    }
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PKCS #8 in PEM. Secret.
    pub key_pem: String,
}

/// A certificate authority: signs certificates of servers.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issued: Issued,
}

impl Authority {
    /// A new authority with a new key. `name` becomes its common name.
    pub fn new(name: &str, validity: Validity) -> Result<Self, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(name);
        params.set_validity(validity)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        let issued = Issued { certificate_pem, key_pem: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), issued })
    }

    /// An authority made earlier by [`Authority::new`].
    pub fn restore(issued: Issued) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(&issued.key_pem)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&issued.certificate_pem, key)?, issued })
    }

    /// The authority's own certificate and key, to be stored.
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// Certifies a server under DNS names and IP addresses, with a new key.
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
