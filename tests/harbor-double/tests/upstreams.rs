//! Upstreams of the kinds that a registry can name, TLS, and what the recordings say in prose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;

use std::time::Duration;

use client::{Client, eventually};
use harbor_double::{Failure, Harbor, Image, Upstream};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ARCHES: [(&str, &str, Option<&str>); 2] = [("linux", "amd64", None), ("linux", "arm64", Some("v8"))];
const ECR: &str = "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com";

fn registry(kind: &str, url: &str, user: &str, password: &str) -> Option<Value> {
    let credential = json!({"type": "basic", "access_key": user, "access_secret": password});
    Some(json!({"name": "up", "type": kind, "url": url, "credential": credential}))
}

#[tokio::test]
async fn an_ecr_host_is_found_by_its_route_and_its_credentials_are_checked() {
    let upstream = Upstream::builder().amazon("AKIA", "secret").start().await;
    let image = upstream.push_image("team/app", "v1", &Image::multi_arch(ARCHES));
    let host = ECR.trim_start_matches("https://");
    let harbor = Harbor::builder().route(host, upstream.url()).start().await;
    let create = async |password: &str| {
        let body = registry("aws-ecr", ECR, "AKIA", password);
        harbor.manual_request("POST", "/registries", body).await.0
    };
    assert_eq!(create("wrong").await, 400);
    assert_eq!(create("secret").await, 201);
    let (_, stored) = harbor.manual_request("GET", "/registries/1", None).await;
    assert_eq!(stored["url"], ECR);
    let project = json!({"project_name": "ecr", "registry_id": 1});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
    Client::new(&harbor).await.pull("ecr/team/app", &image, |_| true).await;
}

#[tokio::test]
async fn the_adapter_for_ecr_wants_keys_and_a_url_that_has_a_region_in_it() {
    let upstream = Upstream::builder().amazon("AKIA", "secret").start().await;
    let hosts = ["123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "api.ecr.cn-north-1.amazonaws.com.cn"];
    let builder = hosts.iter().fold(Harbor::builder(), |builder, host| builder.route(host, upstream.url()));
    let harbor = builder.start().await;
    for (number, (host, password, status)) in [
        (hosts[0], "secret", 201),
        (hosts[1], "secret", 201),
        (hosts[1], "wrong", 400),
        ("public.ecr.aws", "secret", 500),
        ("ecr.eu-central-1.amazonaws.com", "secret", 500),
        ("me.dkr.ecr.eu-central-1.amazonaws.com", "secret", 500),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = registry("aws-ecr", &format!("https://{host}"), "AKIA", password).unwrap();
        body["name"] = json!(format!("up-{number}"));
        assert_eq!(harbor.manual_request("POST", "/registries", Some(body)).await.0, status, "{host}");
    }
    let body = json!({"name": "up", "type": "aws-ecr", "url": format!("https://{}", hosts[0])});
    assert_eq!(harbor.manual_request("POST", "/registries", Some(body)).await.0, 500, "it crashes without keys");
}

#[tokio::test]
async fn ecr_takes_a_push_to_a_repository_that_was_made_and_harbor_makes_it() {
    let upstream = Upstream::builder().amazon("AKIA", "secret").start().await;
    let harbor = Harbor::builder().speed(100.0).route(ECR.trim_start_matches("https://"), upstream.url()).start().await;
    assert_eq!(harbor.manual_request("POST", "/registries", registry("aws-ecr", ECR, "AKIA", "secret")).await.0, 201);
    let project = json!({"project_name": "team", "metadata": {"public": "true"}});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
    let image = harbor.push_image("team/app", "v1", &Image::multi_arch(ARCHES));
    let policy = json!({"name": "out", "dest_registry": {"id": 1}, "enabled": true, "trigger": {"type": "manual"}});
    assert_eq!(harbor.manual_request("POST", "/replication/policies", Some(policy)).await.0, 201);
    assert_eq!(harbor.manual_request("POST", "/replication/executions", Some(json!({"policy_id": 1}))).await.0, 201);
    eventually(|| upstream.tags("team/app").get("v1") == Some(&image.digest)).await;

    // The registry itself makes none.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let signature: String =
        Sha256::digest(b"secret{}").iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let answer = client
        .post(format!("{}/", upstream.url()))
        .header("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential=AKIA, SignedHeaders=host;x-amz-target, Signature={signature}"),
        )
        .body("{}");
    let answer: Value = answer.send().await.unwrap().json().await.unwrap();
    let login = format!("Basic {}", answer["authorizationData"][0]["authorizationToken"].as_str().unwrap());
    for (repository, status) in [("team/app", 202), ("team/other", 404)] {
        let push = client.post(format!("{}/v2/{repository}/blobs/uploads/", upstream.url()));
        assert_eq!(
            push.header("authorization", &login).send().await.unwrap().status().as_u16(),
            status,
            "{repository}"
        );
    }
}

#[tokio::test]
async fn docker_hub_is_pulled_from_its_registry_with_a_token() {
    let hub = Upstream::builder().token_auth("me", "right").start().await;
    let image = hub.push_image("library/nginx", "1.27", &Image::multi_arch(ARCHES));
    let harbor = Harbor::builder().route("registry-1.docker.io", hub.url()).start().await;
    let create = async |password: &str| {
        let body = registry("docker-hub", "https://hub.docker.com", "me", password);
        harbor.manual_request("POST", "/registries", body).await.0
    };
    assert_eq!(create("wrong").await, 500, "no login is an error of the adapter");
    assert_eq!(create("right").await, 201);
    let project = json!({"project_name": "dockerhub", "registry_id": 1});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
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
        let (status, body) = harbor.manual_request("POST", "/registries", registry(kind, url, "a", "b")).await;
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
    assert_eq!(harbor.manual_request("POST", "/registries", Some(up)).await.0, 201);
    let px = json!({"project_name": "px", "registry_id": 1, "metadata": {"public": "true"}});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(px)).await.0, 201);
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
async fn one_of_six_concurrent_creates_wins() {
    let upstream = Upstream::builder().start().await;
    let harbor = Harbor::builder().start().await;
    for (path, body) in [
        ("/registries", json!({"name": "same", "type": "docker-registry", "url": upstream.url()})),
        ("/projects", json!({"project_name": "same"})),
    ] {
        let six = (0..6).map(|_| harbor.manual_request("POST", path, Some(body.clone())));
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
    assert_eq!(harbor.manual_request("POST", "/registries", Some(up)).await.0, 201);
    let px = json!({"project_name": "px", "registry_id": 1, "metadata": {"public": "true"}});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(px)).await.0, 201);
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
    assert_eq!(harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
    harbor.wipe();
    let (_, left) = harbor.manual_request("GET", "/projects", None).await;
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["name"], "library");
    assert!(harbor.log().is_empty(), "what is done by hand is not logged");
}

#[tokio::test]
async fn fake_harbor_serves_tls_if_configured() {
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
