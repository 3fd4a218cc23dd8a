//! A whole life of a resource of each kind, as a watch shows it: at every moment kstatus, Argo CD and the conditions agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use harbor_double::{Harbor, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, SOON, condition_of, image, resource, secret, shared};
use harbor_pilot_e2e::health::{State, verdicts};
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// All resources of this test.
const NAME: &str = "life";
const KINDS: [&str; 5] = ["HarborInstance", "Registry", "ProxyProject", "ReplicationRule", "CachedImage"];
/// A finalizer of nobody, which keeps what is deleted in sight.
const HOLD: &str = "example.com/hold";

/// Everything that watches show of the resources of this test, oldest first for each kind.
struct Recording {
    moments: Arc<Mutex<Vec<Value>>>,
    watches: Vec<JoinHandle<()>>,
}

impl Recording {
    async fn start(cluster: &Cluster) -> Self {
        let moments = Arc::<Mutex<Vec<Value>>>::default();
        let mut watches = Vec::new();
        for kind in KINDS {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("harbor-pilot.dev", "v1alpha1", kind));
            let api = Api::<DynamicObject>::all_with(cluster.client().unwrap(), &resource);
            let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
            let moments = moments.clone();
            watches.push(tokio::spawn(async move {
                let events = api.watch(&WatchParams::default().timeout(290), &version).await.unwrap();
                pin_mut!(events);
                while let Some(event) = events.next().await {
                    if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event.unwrap()
                        && object.metadata.name.as_deref() == Some(NAME)
                    {
                        moments.lock().unwrap().push(serde_json::to_value(object).unwrap());
                    }
                }
            }));
        }
        Self { moments, watches }
    }

    fn end(self) -> Vec<Value> {
        assert!(self.watches.iter().all(|watch| !watch.is_finished()), "a watch ended, and not all was seen");
        self.watches.iter().for_each(JoinHandle::abort);
        let moments = self.moments.lock().unwrap();
        moments.clone()
    }
}

/// The resources as they are wanted now.
struct Life<'c> {
    cluster: &'c Cluster,
    specs: BTreeMap<&'static str, Value>,
}

impl Life<'_> {
    /// Changes the spec as a merge patch does, and applies it.
    async fn change(&mut self, kind: &'static str, change: Value) {
        let spec = self.specs.get_mut(kind).unwrap();
        for (key, value) in change.as_object().unwrap() {
            let spec = spec.as_object_mut().unwrap();
            match value {
                Value::Null => drop(spec.remove(key)),
                value => drop(spec.insert(key.clone(), value.clone())),
            }
        }
        let mut object = resource(kind, NAME, spec.clone());
        if ["HarborInstance", "CachedImage"].contains(&kind) {
            object["metadata"]["finalizers"] = json!([HOLD]);
        }
        self.cluster.apply(&object).await.unwrap();
    }

    async fn all(&mut self, kinds: &[&'static str], change: &Value) {
        for kind in kinds {
            self.change(kind, change.clone()).await;
        }
    }

    /// Waits until the newest spec has this Ready condition.
    async fn until(&self, kind: &str, ready: &str) {
        let end = Instant::now() + SOON;
        loop {
            let object = self.cluster.get(kind, NAME).await.unwrap();
            let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if seen && condition_of(&object, "Ready") == ready {
                return;
            }
            assert!(Instant::now() < end, "{kind} does not become {ready}: {object:#}\n{}", self.cluster.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kubectl wait` comes back for all of them.
    async fn ready(&self) {
        let names = KINDS.map(|kind| format!("{}/{NAME}", kind.to_lowercase()));
        let names = names.iter().map(String::as_str);
        let arguments: Vec<&str> =
            ["wait", "--for=condition=Ready", "--timeout=90s"].into_iter().chain(names).collect();
        let waited = self.cluster.plane.kubectl(&arguments).await.unwrap();
        waited.ok().unwrap_or_else(|error| panic!("{error:#}\n{}", self.cluster.logs()));
    }

    async fn delete(&self, kind: &str) {
        let arguments = ["delete", kind, NAME, "--wait=false"];
        self.cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
    }

    async fn deleted(&self, kind: &str) {
        let arguments = ["wait", "--for=delete", &format!("{kind}/{NAME}"), "--timeout=60s"];
        self.cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
    }
}

const IN_HARBOR: [&str; 3] = ["Registry", "ProxyProject", "ReplicationRule"];

/// Created before anything that they need, waited for, changed, broken, mended.
async fn youth(life: &mut Life<'_>) {
    for kind in KINDS.iter().rev() {
        life.change(kind, json!({})).await;
        let first = match *kind {
            "HarborInstance" => "False SecretNotFound",
            "CachedImage" => "False NotProxied",
            _ => "False InstanceNotFound",
        };
        life.until(kind, first).await;
    }
    life.cluster.apply(&secret("life-harbor", "admin", "Harbor12345")).await.unwrap();
    life.until("Registry", "False SecretNotFound").await;
    life.until("ProxyProject", "False RegistryNotReady").await;
    life.cluster.apply(&secret(NAME, "user", "right")).await.unwrap();
    life.ready().await;

    let never = "0 0 2 30 2 *";
    life.change("HarborInstance", json!({"caBundle": "no certificate"})).await;
    life.until("HarborInstance", "False InvalidSpec").await;
    life.change("HarborInstance", json!({"caBundle": null})).await;
    life.until("HarborInstance", "True Healthy").await;
    life.cluster.apply(&secret(NAME, "user", "wrong")).await.unwrap();
    life.until("Registry", "False CredentialsRejected").await;
    life.cluster.apply(&secret(NAME, "user", "right")).await.unwrap();
    life.change("ProxyProject", json!({"retention": {"rules": [{"pulledWithinDays": 7}], "schedule": never}})).await;
    life.change("ReplicationRule", json!({"trigger": {"type": "Scheduled", "cron": never}})).await;
    life.change("CachedImage", json!({"platforms": ["linux/amd64", "plan9/mips"]})).await;
    life.until("ProxyProject", "False InvalidSpec").await;
    life.until("ReplicationRule", "False InvalidSpec").await;
    life.until("CachedImage", "False PlatformMissing").await;
    life.change("ProxyProject", json!({"retention": null, "proxySpeedKB": 64})).await;
    life.change("ReplicationRule", json!({"trigger": null, "override": true})).await;
    life.change("CachedImage", json!({"platforms": ["linux/amd64"]})).await;
    life.change("Registry", json!({"description": "changed"})).await;
    life.ready().await;
}

/// Drifted while they are only observed, without their upstream, without Harbor, suspended.
async fn trouble(life: &mut Life<'_>, harbor: &Harbor, upstream: &Upstream) {
    life.all(&IN_HARBOR, &json!({"managementPolicy": "ObserveOnly"})).await;
    life.ready().await;
    life.change("Registry", json!({"description": "drifted"})).await;
    life.change("ReplicationRule", json!({"override": false})).await;
    let edit = json!({"metadata": {"public": "false"}});
    assert_eq!(harbor.manual_request("PUT", "/projects/life", Some(edit)).await.0, 200);
    for kind in IN_HARBOR {
        life.until(kind, "False Drifted").await;
    }
    life.all(&IN_HARBOR, &json!({"managementPolicy": null})).await;
    life.ready().await;

    upstream.set_down(true).await;
    harbor.evict("life/team/app");
    life.change("Registry", json!({"description": "without its upstream"})).await;
    life.change("CachedImage", json!({"platforms": ["linux/arm64"]})).await;
    life.until("Registry", "False UpstreamUnhealthy").await;
    life.until("CachedImage", "False UpstreamUnhealthy").await;
    upstream.set_down(false).await;
    life.until("Registry", "True Reconciled").await;

    harbor.set_down(true).await;
    life.change("HarborInstance", json!({"maxConcurrentRequests": 3})).await;
    life.until("HarborInstance", "False HarborUnreachable").await;
    for kind in IN_HARBOR {
        life.until(kind, "False InstanceNotReady").await;
    }
    harbor.set_down(false).await;
    life.ready().await;

    for kind in ["ReplicationRule", "ProxyProject", "Registry", "HarborInstance"] {
        life.change(kind, json!({"suspend": true})).await;
        life.until(kind, "False Suspended").await;
    }
    life.all(&KINDS[..4], &json!({"suspend": null})).await;
    life.ready().await;
}

/// Deleted, with what is in the way and without.
async fn death(life: &mut Life<'_>, harbor: &Harbor, upstream: &Upstream) {
    life.all(&IN_HARBOR, &json!({"deletionPolicy": "Delete"})).await;
    life.ready().await;
    // A run that takes a while has to be stopped first.
    upstream.throttle(Some(2000));
    let run = ["annotate", "hrr", NAME, "harbor-pilot.dev/run-now=1"];
    life.cluster.plane.kubectl(&run).await.unwrap().ok().unwrap();
    let end = Instant::now() + SOON;
    while life.cluster.get("ReplicationRule", NAME).await.unwrap()["status"]["lastExecution"].is_null() {
        assert!(Instant::now() < end, "{}", life.cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    life.delete("Registry").await;
    life.delete("ProxyProject").await;
    life.cluster.wait_for("Registry", NAME, "DeletionBlocked", "True InUse").await.unwrap();
    life.cluster.wait_for("ProxyProject", NAME, "DeletionBlocked", "True NotEmpty").await.unwrap();
    life.delete("ReplicationRule").await;
    life.deleted("ReplicationRule").await;
    upstream.throttle(None);
    life.delete("CachedImage").await;
    let (_, repositories) = harbor.manual_request("GET", "/projects/life/repositories", None).await;
    for repository in repositories.as_array().unwrap() {
        let name = repository["name"].as_str().unwrap().split_once('/').unwrap().1.replace('/', "%252F");
        let path = format!("/projects/life/repositories/{name}");
        assert_eq!(harbor.manual_request("DELETE", &path, None).await.0, 200);
    }
    life.deleted("ProxyProject").await;
    life.deleted("Registry").await;
    life.delete("HarborInstance").await;
    for kind in ["CachedImage", "HarborInstance"] {
        let patch = ["patch", kind, NAME, "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"];
        life.cluster.plane.kubectl(&patch).await.unwrap().ok().unwrap();
        life.deleted(kind).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kstatus_argo_cd_and_the_conditions_agree_at_every_moment_of_a_life() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().basic_auth("user", "right").start().await;
    upstream.push_image("team/app", "v1", &image());
    let harbor = Harbor::builder().speed(20.0).start().await;
    let (own, every) = (json!({"name": NAME}), "1s");
    let specs = BTreeMap::from([
        (
            "HarborInstance",
            json!({"url": harbor.url(), "credentialsSecretRef": {"name": "life-harbor"}, "interval": every}),
        ),
        (
            "Registry",
            json!({
                "harborRef": own, "type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": own,
                "interval": every,
            }),
        ),
        (
            "ProxyProject",
            json!({
                "harborRef": own, "registryRef": own, "public": true, "interval": every,
                "rewrite": {"matches": ["life.example"]},
            }),
        ),
        (
            "ReplicationRule",
            json!({
                "harborRef": own, "source": {"registryRef": own}, "destination": {"namespace": "life-copies"},
                "filters": {"name": "team/**"}, "interval": every,
            }),
        ),
        ("CachedImage", json!({"image": "life.example/team/app:v1"})),
    ]);
    let recording = Recording::start(&cluster).await;
    let mut life = Life { cluster: &cluster, specs };
    youth(&mut life).await;
    trouble(&mut life, &harbor, &upstream).await;
    death(&mut life, &harbor, &upstream).await;
    let moments = recording.end();

    let said = {
        let moments = moments.clone();
        tokio::task::spawn_blocking(move || verdicts(&moments)).await.unwrap().unwrap()
    };
    let mut disagree = Vec::new();
    let mut seen = BTreeMap::<String, BTreeSet<State>>::new();
    for (object, said) in moments.iter().zip(said) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        match State::of(object) {
            Ok(state)
                if (said.kstatus.status.as_str(), said.argo.status.as_str()) == (state.kstatus(), state.argo()) =>
            {
                seen.entry(kind).or_default().insert(state);
            }
            state => disagree.push(format!("{kind}: {state:?}, but {said:?}: {:#}", object["status"])),
        }
    }
    assert!(disagree.is_empty(), "{} of {}:\n{}", disagree.len(), moments.len(), disagree.join("\n"));
    let every = [State::Unseen, State::Progressing, State::Ready, State::Stalled, State::Suspended, State::Deleting];
    for kind in KINDS {
        // An image is not suspended.
        let wanted = every.into_iter().filter(|state| kind != "CachedImage" || *state != State::Suspended);
        assert_eq!(seen[kind], wanted.collect(), "{kind} has not been in every state");
    }
}

#[tokio::test]
async fn a_policy_is_healthy_as_soon_as_it_is_applied() {
    let cluster = shared().await.unwrap();
    let spec = json!({"action": "Audit", "allowed": [{"host": "life.example"}]});
    cluster.apply(&resource("ImagePolicy", NAME, spec)).await.unwrap();
    let policy = cluster.get("ImagePolicy", NAME).await.unwrap();
    cluster.delete("hip", NAME).await.unwrap();
    let said = tokio::task::spawn_blocking(move || verdicts(&[policy])).await.unwrap().unwrap().remove(0);
    assert_eq!((said.kstatus.status.as_str(), said.argo.status.as_str()), ("Current", "Healthy"));
}

#[tokio::test]
async fn the_component_for_argo_cd_gives_the_health_check_to_each_of_our_kinds() {
    let cluster = shared().await.unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let overlay = tempfile::tempdir_in(root.join("config")).unwrap();
    let own = "resources: [argocd-cm.yaml]\ncomponents: [../argocd]\n";
    std::fs::write(overlay.path().join("kustomization.yaml"), own).unwrap();
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm", "namespace": "argocd"},
        "data": {"url": "https://argocd.example.com"},
    });
    std::fs::write(overlay.path().join("argocd-cm.yaml"), theirs.to_string()).unwrap();
    let built = ["create", "-k", &overlay.path().display().to_string(), "--dry-run=client", "-o", "json"];
    let built = cluster.plane.kubectl(&built).await.unwrap().ok().unwrap();
    let built: Value = serde_json::from_str(&built).unwrap();
    let script = std::fs::read_to_string(root.join("config/argocd/health.lua")).unwrap();
    let mut wanted = BTreeMap::from([("url".to_owned(), "https://argocd.example.com".to_owned())]);
    for kind in KINDS.into_iter().chain(["ImagePolicy"]) {
        wanted.insert(format!("resource.customizations.health.harbor-pilot.dev_{kind}"), script.clone());
    }
    let data: BTreeMap<String, String> = serde_json::from_value(built["data"].clone()).unwrap();
    assert_eq!(data, wanted);
}
