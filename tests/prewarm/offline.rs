//! What the conditions promise of an upstream that is down is what a client gets: no more, and no less.
//!
//! The client is another one than that which warms: `oci-client`, and `crane` where the variable `CRANE` names it.

use harbor_double::{Image, Pushed};
use harbor_pilot::api::{CachedImage, ConditionType};
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
    ]
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
    let pushed: Vec<(&str, Pushed, CachedImage, &[&str])> = images()
        .into_iter()
        .map(|(repository, image, platforms)| {
            let pushed = world.upstream.push_image(repository, "v1", &image);
            (repository, pushed, world.cached(&format!("{repository}:v1")), platforms)
        })
        .collect();
    let warming = pushed.into_iter().map(async |(repository, pushed, mut image, platforms)| {
        world.live(&mut image, &world.context_for(platforms), is_settled).await;
        (repository, pushed, image)
    });
    let warm = futures::future::join_all(warming).await;
    let never = world.upstream.push_image("offline/never", "v1", &Image::single("linux", "amd64"));

    world.upstream.set_down(true).await;
    let mut promised = 0;
    for (repository, pushed, image) in &warm {
        assert!(is_true(image, ConditionType::Ready), "{repository}");
        let by_tag = world.image(&format!("{repository}:v1")).to_string();
        let by_digest = world.image(&format!("{repository}@{}", pushed.digest)).to_string();
        for (kind, reference) in [(ConditionType::OfflineByTag, by_tag), (ConditionType::OfflineByDigest, by_digest)] {
            let promise = is_true(image, kind);
            promised += usize::from(promise);
            assert_eq!(pulls(&world, &reference).await, promise, "{repository} {}", kind.as_str());
        }
    }
    assert!((1..2 * warm.len()).contains(&promised), "some are promised, and some are not: {promised}");
    assert!(!pulls(&world, &world.image(&format!("offline/never@{}", never.digest)).to_string()).await);
    world.end().await;
}
