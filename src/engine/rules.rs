//! Keeps the active rules and policies as the backend has them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{core::PartialObjectMeta, runtime::reflector::Store};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    backend::{Resources, WatchedKind},
    shared_watch::SharedWatch,
    watch::{backoff, follow, follow_events, resumed},
};
use crate::{
    active_config::{ActiveConfig, LOOK, warn_of_new},
    api::{CachedImage, HarborInstance, ImagePolicy, ProxyProject},
    policy::{PolicyWarning, ScanIndex, ScanRecord},
    rewrite,
};

/// Changes within this time count as one.
const TOGETHER: Duration = Duration::from_millis(50);

/// Changes of scan results within this time after the first count as one: indexing ten thousand images again takes
/// milliseconds, and a burst changes each image several times.
const SCANS_TOGETHER: Duration = Duration::from_millis(500);

/// Follows only ProxyProjects until dropped, for callers that need the locations of images but not which namespaces use
/// them. Calls `changed` first when the initial list is complete, then after each change.
pub(super) fn follow_projects(
    projects: &Store<ProxyProject>,
    changes: &SharedWatch<ProxyProject>,
    active: ActiveConfig,
    changed: impl Fn() + Send,
) -> impl Future<Output = ()> {
    // A change before the initial list completes is in that list, or arrives afterwards.
    let (projects, listed, mut changes) = (projects.clone(), changes.listed(), changes.follow().boxed());
    async move {
        listed.await;
        loop {
            active.recompile(&projects.state(), BTreeSet::new());
            changed();
            if changes.next().await.is_none() {
                return;
            }
            // When thousands of projects change at once, the rules are recompiled once for many of them.
            tokio::time::sleep(TOGETHER).await;
            while let Some(Some(_)) = changes.next().now_or_never() {}
        }
    }
}

/// Follows ProxyProjects, HarborInstances, ImagePolicies, namespaces and, while a policy uses scans, CachedImages until
/// dropped, and keeps `active` up to date. Calls `complete` first when all are known, then after each change.
///
/// While the API server is unreachable, the known state stays active.
pub async fn follow_all(backend: &impl Resources, active: &ActiveConfig, complete: impl Fn() + Send + Sync) {
    let state = Mutex::new(RuleInputs::default());
    let with = |change: &dyn Fn(&mut RuleInputs)| {
        let mut state = state.lock();
        change(&mut state);
        state.recompile(active);
        state.warn_of_outages(active);
        let scans = state.scans || !active.policies.load().use_scans();
        if state.projects.is_some() && state.instances.is_some() && state.policies && state.namespaces && scans {
            complete();
        }
    };
    let (wanted, when_wanted) = watch::channel(false);
    let projects = follow(backend.watch::<ProxyProject>(), ProxyProject::NAME, Arc::new, |projects| {
        with(&|state| state.projects = Some(projects.values().cloned().collect()));
    });
    let instances = follow(backend.watch::<HarborInstance>(), HarborInstance::NAME, Arc::new, |instances| {
        with(&|state| state.instances = Some(instances.clone()));
    });
    let policies = follow(backend.watch::<ImagePolicy>(), ImagePolicy::NAME, Arc::new, |policies| {
        active.enforce(policies.values().map(AsRef::as_ref));
        wanted.send_replace(active.policies.load().use_scans());
        with(&|state| state.policies = true);
    });
    let scans = follow_scans(backend, active, when_wanted, || with(&|state| state.scans = true));
    let namespaces = follow_namespaces(backend, active, || with(&|state| state.namespaces = true));
    let outages = async {
        loop {
            tokio::time::sleep(LOOK).await;
            with(&|_| {});
        }
    };
    tokio::select! {
        () = projects => {}
        () = instances => {}
        () = policies => {}
        () = namespaces => {}
        () = scans => {}
        () = outages => {}
    }
}

/// Follows the labels of namespaces until dropped. Calls `changed` first when all are known, then after each change.
pub(super) async fn follow_namespaces(
    backend: &impl Resources,
    active: &ActiveConfig,
    changed: impl Fn() + Send + Sync,
) {
    type Metadata = PartialObjectMeta<Namespace>;
    let labels = |namespace: Metadata| namespace.metadata.labels.unwrap_or_default();
    follow(backend.watch::<Metadata>(), Metadata::NAME, labels, |labels| {
        let labels = labels.iter().map(|(name, labels)| (name.clone(), labels.clone()));
        active.namespaces.store(Arc::new(labels.collect()));
        changed();
    })
    .await;
}

/// Follows CachedImages while `wanted`, until dropped, and keeps the scan results of each. Calls `known` first when the
/// initial list is complete, then after each change.
async fn follow_scans(
    backend: &impl Resources,
    active: &ActiveConfig,
    mut wanted: watch::Receiver<bool>,
    known: impl Fn() + Send + Sync,
) {
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        let images = resumed(backend.watch::<CachedImage>(), backoff(), CachedImage::NAME, || ());
        let keep = |image: CachedImage| ScanRecord::of(&image);
        let followed = follow_events(images, SCANS_TOGETHER, keep, |records| {
            active.scans.store(Arc::new(ScanIndex::compile(records.values().flatten())));
            known();
        });
        tokio::select! {
            () = followed => return,
            _ = wanted.wait_for(|wanted| !*wanted) => active.scans.store(Arc::default()),
        }
    }
}

/// The last state seen; `None` before the first list.
#[derive(Default)]
struct RuleInputs {
    projects: Option<Vec<Arc<ProxyProject>>>,
    instances: Option<HashMap<String, Arc<HarborInstance>>>,
    policies: bool,
    namespaces: bool,
    scans: bool,
    /// Findings about outages that were logged.
    warned: Vec<PolicyWarning>,
}

impl RuleInputs {
    fn recompile(&self, active: &ActiveConfig) {
        let Some(projects) = &self.projects else { return };
        let instances = self.instances.iter().flat_map(HashMap::values);
        active.recompile(projects, rewrite::unavailable(instances.map(AsRef::as_ref), Timestamp::now()));
    }

    /// Logs once each rule and policy that together would refuse Pods during an outage.
    fn warn_of_outages(&mut self, active: &ActiveConfig) {
        let projects = self.projects.iter().flatten();
        let rules = projects.filter_map(|project| Some((project.metadata.name.as_deref()?, project.active_rule()?)));
        let findings = active.policies.load().outage_findings(rules);
        warn_of_new("policy", &findings, &self.warned);
        self.warned = findings;
    }
}
