//! Which certificate an address shows, found by the beginning of a TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::x509::{X509, X509Error};

/// Why no certificate was seen.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The name is none that TLS can ask for.
    #[error("`{0}` is no name of a server")]
    Name(String),
    /// Nobody answers, or not with TLS.
    #[error("{0}; may the controller connect to it?")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer within {} s; may the controller connect to it?", .0.as_secs())]
    Timeout(Duration),
    /// What it shows is no certificate.
    #[error(transparent)]
    Certificate(#[from] X509Error),
}

/// The certificate that `address` shows whoever asks for `name`. It is not judged: that is the caller's.
///
/// # Errors
/// When none was seen within `deadline`.
pub async fn shown_by(address: SocketAddr, name: &str, deadline: Duration) -> Result<X509, ProbeError> {
    let server = ServerName::try_from(name.to_owned()).map_err(|_| ProbeError::Name(name.to_owned()))?;
    let seen = Arc::new(Seen::default());
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(server, stream).await.map(drop)
    };
    let result = tokio::time::timeout(deadline, handshake).await;
    // Who asks for a certificate of ours shows its own before it refuses us.
    if let Some(certificate) = seen.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Ok(X509::from_der(certificate)?);
    }
    result.map_err(|_| ProbeError::Timeout(deadline))??;
    Err(ProbeError::Io(io::ErrorKind::UnexpectedEof.into()))
}

/// Remembers the certificate and believes it: nothing is sent to whoever it is.
#[derive(Debug, Default)]
struct Seen(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
