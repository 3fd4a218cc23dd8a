//! What admission follows: rules, compiled anew and swapped whole when a ProxyProject changes or a Harbor goes away;
//! policies, likewise; and the labels of namespaces.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{Api, Client, ResourceExt, core::PartialObjectMeta, runtime::watcher};

use super::follow::follow;
use crate::{
    api::{HarborInstance, ImagePolicy, ProxyProject, proxy_project::PrewarmMode},
    policy::{Finding, Policies},
    rewrite::{self, Namespaces, Rules},
};

/// How often it is asked whether a Harbor that does not answer has been away long enough to count as unavailable.
const LOOK: Duration = Duration::from_secs(5);

/// What admission follows, swapped whole.
#[derive(Debug, Clone, Default)]
pub struct Following {
    /// The rules in force.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The policies in force.
    pub policies: Arc<ArcSwap<Policies>>,
    /// Labels of namespaces.
    pub namespaces: Arc<ArcSwap<Namespaces>>,
    /// ProxyProjects whose images are not warmed because Pods ask for them (`prewarm.mode: Manual`).
    pub manual: Arc<ArcSwap<HashSet<String>>>,
}

/// Follows ProxyProjects alone until dropped, for those who ask where images are and not whose they are. Calls `changed`
/// after each change, for the first time when the first list is complete.
pub async fn follow_projects(client: Client, following: Following, changed: impl Fn()) {
    let projects = watcher(Api::<ProxyProject>::all(client), watcher::Config::default());
    follow(projects, "ProxyProjects", Arc::new, |projects| {
        let projects = Some(projects.values().cloned().collect());
        following.recompile(&mut State { projects, ..State::default() });
        changed();
    })
    .await;
}

/// Follows ProxyProjects, HarborInstances, ImagePolicies and namespaces until dropped, and keeps `following` up to date.
/// Calls `complete` once all are known, and after each change from then on.
///
/// While the API server is away what is known stays in force.
pub async fn follow_all(client: Client, following: Following, complete: impl Fn()) {
    let state = Mutex::new(State::default());
    let with = |change: &dyn Fn(&mut State)| {
        // A panic while it was held would have been one of the compiler, which leaves it whole.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        following.recompile(&mut state);
        following.warn_of_outages(&mut state);
        if state.projects.is_some() && state.instances.is_some() && state.policies && state.namespaces {
            complete();
        }
    };
    let config = watcher::Config::default;
    let projects =
        follow(watcher(Api::<ProxyProject>::all(client.clone()), config()), "ProxyProjects", Arc::new, |projects| {
            with(&|state| state.projects = Some(projects.values().cloned().collect()));
        });
    let instances = follow(
        watcher(Api::<HarborInstance>::all(client.clone()), config()),
        "HarborInstances",
        Arc::new,
        |instances| with(&|state| state.instances = Some(instances.clone())),
    );
    let policies =
        follow(watcher(Api::<ImagePolicy>::all(client.clone()), config()), "ImagePolicies", Arc::new, |policies| {
            following.enforce(policies.values().map(AsRef::as_ref));
            with(&|state| state.policies = true);
        });
    let namespaces = follow(
        watcher(Api::<PartialObjectMeta<Namespace>>::all(client), config()),
        "Namespaces",
        |namespace: PartialObjectMeta<Namespace>| namespace.metadata.labels.unwrap_or_default(),
        |labels| {
            let labels = labels.iter().map(|(name, labels)| (name.clone(), labels.clone()));
            following.namespaces.store(Arc::new(labels.collect()));
            with(&|state| state.namespaces = true);
        },
    );
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
        () = outages => {}
    }
}

/// What was seen last; `None` before the first list.
#[derive(Default)]
struct State {
    projects: Option<Vec<Arc<ProxyProject>>>,
    instances: Option<HashMap<String, Arc<HarborInstance>>>,
    policies: bool,
    namespaces: bool,
    /// What was said of outages.
    told: Vec<Finding>,
    /// What the rules in force were compiled from.
    compiled: Option<(Vec<Arc<ProxyProject>>, HashSet<String>)>,
}

impl Following {
    fn recompile(&self, state: &mut State) {
        let Some(projects) = state.projects.clone() else { return };
        let now = Timestamp::now();
        let instances = state.instances.iter().flatten();
        let away: HashSet<String> = instances
            .filter(|(_, instance)| rewrite::is_unavailable(instance, now))
            .map(|(name, _)| name.clone())
            .collect();
        let same = |(before, absent): &(Vec<Arc<ProxyProject>>, HashSet<String>)| {
            *absent == away && before.len() == projects.len() && before.iter().all(|one| is_among(one, &projects))
        };
        if state.compiled.as_ref().is_some_and(same) {
            return;
        }
        let compiled = rewrite::serving(projects.iter().map(AsRef::as_ref), |instance| away.contains(instance));
        let before = self.rules.load();
        // Each status of each ProxyProject compiles anew: what was said once need not be said again.
        for finding in compiled.findings().iter().filter(|finding| !before.findings().contains(finding)) {
            tracing::warn!(%finding, "rule");
        }
        self.rules.store(Arc::new(compiled));
        let manual = projects.iter().filter(|project| project.spec.prewarm.mode == PrewarmMode::Manual);
        self.manual.store(Arc::new(manual.map(|project| project.name_any()).collect()));
        for instance in &away {
            tracing::warn!(instance, "Harbor is unavailable; rules go by whenUnavailable");
        }
        state.compiled = Some((projects, away));
    }

    fn enforce<'p>(&self, policies: impl Iterator<Item = &'p ImagePolicy>) {
        let compiled = Policies::compile(policies);
        let before = self.policies.load();
        for finding in compiled.findings().iter().filter(|finding| !before.findings().contains(finding)) {
            tracing::warn!(%finding, "policy");
        }
        self.policies.store(Arc::new(compiled));
    }

    /// Says once of each rule and policy that together they would refuse Pods in an outage.
    fn warn_of_outages(&self, state: &mut State) {
        let projects = state.projects.iter().flatten();
        let rules = projects.filter_map(|project| Some((project.metadata.name.as_deref()?, project.serving_rule()?)));
        let findings = self.policies.load().outage_findings(rules);
        for finding in findings.iter().filter(|finding| !state.told.contains(finding)) {
            tracing::warn!(%finding, "policy");
        }
        state.told = findings;
    }
}

fn is_among(project: &Arc<ProxyProject>, projects: &[Arc<ProxyProject>]) -> bool {
    projects.iter().any(|other| Arc::ptr_eq(project, other))
}
