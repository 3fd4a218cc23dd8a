//! Arguments about serving, the same for every command that serves admission.

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

/// The certificate files are looked at that often.
const POLL: Duration = Duration::from_secs(2);

/// Where and how admission is served.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Where the webhook listens
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Directory with tls.crt and tls.key; they are looked at again every 2 s
    #[arg(long)]
    tls_dir: PathBuf,
    /// Where the status page, /healthz, /readyz, /metrics and /log are served over plain HTTP
    #[arg(long, default_value = "0.0.0.0:8081")]
    metrics_bind_address: SocketAddr,
    /// How long to serve on, unready, after SIGTERM
    #[arg(long, default_value = "10s")]
    linger: Interval,
}

impl Arguments {
    /// Where admission listens.
    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where probes and metrics are served.
    pub(super) fn metrics_bind_address(&self) -> SocketAddr {
        self.metrics_bind_address
    }

    /// Bounds of the server.
    pub(super) fn options(&self) -> ServeOptions {
        ServeOptions { shutdown_delay: self.linger.duration(), ..ServeOptions::default() }
    }

    /// The certificate of the directory, which is followed from now on.
    pub(super) async fn certificate(&self) -> anyhow::Result<Arc<Certificate>> {
        let directory = CertificateDirectory::load(&self.tls_dir).await?;
        let certificate = directory.certificate();
        let (now, validity) = (Timestamp::now(), certificate.validity());
        if let Some(validity) = validity.filter(|validity| !validity.holds(now)) {
            let (from, until) = (validity.from, validity.until);
            tracing::error!(%from, %until, "the certificate is not valid now: clients refuse it until it is replaced");
        }
        tokio::spawn(directory.watch(POLL));
        Ok(certificate)
    }

    /// Issues a certificate for this machine where the directory has none: ca.crt, tls.crt and tls.key, valid for a year.
    pub(super) fn issue_where_missing(&self, names: &[String]) -> anyhow::Result<()> {
        let path = |name: &str| self.tls_dir.join(name);
        if path(CERTIFICATE).exists() || path(KEY).exists() {
            return Ok(());
        }
        let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(24 * 365));
        let authority = Authority::new("harbor-pilot", validity)?;
        let leaf = authority.issue(names, validity)?;
        std::fs::create_dir_all(&self.tls_dir).with_context(|| format!("cannot make {}", self.tls_dir.display()))?;
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
