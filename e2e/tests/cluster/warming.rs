//! Images that Pods ask for become warm in Harbor: all that is wanted, and nothing else.

use harbor_double::{Image, Pushed, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, condition_of, image, pod, shared};
use serde_json::{Value, json};

/// Creates a Pod of this image (`repository:tag` of the upstream).
async fn run(cluster: &Cluster, namespace: &str, upstream: &Upstream, image: &str) {
    let name = image.replace(['/', ':', '.'], "-");
    cluster.apply(&pod(&name, namespace, &format!("{}/{image}", upstream.host()))).await.unwrap();
}

/// How often the upstream was asked for a manifest or blob, other than by HEAD.
fn gets(upstream: &Upstream, digest: &str) -> usize {
    let log = upstream.log();
    log.iter().filter(|request| request.method == "GET" && request.path.ends_with(digest)).count()
}

/// Manifests and blobs of one architecture.
fn parts(pushed: &Pushed, architecture: &str) -> Vec<String> {
    let children = pushed.children.iter().filter(|child| child.platform.architecture == architecture);
    let parts = children
        .flat_map(|child| std::iter::once(child.digest.clone()).chain(child.blobs().map(|blob| blob.digest.clone())));
    parts.collect()
}

#[tokio::test]
async fn admitted_image_becomes_warm_and_shows_what_works_offline() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("warming").await.unwrap();
    let namespace = cluster.plane.namespace("warming").await.unwrap();
    let layers = [64 * 1024, 3000, 1000];
    let compact = upstream.push_image("app/compact", "v1", &image().layers(layers));
    let canonical = Image::multi_arch([("linux", "amd64", None)]).canonical();
    let canonical = upstream.push_image("app/canonical", "v1", &canonical.layers(layers));
    let single = upstream.push_image("app/single", "v1", &Image::single("linux", "amd64").docker());
    for image in ["app/compact:v1", "app/canonical:v1", "app/single:v1"] {
        run(&cluster, &namespace, &upstream, image).await;
    }
    let images = ["app/compact:v1", "app/canonical:v1", "app/single:v1"].map(str::to_owned);
    cluster.wait_until_warm("warming", &images).await.unwrap();

    for (repository, pushed) in [("compact", &compact), ("canonical", &canonical), ("single", &single)] {
        let wanted = parts(pushed, "amd64");
        assert!(wanted.len() >= 4, "{wanted:?}");
        for digest in &wanted {
            assert!(gets(&upstream, digest) >= 1, "{digest} of {repository} was not fetched");
        }
        for blob in
            pushed.children.iter().filter(|child| child.platform.architecture == "amd64").flat_map(|c| c.blobs())
        {
            let repository = format!("warming/app/{repository}");
            assert!(cluster.harbor.has_blob(&repository, &blob.digest), "{repository} lacks {}", blob.digest);
        }
        let foreign = parts(pushed, "arm64");
        let fetched: Vec<_> = foreign.iter().filter(|digest| gets(&upstream, digest) > 0).collect();
        assert!(fetched.is_empty(), "fetched for other platforms: {fetched:?}");
        let attestations = pushed.children.iter().filter(|child| child.platform.architecture == "unknown");
        let fetched = attestations.filter(|child| gets(&upstream, &child.digest) > 0).count();
        assert_eq!(fetched, usize::from(repository == "compact"), "the attestation of its own platform alone");
    }
    assert!(!parts(&compact, "arm64").is_empty() && !parts(&compact, "unknown").is_empty());

    let table = [
        ("compact", "False IndexDigestChanged", json!("Trimmed"), json!(4), "linux/amd64"),
        ("canonical", "True DigestStored", json!("Complete"), json!(1), "linux/amd64"),
        ("single", "True DigestStored", Value::Null, Value::Null, "unknown"),
    ];
    for (repository, by_digest, index, children, platform) in table {
        let image = format!("{}/warming/app/{repository}:v1", cluster.harbor.host());
        let name = cluster.cached("warming").await.unwrap()[&image]["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.wait_for("CachedImage", &name, "OfflineByTag", "True Tagged").await.unwrap();
        let object = cluster.wait_for("CachedImage", &name, "OfflineByDigest", by_digest).await.unwrap();
        assert_eq!(condition_of(&object, "Ready"), "True Warm");
        let status = &object["status"];
        assert_eq!((&status["index"], &status["indexChildren"]), (&index, &children), "{repository}: {status:#}");
        let platforms = status["platforms"].as_array().unwrap();
        assert_eq!(platforms.len(), 1, "{status:#}");
        assert_eq!((&platforms[0]["platform"], &platforms[0]["stored"]), (&json!(platform), &json!(true)));
        assert_eq!(object["metadata"]["annotations"]["harbor-pilot.dev/requested-by"], namespace);
    }
    cluster.forget("warming").await.unwrap();
}
