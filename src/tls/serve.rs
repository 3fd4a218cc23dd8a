//! TLS settings of the servers.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, version};

use super::certificate::Certificate;
use super::client_verifier::ClientVerifier;

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
