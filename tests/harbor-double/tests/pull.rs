//! The pull path, as a user of the double sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;

use std::time::Duration;

use client::{Client, INDEXES, eventually};
use harbor_double::{Failure, Harbor, Image, Upstream};
use serde_json::json;

const ARCHES: [(&str, &str, Option<&str>); 2] = [("linux", "amd64", None), ("linux", "arm64", Some("v8"))];

async fn proxied(speed: f64) -> (Upstream, Harbor, Client) {
    let upstream = Upstream::builder().start().await;
    let harbor = Harbor::builder().speed(speed).start().await;
    let (status, _) = harbor
        .manual_request(
            "POST",
            "/registries",
            Some(json!({"name": "up", "type": "docker-registry", "url": upstream.url()})),
        )
        .await;
    assert_eq!(status, 201);
    let project = json!({"project_name": "px", "registry_id": 1, "metadata": {"public": "true"}});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
    let client = Client::new(&harbor).await;
    (upstream, harbor, client)
}

#[tokio::test]
async fn index_that_is_pulled_completely_is_stored_and_tagged_after_the_head_of_its_tag() {
    let (upstream, harbor, client) = proxied(200.0).await;
    let image = upstream.push_image("app/multi", "v1", &Image::multi_arch(ARCHES));
    let head = client.head("/v2/px/app/multi/manifests/v1").await;
    assert_eq!(head.header("docker-content-digest"), image.digest);
    client.get(&format!("/v2/px/app/multi/manifests/{}", image.digest)).await.ok();
    for child in &image.children {
        client.get(&format!("/v2/px/app/multi/manifests/{}", child.digest)).await.ok();
        for blob in child.blobs() {
            let answer = client.get(&format!("/v2/px/app/multi/blobs/{}", blob.digest)).await;
            assert_eq!(harbor_double::sha256(&answer.body), blob.digest);
        }
    }
    eventually(|| harbor.artifacts("px/app/multi").values().any(|tags| tags == &["v1"])).await;
    let stored = harbor.artifacts("px/app/multi");
    assert_eq!(stored.len(), 3, "two children and an index");
    assert!(!stored.contains_key(&image.digest), "compact bytes do not keep their digest");
}

#[tokio::test]
async fn an_index_in_harbors_own_shape_keeps_its_digest_and_can_be_pulled_by_it_with_the_upstream_down() {
    let (upstream, harbor, client) = proxied(200.0).await;
    let image = upstream.push_image("app/canon", "v1", &Image::multi_arch(ARCHES).canonical().with_attestations());
    client.head("/v2/px/app/canon/manifests/v1").await.ok();
    client.pull("px/app/canon", &image, |_| true).await;
    eventually(|| harbor.artifacts("px/app/canon").get(&image.digest).is_some_and(|tags| tags == &["v1"])).await;
    upstream.set_down(true).await;
    for reference in ["v1", &image.digest] {
        client.get(&format!("/v2/px/app/canon/manifests/{reference}")).await.ok();
    }
}

#[tokio::test]
async fn of_an_index_with_one_child_pulled_the_rest_is_cut_off_in_the_end() {
    let (upstream, harbor, client) = proxied(1000.0).await;
    let image = upstream.push_image("app/part", "v1", &Image::multi_arch(ARCHES).docker());
    client.pull("px/app/part", &image, |child| child.platform.architecture == "amd64").await;
    eventually(|| harbor.artifacts("px/app/part").len() == 1).await;
    assert!(harbor.artifacts("px/app/part").contains_key(&image.children[0].digest));
    eventually(|| harbor.artifacts("px/app/part").len() == 2).await;
    let (_, listed) = harbor.manual_request("GET", "/projects/px/repositories/app%2Fpart/artifacts", None).await;
    assert_eq!(listed[0]["references"].as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["references"][0]["child_digest"], json!(image.children[0].digest));
}

/// As in fixtures/11-blob-touch.md.
#[tokio::test]
async fn hanging_up_at_the_headers_of_a_blob_does_not_keep_harbor_from_storing_it() {
    let (upstream, harbor, client) = proxied(100.0).await;
    let image = upstream.push_image("app/big", "v1", &Image::single("linux", "amd64").layers([2_000_000]));
    let layer = &image.children[0].layers[0];
    let path = format!("/v2/px/app/big/blobs/{}", layer.digest);
    assert_eq!(client.head(&path).await.status, 404);
    upstream.throttle(Some(4_000_000));
    drop(client.open(&path).await);
    assert_eq!(client.head(&path).await.status, 404, "not there at once");
    eventually(|| harbor.has_blob("px/app/big", &layer.digest)).await;
    assert_eq!(client.head(&path).await.status, 200);
    let blobs: Vec<_> = upstream.log().into_iter().filter(|request| request.path.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 2, "once for the client, once for the store");
    let sent: u64 = blobs.iter().map(|request| request.bytes_sent).sum();
    assert!(sent < 2 * layer.size as u64 && sent >= layer.size as u64, "{sent} bytes");
}

#[tokio::test]
async fn an_unhealthy_upstream_is_not_asked_until_the_registry_is_written() {
    let (upstream, harbor, client) = proxied(1.0).await;
    upstream.push_image("app/single", "v1", &Image::single("linux", "amd64"));
    upstream.set_down(true).await;
    harbor.check_upstreams().await;
    upstream.set_down(false).await;
    assert_eq!(client.get("/v2/px/app/single/manifests/v1").await.status, 404);
    assert_eq!(harbor.manual_request("PUT", "/registries/1", Some(json!({"description": "prod"}))).await.0, 200);
    client.get("/v2/px/app/single/manifests/v1").await.ok();
}

#[tokio::test]
async fn wrong_bytes_of_the_upstream_reach_the_client_but_not_the_store() {
    let (upstream, harbor, client) = proxied(100.0).await;
    let image = upstream.push_image("app/bad", "v1", &Image::single("linux", "amd64"));
    let layer = &image.children[0].layers[0];
    upstream.fail_next(&layer.digest, 2, &Failure::WrongBytes);
    let answer = client.get(&format!("/v2/px/app/bad/blobs/{}", layer.digest)).await;
    assert_eq!(answer.status, 200);
    assert_ne!(harbor_double::sha256(&answer.body), layer.digest);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!harbor.has_blob("px/app/bad", &layer.digest));
}

#[tokio::test]
async fn a_rate_limit_of_the_upstream_comes_through_unless_the_image_is_stored() {
    let (upstream, harbor, client) = proxied(200.0).await;
    let image = upstream.push_image("app/limited", "v1", &Image::single("linux", "amd64"));
    upstream.fail_next("app/limited/manifests", 1, &Failure::TooManyRequests(Some(1)));
    assert_eq!(client.get("/v2/px/app/limited/manifests/v1").await.status, 429);
    client.head("/v2/px/app/limited/manifests/v1").await.ok();
    client.pull("px/app/limited", &image, |_| true).await;
    eventually(|| harbor.artifacts("px/app/limited").values().any(|tags| tags == &["v1"])).await;
    upstream.fail_next("app/limited/manifests", 1, &Failure::TooManyRequests(None));
    assert_eq!(client.get_as("/v2/px/app/limited/manifests/v1", INDEXES).await.status, 200);
}

#[tokio::test]
async fn the_double_can_be_switched_off_and_on_and_ends_when_it_is_dropped() {
    let (_upstream, harbor, client) = proxied(1.0).await;
    harbor.set_down(true).await;
    assert!(client.try_get("/api/v2.0/ping").await.is_err());
    harbor.set_down(false).await;
    client.get("/api/v2.0/ping").await.ok();
    harbor.stop();
    let mut refused = false;
    for _ in 0..100 {
        refused = client.try_get("/api/v2.0/ping").await.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused);
}

#[tokio::test]
async fn the_children_of_an_index_are_listed_for_who_asks_for_all_and_by_digest() {
    let (upstream, harbor, client) = proxied(200.0).await;
    let image = upstream.push_image("app/multi", "v1", &Image::multi_arch(ARCHES).canonical());
    client.head("/v2/px/app/multi/manifests/v1").await.ok();
    client.pull("px/app/multi", &image, |_| true).await;
    eventually(|| harbor.artifacts("px/app/multi").get(&image.digest).is_some_and(|tags| tags == &["v1"])).await;
    let listed = async |query: &str| {
        let path = format!("/projects/px/repositories/app%2Fmulti/artifacts?q={query}");
        let (status, body) = harbor.manual_request("GET", &path, None).await;
        let digests = body.as_array().map(|list| list.iter().map(|one| one["digest"].as_str().unwrap().to_owned()));
        (status, digests.map(Iterator::collect).unwrap_or_default())
    };
    let [amd64, arm64] = [0, 1].map(|at| image.children[at].digest.clone());
    let anonymous = format!("sha256:{}", "a".repeat(64));
    let both = format!("digest={{{amd64}%20{}%20{anonymous}}}", image.digest);
    assert_eq!(listed(&both).await, (200, vec![image.digest.clone()]));
    let mut found: (u16, Vec<String>) = listed(&format!("base=*,{both}")).await;
    found.1.sort();
    let mut expected = vec![amd64.clone(), image.digest.clone()];
    expected.sort();
    assert_eq!(found, (200, expected));
    assert_eq!(listed(&format!("base=*,digest={arm64}")).await, (200, vec![arm64]));
    assert_eq!(listed("base=x").await.0, 400);
}
