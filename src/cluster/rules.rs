//! Keeps the active rules and policies as the API server has them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{reflector::Store, watcher},
};

use super::{scan_requirements, shared_watch::SharedWatch, watch::watch, watch_map::follow};
use crate::{
    active_config::{ActiveConfig, LOOK, warn_of_new},
    api::{HarborInstance, ImagePolicy, ProxyProject},
    policy::PolicyWarning,
    rewrite,
    telemetry::watches::WatchMetrics,
};

/// Changes within this time count as one.
const TOGETHER: Duration = Duration::from_millis(50);

/// Follows only ProxyProjects until dropped, for callers that need the locations of images but not which namespaces use
/// them. Calls `changed` first when the initial list is complete, then after each change.
pub(super) fn follow_projects(
    projects: &Store<ProxyProject>,
    changes: &SharedWatch<ProxyProject>,
    in_force: ActiveConfig,
    changed: impl Fn(),
) -> impl Future<Output = ()> {
    // A change before the initial list completes is in that list, or arrives afterwards.
    let (projects, listed, mut changes) = (projects.clone(), changes.listed(), changes.follow().boxed());
    async move {
        listed.await;
        loop {
            in_force.recompile(&projects.state(), BTreeSet::new());
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
/// dropped, and keeps `in_force` up to date. Calls `complete` first when all are known, then after each change.
///
/// While the API server is unreachable, the known state stays active.
pub async fn follow_all(client: Client, in_force: ActiveConfig, watches: &WatchMetrics, complete: impl Fn()) {
    let state = Mutex::new(RuleInputs::default());
    let with = |change: &dyn Fn(&mut RuleInputs)| {
        // A panic while the lock was held could only come from the rule compiler, which leaves the state intact.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.recompile(&in_force);
        state.warn_of_outages(&in_force);
        let scans = state.scans || !in_force.policies.load().use_scans();
        if state.projects.is_some() && state.instances.is_some() && state.policies && state.namespaces && scans {
            complete();
        }
    };
    let config = watcher::Config::default;
    let (wanted, when_wanted) = tokio::sync::watch::channel(false);
    let projects = watch(Api::<ProxyProject>::all(client.clone()), config(), "ProxyProject", watches);
    let projects = follow(projects, "ProxyProjects", Arc::new, |projects| {
        with(&|state| state.projects = Some(projects.values().cloned().collect()));
    });
    let instances = watch(Api::<HarborInstance>::all(client.clone()), config(), "HarborInstance", watches);
    let instances = follow(instances, "HarborInstances", Arc::new, |instances| {
        with(&|state| state.instances = Some(instances.clone()));
    });
    let policies = watch(Api::<ImagePolicy>::all(client.clone()), config(), "ImagePolicy", watches);
    let policies = follow(policies, "ImagePolicies", Arc::new, |policies| {
        in_force.enforce(policies.values().map(AsRef::as_ref));
        wanted.send_replace(in_force.policies.load().use_scans());
        with(&|state| state.policies = true);
    });
    let scans = scan_requirements::watch_scans(client.clone(), in_force.clone(), when_wanted, watches, || {
        with(&|state| state.scans = true);
    });
    let namespaces = follow_namespaces(client, &in_force, watches, || with(&|state| state.namespaces = true));
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
    client: Client,
    in_force: &ActiveConfig,
    watches: &WatchMetrics,
    changed: impl Fn(),
) {
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let events = watch(namespaces, watcher::Config::default(), "Namespace", watches);
    let keep = |namespace: PartialObjectMeta<Namespace>| namespace.metadata.labels.unwrap_or_default();
    follow(events, "Namespaces", keep, |labels| {
        let labels = labels.iter().map(|(name, labels)| (name.clone(), labels.clone()));
        in_force.namespaces.store(Arc::new(labels.collect()));
        changed();
    })
    .await;
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
    told: Vec<PolicyWarning>,
}

impl RuleInputs {
    fn recompile(&self, in_force: &ActiveConfig) {
        let Some(projects) = &self.projects else { return };
        let instances = self.instances.iter().flat_map(HashMap::values);
        in_force.recompile(projects, rewrite::unavailable(instances.map(AsRef::as_ref), Timestamp::now()));
    }

    /// Logs once each rule and policy that together would refuse Pods during an outage.
    fn warn_of_outages(&mut self, in_force: &ActiveConfig) {
        let projects = self.projects.iter().flatten();
        let rules = projects.filter_map(|project| Some((project.metadata.name.as_deref()?, project.active_rule()?)));
        let findings = in_force.policies.load().outage_findings(rules);
        warn_of_new("policy", &findings, &self.told);
        self.told = findings;
    }
}
