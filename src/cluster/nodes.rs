//! The platforms of the cluster, from the labels of its nodes.

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
use tokio::sync::watch as value;

use super::{backoff, watch::watch};
use crate::{api::Platform, telemetry::watches::WatchMetrics};

/// The platforms of all nodes, without duplicates.
#[derive(Debug, Clone)]
pub struct NodePlatforms {
    current: Arc<ArcSwap<Vec<Platform>>>,
    listed: value::Sender<bool>,
}

impl Default for NodePlatforms {
    fn default() -> Self {
        Self { current: Arc::default(), listed: value::Sender::new(false) }
    }
}

impl NodePlatforms {
    /// The platforms known now; empty until the first node was seen.
    pub fn current(&self) -> Vec<Platform> {
        self.current.load().to_vec()
    }

    /// Waits until all nodes have been listed once.
    pub async fn listed(&self) {
        // `self` owns the sender, so the channel cannot be closed.
        self.listed.subscribe().wait_for(|listed| *listed).await.ok();
    }

    /// Follows the nodes until dropped. Reads metadata only. Calls `came` when a new platform appears; a platform that
    /// disappears needs no action.
    pub async fn watch(&self, client: Client, watches: &WatchMetrics, came: impl Fn()) {
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
        let events = watch(nodes, watcher::Config::default(), "Node", watches);
        let mut events = events.backoff(backoff()).boxed();
        let mut known: HashMap<String, Platform> = HashMap::new();
        let mut listing: HashMap<String, Platform> = HashMap::new();
        loop {
            match events.try_next().await {
                // The list is collected separately: with half of it, images would be warmed for half of the platforms.
                Ok(Some(watcher::Event::Init)) => listing.clear(),
                Ok(Some(watcher::Event::InitApply(node))) => note(&mut listing, &node),
                Ok(Some(watcher::Event::InitDone)) => {
                    known = std::mem::take(&mut listing);
                    self.publish(&known, &came);
                }
                Ok(Some(watcher::Event::Apply(node))) => {
                    note(&mut known, &node);
                    self.publish(&known, &came);
                }
                Ok(Some(watcher::Event::Delete(node))) => {
                    known.remove(&node.name_any());
                    self.publish(&known, &came);
                }
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "cannot watch nodes; keeping the known platforms"),
            }
        }
    }

    fn publish(&self, known: &HashMap<String, Platform>, came: &impl Fn()) {
        let platforms: BTreeSet<Platform> = known.values().cloned().collect();
        let before = self.current.swap(Arc::new(platforms.iter().cloned().collect()));
        self.listed.send_replace(true);
        if platforms.iter().any(|platform| !before.contains(platform)) {
            came();
        }
    }
}

fn note(known: &mut HashMap<String, Platform>, node: &PartialObjectMeta<Node>) {
    match platform_of(node) {
        Some(platform) => known.insert(node.name_any(), platform),
        None => known.remove(&node.name_any()),
    };
}

/// The platform of a node, from the well-known labels that every kubelet sets.
pub fn platform_of(node: &PartialObjectMeta<Node>) -> Option<Platform> {
    let labels = node.labels();
    Some(Platform::new(labels.get("kubernetes.io/os")?, labels.get("kubernetes.io/arch")?, None))
}
