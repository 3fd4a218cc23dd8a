//! The product as an administrator has it: the image that the script makes, the chart installed by Helm, on a real node.
//!
//! One node, one story: what comes later finds the cluster as what came before left it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod image;
mod rollout;
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use harbor_pilot_e2e::needs::trial;
use harbor_pilot_e2e::node::images::{self, build_product};
use harbor_pilot_e2e::node::isolation::{self, Place};
use harbor_pilot_e2e::tools::Tool;

use libtest_mimic::Arguments;
use world::World;

/// What runs inside, where nothing can be fetched.
const TOOLS: [Tool; 9] = [
    Tool::Etcd,
    Tool::KubeApiserver,
    Tool::Kubectl,
    Tool::KubeControllerManager,
    Tool::KubeScheduler,
    Tool::Kubelet,
    Tool::KubeProxy,
    Tool::Crane,
    Tool::Helm,
];

const STORY: &str = "the_chart_on_a_node_runs_pods_from_harbors_cache_and_is_never_in_the_way";
const IMAGE: &str = "image::the_image_is_the_same_twice_runs_as_nobody_and_lists_what_is_linked";

fn main() {
    // Inside, the machine has been checked.
    let (node, tools) = match Place::here() {
        Place::Inside(_) => (Vec::new(), Vec::new()),
        Place::Outside => (isolation::missing(), images::missing()),
    };
    let trials = vec![
        trial(
            IMAGE,
            isolation::REQUIRED,
            tools.clone(),
            image::the_image_is_the_same_twice_runs_as_nobody_and_lists_what_is_linked,
        ),
        trial(STORY, isolation::REQUIRED, [node, tools].concat(), the_chart_on_a_node_runs_pods_from_harbors_cache),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

fn the_chart_on_a_node_runs_pods_from_harbors_cache() {
    match Place::here() {
        Place::Inside(directory) => {
            tokio::runtime::Runtime::new().unwrap().block_on(story(&directory));
        }
        Place::Outside => {
            let prepare = |directory: &Path| {
                for tool in TOOLS {
                    tool.path()?;
                }
                build_product(&directory.join("product"))
            };
            // The whole of 100,000 admissions takes its time.
            isolation::enter(STORY, Duration::from_secs(600) + rollout::wanted_time(), prepare).unwrap();
        }
    }
}

async fn story(directory: &Path) {
    let mut clock = Instant::now();
    let mut reported = |what: &str| {
        isolation::say(&format!("{what} ({:.1} s)", clock.elapsed().as_secs_f64()));
        clock = Instant::now();
    };
    let world = World::start(directory).await;
    reported("the node is ready");
    world.install().await;
    reported("the chart is installed");
    world.apply_resources().await;
    reported("busybox:1 is warm in Harbor");
    world.pods_run_from_the_cache().await;
    reported("a Deployment of busybox:1 runs, from Harbor's cache, with Docker Hub gone");
    rollout::all(&world, &mut reported).await;
    world.uninstall().await;
    reported("the chart is uninstalled");
}
