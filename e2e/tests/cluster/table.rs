//! Admission by table: each field, operation, selector, exemption and conflict, on the real API server.

use harbor_pilot_e2e::cluster::{Cluster, pod, proxy_project, shared};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// The rules of the table: ProxyProjects on the Registry of the examples.
async fn rules(cluster: &Cluster) {
    let rules = [
        ("table-all", json!({"matches": ["all.example", "all.example:5000/team"]})),
        ("table-deep", json!({"matches": ["all.example/acme/deep"]})),
        ("table-shop", json!({"matches": ["shop.example"], "namespaceSelector": {"matchLabels": {"team": "shop"}}})),
        ("table-tail", json!({"matches": ["shop.example"], "objectSelector": {"matchLabels": {"app": "rest"}}})),
        (
            "table-web",
            json!({"matches": ["web.example"], "objectSelector": {"matchExpressions": [
                {"key": "app", "operator": "In", "values": ["web", "api"]}, {"key": "legacy", "operator": "DoesNotExist"}]}}),
        ),
        ("table-globs", json!({"matches": ["globs.example"], "exclude": ["globs.example/keep/**", "**/*:latest"]})),
        ("table-off", json!({"matches": ["off.example"], "mode": "Disabled"})),
        ("table-secret", json!({"matches": ["secret.example"], "pullSecretName": "harbor"})),
    ];
    for (name, rewrite) in &rules {
        let mut project = proxy_project(name);
        project["spec"]["registryRef"] = json!({"name": "dockerhub"});
        project["spec"]["rewrite"] = rewrite.clone();
        project["spec"]["prewarm"] = json!({"mode": "Manual"});
        cluster.apply(&project).await.unwrap();
    }
    for (name, _) in &rules {
        cluster.wait_for("ProxyProject", name, "Ready", "True Reconciled").await.unwrap();
    }
    cluster.until_rewritten("all.example/app").await.unwrap();
    cluster.until_rewritten("secret.example/app").await.unwrap();
}

/// One row: a Pod with one container `app`, changed by the merge patch, and what is expected at some places. In images
/// `H` stands for Harbor's host.
struct Row(&'static str, Value, &'static [(&'static str, &'static str)]);

const APP: &str = "/spec/containers/0/image";

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let image = |image: &str| json!({"spec": {"containers": [{"name": "app", "image": image}]}});
    let labelled = |labels: Value, image: &str| {
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": image}]}})
    };
    let annotated = |key: &str, value: &str, image: &str| {
        json!({"metadata": {"annotations": {key: value}}, "spec": {"containers": [{"name": "app", "image": image}]}})
    };
    let beside = |field: &str, list: Value| json!({"spec": {field: list}});
    vec![
        // Images, as people write them.
        Row("plain", image("nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", image("nginx:1.27-alpine"), &[(APP, "H/dockerhub/library/nginx:1.27-alpine")]),
        Row("plain", image("bitnami/redis"), &[(APP, "H/dockerhub/bitnami/redis")]),
        Row("plain", image("docker.io/nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", image("docker.io/library/nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", image("index.docker.io/library/nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", image("registry-1.docker.io/nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", image("nginx@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            &[(APP, "H/dockerhub/library/nginx@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]),
        Row("plain", image("nginx:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            &[(APP, "H/dockerhub/library/nginx:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]),
        Row("plain", image("all.example/app:v1"), &[(APP, "H/table-all/app:v1")]),
        Row("plain", image("ALL.example/app:v1"), &[(APP, "H/table-all/app:v1")]),
        Row("plain", image("all.example/acme/app"), &[(APP, "H/table-all/acme/app")]),
        Row("plain", image("all.example/acme/deep"), &[(APP, "H/table-deep/acme/deep")]),
        Row("plain", image("all.example/acme/deep/er:1"), &[(APP, "H/table-deep/acme/deep/er:1")]),
        Row("plain", image("all.example/acme/deeper"), &[(APP, "H/table-all/acme/deeper")]),
        Row("plain", image("all.example:5000/team/app"), &[(APP, "H/table-all/team/app")]),
        Row("plain", image("all.example:5000/app"), &[(APP, "all.example:5000/app")]),
        Row("plain", image("all.example:443/app"), &[(APP, "H/table-all/app")]),
        Row("plain", image("all.example.evil/app"), &[(APP, "all.example.evil/app")]),
        Row("plain", image("evil/all.example/app"), &[(APP, "H/dockerhub/evil/all.example/app")]),
        Row("plain", image("other.example/app"), &[(APP, "other.example/app")]),
        Row("plain", image("H/dockerhub/library/nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", image("H/unmanaged/app"), &[(APP, "H/unmanaged/app")]),
        Row("plain", image("Nginx"), &[(APP, "Nginx")]),
        Row("plain", image("nginx:"), &[(APP, "nginx:")]),
        Row("plain", image("user@all.example/app"), &[(APP, "user@all.example/app")]),
        Row("plain", image("localhost/nginx"), &[(APP, "localhost/nginx")]),
        Row("plain", image("[2001:db8::1]:5000/nginx"), &[(APP, "[2001:db8::1]:5000/nginx")]),
        Row("plain", image("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
            &[(APP, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")]),
        // Fields.
        Row("plain", beside("initContainers", json!([{"name": "i", "image": "redis"}])),
            &[("/spec/initContainers/0/image", "H/dockerhub/library/redis"), (APP, "H/dockerhub/library/nginx")]),
        Row("plain", beside("initContainers", json!([{"name": "sidecar", "image": "redis", "restartPolicy": "Always"}])),
            &[("/spec/initContainers/0/image", "H/dockerhub/library/redis")]),
        Row("plain", beside("volumes", json!([{"name": "v", "image": {"reference": "acme/model:1"}}])),
            &[("/spec/volumes/0/image/reference", "H/dockerhub/acme/model:1")]),
        Row("plain", beside("volumes", json!([{"name": "e", "emptyDir": {}}, {"name": "v", "image": {"reference": "redis", "pullPolicy": "Always"}}])),
            &[("/spec/volumes/1/image/reference", "H/dockerhub/library/redis"), ("/spec/volumes/1/image/pullPolicy", "Always")]),
        Row("plain", beside("containers", json!([{"name": "a", "image": "nginx"}, {"name": "b", "image": "other.example/x"}, {"name": "c", "image": "all.example/x"}])),
            &[(APP, "H/dockerhub/library/nginx"), ("/spec/containers/1/image", "other.example/x"), ("/spec/containers/2/image", "H/table-all/x")]),
        Row("plain", json!({"spec": {"runtimeClassName": null, "hostname": "kept", "containers": [{"name": "app", "image": "nginx", "workingDir": "/kept", "args": ["nginx"]}]}}),
            &[("/spec/hostname", "kept"), ("/spec/containers/0/workingDir", "/kept"), ("/spec/containers/0/args/0", "nginx")]),
        // Namespace selector: the longest match first, then the older rule that speaks of the Pod.
        Row("shop", image("shop.example/app"), &[(APP, "H/table-shop/app")]),
        Row("plain", image("shop.example/app"), &[(APP, "shop.example/app")]),
        Row("plain", labelled(json!({"app": "rest"}), "shop.example/app"), &[(APP, "H/table-tail/app")]),
        Row("shop", labelled(json!({"app": "rest"}), "shop.example/app"), &[(APP, "H/table-shop/app")]),
        // Object selector.
        Row("plain", labelled(json!({"app": "web"}), "web.example/app"), &[(APP, "H/table-web/app")]),
        Row("plain", labelled(json!({"app": "api"}), "web.example/app"), &[(APP, "H/table-web/app")]),
        Row("plain", labelled(json!({"app": "db"}), "web.example/app"), &[(APP, "web.example/app")]),
        Row("plain", labelled(json!({"app": "web", "legacy": ""}), "web.example/app"), &[(APP, "web.example/app")]),
        Row("plain", image("web.example/app"), &[(APP, "web.example/app")]),
        // Excludes.
        Row("plain", image("globs.example/app:v1"), &[(APP, "H/table-globs/app:v1")]),
        Row("plain", image("globs.example/keep/app:v1"), &[(APP, "globs.example/keep/app:v1")]),
        Row("plain", image("globs.example/keep/deep/app"), &[(APP, "globs.example/keep/deep/app")]),
        Row("plain", image("globs.example/keeper/app"), &[(APP, "H/table-globs/keeper/app")]),
        Row("plain", image("globs.example/app:latest"), &[(APP, "globs.example/app:latest")]),
        // Rules that only map.
        Row("plain", image("off.example/app"), &[(APP, "off.example/app")]),
        // Exemptions.
        Row("lenient", labelled(json!({"harbor-pilot.dev/exempt": "true"}), "nginx"), &[(APP, "nginx")]),
        Row("lenient", labelled(json!({"harbor-pilot.dev/exempt": "false"}), "nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", labelled(json!({"harbor-pilot.dev/exempt": "true"}), "nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        Row("plain", annotated("harbor-pilot.dev/keep-images", "app", "nginx"), &[(APP, "nginx")]),
        Row("plain", annotated("harbor-pilot.dev/keep-images", "other,app", "nginx"), &[(APP, "nginx")]),
        Row("plain", annotated("harbor-pilot.dev/keep-images", "application", "nginx"), &[(APP, "H/dockerhub/library/nginx")]),
        // Originals that somebody else wrote are not believed.
        Row("plain", annotated("harbor-pilot.dev/original-images", r#"{"containers/app":"redis"}"#, "nginx"),
            &[(APP, "H/dockerhub/library/nginx"), ("/metadata/annotations/harbor-pilot.dev~1original-images", r#"{"containers/app":"nginx"}"#)]),
        Row("plain", annotated("harbor-pilot.dev/original-images", "no json", "other.example/x"),
            &[(APP, "other.example/x"), ("/metadata/annotations/harbor-pilot.dev~1original-images", "-")]),
        // Pull secrets.
        Row("plain", image("secret.example/app"), &[("/spec/imagePullSecrets/0/name", "harbor"), ("/spec/imagePullSecrets/1/name", "-")]),
        Row("plain", json!({"spec": {"imagePullSecrets": [{"name": "own"}], "containers": [{"name": "app", "image": "secret.example/app"}]}}),
            &[("/spec/imagePullSecrets/0/name", "own"), ("/spec/imagePullSecrets/1/name", "harbor")]),
        Row("plain", json!({"spec": {"imagePullSecrets": [{"name": "harbor"}], "containers": [{"name": "app", "image": "secret.example/app"}]}}),
            &[("/spec/imagePullSecrets/0/name", "harbor"), ("/spec/imagePullSecrets/1/name", "-")]),
        Row("plain", image("nginx"), &[("/spec/imagePullSecrets/0/name", "-")]),
    ]
}

#[tokio::test]
async fn pods_are_admitted_as_the_table_says() {
    let cluster = shared().await.unwrap();
    rules(&cluster).await;
    let lenient = [("harbor-pilot.dev/allow-exempt", "true")];
    let spaces = [
        ("plain", cluster.plane.namespace("table-plain").await.unwrap()),
        ("shop", cluster.plane.labelled_namespace("table-shop", &[("team", "shop")]).await.unwrap()),
        ("lenient", cluster.plane.labelled_namespace("table-lenient", &lenient).await.unwrap()),
    ];
    // The webhook learns of a namespace by a watch of its own.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let host = cluster.harbor.host();
    let mut wrong = Vec::new();
    for Row(space, change, expected) in rows() {
        let (_, space) = spaces.iter().find(|(name, _)| *name == space).unwrap();
        let mut wanted = pod("row", space, "nginx");
        let change: Value = serde_json::from_str(&change.to_string().replace("\"H/", &format!("\"{host}/"))).unwrap();
        json_patch::merge(&mut wanted, &change);
        let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), space);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let pod = serde_json::from_value(wanted.clone()).unwrap();
        let admitted = match pods.create(&dry_run, &pod).await {
            Ok(admitted) => serde_json::to_value(admitted).unwrap(),
            Err(error) => {
                wrong.push(format!("{wanted}: {error}"));
                continue;
            }
        };
        for (place, value) in expected {
            let found = admitted.pointer(place).and_then(Value::as_str).unwrap_or("-");
            let value = value.replacen("H/", &format!("{host}/"), usize::from(value.starts_with("H/")));
            if found != value {
                wrong.push(format!("{wanted}: {place} is {found}, not {value}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn younger_rule_with_the_same_match_has_a_conflict_until_the_older_is_deleted() {
    let cluster = shared().await.unwrap();
    let twin = |name: &str| {
        let mut project = proxy_project(name);
        project["spec"]["registryRef"] = json!({"name": "dockerhub"});
        project["spec"]["rewrite"] = json!({"matches": ["twins.example"]});
        project
    };
    cluster.apply(&twin("twin-older")).await.unwrap();
    cluster.wait_for("ProxyProject", "twin-older", "Ready", "True Reconciled").await.unwrap();
    // Creation times have whole seconds; of equal ones the name decides, which is the same here.
    cluster.apply(&twin("twin-younger")).await.unwrap();
    let younger =
        cluster.wait_for("ProxyProject", "twin-younger", "RewriteConflict", "True MatchConflict").await.unwrap();
    let conditions = younger["status"]["conditions"].as_array().unwrap();
    let conflict = conditions.iter().find(|condition| condition["type"] == "RewriteConflict").unwrap();
    assert!(conflict["message"].as_str().unwrap().contains("belongs to the older rule twin-older"), "{conflict}");

    let space = cluster.plane.namespace("twins").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), &space);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let wanted = serde_json::from_value(pod("twin", &space, "twins.example/app")).unwrap();
    let image = |pod: Pod| pod.spec.unwrap().containers[0].image.clone().unwrap();
    cluster.until_rewritten("twins.example/app").await.unwrap();
    assert!(image(pods.create(&dry_run, &wanted).await.unwrap()).contains("/twin-older/"));

    cluster.delete("hpp", "twin-older").await.unwrap();
    let free = async {
        while serde_json::to_string(&cluster.get("ProxyProject", "twin-younger").await.unwrap())
            .unwrap()
            .contains("RewriteConflict")
            || !image(pods.create(&dry_run, &wanted).await.unwrap()).contains("/twin-younger/")
        {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), free).await.unwrap();
    cluster.delete("hpp", "twin-younger").await.unwrap();
}

#[tokio::test]
async fn updates_look_only_at_what_changed() {
    let cluster = shared().await.unwrap();
    let space = cluster.plane.namespace("updates").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), &space);
    let hub = format!("{}/dockerhub", cluster.harbor.host());
    // Admitted as if before installation: no image of it is ours.
    let mut early = pod("early", &space, "nginx:1");
    early["metadata"]["annotations"] = json!({"harbor-pilot.dev/keep-images": "app,beside"});
    early["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "beside", "image": "redis:7"}));
    pods.create(&PostParams::default(), &serde_json::from_value(early).unwrap()).await.unwrap();
    let images = |pod: Pod| -> Vec<String> {
        pod.spec.unwrap().containers.into_iter().map(|container| container.image.unwrap()).collect()
    };
    let change =
        async |patch: Value| pods.patch("early", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let metadata = json!({"metadata": {"annotations": {"harbor-pilot.dev/keep-images": null}, "labels": {"a": "b"}, "finalizers": ["example.com/x"]}});
    assert_eq!(images(change(metadata).await), ["nginx:1", "redis:7"], "an edit of labels and finalizers");
    assert_eq!(images(change(json!({"metadata": {"finalizers": null}})).await), ["nginx:1", "redis:7"]);
    let one = json!({"spec": {"containers": [{"name": "app", "image": "nginx:2"}]}});
    assert_eq!(
        images(change(one).await),
        [format!("{hub}/library/nginx:2"), "redis:7".to_owned()],
        "one image changes"
    );
    let back = json!({"spec": {"containers": [{"name": "app", "image": "nginx:2"}]}});
    let again = change(back).await;
    let version = again.metadata.resource_version.clone();
    assert_eq!(
        images(again),
        [format!("{hub}/library/nginx:2"), "redis:7".to_owned()],
        "the manifest is applied again"
    );
    assert_eq!(pods.get("early").await.unwrap().metadata.resource_version, version, "which changes nothing");
    let by_digest = json!({"spec": {"containers": [{"name": "beside", "image": format!("redis@{DIGEST}")}]}});
    assert_eq!(images(change(by_digest).await)[1], format!("{hub}/library/redis@{DIGEST}"));
}

#[tokio::test]
async fn the_pull_secrets_of_the_service_account_stay_beside_that_of_the_rule() {
    let cluster = shared().await.unwrap();
    rules(&cluster).await;
    let space = cluster.plane.namespace("accounts").await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().unwrap(), &space);
    let own = json!({"imagePullSecrets": [{"name": "of-the-account"}]});
    accounts.patch("default", &PatchParams::default(), &Patch::Merge(own)).await.unwrap();
    // The API server knows accounts by a watch of its own.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), &space);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    for (image, expected) in
        [("secret.example/app", vec!["of-the-account", "harbor"]), ("other.example/app", vec!["of-the-account"])]
    {
        let wanted = serde_json::from_value(pod("web", &space, image)).unwrap();
        let admitted = pods.create(&dry_run, &wanted).await.unwrap();
        let names = admitted.spec.unwrap().image_pull_secrets.unwrap_or_default();
        let names: Vec<String> = names.into_iter().map(|secret| secret.name).collect();
        assert_eq!(names, expected, "{image}");
    }
}
