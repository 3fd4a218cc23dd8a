//! The cluster of the story: a node, the Harbor double and Docker Hub, and the release.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harbor_double::{Harbor, Upstream};
use harbor_pilot_e2e::cluster::{NAMESPACE, robot, write_examples};
use harbor_pilot_e2e::helm::{self, Helm};
use harbor_pilot_e2e::node::{ADDRESS, Host, Node, images};
use serde_json::{Value, json};

/// What stands in image references; the node's runtime knows where it is.
pub const HARBOR: &str = "harbor.test";

/// `busybox:1`, as admission has to write it.
pub const BUSYBOX: &str = "harbor.test/dockerhub/library/busybox:1";

const SPEED: f64 = 20.0;
const SOON: Duration = Duration::from_secs(90);

pub struct World {
    pub node: Node,
    pub helm: Helm,
    harbor: Harbor,
    hub: Upstream,
    directory: PathBuf,
}

impl World {
    /// Everything but the product: a node, Harbor, Docker Hub with `busybox:1`, and the image of the product in a registry.
    pub async fn start(directory: &Path) -> Self {
        let hub = Upstream::builder().start().await;
        let harbor = Harbor::builder()
            .address(ADDRESS)
            .speed(SPEED)
            .route("registry-1.docker.io", hub.url())
            .route("hub.docker.com", hub.url())
            .start()
            .await;
        let host = Host { name: HARBOR.to_owned(), url: harbor.url() };
        let node = Node::start(directory, &[host]).await.unwrap();
        node.registry.push_layout(&directory.join("product/oci"), "harbor-pilot:e2e").await.unwrap();
        node.registry.push_busybox(&format!("{}/library/busybox:1", hub.host())).await.unwrap();
        let helm = Helm::of(node.plane.kubeconfig_path()).await.unwrap();
        Self { node, helm, harbor, hub, directory: directory.to_owned() }
    }

    /// Installs the chart; both Deployments are there when Helm returns.
    pub async fn install(&self) {
        self.helm(&["install", "--create-namespace", "--wait", "--timeout=90s"], &[]).await;
        let output = self.helm.run(&["status", "pilot", "--namespace", NAMESPACE]).await.unwrap().ok().unwrap();
        assert!(output.contains("STATUS: deployed"), "{output}");
    }

    /// Runs Helm with the chart and the values of here, and `set` on top.
    pub async fn helm(&self, arguments: &[&str], set: &[String]) {
        let values = self.directory.join("values.json");
        let image = json!({"registry": images::HOST, "repository": "harbor-pilot", "tag": "e2e"});
        // The double is so much faster than Harbor.
        let controller = json!({"extraArgs": ["--store-delay=1s"]});
        std::fs::write(&values, json!({"image": image, "controller": controller}).to_string()).unwrap();
        let (values, chart) = (values.display().to_string(), helm::chart().display().to_string());
        let (verb, flags) = arguments.split_first().unwrap();
        let mut all = vec![*verb, "pilot", &chart, "--namespace", NAMESPACE, "--values", &values];
        all.extend(flags);
        for value in set {
            all.extend(["--set", value]);
        }
        let output = self.helm.run(&all).await.unwrap();
        if let Err(error) = output.ok() {
            panic!("{error:#}\n{}", self.state().await);
        }
    }

    /// Applies the examples of Docker Hub with the address and the password of this Harbor, and waits until busybox is warm.
    pub async fn apply_resources(&self) {
        let password = robot(&self.harbor).await.unwrap();
        let examples = self.directory.join("examples");
        write_examples(&helm::root().join("examples/manifests"), &examples, &self.harbor.url(), &password).unwrap();
        let instance = examples.join("10-harbor.yaml");
        let text = std::fs::read_to_string(&instance).unwrap();
        std::fs::write(&instance, format!("{}\n  pullHost: {HARBOR}\n", text.trim_end())).unwrap();
        for file in ["10-harbor.yaml", "20-dockerhub.yaml"] {
            self.kubectl(&["apply", "-f", &examples.join(file).display().to_string()]).await;
        }
        let warm = json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": "busybox"},
            "spec": {"image": "busybox:1", "require": "OfflineByTag"},
        });
        self.apply(&warm).await;
        let wanted = ["hinst/default", "hreg/dockerhub", "hpp/dockerhub", "hci/busybox"];
        self.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=90s"], &wanted[..]].concat()).await;
        self.until_rewritten(BUSYBOX).await;
    }

    /// Stops Docker Hub, and runs a Deployment of its image.
    pub async fn pods_run_from_the_cache(&self) {
        self.hub.set_down(true).await;
        self.hub.clear_log();
        self.harbor.clear_log();
        self.apply(&deployment()).await;
        self.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).await;

        let pods = self.get(&["pods", "-l", "app=web"]).await;
        let pod = &pods["items"][0];
        let annotation = &pod["metadata"]["annotations"]["harbor-pilot.dev/original-images"];
        assert_eq!(annotation, "{\"containers/main\":\"busybox:1\"}", "{pod}");
        let container = &pod["status"]["containerStatuses"][0];
        assert_eq!(container["image"], BUSYBOX, "{container}");
        let id = container["imageID"].as_str().unwrap();
        assert!(id.starts_with("harbor.test/dockerhub/library/busybox@sha256:"), "{id}");

        let images = self.node.images().unwrap();
        assert!(images.contains(BUSYBOX), "{images}");
        assert!(!images.contains("docker.io"), "{images}");

        let blobs = "/v2/dockerhub/library/busybox/blobs/";
        let log = self.harbor.log();
        let served = log.iter().filter(|request| request.path.starts_with(blobs) && request.status == 200);
        let bytes: u64 = served.map(|request| request.bytes_sent).sum();
        assert!(bytes > 500_000, "Harbor served {bytes} bytes of layers: {log:?}");
        self.hub.set_down(false).await;
        assert_eq!(self.hub.log(), [], "nothing reaches the upstream");
        self.kubectl(&["delete", "deployment", "web", "--timeout=60s"]).await;
    }

    /// Uninstalls: nothing is left in the way of Pods, and what the administrator applied can be deleted.
    pub async fn uninstall(&self) {
        self.helm
            .run(&["uninstall", "pilot", "--namespace", NAMESPACE, "--wait", "--timeout=90s"])
            .await
            .unwrap()
            .ok()
            .unwrap();
        let configurations =
            self.kubectl(&["get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "-o", "name"]).await;
        assert_eq!(configurations.trim(), "", "no webhook remains");
        self.until_rewritten("busybox:1").await;
        let kinds = "hci,hpp,hreg,hinst";
        assert_ne!(self.kubectl(&["get", kinds, "-o", "name"]).await.trim(), "", "uninstalling keeps the resources");
        self.kubectl(&["delete", kinds, "--all", "--timeout=60s"]).await;
    }

    /// Waits until a dry run makes this image of `busybox:1`.
    pub async fn until_rewritten(&self, wanted: &str) {
        let started = Instant::now();
        loop {
            let pod =
                ["run", "probe", "--image=busybox:1", "--dry-run=server", "-o", "jsonpath={.spec.containers[0].image}"];
            let image = self.kubectl(&pod).await;
            if image == wanted {
                return;
            }
            assert!(started.elapsed() < SOON, "busybox:1 becomes {image}\n{}", self.state().await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Runs kubectl; a failure shows the state of the cluster.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        match self.node.plane.kubectl(arguments).await.unwrap().ok() {
            Ok(output) => output,
            Err(error) => panic!("{error:#}\n{}", self.state().await),
        }
    }

    /// Objects, as JSON.
    pub async fn get(&self, what: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], what].concat()).await).unwrap()
    }

    async fn apply(&self, object: &Value) {
        let output = self.node.plane.kubectl_with_input(&["apply", "-f", "-"], &object.to_string()).await.unwrap();
        if let Err(error) = output.ok() {
            panic!("{error:#}\n{}", self.state().await);
        }
    }

    /// What a person would look at first.
    pub async fn state(&self) -> String {
        let mut state = String::new();
        for look in [
            &["get", "pods,events,hinst,hreg,hpp,hci", "-A", "-o", "wide"][..],
            &["get", "hinst,hreg,hpp,hci", "-o", "yaml"],
            &["describe", "pods", "-n", NAMESPACE],
            &["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=harbor-pilot", "--tail=60", "--prefix"],
        ] {
            if let Ok(output) = self.node.plane.kubectl(look).await {
                state += &format!("--- kubectl {}\n{}{}\n", look.join(" "), output.stdout, output.stderr);
            }
        }
        state + &self.node.log_tails()
    }
}

fn deployment() -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "busybox:1", "command": ["sleep", "1000000"]}],
        }}},
    })
}
