//! The active rules, policies and namespace labels of admission; each is replaced as a whole when it changes.
//!
//! In: ProxyProjects, HarborInstances and ImagePolicies, from any store. Out: the state that webhooks and warming read,
//! and a log line when a rule or a policy is invalid or shadowed, or when a Harbor became unavailable or recovered.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{
    api::{CachedImage, ImagePolicy, ProxyProject, proxy_project::PrewarmMode},
    policy::{Policies, ScanIndex, ScanRecord},
    rewrite::{self, Namespaces, Rules},
};

/// Interval of the check whether a Harbor was unreachable long enough to count as unavailable.
pub const LOOK: Duration = Duration::from_secs(5);

/// The active state of admission. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ActiveConfig {
    /// The active rules.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The active policies.
    pub policies: Arc<ArcSwap<Policies>>,
    /// Scan results of images; empty while no policy uses them.
    pub scans: Arc<ArcSwap<ScanIndex>>,
    /// Labels of namespaces.
    pub namespaces: Arc<ArcSwap<Namespaces>>,
    /// ProxyProjects whose images are not warmed when Pods request them (`prewarm.mode: Manual`).
    pub manual: Arc<ArcSwap<HashSet<String>>>,
    basis: Arc<Mutex<CompiledFrom>>,
    /// When the rules were last compiled, in seconds since 1970; 0 before.
    compiled: Arc<AtomicI64>,
}

/// The input of the active rules.
#[derive(Debug, Default)]
struct CompiledFrom {
    projects: Vec<Arc<ProxyProject>>,
    unavailable: BTreeSet<String>,
}

impl ActiveConfig {
    /// Compiles the rules of the projects, with the HarborInstances in `unavailable`, and activates them. Does nothing
    /// when both are the same as the last time: projects are compared by pointer, not by content.
    pub fn recompile(&self, projects: &[Arc<ProxyProject>], unavailable: BTreeSet<String>) {
        let mut basis = self.basis.lock();
        if basis.is(projects, &unavailable) {
            return;
        }
        let rules =
            rewrite::active_rules(projects.iter().map(AsRef::as_ref), |instance| unavailable.contains(instance));
        // Each status change of a ProxyProject recompiles the rules: findings are logged only once.
        warn_of_new("rule", rules.findings(), self.rules.load().findings());
        self.rules.store(Arc::new(rules));
        self.compiled.store(Timestamp::now().as_second(), Ordering::Relaxed);
        let manual = projects.iter().filter(|project| project.spec.prewarm.mode == PrewarmMode::Manual);
        self.manual.store(Arc::new(manual.map(|project| project.name_any()).collect()));
        for instance in unavailable.difference(&basis.unavailable) {
            tracing::warn!(instance, "Harbor is unavailable; rules follow whenUnavailable");
        }
        for instance in basis.unavailable.difference(&unavailable) {
            tracing::info!(instance, "Harbor is available again; rules rewrite images");
        }
        *basis = CompiledFrom { projects: projects.to_vec(), unavailable };
    }

    /// When the active rules were compiled, in seconds since 1970; 0 before the first time.
    pub fn compiled_at(&self) -> i64 {
        self.compiled.load(Ordering::Relaxed)
    }

    /// Compiles the policies and activates them.
    pub fn enforce<'p>(&self, policies: impl IntoIterator<Item = &'p ImagePolicy>) {
        let policies = Policies::compile(policies);
        warn_of_new("policy", policies.findings(), self.policies.load().findings());
        self.policies.store(Arc::new(policies));
    }

    /// Keeps the scan results of these images, if a policy uses scans.
    pub fn set_scans<'i>(&self, images: impl IntoIterator<Item = &'i CachedImage>) {
        let records: Vec<ScanRecord> = if self.policies.load().use_scans() {
            images.into_iter().filter_map(ScanRecord::of).collect()
        } else {
            Vec::new()
        };
        if !records.is_empty() || !self.scans.load().is_empty() {
            self.scans.store(Arc::new(ScanIndex::compile(&records)));
        }
    }
}

/// Logs the findings about a rule or a policy (`what`) that are not in `before`.
pub fn warn_of_new<F: Display + PartialEq>(what: &str, findings: &[F], before: &[F]) {
    for finding in findings.iter().filter(|finding| !before.contains(finding)) {
        tracing::warn!(%finding, "{what}");
    }
}

impl CompiledFrom {
    fn is(&self, projects: &[Arc<ProxyProject>], unavailable: &BTreeSet<String>) -> bool {
        self.unavailable == *unavailable
            && self.projects.len() == projects.len()
            && self.projects.iter().zip(projects).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn project(name: &str) -> Arc<ProxyProject> {
        let status = json!({"rewrite": {"matches": ["docker.io"], "host": "harbor.corp", "project": name,
                                        "target": format!("harbor.corp/{name}"), "generation": 1}});
        let project = json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": name},
            "spec": {"registryRef": {"name": "hub"}}, "status": status,
        });
        Arc::new(serde_json::from_value(project).unwrap())
    }

    fn unreachable(instances: &[&str]) -> BTreeSet<String> {
        instances.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Whether the active rules differ afterwards.
    fn recompiled(in_force: &ActiveConfig, projects: &[Arc<ProxyProject>], unreachable: BTreeSet<String>) -> bool {
        let before = in_force.rules.load_full();
        // The first thread to reach a log line decides for the whole process whether it has a subscriber.
        logged(|| in_force.recompile(projects, unreachable));
        !Arc::ptr_eq(&before, &in_force.rules.load_full())
    }

    /// The lines that are logged meanwhile.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);

        impl std::io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().write(bytes)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).without_time();
        tracing::subscriber::with_default(lines.with_target(false).finish(), work);
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn rules_are_recompiled_only_when_a_project_or_an_unavailable_instance_changes() {
        let in_force = ActiveConfig::default();
        let (hub, acme) = (project("hub"), project("acme"));
        let both = [hub.clone(), acme.clone()];
        assert!(recompiled(&in_force, &both, unreachable(&[])));
        assert!(!recompiled(&in_force, &both, unreachable(&[])));
        assert!(recompiled(&in_force, &both, unreachable(&["default"])));
        assert!(!recompiled(&in_force, &both, unreachable(&["default"])));
        assert!(recompiled(&in_force, &both, unreachable(&[])));
        assert!(recompiled(&in_force, &[project("hub"), acme], unreachable(&[])), "its status is another");
        assert!(recompiled(&in_force, &[hub], unreachable(&[])), "one is gone");
    }

    #[test]
    fn outage_of_a_harbor_is_logged_once_at_its_start_and_end() {
        let in_force = ActiveConfig::default();
        let deleted = "WARN Harbor is unavailable; rules follow whenUnavailable instance=\"default\"";
        let back = "INFO Harbor is available again; rules rewrite images instance=\"default\"";
        let table = [
            (unreachable(&[]), vec![]),
            (unreachable(&["default"]), vec![deleted]),
            (unreachable(&["default"]), vec![]),
            (unreachable(&[]), vec![back]),
            (unreachable(&[]), vec![]),
        ];
        for (step, (unavailable, expected)) in table.into_iter().enumerate() {
            // Each time with another project: statuses change while a Harbor is unreachable.
            let projects = [project("hub")];
            assert_eq!(logged(|| in_force.recompile(&projects, unavailable)), expected, "step {step}");
        }
    }

    #[test]
    fn rule_warning_is_logged_once_until_it_is_fixed() {
        let in_force = ActiveConfig::default();
        let both = || [project("acme"), project("hub")];
        let reported =
            "WARN rule finding=hub: match docker.io belongs to the older rule acme; remove it from one of them";
        for (projects, expected) in
            [(&both()[..], vec![reported]), (&both(), vec![]), (&[project("hub")], vec![]), (&both(), vec![reported])]
        {
            assert_eq!(logged(|| in_force.recompile(projects, unreachable(&[]))), expected);
        }
    }
}
