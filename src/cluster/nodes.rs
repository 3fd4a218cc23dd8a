//! The platforms of the cluster, from the labels of its nodes.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt, core::PartialObjectMeta, runtime::watcher};

use super::backend::ApiResources;
use crate::{
    api::Platform,
    engine::{node_platforms::NodePlatforms, watch},
};

/// Follows the nodes until dropped. Reads metadata only. Calls `added` when a new platform appears.
pub(super) async fn follow(resources: &ApiResources, platforms: &NodePlatforms, added: impl Fn() + Send + Sync) {
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(resources.client.clone());
    let events = resources.watch_as(nodes, watcher::Config::default(), "Node");
    watch::follow(
        events,
        "Node",
        |node| platform_of(&node),
        |known| {
            if platforms.publish(known.values().flatten()) {
                added();
            }
        },
    )
    .await;
}

/// The platform of a node, from the well-known labels that every kubelet sets.
pub fn platform_of(node: &PartialObjectMeta<Node>) -> Option<Platform> {
    let labels = node.labels();
    Some(Platform::new(labels.get("kubernetes.io/os")?, labels.get("kubernetes.io/arch")?, None))
}
