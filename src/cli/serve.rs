//! Arguments for serving, shared by all commands that serve admission.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{
    api::Interval,
    tls::{
        certificate::Certificate,
        files::{AUTHORITY, CERTIFICATE, CertificateDirectory, KEY},
        issue::{Authority, Validity},
    },
    webhook::ServeOptions,
};

/// Interval of checking the certificate files for changes.
const POLL: Duration = Duration::from_secs(2);

/// Addresses and certificates for admission.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Address of the webhook
    #[arg(long, default_value = "0.0.0.0:8443")]
    webhook_bind_address: SocketAddr,
    /// Directory with tls.crt and tls.key; they are checked for changes every 2 s
    #[arg(long)]
    tls_dir: PathBuf,
    /// Address of the status page, /healthz, /readyz, /metrics and /log, over plain HTTP
    #[arg(long, default_value = "0.0.0.0:8081")]
    metrics_bind_address: SocketAddr,
    /// How long to continue serving, unready, after SIGTERM
    #[arg(long, default_value = "10s")]
    shutdown_delay: Interval,
}

impl Arguments {
    /// Returns the address of admission.
    pub(super) fn webhook_bind_address(&self) -> SocketAddr {
        self.webhook_bind_address
    }

    /// Returns the address of probes and metrics.
    pub(super) fn metrics_bind_address(&self) -> SocketAddr {
        self.metrics_bind_address
    }

    /// Returns the limits of the server.
    pub(super) fn options(&self) -> ServeOptions {
        ServeOptions { shutdown_delay: self.shutdown_delay.duration(), ..ServeOptions::default() }
    }

    /// Loads the certificate of the directory, and reloads it when it changes.
    pub(super) async fn certificate(&self) -> anyhow::Result<Arc<Certificate>> {
        let directory = CertificateDirectory::load(&self.tls_dir).await?;
        let certificate = directory.certificate();
        let (now, validity) = (Timestamp::now(), certificate.validity());
        if let Some(validity) = validity.filter(|validity| !validity.holds(now)) {
            let (from, until) = (validity.from, validity.until);
            tracing::error!(%from, %until, "certificate is not valid now: clients refuse it until it is replaced");
        }
        tokio::spawn(directory.watch(POLL));
        Ok(certificate)
    }

    /// Issues a certificate for this machine if the directory has none: ca.crt, tls.crt and tls.key, valid for a year.
    pub(super) fn issue_where_missing(&self, names: &[String]) -> anyhow::Result<()> {
        let path = |name: &str| self.tls_dir.join(name);
        if path(CERTIFICATE).exists() || path(KEY).exists() {
            return Ok(());
        }
        let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(24 * 365));
        let authority = Authority::new("harbor-pilot", validity)?;
        let leaf = authority.issue(names, validity)?;
        std::fs::create_dir_all(&self.tls_dir).with_context(|| format!("cannot create {}", self.tls_dir.display()))?;
        write_private(&path(KEY), &leaf.key_pem)?;
        for (name, text) in [(CERTIFICATE, &leaf.certificate_pem), (AUTHORITY, &authority.issued().certificate_pem)] {
            std::fs::write(path(name), text).with_context(|| format!("cannot write {}", path(name).display()))?;
        }
        tracing::info!(directory = %self.tls_dir.display(), ?names, "issued a certificate; clients trust ca.crt");
        Ok(())
    }
}

fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let write = file.and_then(|mut file| file.write_all(text.as_bytes()));
    write.with_context(|| format!("cannot write {}", path.display()))
}
