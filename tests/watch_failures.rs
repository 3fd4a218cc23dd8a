//! Every watch of the API server counts its failures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::HashSet, convert::Infallible, sync::atomic::AtomicBool, time::Duration};

use harbor_pilot::{
    active_config::ActiveConfig,
    cluster::{
        admitted_namespaces::AdmittedNamespaces,
        backend::{ApiBackend, ApiResources},
    },
    controller::Installation,
    engine::{
        Backend,
        image_usage::{ImageUsage, due},
        instruments::Instruments,
        run::{self, Engine, EngineOptions, prewarm_queue},
    },
    leadership::Leadership,
    prewarm::{PrewarmTiming, expiry::ImageOrigin, puller::DEFAULT_BYTES, quota::Caps},
};
use kube::{Client, client::Body, runtime::reflector};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio_util::sync::CancellationToken;

const KINDS: [&str; 15] = [
    "HarborInstance",
    "Registry",
    "ProxyProject",
    "ReplicationRule",
    "CachedImage",
    "ImagePolicy",
    "Namespace",
    "Node",
    "Secret",
    "Pod",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
];

/// An API server that refuses every request.
fn refusing() -> Client {
    let answer = |_: http::Request<Body>| async {
        let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403});
        let answer = http::Response::builder().status(403).body(Body::from(status.to_string().into_bytes()));
        Ok::<_, Infallible>(answer.unwrap())
    };
    Client::new(tower::service_fn(answer), "default")
}

#[tokio::test]
async fn a_failing_watch_of_each_kind_is_counted() {
    harbor_pilot::tls::install_crypto_provider();
    let mut registry = Registry::default();
    let meters = Instruments::register(&mut registry);
    let resources = ApiResources { client: refusing(), watches: meters.watches.clone() };
    let backend = || ApiBackend::new(resources.clone(), "pilot", AdmittedNamespaces::all_but_system("pilot").unwrap());
    // The engine lists no resource that refers to a Secret, so it would forget the name.
    let (engine, backend) = (backend(), backend());
    assert!(backend.secret("harbor").await.is_err());
    let (offers, _receiver) = prewarm_queue();
    let usage = ImageUsage {
        active: ActiveConfig::default(),
        tracker: Default::default(),
        images: reflector::store().0,
        offers,
        due: due().0,
        missed: AtomicBool::new(false),
    };
    let options = EngineOptions {
        concurrency: 1,
        warm_concurrency: 1,
        caps: Caps::default(),
        max_inflight_bytes: DEFAULT_BYTES,
        timing: PrewarmTiming::default(),
        progress: None,
    };
    let engine = Engine {
        backend: engine,
        options,
        meters: meters.clone(),
        installation: Installation("test".to_owned()),
        queue: prewarm_queue(),
        origin: ImageOrigin::Cluster,
        leadership: Leadership::always(),
    };
    let engine = Box::pin(run::run(engine, CancellationToken::new()));
    let all = async {
        tokio::join!(
            engine,
            // Without the first lists the engine does not start this.
            backend.follow_image_sources(&usage),
            backend.follow_secrets(|| HashSet::from(["harbor".to_owned()])),
        )
    };
    let uncounted = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let counted = |kind: &&str| text.contains(&format!("watch_errors_total{{kind=\"{kind}\"}} "));
        KINDS.into_iter().filter(|kind| !counted(kind)).collect::<Vec<_>>()
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    let counted = async {
        while !uncounted().is_empty() {
            assert!(tokio::time::Instant::now() < end, "not counted: {:?}", uncounted());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = all => panic!("a watch ended"),
        () = counted => {}
    }
}
