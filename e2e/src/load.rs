//! Pods without an end, while something happens to the webhook: dry runs, which admission sees as any other.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{task::JoinSet, time::Instant};

/// Reasons that are kept; more of them say no more.
const REASONS: usize = 20;

/// What is sent, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Pods<'a> {
    /// The namespace of the Pods.
    pub namespace: &'a str,
    /// The image of their container.
    pub image: &'a str,
    /// What it is rewritten to contains this.
    pub rewritten: &'a str,
    /// How long each caller waits after an answer.
    pub pace: Duration,
}

/// What became of the Pods.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// That were asked for.
    pub asked: usize,
    /// That were admitted with another image than they should have.
    pub unmutated: usize,
    /// That were not admitted.
    pub failed: usize,
    /// Why not, the first few.
    pub errors: Vec<String>,
}

/// Load that runs until it is [stopped](Load::stop) or dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    figures: Mutex<Figures>,
}

impl Load {
    /// Begins, with a caller for each client. Clients that are clones share their connections.
    pub fn start(clients: impl IntoIterator<Item = Client>, pods: Pods<'_>) -> Self {
        let shared = Arc::<Shared>::default();
        let mut callers = JoinSet::new();
        for client in clients {
            let api = Api::namespaced(client, pods.namespace);
            callers.spawn(call(api, pod(pods.image), pods.rewritten.to_owned(), pods.pace, Arc::clone(&shared)));
        }
        Self { shared, callers }
    }

    /// Pods that were asked for and answered so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.figures().asked
    }

    /// Waits until so many more were answered.
    ///
    /// # Errors
    /// When they are not within so long.
    pub async fn more(&self, pods: usize, within: Duration) -> Result<()> {
        let (wanted, end) = (self.asked() + pods, Instant::now() + within);
        while self.asked() < wanted {
            if Instant::now() >= end {
                bail!("{wanted} Pods were to be answered within {within:?}: {:?}", self.shared.figures());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits for the answers that are under way, and says what came of all.
    pub async fn stop(self) -> Figures {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.callers.join_all().await;
        self.shared.figures().clone()
    }
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call(pods: Api<Pod>, pod: Pod, rewritten: String, pace: Duration, shared: Arc<Shared>) {
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    while !shared.ends.load(Ordering::SeqCst) {
        let answer = pods.create(&dry_run, &pod).await;
        shared.figures().count(answer.map(|pod| image_of(pod).is_some_and(|image| image.contains(&rewritten))));
        tokio::time::sleep(pace).await;
    }
}

impl Figures {
    /// Whether a Pod has the image that it should, or why it was not admitted.
    fn count(&mut self, answer: kube::Result<bool>) {
        self.asked += 1;
        match answer {
            Ok(mutated) => self.unmutated += usize::from(!mutated),
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < REASONS {
                    self.errors.push(error.to_string());
                }
            }
        }
    }
}

fn pod(image: &str) -> Pod {
    use k8s_openapi::api::core::v1::{Container, PodSpec};
    let container = Container { name: "main".to_owned(), image: Some(image.to_owned()), ..Container::default() };
    Pod {
        metadata: ObjectMeta { generate_name: Some("load-".to_owned()), ..ObjectMeta::default() },
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        ..Pod::default()
    }
}

fn image_of(pod: Pod) -> Option<String> {
    pod.spec?.containers.into_iter().next()?.image
}
