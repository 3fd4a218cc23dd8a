//! The only place that starts a watch of the API server, so that each is counted.

use std::fmt::Debug;

use futures::Stream;
use kube::{
    Api, Resource,
    runtime::watcher::{self, watcher},
};
use serde::de::DeserializeOwned;

use crate::{engine::watch::counted, telemetry::watches::WatchMetrics};

/// What can be watched.
pub(super) trait Watched: Resource + Clone + DeserializeOwned + Debug + Send + 'static {}

impl<K: Resource + Clone + DeserializeOwned + Debug + Send + 'static> Watched for K {}

/// Watches a kind. Counts each list and each failure under `kind`.
pub(super) fn watch<K: Watched>(
    api: Api<K>,
    config: watcher::Config,
    kind: &'static str,
    watches: &WatchMetrics,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + use<K> {
    counted(watcher(api, config), kind, watches)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures::StreamExt;

    use k8s_openapi::api::core::v1::Node;
    use kube::{Client, client::Body};
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    /// An API server that answers every request with this status.
    fn refusing(code: u16) -> Client {
        let answer = move |_: http::Request<Body>| async move {
            let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code});
            let answer = http::Response::builder().status(code).body(Body::from(status.to_string().into_bytes()));
            Ok::<_, Infallible>(answer.unwrap())
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn watch_counts_each_failure_under_its_kind() {
        let mut registry = Registry::default();
        let watches = WatchMetrics::register(&mut registry);
        let events = watch(Api::<Node>::all(refusing(403)), watcher::Config::default(), "Node", &watches);
        let failures = events.filter(|event| std::future::ready(event.is_err())).take(2).count();
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), failures).await.unwrap(), 2);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"watch_errors_total{kind="Node"} 2"#), "{text}");
    }
}
