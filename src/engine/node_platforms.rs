//! The platforms of the nodes that run Pods.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::api::Platform;

/// The platforms of all nodes, without duplicates. Clones share them.
#[derive(Debug, Clone)]
pub struct NodePlatforms {
    current: Arc<ArcSwap<Vec<Platform>>>,
    listed: watch::Sender<bool>,
}

impl Default for NodePlatforms {
    fn default() -> Self {
        Self { current: Arc::default(), listed: watch::Sender::new(false) }
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

    /// Replaces the platforms with those of all nodes. Returns whether one is new; a platform that disappears needs no
    /// action.
    pub fn publish<'p>(&self, platforms: impl IntoIterator<Item = &'p Platform>) -> bool {
        let platforms: BTreeSet<&Platform> = platforms.into_iter().collect();
        let before = self.current.swap(Arc::new(platforms.iter().copied().cloned().collect()));
        self.listed.send_replace(true);
        platforms.iter().any(|platform| !before.contains(platform))
    }
}
