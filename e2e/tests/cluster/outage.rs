//! Pods while a Harbor is away, and after it has come back.

use std::time::Duration;

use harbor_double::{Harbor, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, SOON, pod, proxy_project, registry, resource, secret, shared};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Rules act on an outage once it has lasted for a minute.
const OUTAGE: Duration = Duration::from_secs(120);

async fn until_admitted(cluster: &Cluster, image: &str, wanted: &str, deadline: Duration) {
    let end = Instant::now() + deadline;
    loop {
        let became = cluster.admitted(image).await.unwrap();
        if became == wanted {
            return;
        }
        assert!(Instant::now() < end, "{image} became {became}, not {wanted}\n{}", cluster.logs());
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn rules_and_policies_go_by_what_they_say_of_an_outage_and_come_back_with_harbor() {
    let cluster = shared().await.unwrap();
    let (upstream, harbor) = (Upstream::builder().start().await, Harbor::builder().start().await);
    let host = harbor.host();
    cluster.apply(&secret("away", "admin", "Harbor12345")).await.unwrap();
    let spec = json!({"url": harbor.url(), "credentialsSecretRef": {"name": "away"}, "interval": "1s"});
    cluster.apply(&resource("HarborInstance", "away", spec)).await.unwrap();
    let mut registry = registry("away", &upstream.url());
    registry["spec"]["harborRef"] = json!({"name": "away"});
    cluster.apply(&registry).await.unwrap();
    for (name, matched, when) in [("away", "away.example", "Original"), ("away-stay", "stay.example", "Rewrite")] {
        let mut project = proxy_project(name);
        project["spec"]["harborRef"] = json!({"name": "away"});
        project["spec"]["registryRef"] = json!({"name": "away"});
        project["spec"]["prewarm"] = json!({"mode": "Manual"});
        project["spec"]["rewrite"] = json!({"matches": [matched], "whenUnavailable": when});
        cluster.apply(&project).await.unwrap();
    }
    let mut namespaces = Vec::new();
    for outage in ["Enforce", "Warn"] {
        let namespace = cluster.plane.namespace("outage").await.unwrap();
        let spec = json!({
            "action": "Enforce", "allowed": [{"host": host}], "duringOutage": outage,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        });
        cluster.apply(&resource("ImagePolicy", &format!("outage-{}", outage.to_lowercase()), spec)).await.unwrap();
        namespaces.push(namespace);
    }
    let made =
        [("away.example/app", format!("{host}/away/app")), ("stay.example/app", format!("{host}/away-stay/app"))];
    for (image, rewritten) in &made {
        until_admitted(&cluster, image, rewritten, SOON).await;
    }

    harbor.set_down(true).await;
    until_admitted(&cluster, made[0].0, made[0].0, OUTAGE).await;
    until_admitted(&cluster, made[1].0, &made[1].1, Duration::ZERO).await;
    let create = async |namespace: &str| {
        let pod = pod("app", namespace, made[0].0).to_string();
        cluster.plane.kubectl_with_input(&["create", "--dry-run=server", "-f", "-"], &pod).await.unwrap()
    };
    let reported =
        format!("was not rewritten: {host} is unavailable, and ProxyProject away does not rewrite images meanwhile");
    let refused = create(&namespaces[0]).await;
    assert!(!refused.status.success() && refused.stderr.contains("policy outage-enforce allows"), "{refused:?}");
    let warned = create(&namespaces[1]).await;
    assert!(warned.status.success(), "{warned:?}");
    for reported in [reported.as_str(), "policy outage-warn allows"] {
        assert!(warned.stderr.contains(reported), "{reported}: {warned:?}");
    }

    harbor.set_down(false).await;
    until_admitted(&cluster, made[0].0, &made[0].1, Duration::from_secs(30)).await;
    assert!(create(&namespaces[0]).await.status.success());
    for (kind, name) in [
        ("hip", "outage-enforce"),
        ("hip", "outage-warn"),
        ("hpp", "away-stay"),
        ("hpp", "away"),
        ("hreg", "away"),
        ("hinst", "away"),
    ] {
        cluster.delete(kind, name).await.unwrap();
    }
}
