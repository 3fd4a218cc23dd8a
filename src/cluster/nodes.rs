//! The platforms that the cluster runs, from the labels of its nodes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};

use crate::api::Platform;

/// The platforms of all nodes, without duplicates.
#[derive(Debug, Clone, Default)]
pub struct Platforms {
    current: Arc<ArcSwap<Vec<Platform>>>,
}

impl Platforms {
    /// What is known now; empty until the first node was seen.
    pub fn current(&self) -> Vec<Platform> {
        self.current.load().to_vec()
    }

    /// Follows the nodes until dropped. Reads their metadata alone.
    pub async fn watch(&self, client: Client) {
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
        let mut events = watcher(nodes, watcher::Config::default()).default_backoff().boxed();
        let mut known: HashMap<String, Platform> = HashMap::new();
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Init)) => known.clear(),
                Ok(Some(watcher::Event::InitApply(node) | watcher::Event::Apply(node))) => {
                    match platform_of(&node) {
                        Some(platform) => known.insert(node.name_any(), platform),
                        None => known.remove(&node.name_any()),
                    };
                }
                Ok(Some(watcher::Event::Delete(node))) => {
                    known.remove(&node.name_any());
                }
                Ok(Some(watcher::Event::InitDone)) => {}
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "watching nodes");
                    continue;
                }
            }
            let platforms: BTreeSet<Platform> = known.values().cloned().collect();
            self.current.store(Arc::new(platforms.into_iter().collect()));
        }
    }
}

/// The well-known labels that every kubelet sets.
fn platform_of(node: &PartialObjectMeta<Node>) -> Option<Platform> {
    let labels = node.labels();
    Some(Platform::new(labels.get("kubernetes.io/os")?, labels.get("kubernetes.io/arch")?, None))
}
