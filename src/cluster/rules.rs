//! The webhook's rules: every change of a ProxyProject compiles them anew and swaps them whole.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};

use crate::{
    api::{ProxyProject, proxy_project::PrewarmMode},
    rewrite::{self, Rules},
};

/// What admission follows, swapped whole.
#[derive(Debug, Clone, Default)]
pub struct Following {
    /// The rules in force.
    pub rules: Arc<ArcSwap<Rules>>,
    /// ProxyProjects whose images are not warmed because Pods ask for them (`prewarm.mode: Manual`).
    pub manual: Arc<ArcSwap<HashSet<String>>>,
}

/// Follows the ProxyProjects until dropped, and keeps `following` up to date. Calls `changed` after each change, for the
/// first time when the first list is complete.
///
/// While the API server is away the last rules stay in force.
pub async fn follow(client: Client, following: Following, changed: impl Fn()) {
    let api: Api<ProxyProject> = Api::all(client);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut known: HashMap<String, ProxyProject> = HashMap::new();
    let mut listing: HashMap<String, ProxyProject> = HashMap::new();
    loop {
        match events.try_next().await {
            // A list is collected aside: half of it would send images to the internet.
            Ok(Some(watcher::Event::Init)) => listing.clear(),
            Ok(Some(watcher::Event::InitApply(project))) => {
                listing.insert(project.name_any(), project);
            }
            Ok(Some(watcher::Event::InitDone)) => {
                known = std::mem::take(&mut listing);
                following.swap(&known);
                changed();
            }
            Ok(Some(watcher::Event::Apply(project))) => {
                known.insert(project.name_any(), project);
                following.swap(&known);
                changed();
            }
            Ok(Some(watcher::Event::Delete(project))) => {
                known.remove(&project.name_any());
                following.swap(&known);
                changed();
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watching ProxyProjects; the rules stay as they are"),
        }
    }
}

impl Following {
    fn swap(&self, projects: &HashMap<String, ProxyProject>) {
        let compiled = rewrite::serving(projects.values());
        let before = self.rules.load();
        // Each status of each ProxyProject compiles anew: what was said once need not be said again.
        for finding in compiled.findings().iter().filter(|finding| !before.findings().contains(finding)) {
            tracing::warn!(%finding, "rule");
        }
        self.rules.store(Arc::new(compiled));
        let manual = projects.iter().filter(|(_, project)| project.spec.prewarm.mode == PrewarmMode::Manual);
        self.manual.store(Arc::new(manual.map(|(name, _)| name.clone()).collect()));
    }
}
