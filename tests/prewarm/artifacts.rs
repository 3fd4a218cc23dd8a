//! Kinds of images and artifacts, and what is asked about those that Harbor has.

use std::collections::HashSet;

use harbor_double::{Image, sha256};
use harbor_pilot::{
    api::ConditionType,
    prewarm::{Target, manifest_presence::stored},
    registry::{self, Digest},
};
use serde_json::{Value, json};

use crate::world::{World, gets, is_ready, is_settled, multi, platforms, state};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SIGNATURE: &str = "sha256-2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae.sig";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl World {
    /// Pushes a blob as any client does, and gives its descriptor.
    async fn push_blob(&self, repository: &str, media_type: &str, content: &[u8]) -> Value {
        let http = reqwest::Client::new();
        let digest = sha256(content);
        let uploads = format!("{}/v2/{repository}/blobs/uploads/", self.upstream.url());
        let begun = http.post(uploads).send().await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let ended = http.put(format!("{location}&digest={digest}")).body(content.to_vec()).send().await.unwrap();
        assert_eq!(ended.status(), 201);
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    async fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: &Value) -> Value {
        let bytes = manifest.to_string();
        let url = format!("{}/v2/{repository}/manifests/{tag}", self.upstream.url());
        let request = reqwest::Client::new().put(url).header("content-type", media_type).body(bytes.clone());
        assert_eq!(request.send().await.unwrap().status(), 201);
        json!({"mediaType": media_type, "digest": sha256(bytes.as_bytes()), "size": bytes.len()})
    }

    fn blobs_asked(&self) -> usize {
        let log = self.double.as_ref().unwrap().log();
        log.iter().filter(|request| request.path.contains("/blobs/")).count()
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

#[tokio::test]
async fn artifacts_without_a_platform_are_warmed_whole_whatever_they_are() {
    let world = World::start().await;
    let image = "application/vnd.oci.image.config.v1+json";
    let table = [
        (
            "chart",
            "1.2.3",
            OCI,
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            None,
        ),
        ("sbom", "v1", OCI, "application/vnd.oci.empty.v1+json", "text/spdx+json", Some("application/spdx+json")),
        ("signature", SIGNATURE, OCI, image, "application/vnd.dev.cosign.simplesigning.v1+json", None),
        ("zstd", "v1", OCI, image, "application/vnd.oci.image.layer.v1.tar+zstd", None),
        (
            "docker",
            "v1",
            DOCKER,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            None,
        ),
    ];
    for (name, tag, kind, config, layer, artifact_type) in table {
        let repository = format!("app/{name}");
        let config = world.push_blob(&repository, config, b"{}").await;
        let small = world.push_blob(&repository, layer, name.as_bytes()).await;
        let large = world.push_blob(&repository, layer, name.repeat(100_000).as_bytes()).await;
        let mut manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [small, large]});
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = json!(artifact_type);
            manifest["subject"] = json!({"mediaType": OCI, "digest": sha256(b"subject"), "size": 7});
        }
        let pushed = world.push_manifest(&repository, tag, kind, &manifest).await;
        let mut cached = world.cached(&format!("{repository}:{tag}"));
        world.live(&mut cached, &world.context_for(&["linux/amd64"]), is_ready).await;
        let status = cached.status.unwrap();
        assert_eq!((status.digest.as_deref(), status.index_children), (Some(text(&pushed, "digest")), None), "{name}");
        assert_eq!((status.platforms[0].platform.as_str(), status.platforms[0].layers), ("unknown", 2), "{name}");
        let client = registry::Client::new(&world.endpoint).unwrap();
        for blob in [&config, &small, &large] {
            let digest: Digest = text(blob, "digest").parse().unwrap();
            let path = format!("{}/{repository}", world.project);
            assert!(client.has_blob(&path, &digest).await.unwrap(), "{name}: {digest}");
        }
    }
    world.end().await;
}

#[tokio::test]
async fn an_index_of_artifacts_without_platforms_is_warmed_whole() {
    let world = World::start().await;
    let mut children = Vec::new();
    for name in ["one", "two"] {
        let config = world.push_blob("app/set", "application/vnd.oci.empty.v1+json", b"{}").await;
        let layer = world.push_blob("app/set", "text/plain", name.as_bytes()).await;
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer]});
        children.push(world.push_manifest("app/set", name, OCI, &manifest).await);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    world.push_manifest("app/set", "all", INDEX, &index).await;
    let target = world.target("app/set:all");
    let warmed = world.puller().warm(&target, &platforms(&["linux/amd64"]), &()).await.unwrap();
    assert_eq!((warmed.children.len(), warmed.attestations.found, warmed.missing.len()), (2, 0, 0));
    world.end().await;
}

#[tokio::test]
async fn variants_are_distinguished_if_requested() {
    let world = World::start().await;
    let all = [
        ("arm", Some("v6")),
        ("arm", Some("v7")),
        ("arm", Some("v8")),
        ("amd64", None),
        ("amd64", Some("v2")),
        ("amd64", Some("v3")),
    ];
    let image = Image::multi_arch(all.map(|(architecture, variant)| ("linux", architecture, variant)));
    let pushed = world.upstream.push_image("app/variants", "v1", &image.with_attestations());
    let table: [(&[&str], &[usize]); 4] = [
        (&["linux/arm/v7"], &[1]),
        (&["linux/arm/v6", "linux/arm/v8"], &[0, 2]),
        (&["linux/amd64/v3"], &[5]),
        // A node does not tell its variant: each may be what it runs.
        (&["linux/amd64"], &[3, 4, 5]),
    ];
    for (wanted, expected) in table {
        let target = world.target("app/variants:v1");
        let warmed = world.puller().warm(&target, &platforms(wanted), &()).await.unwrap();
        let found: Vec<_> = warmed.children.iter().map(|child| child.digest.as_str()).collect();
        let expected: Vec<_> = expected.iter().map(|at| pushed.children[*at].digest.as_str()).collect();
        let attested = u32::try_from(expected.len()).unwrap();
        assert_eq!(
            (found, warmed.attestations.found, warmed.attestations.fetched),
            (expected, attested, attested),
            "{wanted:?}"
        );
    }
    let log = world.upstream.log();
    let attestations = pushed.children.iter().filter(|child| child.platform.os == "unknown");
    let asked = attestations.filter(|child| gets(&log, &child.digest) > 0).count();
    assert_eq!(asked, 6, "each with what it describes");
    world.end().await;
}

#[tokio::test]
async fn both_families_are_pulled_again_from_what_harbor_stored_with_the_upstream_down() {
    let world = World::start().await;
    let (single, both) = (Image::single("linux", "amd64"), multi("x"));
    let table = [
        ("app/oci", single.clone()),
        ("app/docker", single.docker()),
        ("app/ociindex", both.clone()),
        ("app/dockerlist", both.docker()),
    ];
    for (repository, image) in table {
        world.upstream.push_image(repository, "v1", &image);
        let mut cached = world.cached(&format!("{repository}:v1"));
        world.live(&mut cached, &world.context(), is_settled).await;
        assert_eq!(state(&cached, ConditionType::OfflineByTag), "True/Tagged", "{repository}");
        let child = cached.status.unwrap().platforms[0].digest.clone();
        world.upstream.set_down(true).await;
        // Harbor calls a stored manifest unknown to whoever does not accept its family.
        let target = world.target(&format!("{repository}@{child}"));
        let again = world.puller().warm(&target, &[], &()).await.unwrap();
        assert!(again.fetches().is_over(), "{repository}");
        world.upstream.set_down(false).await;
    }
    world.end().await;
}

#[tokio::test]
async fn the_addresses_of_a_foreign_layer_are_never_asked() {
    let world = World::start().await;
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = json!([format!("http://{}/layer", elsewhere.local_addr().unwrap()), "http://169.254.169.254/latest"]);
    let config = world.push_blob("app/windows", "application/vnd.oci.image.config.v1+json", b"{}").await;
    let own = world.push_blob("app/windows", "application/vnd.oci.image.layer.v1.tar+gzip", &[1; 100_000]).await;
    let mut layers = vec![own];
    for (number, kind) in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ]
    .into_iter()
    .enumerate()
    {
        layers.push(json!({"mediaType": kind, "digest": sha256(&[number as u8]), "size": 1_000_000, "urls": urls}));
    }
    // With urls, and yet held by the upstream: an ordinary layer.
    layers[0]["urls"] = urls.clone();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": layers});
    world.push_manifest("app/windows", "v1", OCI, &manifest).await;
    let warmed = world.puller().warm(&world.target("app/windows:v1"), &[], &()).await.unwrap();
    assert_eq!((warmed.children[0].fetched, warmed.children[0].bytes), (2, 100_002));
    assert_eq!((warmed.children[0].layers, warmed.children[0].foreign), (1, 2));
    let visitor = tokio::time::timeout(std::time::Duration::from_millis(100), elsewhere.accept()).await;
    assert!(visitor.is_err(), "somebody went where a manifest sent them");
    world.end().await;
}

#[tokio::test]
async fn what_harbor_lists_is_asked_for_in_one_request_and_no_blob_of_it() {
    let world = World::start().await;
    if world.double.is_none() {
        return world.end().await;
    }
    world.upstream.push_image("app/known", "v1", &multi("a").canonical());
    let mut cached = world.cached("app/known:v1");
    world.live(&mut cached, &world.context_for(&[]), is_settled).await;
    let double = world.double.as_ref().unwrap();
    let puller = world.puller().knowing(world.client.clone());
    double.clear_log();
    let warmed = puller.warm(&world.target("app/known:v1"), &[], &()).await.unwrap();
    assert!(warmed.fetches().is_over() && warmed.children.len() == 3);
    assert_eq!(world.blobs_asked(), 0);
    let log = double.log();
    assert_eq!(log.iter().filter(|request| request.path.contains("/artifacts")).count(), 1);
    // As a runtime does, so that Harbor tags: the tag, the index, its children.
    assert_eq!(log.iter().filter(|request| request.path.contains("/manifests/")).count(), 5);
    double.clear_log();
    let unknowing = world.puller().warm(&world.target("app/known:v1"), &[], &()).await.unwrap();
    assert!(unknowing.fetches().is_over() && world.blobs_asked() > 3);

    let unknown = Digest::of(b"unknown");
    let child: Digest = warmed.children[1].digest.clone();
    let target: Target = world.target("app/known:v1");
    let wanted = [&unknown, &child];
    let found = stored(&world.client, &target, &wanted).await.unwrap();
    assert_eq!(found, HashSet::from([child.clone()]));
    assert!(stored(&world.client, &world.target("app/nowhere:v1"), &wanted).await.unwrap().is_empty());
    world.end().await;
}

#[tokio::test]
async fn missing_layer_of_a_listed_manifest_is_fetched_again() {
    let world = World::start().await;
    let Some(double) = &world.double else { return world.end().await };
    let pushed = world.upstream.push_image("app/lost", "v1", &multi("a"));
    let mut context = world.context();
    context.timing.refresh = std::time::Duration::from_secs(1);
    let mut cached = world.cached("app/lost:v1");
    world.live(&mut cached, &context, is_settled).await;
    let (repository, layer) = (format!("{}/app/lost", world.project), &pushed.children[0].layers[2].digest);
    double.lose_blob(&repository, layer);
    assert!(!double.has_blob(&repository, layer));
    world.live(&mut cached, &context, |cached| is_ready(cached) && double.has_blob(&repository, layer)).await;
    world.end().await;
}

#[tokio::test]
async fn an_index_with_a_thousand_attestations_is_warmed_and_none_of_them_is_asked_for() {
    let world = World::start().await;
    let config = world.push_blob("app/attested", "application/vnd.oci.image.config.v1+json", b"{}").await;
    let layer = world.push_blob("app/attested", "application/vnd.oci.image.layer.v1.tar+gzip", &[1; 1000]).await;
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer]});
    let mut child = world.push_manifest("app/attested", "child", OCI, &manifest).await;
    child["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let attestation = |number: usize| {
        json!({
            "mediaType": OCI, "digest": sha256(number.to_string().as_bytes()), "size": 500,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": child["digest"]},
        })
    };
    let children: Vec<Value> = std::iter::once(child.clone()).chain((0..1000).map(attestation)).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    world.push_manifest("app/attested", "v1", INDEX, &index).await;
    world.upstream.clear_log();
    let warmed = world.puller().warm(&world.target("app/attested:v1"), &[], &()).await.unwrap();
    let attestations = &warmed.attestations;
    assert_eq!((warmed.children.len(), attestations.found, attestations.fetched), (1, 1000, 0));
    assert!(attestations.failed.as_ref().unwrap().to_string().contains("more than 128"));
    // HEAD and GET of the tag, of the index and of the child, each asked of the upstream by Harbor.
    let asked = world.upstream.log().iter().filter(|request| request.path.contains("/manifests/")).count();
    assert!(asked <= 8, "{asked}");
    world.end().await;
}
