//! Client certificates: accepts clients with a certificate of a CA in a file, and reloads the file when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};

use super::files::{self, FilesError};
use super::x509::X509;

/// The reason why the file cannot authenticate clients.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FilesError),
    /// The file holds no CA.
    #[error("cannot use the client CAs in {}: {why}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The problem.
        why: String,
    },
}

/// Verifies client certificates: a CA of the file must have issued each, for an allowed name if there are allowed names.
#[derive(Debug)]
pub struct ClientVerifier {
    verifier: ArcSwap<Arc<dyn ClientCertVerifier>>,
    names: Vec<String>,
}

/// The file with the CAs, and its loaded content.
#[derive(Debug)]
pub struct ClientAuthorities {
    path: PathBuf,
    /// The last content that was read, valid or not.
    looked_at: Vec<u8>,
    clients: Arc<ClientVerifier>,
}

impl ClientAuthorities {
    /// Reads the file: one or more CA certificates, PEM. `names` are the allowed names of a client certificate: its common
    /// name or one of its DNS names. An empty list allows any name.
    ///
    /// # Errors
    /// When the file holds no CA.
    pub async fn load(path: impl Into<PathBuf>, names: Vec<String>) -> Result<Self, ClientsError> {
        let path = path.into();
        let looked_at = files::read(&path).await?;
        let verifier = ArcSwap::from_pointee(verifier(&path, &looked_at)?);
        Ok(Self { path, looked_at, clients: Arc::new(ClientVerifier { verifier, names }) })
    }

    /// Returns the verifier, which follows the file while [`ClientAuthorities::watch`] runs.
    pub fn clients(&self) -> Arc<ClientVerifier> {
        Arc::clone(&self.clients)
    }

    /// Reads the file once. Returns whether new CAs are active. After an error the old CAs stay active.
    ///
    /// # Errors
    /// When new content cannot be used. Reported once for the same bytes.
    pub async fn poll(&mut self) -> Result<bool, ClientsError> {
        let found = files::read(&self.path).await?;
        if found == self.looked_at {
            return Ok(false);
        }
        self.looked_at = found;
        self.clients.verifier.store(Arc::new(verifier(&self.path, &self.looked_at)?));
        Ok(true)
    }

    /// Polls the file without an end.
    pub async fn watch(mut self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            match self.poll().await {
                Ok(false) => {}
                Ok(true) => tracing::info!(path = %self.path.display(), "client CAs reloaded"),
                Err(error) => tracing::warn!(%error, "cannot reload the client CAs; keeping the old ones"),
            }
        }
    }
}

fn verifier(path: &Path, pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, ClientsError> {
    let refuse =
        |why: &dyn std::fmt::Display| ClientsError::Authorities { path: path.to_owned(), why: why.to_string() };
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pem) {
        roots.add(authority.map_err(|error| refuse(&error))?).map_err(|error| refuse(&error))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|error| refuse(&error))
}

impl ClientCertVerifier for ClientVerifier {
    /// No hints: a client sends the certificate that it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.load().verify_client_cert(end_entity, intermediates, now)?;
        if self.names.is_empty() {
            return Ok(verified);
        }
        let certificate = X509::from_der(end_entity.clone()).map_err(|_| CertificateError::BadEncoding)?;
        let mut bears = certificate.names().iter().map(String::as_str).chain(certificate.common_name());
        if !bears.any(|name| self.names.iter().any(|allowed| allowed == name)) {
            tracing::warn!(subject = certificate.subject(), "client rejected: its name is not allowed");
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.load().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.load().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.load().supported_verify_schemes()
    }
}
