//! Reviews whose namespace does not exist, posted to the webhook as it runs: they bring no CachedImage.

use std::time::Duration;

use harbor_pilot::{api::CachedImage, image::ImageRef, prewarm::name::cached_image_name};
use harbor_pilot_e2e::cluster::{pod, proxy_project, shared};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

const FORGED: usize = 300;

fn review(namespace: &str, image: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": "CREATE", "namespace": namespace, "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": pod("p", namespace, image),
        },
    })
}

#[tokio::test]
async fn reviews_of_forged_namespaces_bring_no_cached_images() {
    let cluster = shared().await.unwrap();
    let mut project = proxy_project("forged");
    project["spec"]["registryRef"] = json!({"name": "dockerhub"});
    project["spec"]["rewrite"] = json!({"matches": ["forged.example"]});
    cluster.apply(&project).await.unwrap();
    cluster.wait_for("ProxyProject", "forged", "Ready", "True Reconciled").await.unwrap();
    cluster.until_rewritten("forged.example/app").await.unwrap();

    let certificate = reqwest::Certificate::from_pem(cluster.authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([certificate]).no_proxy().build().unwrap();
    let url = format!("{}/mutate", cluster.webhook_url());
    let post = async |namespace: &str, image: &str| {
        let answer = client.post(&url).json(&review(namespace, image)).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        assert!(answer["response"]["patch"].is_string(), "{answer}");
    };
    for number in 0..FORGED {
        post(&format!("invented-{number}"), &format!("forged.example/app:{number}")).await;
    }
    post(&"a".repeat(60_000), "forged.example/app:long").await;
    post("default", "forged.example/app:real").await;

    // Requests are stored in their order: once the last one is there, those before it are, or never will be.
    let images: Api<CachedImage> = Api::all(cluster.client().unwrap());
    let real = format!("{}/forged/app:real", cluster.harbor.host());
    let name = cached_image_name(&ImageRef::parse(&real).unwrap());
    let stored = async {
        while images.get_opt(&name).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stored).await.unwrap();
    let all = images.list(&ListParams::default()).await.unwrap().items;
    let brought: Vec<_> =
        all.iter().map(|image| &image.spec.image).filter(|image| image.contains("/forged/")).collect();
    assert_eq!(brought, [&real]);
}
