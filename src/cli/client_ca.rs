//! Arguments for clients of the webhook.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use rustls::ServerConfig;

use crate::tls::{
    certificate::Certificate,
    client_verifier::ClientAuthorities,
    serve::{server_config, server_config_for},
};

/// Interval of checking the file for changes.
const POLL: Duration = Duration::from_secs(2);

/// Which client certificates are required, if any.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// File with CA certificates. Clients such as the API server must have a certificate of one of them; the file is checked for
    /// changes every 2 s
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Allowed common name or DNS name of client certificates; may be given several times
    #[arg(long, value_name = "NAME", requires = "client_ca")]
    client_name: Vec<String>,
}

impl Arguments {
    /// Returns the TLS configuration: for all clients, or for clients with a certificate.
    pub(super) async fn tls(&self, certificate: Arc<Certificate>) -> anyhow::Result<Arc<ServerConfig>> {
        let Some(path) = &self.client_ca else { return Ok(Arc::new(server_config(certificate)?)) };
        let authorities = ClientAuthorities::load(path, self.client_name.clone()).await?;
        let config = server_config_for(certificate, authorities.clients())?;
        tokio::spawn(authorities.watch(POLL));
        Ok(Arc::new(config))
    }
}
