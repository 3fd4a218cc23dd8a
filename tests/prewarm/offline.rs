//! What the conditions promise of an upstream that is down is what a client gets: no more, and no less.
//!
//! The client is another one than that which warms: `oci-client`, and `crane` where the variable `CRANE` names it.

use harbor_double::{Image, Pushed};
use harbor_pilot::{
    api::{CachedImage, ConditionType, condition},
    prewarm::{PrewarmContext, reconcile},
};
use k8s_openapi::jiff::Timestamp;
use oci_client::{
    Reference,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use secrecy::ExposeSecret as _;

use crate::world::{World, is_settled, state};

/// The platforms of one node, and what may lie in the upstream.
const AMD64: &[&str] = &["linux/amd64"];

fn images() -> Vec<(&'static str, Image, &'static [&'static str])> {
    let both = || Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]);
    vec![
        ("offline/single", Image::single("linux", "amd64"), AMD64),
        ("offline/docker", Image::single("linux", "amd64").docker(), AMD64),
        ("offline/one-child", both(), AMD64),
        ("offline/all-children", both(), &[]),
        ("offline/canonical", both().canonical(), &[]),
        ("offline/canonical-docker", both().docker().canonical(), &[]),
        ("offline/canonical-one-child", both().canonical(), AMD64),
        ("offline/attested", both().with_attestations(), &[]),
        ("offline/attested-one-child", both().with_attestations(), AMD64),
        ("offline/attested-canonical", both().with_attestations().canonical(), &[]),
        ("offline/nested", both().nested(), &[]),
        ("offline/nested-canonical", both().nested().canonical(), &[]),
        ("offline/foreign", Image::single("linux", "amd64").docker().foreign_layer(false), AMD64),
        ("offline/foreign-held", Image::single("linux", "amd64").docker().foreign_layer(true), AMD64),
    ]
}

/// Images that the clients cannot read, though runtimes can: indexes in indexes, and layers with addresses of their own.
fn is_read_by_runtimes_alone(repository: &str) -> bool {
    ["nested", "foreign"].iter().any(|kind| repository.contains(kind))
}

/// The same by requests alone, as a container runtime makes them: index, inner index, manifest, blobs.
async fn walks(world: &World, reference: &str) -> bool {
    let own = world.endpoint.credentials.as_ref().unwrap();
    let (repository, what) = match reference.split_once('@') {
        Some((repository, digest)) => (repository, digest),
        None => reference.rsplit_once(':').unwrap(),
    };
    let path = repository.split_once('/').unwrap().1;
    let url = &world.endpoint.url;
    let http = reqwest::Client::new();
    let token = http
        .get(format!("{url}/service/token?service=harbor-registry&scope=repository:{path}:pull"))
        .basic_auth(&own.username, Some(own.password.expose_secret()));
    let token: serde_json::Value = token.send().await.unwrap().json().await.unwrap();
    let token = token["token"].as_str().unwrap();
    let get = async |what: String| {
        let types = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
             application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
        let request = http.get(format!("{url}/v2/{path}/{what}")).bearer_auth(token).header("accept", types);
        let answer = request.send().await.unwrap();
        if answer.status().is_success() { answer.bytes().await.ok() } else { None }
    };
    let mut what = what.to_owned();
    let manifest = loop {
        let Some(bytes) = get(format!("manifests/{what}")).await else { return false };
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let Some(children) = manifest["manifests"].as_array() else { break manifest };
        let fits = |child: &&serde_json::Value| {
            let index = child["mediaType"].as_str().is_some_and(|kind| kind.contains("index") || kind.contains("list"));
            index || (child["platform"]["os"] == "linux" && child["platform"]["architecture"] == "amd64")
        };
        let Some(child) = children.iter().find(fits) else { return false };
        what = child["digest"].as_str().unwrap().to_owned();
    };
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        let bytes = get(format!("blobs/{digest}")).await;
        if bytes.is_none_or(|bytes| harbor_double::sha256(&bytes) != digest) {
            return false;
        }
    }
    true
}

/// Whether the image can be pulled for linux/amd64, all of it.
async fn pulls(world: &World, reference: &str) -> bool {
    let own = world.endpoint.credentials.as_ref().unwrap();
    let config = ClientConfig {
        protocol: ClientProtocol::Http,
        platform_resolver: Some(Box::new(oci_client::client::linux_amd64_resolver)),
        ..ClientConfig::default()
    };
    let auth = RegistryAuth::Basic(own.username.clone(), own.password.expose_secret().to_owned());
    let types = [
        oci_client::manifest::IMAGE_LAYER_MEDIA_TYPE,
        oci_client::manifest::IMAGE_LAYER_GZIP_MEDIA_TYPE,
        oci_client::manifest::IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE,
    ];
    let image: Reference = reference.parse().unwrap();
    let pulled = oci_client::Client::new(config).pull(&image, &auth, types.to_vec()).await;
    let pulled = match pulled {
        Ok(image) => !image.layers.is_empty(),
        Err(_) => false,
    };
    if let Ok(crane) = std::env::var("CRANE") {
        assert_eq!(by_crane(world, &crane, reference).await, pulled, "{reference}");
    }
    pulled
}

async fn by_crane(world: &World, crane: &str, reference: &str) -> bool {
    let own = world.endpoint.credentials.as_ref().unwrap();
    let home = tempfile::tempdir().unwrap();
    let host = reference.split('/').next().unwrap();
    let run = async |arguments: &[&str]| {
        let command = tokio::process::Command::new(crane).args(arguments).env("DOCKER_CONFIG", home.path()).output();
        command.await.unwrap().status.success()
    };
    let password = own.password.expose_secret();
    assert!(run(&["auth", "login", host, "-u", &own.username, "-p", password, "--insecure"]).await);
    let to = home.path().join("image.tar");
    run(&["pull", "--insecure", "--platform", "linux/amd64", reference, to.to_str().unwrap()]).await
}

fn is_true(image: &CachedImage, kind: ConditionType) -> bool {
    state(image, kind).starts_with("True/")
}

#[tokio::test]
async fn with_the_upstream_down_an_image_can_be_pulled_exactly_where_its_conditions_say_so() {
    let world = World::start().await;
    let mut pushed: Vec<(String, Pushed, CachedImage, &[&str])> = images()
        .into_iter()
        .map(|(repository, image, platforms)| {
            let pushed = world.upstream.push_image(repository, "v1", &image);
            let name = format!("{repository}:v1");
            let cached = world.cached(&name);
            (name, pushed, cached, platforms)
        })
        .collect();
    // A second tag that is known in time, and one that is not.
    for canonical in [false, true] {
        let repository = format!("offline/two-{canonical}");
        let image = Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]);
        let image = if canonical { image.canonical() } else { image };
        let both = world.upstream.push_image(&repository, "v1", &image);
        for tag in ["v1", "v2", "late"] {
            assert!(world.upstream.move_tag(&repository, tag, &both.digest));
            let name = format!("{repository}:{tag}");
            let cached = world.cached(&name);
            pushed.push((name, both.clone(), cached, &[]));
        }
    }
    let (late, timely): (Vec<_>, Vec<_>) = pushed.into_iter().partition(|(name, ..)| name.ends_with(":late"));
    let siblings = harbor_pilot::prewarm::SiblingTags::default();
    let warm = async |images: Vec<(String, Pushed, CachedImage, &'static [&'static str])>| {
        let begun = images.into_iter().map(async |(name, pushed, mut image, platforms)| {
            let context = PrewarmContext { siblings: siblings.clone(), ..world.context_for(platforms) };
            image.status = Some(reconcile(&image, &context, Timestamp::now()).await.status);
            (name, pushed, image, context)
        });
        let begun = futures::future::join_all(begun).await;
        let warming = begun.into_iter().map(async |(name, pushed, mut image, context)| {
            world.live(&mut image, &context, is_settled).await;
            (name, pushed, image)
        });
        futures::future::join_all(warming).await
    };
    let mut warmed = warm(timely).await;
    warmed.extend(warm(late).await);
    let never = world.upstream.push_image("offline/never", "v1", &Image::single("linux", "amd64"));

    world.upstream.set_down(true).await;
    let (mut promised, mut instead_worked) = (0, 0);
    for (name, pushed, image) in &warmed {
        assert_eq!(is_true(image, ConditionType::Ready), !name.contains("foreign:"), "{name}: {:#?}", image.status);
        let repository = name.rsplit_once(':').unwrap().0;
        let by_tag = world.image(name).to_string();
        let by_digest = world.image(&format!("{repository}@{}", pushed.digest)).to_string();
        for (kind, reference) in [(ConditionType::OfflineByTag, by_tag), (ConditionType::OfflineByDigest, by_digest)] {
            let promise = is_true(image, kind);
            promised += usize::from(promise);
            assert!(!state(image, kind).starts_with("Unknown"), "{name} {}", kind.as_str());
            assert_eq!(walks(&world, &reference).await, promise, "{name} {}", kind.as_str());
            if !is_read_by_runtimes_alone(name) {
                assert_eq!(pulls(&world, &reference).await, promise, "{name} {}", kind.as_str());
            }
        }
        // What the message names in the place of the tag works.
        let list = &image.status.as_ref().unwrap().conditions;
        let said = &condition::find(list, ConditionType::OfflineByTag).unwrap().message;
        if let Some((_, instead)) = said.split_once("pull by digest: ") {
            assert!(walks(&world, instead).await, "{said}");
            instead_worked += 1;
        }
    }
    assert_eq!(instead_worked, 2, "of the tags that came too late");
    let reason = |name: &str| {
        warmed.iter().find(|(known, ..)| known == name).map(|(.., image)| state(image, ConditionType::OfflineByTag))
    };
    for (name, expected) in [
        ("offline/attested:v1", "True/Tagged"),
        ("offline/two-true:v2", "True/Tagged"),
        ("offline/two-true:late", "False/PullByDigest"),
        ("offline/nested:v1", "False/NestedIndex"),
        ("offline/foreign:v1", "False/ForeignLayer"),
        ("offline/foreign-held:v1", "True/Tagged"),
        ("offline/single:v1", "True/Tagged"),
    ] {
        assert_eq!(reason(name).as_deref(), Some(expected), "{name}");
    }
    assert!((1..2 * warmed.len()).contains(&promised), "some are promised, and some are not: {promised}");
    assert!(!pulls(&world, &world.image(&format!("offline/never@{}", never.digest)).to_string()).await);
    world.end().await;
}
