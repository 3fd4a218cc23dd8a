//! Reads the certificate that an address serves, with the beginning of a TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::x509::{X509, X509Error};

/// The reason why no certificate was read.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The name is not valid for TLS.
    #[error("`{0}` is not a valid server name")]
    Name(String),
    /// The address does not answer, or not with TLS.
    #[error("{0}; may the controller connect to it?")]
    Io(#[from] io::Error),
    /// No answer within the timeout.
    #[error("no answer within {} s; may the controller connect to it?", .0.as_secs())]
    Timeout(Duration),
    /// The served certificate is invalid.
    #[error(transparent)]
    Certificate(#[from] X509Error),
}

/// Returns the certificate that `address` serves for `name`. Does not verify it: the caller does.
///
/// # Errors
/// When no certificate was read within `deadline`.
pub async fn served_by(address: SocketAddr, name: &str, deadline: Duration) -> Result<X509, ProbeError> {
    let server = ServerName::try_from(name.to_owned()).map_err(|_| ProbeError::Name(name.to_owned()))?;
    let seen = Arc::new(CertificateRecorder::default());
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
    // A server that asks for our certificate sends its own before it refuses us.
    if let Some(certificate) = seen.0.lock().take() {
        return Ok(X509::from_der(certificate)?);
    }
    result.map_err(|_| ProbeError::Timeout(deadline))??;
    Err(ProbeError::Io(io::ErrorKind::UnexpectedEof.into()))
}

/// Records the certificate and accepts it: no data is sent to the server.
#[derive(Debug, Default)]
struct CertificateRecorder(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for CertificateRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock() = Some(end_entity.clone().into_owned());
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
