//! The harness itself: a real API server that answers, and ends when it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harbor_pilot_e2e::control_plane::{ControlPlane, shared};
use harbor_pilot_e2e::pki::Authority;
use harbor_pilot_e2e::webhook_registration::WebhookRegistration;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "web", "image": "nginx" }] },
    })
}

#[tokio::test]
async fn server_and_kubectl_report_the_pinned_version() {
    let plane = shared().await.unwrap();
    let text = plane.kubectl(&["version", "-o", "json"]).await.unwrap().ok().unwrap();
    let version: Value = serde_json::from_str(&text).unwrap();
    for side in ["clientVersion", "serverVersion"] {
        assert_eq!(version[side]["major"], "1", "{side}: {text}");
        assert_eq!(version[side]["minor"], "36", "{side}: {text}");
        assert_eq!(version[side]["gitVersion"], "v1.36.3", "{side}: {text}");
    }
    let info = plane.client().unwrap().apiserver_version().await.unwrap();
    assert_eq!((info.major.as_str(), info.minor.as_str()), ("1", "36"));
}

#[tokio::test]
async fn a_pod_that_was_created_can_be_read_by_client_and_kubectl() {
    let plane = shared().await.unwrap();
    let namespace = plane.namespace("pods").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(plane.client().unwrap(), &namespace);
    let pod: Pod = serde_json::from_value(pod("written")).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();

    let read = pods.get("written").await.unwrap();
    assert_eq!(read.spec.unwrap().containers[0].image.as_deref(), Some("nginx"));

    let image = "jsonpath={.spec.containers[0].image}";
    let text = plane.kubectl(&["get", "pod", "written", "-n", &namespace, "-o", image]).await.unwrap().ok().unwrap();
    assert_eq!(text, "nginx");
}

#[tokio::test]
async fn a_server_side_dry_run_answers_and_stores_nothing() {
    let plane = shared().await.unwrap();
    let namespace = plane.namespace("dry-run").await.unwrap();
    let arguments = ["apply", "--dry-run=server", "-n", &namespace, "-f", "-", "-o", "json"];
    let text = plane.kubectl_with_input(&arguments, &pod("imagined").to_string()).await.unwrap().ok().unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    // The server's own defaults show that the server has seen it.
    assert_eq!(answer["spec"]["restartPolicy"], "Always", "{text}");

    let pods: Api<Pod> = Api::namespaced(plane.client().unwrap(), &namespace);
    assert_eq!(pods.get_opt("imagined").await.unwrap(), None);
}

#[tokio::test]
async fn a_kubectl_that_is_refused_says_why() {
    let plane = shared().await.unwrap();
    let output = plane.kubectl(&["get", "pod", "nobody", "-n", "default"]).await.unwrap();
    let error = output.ok().unwrap_err().to_string();
    assert!(error.contains("NotFound"), "{error}");
}

#[tokio::test]
async fn rbac_refuses_a_user_without_a_role() {
    let plane = shared().await.unwrap();
    let output = plane.kubectl(&["get", "pods", "-n", "default", "--as", "somebody"]).await.unwrap();
    let error = output.ok().unwrap_err().to_string();
    assert!(error.contains("Forbidden"), "{error}");
}

#[tokio::test]
async fn a_webhook_is_registered_moved_and_removed() {
    let plane = shared().await.unwrap();
    let client = plane.client().unwrap();
    let authority = Authority::new("webhook").unwrap();
    let registrations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = "moved";
    for port in [18443, 18444] {
        let registration = WebhookRegistration { name, port, ca_bundle: authority.pem(), namespace: Some("nowhere") };
        registration.apply(&client).await.unwrap();
        let stored = registrations.get(name).await.unwrap().webhooks.unwrap();
        let config = &stored[0].client_config;
        assert_eq!(config.url, Some(format!("https://127.0.0.1:{port}/mutate")));
        assert_eq!(config.ca_bundle.as_ref().unwrap().0, authority.pem().as_bytes());
        assert_eq!(stored[0].failure_policy.as_deref(), Some("Ignore"));
    }
    let registration = WebhookRegistration { name, port: 18444, ca_bundle: authority.pem(), namespace: None };
    registration.delete(&client).await.unwrap();
    assert!(registrations.get_opt(name).await.unwrap().is_none());
}

#[tokio::test]
async fn a_dropped_control_plane_leaves_no_process_and_no_directory() {
    shared().await.unwrap(); // so that what is measured below is a warm start
    let started = Instant::now();
    let plane = ControlPlane::start().await.unwrap();
    eprintln!("warm start: {:?}", started.elapsed());
    let directory: PathBuf = plane.directory().to_owned();
    let address = plane.client().unwrap().apiserver_version().await.map(|_| server(&plane)).unwrap();
    assert!(TcpStream::connect(&address).is_ok());

    drop(plane);
    assert!(TcpStream::connect(&address).is_err(), "the API server still listens on {address}");
    assert!(!directory.exists() || harbor_pilot_e2e::process::keep_directories());
    assert!(started.elapsed() < Duration::from_secs(60), "a warm start takes seconds");
}

/// `HOST:PORT` of the API server, from the kubeconfig as any other program would read it.
fn server(plane: &ControlPlane) -> String {
    let kubeconfig: Value = serde_json::from_slice(&std::fs::read(plane.kubeconfig_path()).unwrap()).unwrap();
    let url = kubeconfig["clusters"][0]["cluster"]["server"].as_str().unwrap();
    url.trim_start_matches("https://").to_owned()
}
