//! Pods, created as dry runs through the API server, all the time that something happens to the webhook.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::world::HARBOR;

/// How many are created at least, over all that happens: this, unless the variable says otherwise.
const WANTED: usize = 2_000;
const VARIABLE: &str = "HARBOR_PILOT_ROLLOUT";

/// Callers at once, and how long each waits after an answer by default.
const CALLERS: usize = 4;
const PACE: Duration = Duration::from_millis(40);

/// Load that runs until it is [stopped](Load::stop).
pub struct Load {
    counts: Arc<Counts>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    ended: AtomicBool,
    created: AtomicUsize,
    unmutated: AtomicUsize,
    failed: AtomicUsize,
    error: parking::Last,
}

/// What became of the Pods.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    pub created: usize,
    /// Admitted as they were sent.
    pub unmutated: usize,
    pub failed: usize,
    /// The last reason.
    pub error: Option<String>,
}

mod parking {
    use std::sync::{Mutex, PoisonError};

    /// The last of many.
    #[derive(Default)]
    pub struct Last(Mutex<Option<String>>);

    impl Last {
        pub fn set(&self, text: String) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }

        pub fn get(&self) -> Option<String> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }
}

impl Load {
    pub fn start(clients: impl Fn() -> Client) -> Self {
        let counts = Arc::new(Counts::default());
        let pace = if wanted() > WANTED { Duration::ZERO } else { PACE };
        let callers = (0..CALLERS).map(|_| tokio::spawn(call(clients(), counts.clone(), pace))).collect();
        Self { counts, callers }
    }

    /// Created so far.
    pub fn created(&self) -> usize {
        self.counts.created.load(Ordering::SeqCst)
    }

    pub async fn stop(self) -> Figures {
        self.counts.ended.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        let counts = &self.counts;
        Figures {
            created: read(&counts.created),
            unmutated: read(&counts.unmutated),
            failed: read(&counts.failed),
            error: counts.error.get(),
        }
    }
}

/// How many Pods are to be created over all that happens.
pub fn wanted() -> usize {
    std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(WANTED)
}

/// How much longer than by default that may take.
pub fn wanted_time() -> Duration {
    Duration::from_millis(20) * u32::try_from(wanted().saturating_sub(WANTED)).unwrap()
}

async fn call(client: Client, counts: Arc<Counts>, pace: Duration) {
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"generateName": "load-"},
        "spec": {"containers": [{"name": "main", "image": "busybox:1"}]},
    }))
    .unwrap();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    while !counts.ended.load(Ordering::SeqCst) {
        match pods.create(&dry_run, &pod).await {
            Ok(pod) => {
                let image = pod.spec.unwrap().containers[0].image.clone().unwrap();
                if !image.starts_with(HARBOR) {
                    counts.unmutated.fetch_add(1, Ordering::SeqCst);
                }
            }
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::SeqCst);
                counts.error.set(error.to_string());
            }
        }
        counts.created.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(pace).await;
    }
}
