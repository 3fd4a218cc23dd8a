//! Arguments for the webhook's certificates that the controller manages.

use anyhow::bail;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::SignedDuration;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{api::Interval, cluster::certificates};

const DAY: u64 = 24 * 3600;

/// Kubelets read the Secret of a certificate every one to two minutes. A shorter lifetime could end before that.
const SHORTEST: u64 = 600;

/// 100 years.
const LONGEST: u64 = 36_500 * DAY;

/// How the webhook's certificates are managed.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Source of the webhook's certificate, and of the caBundle in its configurations
    #[arg(long, value_enum, default_value_t = CertificateSource::External)]
    certificates: CertificateSource,
    /// Service of the webhook. Its certificates are in the Secrets SERVICE-tls and SERVICE-ca
    #[arg(long, value_name = "SERVICE", default_value = "harbor-pilot-webhook")]
    webhook_service: String,
    /// Name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration that get the caBundle
    #[arg(long, value_name = "NAME", default_value = "harbor-pilot")]
    webhook_configuration: String,
    /// Lifetime of a serving certificate, such as 90d or 48h; it is renewed after two thirds of that
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
    certificate_lifetime: SignedDuration,
    /// Lifetime of the CA, at least four times as long
    #[arg(long, value_name = "DURATION", default_value = "730d", value_parser = lifetime)]
    ca_lifetime: SignedDuration,
}

/// Source of the certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CertificateSource {
    /// This controller issues and rotates them
    Managed,
    /// Another system issues them, such as cert-manager
    External,
}

impl Arguments {
    /// Returns the options; `None` if another system issues the certificates.
    pub(super) fn settings(self, namespace: &str) -> anyhow::Result<Option<certificates::CertificateOptions>> {
        if self.ca_lifetime < self.certificate_lifetime * 4 {
            bail!("--ca-lifetime must be at least four times --certificate-lifetime");
        }
        Ok((self.certificates == CertificateSource::Managed).then(|| certificates::CertificateOptions {
            namespace: namespace.to_owned(),
            service: self.webhook_service,
            configuration: self.webhook_configuration,
            certificate_lifetime: self.certificate_lifetime,
            ca_lifetime: self.ca_lifetime,
        }))
    }
}

/// Reconciles the certificates until `shutdown`, if this controller issues them.
pub(super) async fn keep(
    client: Client,
    settings: Option<certificates::CertificateOptions>,
    shutdown: CancellationToken,
) {
    if let Some(settings) = settings {
        Box::pin(certificates::run(client, settings, shutdown)).await;
    }
}

fn lifetime(text: &str) -> Result<SignedDuration, String> {
    let seconds = match text.strip_suffix('d') {
        Some(days) => days.parse().ok().and_then(|days: u64| days.checked_mul(DAY)),
        None => text.parse::<Interval>().ok().map(|interval| interval.duration().as_secs()),
    };
    let seconds = seconds.filter(|seconds| (SHORTEST..=LONGEST).contains(seconds));
    let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
    seconds.map(SignedDuration::from_secs).ok_or_else(|| {
        format!("`{text}` is not a certificate lifetime: write days, or hours and minutes, from `10m` to `36500d`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetime_accepts_days_or_hours_and_minutes() {
        for (text, hours) in [("90d", 90 * 24), ("36500d", 36_500 * 24), ("48h", 48), ("1h60m", 2)] {
            assert_eq!(lifetime(text), Ok(SignedDuration::from_hours(hours)), "{text}");
        }
        for text in ["", "d", "-1d", "90", "9m", "36501d", "18446744073709551615d", "1d2h"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }
}
