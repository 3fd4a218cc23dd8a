//! The webhook's rules: every change of a ProxyProject compiles them anew and swaps them whole.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};

use crate::{
    api::ProxyProject,
    rewrite::{self, Rules},
};

/// Follows the ProxyProjects until dropped, and keeps `rules` up to date. Calls `loaded` after each complete list.
///
/// While the API server is away the last rules stay in force.
pub async fn follow(client: Client, rules: Arc<ArcSwap<Rules>>, loaded: impl Fn()) {
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
                swap(&rules, &known);
                loaded();
            }
            Ok(Some(watcher::Event::Apply(project))) => {
                known.insert(project.name_any(), project);
                swap(&rules, &known);
            }
            Ok(Some(watcher::Event::Delete(project))) => {
                known.remove(&project.name_any());
                swap(&rules, &known);
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watching ProxyProjects; the rules stay as they are"),
        }
    }
}

fn swap(rules: &ArcSwap<Rules>, projects: &HashMap<String, ProxyProject>) {
    let compiled = rewrite::serving(projects.values());
    for finding in compiled.findings() {
        tracing::warn!(%finding, "rule");
    }
    rules.store(Arc::new(compiled));
}
