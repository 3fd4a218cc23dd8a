//! A Harbor that is away for a while, as its resources see it.

use std::time::Duration;

use harbor_double::{Harbor, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, message_of, proxy_project, registry, resource, secret, shared};
use harbor_pilot_e2e::front::{Front, Mode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const REGISTRIES: usize = 6;

/// A resource of the instance `front`, looked at each two seconds.
fn of_front(mut object: Value) -> Value {
    object["spec"]["harborRef"] = json!({"name": "front"});
    object["spec"]["interval"] = json!("2s");
    object
}

async fn all_ready(cluster: &Cluster) {
    cluster.wait_for("HarborInstance", "front", "Ready", "True Healthy").await.unwrap();
    for number in 0..REGISTRIES {
        cluster.wait_for("Registry", &format!("front-{number}"), "Ready", "True Reconciled").await.unwrap();
    }
    cluster.wait_for("ProxyProject", "front-0", "Ready", "True Reconciled").await.unwrap();
}

#[tokio::test]
async fn unreachable_harbor_is_probed_every_30_s_and_resources_recover_within_30_s() {
    let cluster = shared().await.unwrap();
    let (upstream, harbor) = (Upstream::builder().start().await, Harbor::builder().start().await);
    let front = Front::start(&harbor.host()).await.unwrap();
    cluster.apply(&secret("front", "admin", "Harbor12345")).await.unwrap();
    // An interval that does not help: what the resources find has to reach the instance.
    let spec = json!({"url": front.url(), "credentialsSecretRef": {"name": "front"}, "interval": "1h"});
    cluster.apply(&resource("HarborInstance", "front", spec)).await.unwrap();
    for number in 0..REGISTRIES {
        cluster.apply(&of_front(registry(&format!("front-{number}"), &upstream.url()))).await.unwrap();
    }
    let mut project = of_front(proxy_project("front-0"));
    project["spec"]["prewarm"] = json!({"mode": "Manual"});
    cluster.apply(&project).await.unwrap();
    all_ready(&cluster).await;

    front.set(Mode::Away);
    cluster.wait_for("HarborInstance", "front", "Ready", "False HarborError").await.unwrap();
    for number in 0..REGISTRIES {
        let name = format!("front-{number}");
        let waiting = cluster.wait_for("Registry", &name, "Ready", "False InstanceNotReady").await.unwrap();
        let message = message_of(&waiting, "Ready");
        assert!(message.contains("HarborInstance front") && message.contains("503"), "{message}");
    }
    let (before, begin) = (front.refused(), Instant::now());
    sleep(Duration::from_secs(35)).await;
    let (asked, most) = (front.refused() - before, 1 + begin.elapsed().as_secs() as usize / 30);
    assert!((1..=most).contains(&asked), "asked {asked} times in {:?}\n{}", begin.elapsed(), cluster.logs());

    let back = Instant::now();
    front.set(Mode::Through(Duration::ZERO));
    all_ready(&cluster).await;
    assert!(back.elapsed() < Duration::from_secs(35), "ready only after {:?}", back.elapsed());

    cluster.forget("front-0").await.unwrap();
    for number in 1..REGISTRIES {
        cluster.delete("hreg", &format!("front-{number}")).await.unwrap();
    }
    cluster.delete("hinst", "front").await.unwrap();
}

/// Every object that Harbor has of these tests.
async fn left(harbor: &Harbor) -> Vec<String> {
    let mut names = Vec::new();
    for path in ["/registries", "/projects", "/replication/policies"] {
        let (_, list) = harbor.manual_request("GET", &format!("{path}?page_size=100"), None).await;
        let found = list.as_array().cloned().unwrap_or_default();
        let name = |object: &Value| object["name"].as_str().unwrap_or_default().to_owned();
        names.extend(
            found.iter().map(name).filter(|name| name.starts_with("midway")).map(|name| format!("{path} {name}")),
        );
    }
    names
}

#[tokio::test]
async fn what_is_deleted_while_it_is_being_made_leaves_nothing_in_harbor_and_is_not_made_again() {
    const MOMENTS: u64 = 8;
    let cluster = shared().await.unwrap();
    let (upstream, harbor) = (Upstream::builder().start().await, Harbor::builder().start().await);
    let front = Front::start(&harbor.host()).await.unwrap();
    cluster.apply(&secret("midway", "admin", "Harbor12345")).await.unwrap();
    let spec = json!({
        "url": front.url(), "credentialsSecretRef": {"name": "midway"}, "interval": "1h", "maxConcurrentRequests": 32,
    });
    cluster.apply(&resource("HarborInstance", "midway", spec)).await.unwrap();
    cluster.wait_for("HarborInstance", "midway", "Ready", "True Healthy").await.unwrap();
    let of_midway = |mut object: Value| {
        object["spec"]["harborRef"] = json!({"name": "midway"});
        object["spec"]["deletionPolicy"] = json!("Delete");
        object
    };
    // What the others build on.
    cluster.apply(&of_midway(registry("midway-base", &upstream.url()))).await.unwrap();
    cluster.wait_for("Registry", "midway-base", "Ready", "True Reconciled").await.unwrap();
    let base = left(&harbor).await;
    assert_eq!(base, ["/registries midway-base"]);

    // Each is deleted a little later in its making than the one before; a request takes a quarter of a second.
    front.set(Mode::Through(Duration::from_millis(250)));
    let objects = |moment: u64| {
        let name = format!("midway-{moment}");
        let mut project = proxy_project(&name);
        project["spec"]["registryRef"] = json!({"name": "midway-base"});
        project["spec"]["rewrite"] = json!({"matches": [format!("{name}.example")]});
        let rule = json!({
            "source": {"registryRef": {"name": "midway-base"}}, "destination": {"namespace": "midway-mirror"},
            "trigger": {"type": "Manual"},
        });
        [registry(&name, &upstream.url()), project, resource("ReplicationRule", &name, rule)].map(of_midway)
    };
    for moment in 0..MOMENTS {
        for object in objects(moment) {
            cluster.apply(&object).await.unwrap();
        }
    }
    let made = Instant::now();
    for moment in 0..MOMENTS {
        tokio::time::sleep_until(made + Duration::from_millis(250) * u32::try_from(moment).unwrap()).await;
        let name = format!("midway-{moment}");
        let all = ["delete", "--wait=false", "hreg,hpp,hrr", &name];
        cluster.plane.kubectl(&all).await.unwrap().ok().unwrap();
    }
    front.set(Mode::Through(Duration::ZERO));
    for moment in 0..MOMENTS {
        for kind in ["hrr", "hpp", "hreg"] {
            let deleted = ["wait", "--for=delete", "--timeout=60s", &format!("{kind}/midway-{moment}")];
            cluster
                .plane
                .kubectl(&deleted)
                .await
                .unwrap()
                .ok()
                .unwrap_or_else(|error| panic!("{error}\n{}", cluster.logs()));
        }
    }
    assert_eq!(left(&harbor).await, base, "left behind");
    let creates = |log: Vec<harbor_double::Request>| {
        let created = log.into_iter().filter(|request| request.method == "POST" && request.status == 201);
        created.map(|request| request.path).collect::<Vec<_>>()
    };
    let before = creates(harbor.writes());
    sleep(Duration::from_secs(3)).await;
    assert_eq!(left(&harbor).await, base, "made again");
    let after = creates(harbor.writes());
    assert_eq!(after, before, "made again");
    for path in ["/api/v2.0/registries", "/api/v2.0/projects", "/api/v2.0/replication/policies"] {
        let count = after.iter().filter(|created| *created == path).count();
        assert!(count <= 1 + MOMENTS as usize, "{path}: {count} were made");
        eprintln!("{path}: {count} made before they were deleted");
    }
    cluster.delete("hreg", "midway-base").await.unwrap();
    assert!(left(&harbor).await.is_empty());
    cluster.delete("hinst", "midway").await.unwrap();
}
