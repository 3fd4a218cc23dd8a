//! The product as an administrator has it: the chart installed by Helm, on a real node.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use harbor_pilot_e2e::node::Node;
use harbor_pilot_e2e::node::isolation::{self, Place};
use harbor_pilot_e2e::tools::Tool;

#[test]
fn a_pod_runs() {
    match Place::here() {
        Place::Outside => {
            if isolation::possible().unwrap() {
                isolation::enter("a_pod_runs", Duration::from_secs(600), |_| {
                    for tool in [
                        Tool::Etcd,
                        Tool::KubeApiserver,
                        Tool::Kubectl,
                        Tool::KubeControllerManager,
                        Tool::KubeScheduler,
                        Tool::Kubelet,
                        Tool::KubeProxy,
                        Tool::Crane,
                    ] {
                        tool.path()?;
                    }
                    Ok(())
                })
                .unwrap();
            }
        }
        Place::Inside(directory) => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let node = Node::start(&directory, &[]).await.unwrap();
                node.registry
                    .push_busybox(&format!(
                        "{}/library/busybox:1",
                        node.registry.host().url.trim_start_matches("http://")
                    ))
                    .await
                    .unwrap();
                let out = node
                    .plane
                    .kubectl(&[
                        "run",
                        "a",
                        "--image=images.test/library/busybox:1",
                        "--command",
                        "--",
                        "sleep",
                        "1000000",
                    ])
                    .await
                    .unwrap()
                    .ok()
                    .unwrap();
                println!("{out}");
                let ready =
                    node.plane.kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=60s"]).await.unwrap();
                println!("{ready:?}");
                println!("{}", node.plane.kubectl(&["describe", "pod/a"]).await.unwrap().stdout);
                println!("{}", node.images().unwrap());
                if ready.clone().ok().is_err() {
                    panic!("{}", node.log_tails());
                }
            });
        }
    }
}
