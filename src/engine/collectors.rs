//! State metrics, computed at each scrape: resources by state, Ready instances, active rules and policies.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Error,
    sync::Arc,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::ResourceExt;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::instruments::{Instruments, RunningState};
use crate::{
    active_config::ActiveConfig,
    api::{ConditionType, Registry, condition},
    controller::ReconciledKind,
    prewarm::PrewarmQueue,
    summary::NOT_OBSERVED,
    tls::certificate::Certificate,
};

/// Maximum number of names per metric; `kubectl get` shows the others.
const NAMES: usize = 200;
/// Maximum number of reason labels. Our reasons are a closed list, but another client can write any reason into a status.
const REASONS: usize = 64;

/// States of the controller.
#[derive(Debug)]
pub struct ControllerCollector(pub Instruments);

impl Collector for ControllerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(seen) = controller(&self.0, &mut encoder)? else { return Ok(()) };
        waiting(&mut encoder, &seen.offers)?;
        in_force(&mut encoder, &seen.in_force)
    }
}

/// States of a process that is controller and webhook.
#[derive(Debug)]
pub struct StandaloneCollector(pub Instruments, pub AdmissionCollector);

impl Collector for StandaloneCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        controller(&self.0, &mut encoder)?;
        self.1.encode(encoder)
    }
}

fn controller(
    instruments: &Instruments,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<Option<Arc<RunningState>>, Error> {
    let leads = f64::from(u8::from(instruments.leads()));
    gauge(encoder, "leader", "1 while this replica is the leader", leads)?;
    let Some(seen) = instruments.seen.load_full() else { return Ok(None) };
    resources(&seen, encoder)?;
    instances(&seen, encoder)?;
    upstreams(&seen, encoder)?;
    let images = seen.stores.images.state();
    let each = images.iter().filter_map(|image| image.status.as_ref());
    let stored = each.fold(0_u64, |sum, status| sum.saturating_add(status.stored_bytes()));
    gauge(encoder, "images_stored_bytes", "Bytes of images that Harbor stores", stored as f64)?;
    let under_way = seen.instances.bytes_under_way() as f64;
    gauge(encoder, "active_pull_bytes", "Bytes of blobs in running pulls", under_way)?;
    Ok(Some(seen))
}

/// The active rules and policies of a webhook, and its queue of prewarm requests.
#[derive(Debug)]
pub struct AdmissionCollector {
    /// The active rules and policies.
    pub in_force: ActiveConfig,
    /// The queue of prewarm requests; `None` where there is none.
    pub offers: Option<PrewarmQueue>,
}

impl Collector for AdmissionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        in_force(&mut encoder, &self.in_force)?;
        let policies = self.in_force.policies.load();
        gauge(&mut encoder, "active_policies", "Active ImagePolicies", policies.len() as f64)?;
        let findings = policies.findings().len() as f64;
        gauge(&mut encoder, "policy_warnings", "ImagePolicies with a problem; the log has details", findings)?;
        let scanned = self.in_force.scans.load().len() as f64;
        gauge(&mut encoder, "scans_known", "Images with a scan that policies can use", scanned)?;
        self.offers.iter().try_for_each(|offers| waiting(&mut encoder, offers))
    }
}

/// The serving certificate of a webhook.
#[derive(Debug)]
pub struct CertificateCollector {
    /// Read at each scrape, because it rotates.
    pub certificate: Arc<Certificate>,
}

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let end = self.certificate.validity().map_or(0, |validity| validity.until.as_second()) as f64;
        let help = "End of the serving certificate, in seconds since 1970; 0 for one that cannot be read";
        gauge(&mut encoder, "certificate_not_after_timestamp_seconds", help, end)?;
        let rejected = f64::from(u8::from(self.certificate.has_rejected()));
        let help = "1 while the files have a certificate that is not served; the log has details";
        gauge(&mut encoder, "certificate_rejected", help, rejected)
    }
}

fn in_force(encoder: &mut DescriptorEncoder<'_>, in_force: &ActiveConfig) -> Result<(), Error> {
    let rules = in_force.rules.load();
    gauge(encoder, "active_rules", "Active rules", rules.len() as f64)?;
    let waiting = rules.targets().iter().filter(|target| target.waits()).count() as f64;
    gauge(encoder, "rules_bypassed", "Rules that do not rewrite images because their Harbor is unavailable", waiting)?;
    gauge(encoder, "rule_warnings", "Invalid or shadowed rules; the log has details", rules.findings().len() as f64)?;
    let help = "When the active rules were compiled, in seconds since 1970; 0 before";
    gauge(encoder, "rules_compiled_timestamp_seconds", help, in_force.compiled_at() as f64)
}

fn waiting(encoder: &mut DescriptorEncoder<'_>, offers: &PrewarmQueue) -> Result<(), Error> {
    gauge(encoder, "prewarm_queue_length", "Prewarm requests that wait to become CachedImages", offers.waiting() as f64)
}

/// Number of resources of each kind by Ready status and reason.
fn resources(seen: &RunningState, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let stores = &seen.stores;
    let mut counts = ResourceCounts::default();
    counts.add(&stores.instances.state());
    counts.add(&stores.registries.state());
    counts.add(&stores.projects.state());
    counts.add(&stores.rules.state());
    counts.add(&stores.images.state());
    let lines = counts.by_labels.iter().map(|((kind, ready, reason), count)| {
        ([("kind", *kind), ("ready", ready.as_str()), ("reason", reason.as_str())], *count as f64)
    });
    family(encoder, "resources", "Resources by status and reason of their condition Ready", lines)
}

fn instances(seen: &RunningState, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let instances = seen.stores.instances.state();
    let lines: Vec<(String, f64)> =
        instances.iter().take(NAMES).map(|one| (one.name_any(), ready(one.as_ref()))).collect();
    let lines = lines.iter().map(|(name, ready)| ([("harbor", name.as_str())], *ready));
    family(encoder, "instance_ready", "1 while a HarborInstance is Ready", lines)
}

fn upstreams(seen: &RunningState, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let registries = seen.stores.registries.state();
    let registries: Vec<_> = registries.iter().take(NAMES).map(|registry| (registry.name_any(), registry)).collect();
    let now = Timestamp::now();
    let each = |value: fn(&Registry, Timestamp) -> Option<f64>| {
        let lines = registries.iter().map(move |(name, registry)| (name.as_str(), value(registry, now)));
        lines.filter_map(|(name, value)| Some(([("registry", name)], value?)))
    };
    let help = "1 while pulls of an upstream pause because of its rate limit";
    family(encoder, "upstream_paused", help, each(|registry, now| Some(paused(registry, now))))?;
    let help = "Manifests requested from an upstream in this period, to a twentieth of its limit";
    family(encoder, "upstream_manifests", help, each(|registry, _| Some(f64::from(used(registry)?))))?;
    let help = "Manifests that spec.pullLimit allows per period";
    let limit = |registry: &Registry, _| Some(f64::from(registry.spec.pull_limit.as_ref()?.manifests));
    family(encoder, "upstream_manifests_limit", help, each(limit))
}

fn paused(registry: &Registry, now: Timestamp) -> f64 {
    let pulls = registry.status.as_ref().and_then(|status| status.pulls.as_ref());
    let until = pulls.and_then(|pulls| pulls.paused_until.as_ref());
    f64::from(u8::from(until.is_some_and(|until| until.0 > now)))
}

fn used(registry: &Registry) -> Option<u32> {
    registry.spec.pull_limit.as_ref()?;
    let pulls = registry.status.as_ref().and_then(|status| status.pulls.as_ref());
    Some(pulls.and_then(|pulls| pulls.manifests).unwrap_or(0))
}

fn ready<K: ReconciledKind>(object: &K) -> f64 {
    f64::from(u8::from(condition::is_true(conditions(object), ConditionType::Ready)))
}

fn conditions<K: ReconciledKind>(object: &K) -> &[Condition] {
    object.status().map_or(&[], K::conditions)
}

/// Resources by kind, Ready and reason.
#[derive(Default)]
struct ResourceCounts {
    by_labels: BTreeMap<(&'static str, String, String), u64>,
    reasons: HashSet<String>,
}

impl ResourceCounts {
    fn add<K: ReconciledKind>(&mut self, objects: &[Arc<K>]) {
        for object in objects {
            let (ready, reason) = match condition::find(conditions(object.as_ref()), ConditionType::Ready) {
                Some(ready) => (state(&ready.status), self.reason(&ready.reason)),
                None => ("Unknown", NOT_OBSERVED.to_owned()),
            };
            *self.by_labels.entry((K::KIND, ready.to_owned(), reason)).or_default() += 1;
        }
    }

    fn reason(&mut self, reason: &str) -> String {
        let ours = reason.len() <= 32 && reason.chars().all(|character| character.is_ascii_alphanumeric());
        if ours && (self.reasons.contains(reason) || self.reasons.len() < REASONS) {
            self.reasons.insert(reason.to_owned());
            return reason.to_owned();
        }
        "Other".to_owned()
    }
}

fn state(status: &str) -> &'static str {
    match status {
        "True" => "True",
        "False" => "False",
        _ => "Unknown",
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Result<(), Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn family<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    lines: impl Iterator<Item = ([(&'l str, &'l str); N], f64)>,
) -> Result<(), Error> {
    let mut lines = lines.peekable();
    // A metric family without samples writes no lines, and no header either.
    if lines.peek().is_none() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in lines {
        let labels = labels.as_slice();
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
