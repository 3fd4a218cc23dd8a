//! Upstreams of the kinds that a registry can name, TLS, and what the recordings say in prose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;

use std::time::Duration;

use client::{Client, eventually};
use harbor_double::{Failure, Harbor, Image, Upstream};
use serde_json::{Value, json};

const ARCHES: [(&str, &str, Option<&str>); 2] = [("linux", "amd64", None), ("linux", "arm64", Some("v8"))];
const ECR: &str = "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com";

fn registry(kind: &str, url: &str, user: &str, password: &str) -> Option<Value> {
    let credential = json!({"type": "basic", "access_key": user, "access_secret": password});
    Some(json!({"name": "up", "type": kind, "url": url, "credential": credential}))
}

#[tokio::test]
async fn an_ecr_host_is_found_by_its_route_and_its_credentials_are_checked() {
    let upstream = Upstream::builder().basic_auth("AKIA", "secret").start().await;
    let image = upstream.push_image("team/app", "v1", &Image::multi_arch(ARCHES));
    let host = ECR.trim_start_matches("https://");
    let harbor = Harbor::builder().route(host, upstream.url()).start().await;
    let create = async |password: &str| {
        let body = registry("aws-ecr", ECR, "AKIA", password);
        harbor.by_hand("POST", "/registries", body).await.0
    };
    assert_eq!(create("wrong").await, 400);
    assert_eq!(create("secret").await, 201);
    let (_, stored) = harbor.by_hand("GET", "/registries/1", None).await;
    assert_eq!(stored["url"], ECR);
    let project = json!({"project_name": "ecr", "registry_id": 1});
    assert_eq!(harbor.by_hand("POST", "/projects", Some(project)).await.0, 201);
    Client::new(&harbor).await.pull("ecr/team/app", &image, |_| true).await;
}

#[tokio::test]
async fn docker_hub_is_pulled_from_its_registry_with_a_token() {
    let hub = Upstream::builder().token_auth("me", "right").start().await;
    let image = hub.push_image("library/nginx", "1.27", &Image::multi_arch(ARCHES));
    let harbor = Harbor::builder().route("registry-1.docker.io", hub.url()).start().await;
    let create = async |password: &str| {
        let body = registry("docker-hub", "https://hub.docker.com", "me", password);
        harbor.by_hand("POST", "/registries", body).await.0
    };
    assert_eq!(create("wrong").await, 500, "no login is an error of the adapter");
    assert_eq!(create("right").await, 201);
    let project = json!({"project_name": "dockerhub", "registry_id": 1});
    assert_eq!(harbor.by_hand("POST", "/projects", Some(project)).await.0, 201);
    let client = Client::new(&harbor).await;
    client.pull("dockerhub/library/nginx", &image, |_| true).await;
    assert!(hub.log().iter().any(|request| request.path.starts_with("/token?")));
}

#[tokio::test]
async fn a_host_that_is_not_on_this_machine_is_never_asked() {
    let harbor = Harbor::builder().start().await;
    for url in ["https://registry.example.com", "http://192.0.2.1:5000", ECR] {
        let kind = if url == ECR { "aws-ecr" } else { "docker-registry" };
        let started = std::time::Instant::now();
        let (status, body) = harbor.by_hand("POST", "/registries", registry(kind, url, "a", "b")).await;
        assert_eq!((status, &body["errors"][0]["message"]), (400, &json!("the registry is unhealthy")));
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

/// As skopeo copies (fixtures/03l-skopeo.md): HEAD of each blob, the index by tag, children by digest.
#[tokio::test]
async fn an_index_pulled_by_tag_stays_untagged_and_each_blob_is_fetched_twice() {
    let upstream = Upstream::builder().start().await;
    let image = upstream.push_image("app/skop", "v1", &Image::multi_arch(ARCHES).layers([100]));
    let harbor = Harbor::builder().speed(100.0).start().await;
    let up = json!({"name": "up", "type": "docker-registry", "url": upstream.url()});
    assert_eq!(harbor.by_hand("POST", "/registries", Some(up)).await.0, 201);
    let px = json!({"project_name": "px", "registry_id": 1, "metadata": {"public": "true"}});
    assert_eq!(harbor.by_hand("POST", "/projects", Some(px)).await.0, 201);
    let client = Client::new(&harbor).await;
    upstream.clear_log();
    client.get("/v2/px/app/skop/manifests/v1").await.ok();
    for child in &image.children {
        client.get(&format!("/v2/px/app/skop/manifests/{}", child.digest)).await.ok();
        for blob in child.blobs() {
            assert_eq!(client.head(&format!("/v2/px/app/skop/blobs/{}", blob.digest)).await.status, 404);
            client.get(&format!("/v2/px/app/skop/blobs/{}", blob.digest)).await.ok();
        }
    }
    eventually(|| harbor.artifacts("px/app/skop").len() == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(harbor.artifacts("px/app/skop").values().all(Vec::is_empty), "no tag");
    let asked: Vec<String> =
        upstream.log().iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    let count = |what: &str| asked.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!(count("HEAD /v2/app/skop/manifests/v1"), 1);
    assert_eq!(count("GET /v2/app/skop/manifests/v1"), 1);
    assert_eq!(count("GET /v2/app/skop/blobs/"), 8, "two images of two blobs, each twice");
}

#[tokio::test]
async fn of_six_creates_at_once_one_wins() {
    let upstream = Upstream::builder().start().await;
    let harbor = Harbor::builder().start().await;
    for (path, body) in [
        ("/registries", json!({"name": "same", "type": "docker-registry", "url": upstream.url()})),
        ("/projects", json!({"project_name": "same"})),
    ] {
        let six = (0..6).map(|_| harbor.by_hand("POST", path, Some(body.clone())));
        let mut statuses: Vec<u16> =
            futures::future::join_all(six).await.into_iter().map(|(status, _)| status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409], "{path}");
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_upstream_ends_as_a_success_that_only_the_digest_tells() {
    let upstream = Upstream::builder().start().await;
    let image = upstream.push_image("app/cut", "v1", &Image::single("linux", "amd64").layers([100_000]));
    let harbor = Harbor::builder().speed(100.0).start().await;
    let up = json!({"name": "up", "type": "docker-registry", "url": upstream.url()});
    assert_eq!(harbor.by_hand("POST", "/registries", Some(up)).await.0, 201);
    let px = json!({"project_name": "px", "registry_id": 1, "metadata": {"public": "true"}});
    assert_eq!(harbor.by_hand("POST", "/projects", Some(px)).await.0, 201);
    let layer = &image.children[0].layers[0];
    upstream.fail_next(&layer.digest, 2, &Failure::CutShort);
    let answer = Client::new(&harbor).await.get(&format!("/v2/px/app/cut/blobs/{}", layer.digest)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() < layer.size);
    assert_ne!(harbor_double::sha256(&answer.body), layer.digest);
    assert!(!harbor.has_blob("px/app/cut", &layer.digest));
}

#[tokio::test]
async fn a_wiped_harbor_has_nothing_but_its_library() {
    let harbor = Harbor::builder().start().await;
    let project = json!({"project_name": "mine"});
    assert_eq!(harbor.by_hand("POST", "/projects", Some(project)).await.0, 201);
    harbor.wipe();
    let (_, left) = harbor.by_hand("GET", "/projects", None).await;
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["name"], "library");
    assert!(harbor.log().is_empty(), "what is done by hand is not logged");
}

#[tokio::test]
async fn harbor_speaks_tls_where_it_is_told_to() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, secret) = (key.cert.pem(), key.signing_key.serialize_pem());
    let harbor = Harbor::builder().tls(&certificate, &secret).start().await;
    assert!(harbor.url().starts_with("https://"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(harbor.host()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
    let mut answer = String::new();
    drop(tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await);
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
    assert!(answer.contains(&format!("realm=\"{}/service/token\"", harbor.url())));
}
