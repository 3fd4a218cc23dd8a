//! A cluster that comes back from nothing: what must start before the webhook does so, and the rest waits for it.

use std::time::{Duration, Instant};

use harbor_pilot_e2e::{balancer::Balancer, cluster::NAMESPACE, gate::Gate};
use serde_json::json;

use crate::{SOON, Site, alone, ops, replicas};

/// The namespace of Harbor and its database, which is left out by name.
const HARBOR: &str = "harbor-system";

#[tokio::test]
async fn with_no_webhook_the_system_the_operator_and_harbor_start_and_all_others_do_once_it_is_back() {
    let site = alone().await;
    let others = site.plane.namespace("others").await.unwrap();
    // Whoever may label a namespace is not to get out of admission by that.
    let labelled = site.plane.labelled_namespace("labelled", &[("harbor-pilot.dev/webhook", "ignore")]).await.unwrap();
    site.plane.kubectl(&["create", "namespace", HARBOR]).await.unwrap().ok().unwrap();
    for namespace in ["kube-system", NAMESPACE, HARBOR] {
        // Nobody makes these here, and one may be there.
        site.plane.kubectl(&["create", "serviceaccount", "default", "-n", namespace]).await.unwrap();
    }
    let places = replicas();
    let balancer = Balancer::start(places.to_vec(), Duration::from_millis(500)).await.unwrap();
    site.register(balancer.port(), "Fail", &[HARBOR]).await;
    for (namespace, name) in
        [("kube-system", "etcd"), (NAMESPACE, "harbor-pilot-webhook"), (HARBOR, "core"), (HARBOR, "database")]
    {
        create(&site, namespace, name).await.unwrap_or_else(|error| panic!("{name} must start: {error}"));
    }
    for namespace in [&others, &labelled] {
        let refused = create(&site, namespace, "early").await.unwrap_err();
        assert!(refused.contains("failed calling webhook"), "{refused}");
    }

    let kubeconfig = site.kubeconfig("harbor-pilot-webhook", None).await;
    let begin = Instant::now();
    let mut running =
        [site.webhook(places[0], &kubeconfig, "1s").await, site.webhook(places[1], &kubeconfig, "1s").await];
    let first = until_rewritten(&site, &others, "first").await;
    println!("the webhook was started: Pods went after {:?}", begin.elapsed());
    assert!(first.contains("/hub/library/nginx"), "{first}");

    // All replicas at once, as with the node that they run on.
    for replica in &mut running {
        replica.kill().unwrap();
    }
    balancer.until_ready(0, SOON).await.unwrap();
    assert!(create(&site, &others, "amid").await.is_err());
    create(&site, NAMESPACE, "again").await.unwrap();
    let begin = Instant::now();
    let _running = [site.webhook(places[0], &kubeconfig, "1s").await, site.webhook(places[1], &kubeconfig, "1s").await];
    until_rewritten(&site, &others, "second").await;
    println!("all replicas were killed and started: Pods went after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    site.unregister().await;
}

#[tokio::test]
async fn a_replica_is_ready_once_it_has_its_rules_and_then_whether_or_not_the_api_server_is_there() {
    let site = alone().await;
    let gate = Gate::start(site.api_port()).await.unwrap();
    let kubeconfig = site.kubeconfig("harbor-pilot-webhook", Some(gate.port())).await;
    let [place, _] = replicas();
    gate.shut(true);
    let mut replica = site.webhook(place, &kubeconfig, "1s").await;
    replica.wait_for_line("serving admission", SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = async || (ops(place, "/healthz").await.unwrap().0, ops(place, "/readyz").await.unwrap().0);
    assert_eq!(state().await, (200, 503), "alive, and without rules not ready");

    gate.shut(false);
    let end = Instant::now() + SOON;
    while state().await != (200, 200) {
        assert!(Instant::now() < end, "{}", replica.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gate.shut(true);
    site.register(place.port, "Fail", &[]).await;
    let namespace = site.plane.namespace("cut-off").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state().await, (200, 200), "it serves what it knows");
    let image = until_rewritten(&site, &namespace, "served").await;
    assert!(image.contains("/hub/library/nginx"), "{image}");
    site.unregister().await;
}

/// Creates a Pod of nginx, and returns its image.
async fn create(site: &Site, namespace: &str, name: &str) -> Result<String, String> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": "app", "image": "nginx", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        }}]},
    });
    let image = "jsonpath={.spec.containers[0].image}";
    let output = site.plane.kubectl_with_input(&["create", "-f", "-", "-o", image], &pod.to_string()).await.unwrap();
    if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
}

/// Creates a Pod again and again until it is admitted, as the controller of a Deployment does. Returns its image.
async fn until_rewritten(site: &Site, namespace: &str, name: &str) -> String {
    let end = Instant::now() + SOON;
    loop {
        match create(site, namespace, name).await {
            Ok(image) => return image,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
