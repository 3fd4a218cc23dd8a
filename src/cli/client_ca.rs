//! Arguments about who may call the webhook.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use rustls::ServerConfig;

use crate::tls::{
    certificate::Certificate,
    client_verifier::ClientAuthorities,
    serve::{server_config, server_config_for},
};

/// The file is looked at that often.
const POLL: Duration = Duration::from_secs(2);

/// Whose certificates clients need, if they need any.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// File with the authorities that clients, such as the API server, must have a certificate of; it is looked at again every 2 s
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Common name or DNS name that the certificate of a client must have; may be given several times
    #[arg(long, value_name = "NAME", requires = "client_ca")]
    client_name: Vec<String>,
}

impl Arguments {
    /// What TLS is served: to anybody, or to clients with a certificate.
    pub(super) async fn tls(&self, certificate: Arc<Certificate>) -> anyhow::Result<Arc<ServerConfig>> {
        let Some(path) = &self.client_ca else { return Ok(Arc::new(server_config(certificate)?)) };
        let authorities = ClientAuthorities::load(path, self.client_name.clone()).await?;
        let config = server_config_for(certificate, authorities.clients())?;
        tokio::spawn(authorities.watch(POLL));
        Ok(Arc::new(config))
    }
}
