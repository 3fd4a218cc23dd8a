//! Where CachedImages come from, how they read, and how long they live.

use std::collections::BTreeMap;
use std::time::Duration;

use harbor_double::{Image, Upstream};
use harbor_pilot_e2e::cluster::{
    Cluster, SOON, alone, condition_of, image, pod, proxy_project, registry, resource, shared,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Waits until the CachedImages of a project are as `wanted` says.
async fn until(
    cluster: &Cluster,
    project: &str,
    what: &str,
    wanted: impl Fn(&BTreeMap<String, Value>) -> bool,
) -> BTreeMap<String, Value> {
    let end = Instant::now() + SOON;
    loop {
        let found = cluster.cached(project).await.unwrap();
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < end, "{what}: {}\n{}", json!(found), cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": image}]}})
}

fn workload(api: &str, kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

#[tokio::test]
async fn an_image_goes_when_nothing_has_asked_for_it_for_a_while_and_stays_while_anything_runs_it() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("expiring").await.unwrap();
    let soon = json!({"spec": {"prewarm": {"expireAfter": "6s"}}}).to_string();
    let patch = ["patch", "hpp", "expiring", "--type", "merge", "-p", &soon];
    cluster.plane.kubectl(&patch).await.unwrap().ok().unwrap();
    let namespace = cluster.plane.namespace("expiring").await.unwrap();
    for name in ["runs", "ends", "planned", "mine"] {
        upstream.push_image(name, "v1", &Image::single("linux", "amd64").seed(name));
    }
    let (source, at_harbor) = (upstream.host(), format!("{}/expiring", cluster.harbor.host()));
    for name in ["runs", "ends"] {
        cluster.apply(&pod(name, &namespace, &format!("{source}/{name}:v1"))).await.unwrap();
    }
    let selector = json!({"matchLabels": {"app": "a"}});
    let planned = json!({"replicas": 0, "selector": selector, "template": template(&format!("{source}/planned:v1"))});
    cluster.apply(&workload("apps/v1", "Deployment", "planned", &namespace, planned)).await.unwrap();
    cluster.apply(&resource("CachedImage", "mine", json!({"image": format!("{at_harbor}/mine:v1")}))).await.unwrap();
    let all = ["runs", "ends", "planned", "mine"].map(|name| format!("{name}:v1"));
    cluster.wait_until_warm("expiring", &all).await.unwrap();

    let end = ["delete", "pod", "ends", "-n", &namespace, "--grace-period=0", "--force"];
    cluster.plane.kubectl(&end).await.unwrap().ok().unwrap();
    let ended = format!("{at_harbor}/ends:v1");
    until(&cluster, "expiring", "nothing runs it", |found| !found.contains_key(&ended)).await;
    // As long again: what is in use outlives it.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let found = cluster.cached("expiring").await.unwrap();
    for name in ["runs", "planned"] {
        let status = &found[&format!("{at_harbor}/{name}:v1")]["status"];
        assert_eq!(status["requestedBy"], json!([namespace]), "{status:#}");
        assert!(status["lastRequestedAt"].as_str() < status["expiresAt"].as_str(), "{status:#}");
    }
    let mine = &found[&format!("{at_harbor}/mine:v1")];
    assert!(mine["status"]["expiresAt"].is_null() && mine["status"]["lastRequestedAt"].is_null(), "{mine:#}");
    assert!(cluster.logs().contains("expired"), "{}", cluster.logs());

    // The webhook remembers that it offered the image; the Pod itself is what brings it back.
    cluster.apply(&pod("again", &namespace, &format!("{source}/ends:v1"))).await.unwrap();
    cluster.wait_until_warm("expiring", &["ends:v1".to_owned()]).await.unwrap();
    cluster.delete("hci", "mine").await.unwrap();
    cluster.forget("expiring").await.unwrap();
}

#[tokio::test]
async fn of_too_many_images_the_oldest_go_and_neither_what_is_in_use_nor_what_a_user_wrote() {
    let cluster = Cluster::own_with(&["--max-cached-images", "4"]).await.unwrap();
    let upstream = Upstream::builder().start().await;
    let mut project = proxy_project("many");
    // Within a quarter of it nothing is one too many.
    project["spec"]["prewarm"] = json!({"expireAfter": "32s"});
    cluster.apply(&registry("many", &upstream.url())).await.unwrap();
    cluster.apply(&project).await.unwrap();
    cluster.wait_for("ProxyProject", "many", "Ready", "True Reconciled").await.unwrap();
    let namespace = cluster.plane.namespace("many").await.unwrap();
    let at_harbor = |name: &str| format!("{}/many/{name}:v1", cluster.harbor.host());
    let there = async |name: &str| {
        let image = at_harbor(name);
        until(&cluster, "many", name, |found| found.contains_key(&image)).await
    };
    cluster.apply(&resource("CachedImage", "mine", json!({"image": at_harbor("mine")}))).await.unwrap();
    cluster.apply(&pod("runs", &namespace, &at_harbor("runs"))).await.unwrap();
    let spec =
        json!({"replicas": 0, "selector": {"matchLabels": {"app": "a"}}, "template": template(&at_harbor("planned"))});
    cluster.apply(&workload("apps/v1", "Deployment", "planned", &namespace, spec)).await.unwrap();
    there("runs").await;
    there("planned").await;
    for name in ["oldest", "old", "young", "youngest"] {
        cluster.apply(&pod(name, &namespace, &at_harbor(name))).await.unwrap();
        there(name).await;
        let end = ["delete", "pod", name, "-n", &namespace, "--grace-period=0", "--force"];
        cluster.plane.kubectl(&end).await.unwrap().ok().unwrap();
    }
    let deleted = ["oldest", "old"].map(at_harbor);
    let none = |found: &BTreeMap<String, Value>| deleted.iter().all(|image| !found.contains_key(image));
    until(&cluster, "many", "the oldest go", none).await;
    // It is looked several times more.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let found: Vec<String> = cluster.cached("many").await.unwrap().into_keys().collect();
    assert_eq!(found, ["mine", "planned", "runs", "young", "youngest"].map(at_harbor), "{}", cluster.logs());
    let logs = cluster.logs();
    let expired: Vec<&str> = logs.lines().filter(|line| line.contains("expired") && line.contains("cause=")).collect();
    assert!(expired.len() == 2 && expired.iter().all(|line| line.contains("TooMany")), "{expired:#?}");
}

#[tokio::test]
async fn workloads_are_warmed_before_their_pods_exist_where_rules_speak_of_them() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("planned").await.unwrap();
    let team = cluster.plane.labelled_namespace("planned", &[("team", "planned")]).await.unwrap();
    let stranger = cluster.plane.namespace("planned").await.unwrap();
    let selector =
        json!({"spec": {"rewrite": {"namespaceSelector": {"matchLabels": {"team": "planned"}}}}}).to_string();
    let patch = ["patch", "hpp", "planned", "--type", "merge", "-p", &selector];
    cluster.plane.kubectl(&patch).await.unwrap().ok().unwrap();
    cluster.wait_for("ProxyProject", "planned", "Ready", "True Reconciled").await.unwrap();
    let mut manual = proxy_project("planned-by-hand");
    manual["spec"]["registryRef"]["name"] = json!("planned");
    manual["spec"]["rewrite"] = json!({"matches": ["by-hand.example"]});
    manual["spec"]["prewarm"] = json!({"mode": "Manual"});
    cluster.apply(&manual).await.unwrap();
    cluster.wait_for("ProxyProject", "planned-by-hand", "Ready", "True Reconciled").await.unwrap();
    // The controller follows rules within moments, and has to have seen the selector.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let kinds = ["deployment", "statefulset", "daemonset", "job", "cronjob", "owned", "stranger"];
    for name in kinds {
        upstream.push_image(name, "v1", &Image::single("linux", "amd64").seed(name));
    }
    let of = |name: &str| template(&format!("{}/{name}:v1", upstream.host()));
    let job = |name: &str| {
        let mut template = of(name);
        template["spec"]["restartPolicy"] = json!("Never");
        json!({"suspend": true, "template": template})
    };
    let selector = json!({"matchLabels": {"app": "a"}});
    let set = |name: &str| json!({"selector": selector, "serviceName": "a", "replicas": 0, "template": of(name)});
    let mut owned = workload("batch/v1", "Job", "owned", &team, job("owned"));
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "a", "uid": "1", "controller": true}]);
    let manual_request = json!({"selector": selector, "template": template("by-hand.example/app:v1")});
    for object in [
        workload(
            "apps/v1",
            "Deployment",
            "stranger",
            &stranger,
            json!({"selector": selector, "template": of("stranger")}),
        ),
        workload("apps/v1", "Deployment", "by-hand", &team, manual_request),
        owned,
        workload("apps/v1", "Deployment", "a", &team, json!({"selector": selector, "template": of("deployment")})),
        workload("apps/v1", "StatefulSet", "a", &team, set("statefulset")),
        workload("apps/v1", "DaemonSet", "a", &team, json!({"selector": selector, "template": of("daemonset")})),
        workload("batch/v1", "Job", "a", &team, job("job")),
        workload(
            "batch/v1",
            "CronJob",
            "a",
            &team,
            json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job("cronjob")}}),
        ),
    ] {
        cluster.apply(&object).await.unwrap();
    }
    let wanted: Vec<String> = kinds[..5].iter().map(|name| format!("{name}:v1")).collect();
    cluster.wait_until_warm("planned", &wanted).await.unwrap();
    let found = cluster.cached("planned").await.unwrap();
    assert_eq!(found.len(), wanted.len(), "{:?}", found.keys());
    assert!(found.values().all(|object| object["metadata"]["labels"]["harbor-pilot.dev/source"] == "cluster"));
    assert!(cluster.cached("planned-by-hand").await.unwrap().is_empty());
    cluster.delete("hpp", "planned-by-hand").await.unwrap();
    cluster.forget("planned").await.unwrap();
}

#[tokio::test]
async fn a_cached_image_reads_well_from_the_first_moment_and_a_new_architecture_is_warmed_too() {
    let mut cluster = alone().await.unwrap();
    let upstream = cluster.proxied("reads").await.unwrap();
    upstream.push_image("app", "v1", &image());
    cluster.kill_controller().unwrap();
    let spec = json!({"image": format!("{}/app:v1", upstream.host()), "refreshInterval": "10m"});
    cluster.apply(&resource("CachedImage", "reads", spec)).await.unwrap();
    let get = ["get", "hci", "reads"];
    let pending = cluster.plane.kubectl(&get).await.unwrap().ok().unwrap();
    assert!(pending.contains("Unknown   Pending"), "{pending}");
    cluster.start_controller().await.unwrap();
    let ready = ["wait", "--for=condition=Ready", "cachedimage/reads", "--timeout=60s"];
    cluster.plane.kubectl(&ready).await.unwrap().ok().unwrap();
    cluster.wait_for("CachedImage", "reads", "OfflineByDigest", "False IndexDigestChanged").await.unwrap();

    let node = |architecture: &str| {
        let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2", "labels": labels}})
    };
    cluster.apply(&node("arm64")).await.unwrap();
    let end = Instant::now() + SOON;
    let both = loop {
        let found = cluster.get("CachedImage", "reads").await.unwrap();
        let platforms = found["status"]["platforms"].as_array().map_or(0, Vec::len);
        if platforms == 2 && condition_of(&found, "Ready") == "True Warm" {
            break found;
        }
        assert!(Instant::now() < end, "{found:#}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(both["status"]["wanted"], json!(["linux/amd64", "linux/arm64"]));
    cluster.delete("node", "node-2").await.unwrap();
    upstream.clear_log();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = cluster.get("CachedImage", "reads").await.unwrap();
    let asked = upstream.log().iter().filter(|request| request.path.contains("/app/")).count();
    assert_eq!((&after["status"]["wanted"], asked), (&both["status"]["wanted"], 0));

    for arguments in [vec!["get", "hci", "reads"], vec!["get", "hci", "reads", "-o", "wide"]] {
        let reported = cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
        eprintln!("{reported}");
        for wanted in ["READY", "REASON", "LAST REQUESTED", "True", "Warm", r#"["linux/amd64","linux/arm64"]"#] {
            assert!(reported.contains(wanted), "{wanted}: {reported}");
        }
    }
    let about = "involvedObject.name=reads";
    let events = cluster.plane.kubectl(&["get", "events", "-n", "default", "--field-selector", about]).await.unwrap();
    let events = events.ok().unwrap();
    eprintln!("{events}");
    for wanted in ["Pulling", "Verifying", "Warm "] {
        assert!(events.contains(wanted), "{wanted}: {events}");
    }
    let missing = json!({"image": format!("{}/nowhere:v1", upstream.host())});
    cluster.apply(&resource("CachedImage", "reads-nowhere", missing)).await.unwrap();
    cluster.wait_for("CachedImage", "reads-nowhere", "Ready", "False ImageNotFound").await.unwrap();
    let about = "involvedObject.name=reads-nowhere";
    let end = Instant::now() + SOON;
    loop {
        let reported =
            cluster.plane.kubectl(&["get", "events", "-n", "default", "--field-selector", about]).await.unwrap();
        let reported = reported.ok().unwrap();
        if reported.contains("ImageNotFound") && reported.contains("next attempt at") {
            eprintln!("{reported}");
            break;
        }
        assert!(Instant::now() < end, "{reported}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for name in ["reads", "reads-nowhere"] {
        cluster.delete("hci", name).await.unwrap();
    }
    cluster.forget("reads").await.unwrap();
}
