//! Images become warm in Harbor: pulled as a container runtime does, verified, and told apart by what works offline.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod artifacts;
mod attested;
mod breaker;
mod faults;
mod offline;
mod platforms;
#[path = "../replication/scanner.rs"]
mod scanner;
mod scans;
mod strategies;
mod world;

use std::{sync::Arc, time::Duration};

use harbor_double::{Failure, Image};
use harbor_pilot::{
    api::{
        CachedImage, ConditionType, Platform,
        cached_image::{IndexState, Require},
    },
    prewarm::{Environment, PrewarmContext, Resolved, Unresolved, puller::PullError, reconcile},
    registry,
};
use k8s_openapi::jiff::Timestamp;
use world::{World, gets, is_ready, is_settled, multi, parts, platforms, state};

#[tokio::test]
async fn of_an_index_the_wanted_platform_is_warmed_and_nothing_of_the_others() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("library/nginx", "1.27", &multi("a"));
    let mut image = world.cached("library/nginx:1.27");
    let outcomes = world.live(&mut image, &world.context(), is_ready).await;
    let log = world.upstream.log();
    for digest in parts(&pushed, "amd64") {
        assert!(gets(&log, &digest) >= 1, "{digest} was not fetched");
    }
    for architecture in ["arm64", "s390x"] {
        let others = parts(&pushed, architecture);
        assert!(!others.is_empty());
        for digest in others {
            assert_eq!(gets(&log, &digest), 0, "{digest} of {architecture} was fetched");
        }
    }
    let reasons: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.notes).map(|note| note.reason.as_str()).collect();
    assert_eq!(reasons, ["Pulling", "Verifying", "Warm"]);
    let status = image.status.clone().unwrap();
    assert_eq!((status.digest.as_deref(), status.index_children), (Some(pushed.digest.as_str()), Some(6)));
    let platform = &status.platforms[0];
    assert_eq!((status.platforms.len(), platform.platform.as_str(), platform.layers), (1, "linux/amd64", 3));
    assert!(platform.stored && platform.bytes > 241_000);

    world.live(&mut image, &world.context(), is_settled).await;
    assert_eq!(state(&image, ConditionType::OfflineByTag), "True/Tagged");
    assert_eq!(state(&image, ConditionType::OfflineByDigest), "False/IndexDigestChanged");
    assert_eq!(image.status.unwrap().index, Some(IndexState::Trimmed));
    world.end().await;
}

#[tokio::test]
async fn an_index_with_all_children_works_offline_by_digest_only_where_its_bytes_are_harbors_own() {
    let world = World::start().await;
    let both = Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]);
    let table = [
        ("app/compact", both.clone(), Require::OfflineByTag, "True/Warm", "False/IndexDigestChanged"),
        ("app/compact", both.clone(), Require::OfflineByDigest, "False/IndexDigestChanged", "False/IndexDigestChanged"),
        ("app/canonical", both.clone().canonical(), Require::OfflineByDigest, "True/Warm", "True/DigestStored"),
        ("app/docker", both.docker().canonical(), Require::OfflineByDigest, "True/Warm", "True/DigestStored"),
    ];
    for (repository, pushed, require, ready, by_digest) in table {
        world.upstream.push_image(repository, "v1", &pushed);
        let mut image = world.cached(&format!("{repository}:v1"));
        image.spec.require = require;
        world.live(&mut image, &world.context_for(&[]), is_settled).await;
        let found = [ConditionType::Ready, ConditionType::OfflineByTag, ConditionType::OfflineByDigest]
            .map(|kind| state(&image, kind));
        assert_eq!(found, [ready, "True/Tagged", by_digest], "{repository} {require:?}");
        let stalled = state(&image, ConditionType::Stalled);
        assert_eq!(stalled.is_empty(), ready.starts_with("True"), "{repository} {require:?}: {stalled}");
        assert_eq!(image.status.unwrap().index, Some(IndexState::Complete));
    }
    world.end().await;
}

#[tokio::test]
async fn a_single_image_works_offline_by_tag_and_digest() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/single", "v1", &Image::single("linux", "amd64"));
    let mut image = world.cached("app/single:v1");
    world.live(&mut image, &world.context(), is_settled).await;
    assert_eq!(state(&image, ConditionType::Ready), "True/Warm");
    assert_eq!(state(&image, ConditionType::OfflineByTag), "True/Tagged");
    assert_eq!(state(&image, ConditionType::OfflineByDigest), "True/DigestStored");
    let status = image.status.clone().unwrap();
    assert_eq!((status.index, status.platforms[0].digest.as_str()), (None, pushed.digest.as_str()));

    world.upstream.set_down(true).await;
    let again = world.puller().warm(&world.target("app/single:v1"), &[], &()).await.unwrap();
    assert_eq!((again.digest.as_str(), again.children[0].fetched), (pushed.digest.as_str(), 0));
    world.end().await;
}

#[tokio::test]
async fn an_image_that_is_pinned_to_a_digest_is_warmed_by_it_and_has_no_tag_to_be_offline() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/pinned", "v1", &multi("a"));
    let other = world.upstream.push_image("app/pinned", "v1", &multi("b"));
    let mut image = world.cached(&format!("app/pinned:v1@{}", pushed.digest));
    world.live(&mut image, &world.context(), is_ready).await;
    assert_eq!(image.status.as_ref().unwrap().digest.as_deref(), Some(pushed.digest.as_str()));
    assert_eq!(state(&image, ConditionType::OfflineByTag), "");
    assert_eq!(gets(&world.upstream.log(), &other.digest), 0);
    world.end().await;
}

#[tokio::test]
async fn a_second_warm_fetches_nothing_and_a_half_done_one_only_the_rest() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/twice", "v1", &multi("a"));
    let child = &pushed.children[0];
    let broken = &child.layers[2].digest;
    world.upstream.fail_next(broken, 1000, &Failure::CutShort);
    let target = world.target("app/twice:v1");
    let wanted = platforms(&["linux/amd64"]);
    let error = world.puller().warm(&target, &wanted, &()).await.unwrap_err();
    assert!(matches!(error, PullError::Pull(_)), "{error}");
    world.upstream.clear_failures();

    let mut image = world.cached("app/twice:v1");
    world.live(&mut image, &world.context(), is_ready).await;
    let log = world.upstream.log();
    for blob in child.blobs().filter(|blob| blob.digest != *broken) {
        // Harbor asks twice for what it does not have: for the client, and for its store.
        assert!(gets(&log, &blob.digest) <= 2, "{} was fetched again", blob.digest);
    }

    world.upstream.clear_log();
    let again = world.puller().warm(&target, &wanted, &()).await.unwrap();
    assert_eq!(again.children[0].fetched, 0);
    let log = world.upstream.log();
    let refetched: Vec<_> = parts(&pushed, "amd64").into_iter().filter(|digest| gets(&log, digest) > 0).collect();
    assert!(refetched.is_empty(), "{refetched:?}");
    world.end().await;
}

#[tokio::test]
async fn a_tag_that_is_not_there_is_looked_for_again_and_again_and_found_when_it_comes() {
    let world = World::start().await;
    let mut image = world.cached("app/late:v1");
    let tried = |image: &CachedImage| image.status.as_ref().is_some_and(|status| status.attempts >= Some(2));
    let outcomes = world.live(&mut image, &world.context(), tried).await;
    assert_eq!(state(&image, ConditionType::Ready), "False/ImageNotFound");
    assert_eq!(state(&image, ConditionType::Stalled), "");
    let warnings = outcomes.iter().flat_map(|outcome| &outcome.notes).filter(|note| note.warning).count();
    assert_eq!(warnings, 1, "one event for one reason");
    world.upstream.push_image("app/late", "v1", &Image::single("linux", "amd64"));
    world.live(&mut image, &world.context(), is_ready).await;
    assert_eq!(image.status.unwrap().attempts, None);
    world.end().await;
}

#[tokio::test]
async fn an_image_is_not_ready_while_the_upstream_is_down_and_becomes_so_when_it_is_back() {
    let world = World::start().await;
    world.upstream.push_image("app/down", "v1", &multi("a"));
    world.upstream.set_down(true).await;
    let mut image = world.cached("app/down:v1");
    let failed = |image: &CachedImage| image.status.as_ref().is_some_and(|status| status.attempts.is_some());
    world.live(&mut image, &world.context(), failed).await;
    assert!(state(&image, ConditionType::Ready).starts_with("False/"));
    assert!(state(&image, ConditionType::Reconciling).starts_with("True/"));
    world.upstream.set_down(false).await;
    world.live(&mut image, &world.context(), is_ready).await;
    world.end().await;
}

#[tokio::test]
async fn an_image_with_wrong_bytes_is_never_ready() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/wrong", "v1", &multi("a"));
    world.upstream.fail_next(&pushed.children[0].layers[1].digest, 1000, &Failure::WrongBytes);
    let mut image = world.cached("app/wrong:v1");
    let tried = |image: &CachedImage| {
        assert!(!is_ready(image));
        image.status.as_ref().is_some_and(|status| status.attempts >= Some(3))
    };
    world.live(&mut image, &world.context(), tried).await;
    assert_eq!(state(&image, ConditionType::Ready), "False/PullFailed");
    world.upstream.clear_failures();
    world.live(&mut image, &world.context(), is_ready).await;
    world.end().await;
}

#[tokio::test]
async fn a_rate_limit_of_the_upstream_is_named_and_waited_out() {
    let world = World::start().await;
    world.upstream.push_image("app/limited", "v1", &Image::single("linux", "amd64"));
    world.upstream.fail_next("manifests", 1000, &Failure::TooManyRequests(Some(1)));
    let mut image = world.cached("app/limited:v1");
    let failed = |image: &CachedImage| image.status.as_ref().is_some_and(|status| status.attempts.is_some());
    world.live(&mut image, &world.context(), failed).await;
    assert_eq!(state(&image, ConditionType::Ready), "False/RateLimited");
    world.upstream.clear_failures();
    world.live(&mut image, &world.context(), is_ready).await;
    world.end().await;
}

#[tokio::test]
async fn moved_tag_is_pulled_again() {
    let world = World::start().await;
    world.upstream.push_image("app/moving", "latest", &multi("a"));
    let mut context = world.context();
    context.timing.refresh = Duration::from_secs(1);
    let mut image = world.cached("app/moving:latest");
    world.live(&mut image, &context, is_settled).await;
    let moved = world.upstream.push_image("app/moving", "latest", &multi("b"));
    let anew = |image: &CachedImage| image.status.as_ref().unwrap().digest.as_deref() == Some(moved.digest.as_str());
    world.live(&mut image, &context, anew).await;
    world.live(&mut image, &context, is_ready).await;
    for digest in parts(&moved, "amd64") {
        assert!(gets(&world.upstream.log(), &digest) >= 1);
    }
    world.end().await;
}

#[tokio::test]
async fn a_platform_without_a_child_is_named_and_the_others_are_warmed() {
    let world = World::start().await;
    world.upstream.push_image("app/few", "v1", &multi("a"));
    let context = world.context_for(&["linux/amd64", "linux/riscv64"]);
    let mut image = world.cached("app/few:v1");
    world.live(&mut image, &context, is_ready).await;
    let mut strict = world.cached("app/few:v1");
    strict.spec.platforms = platforms(&["linux/amd64", "linux/riscv64"]);
    let missing = |image: &CachedImage| state(image, ConditionType::Stalled) == "True/PlatformMissing";
    world.live(&mut strict, &context, missing).await;
    assert!(strict.status.unwrap().platforms[0].stored);
    let mut none = world.cached("app/few:v1");
    none.spec.platforms = platforms(&["linux/riscv64"]);
    let missing = |image: &CachedImage| state(image, ConditionType::Ready) == "False/PlatformMissing";
    world.live(&mut none, &context, missing).await;
    world.end().await;
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_project_have_different_reasons() {
    let world = World::start().await;
    world.upstream.push_image("app/private", "v1", &Image::single("linux", "amd64"));
    let mut endpoint = world.endpoint.clone();
    endpoint.credentials.as_mut().unwrap().password = secrecy::SecretString::from("wrong");
    let stranger = registry::Client::new(&endpoint).unwrap();
    let error = stranger.head(&format!("{}/app/private", world.project), "v1").await.unwrap_err();
    assert!(matches!(error, registry::Error::Unauthorized { .. }), "{error}");
    let own = registry::Client::new(&world.endpoint).unwrap();
    let error = own.head("pilot-test-nowhere/app/private", "v1").await.unwrap_err();
    assert!(matches!(error, registry::Error::ProjectNotFound { .. }), "{error}");
    world.end().await;
}

/// A world in which nothing can be warmed yet.
struct Nowhere(Result<Resolved, Unresolved>);

impl Environment for Nowhere {
    fn resolve(&self, _: &str) -> Result<Resolved, Unresolved> {
        self.0.clone()
    }

    fn cluster_platforms(&self) -> Option<Vec<Platform>> {
        None
    }
}

#[tokio::test]
async fn what_cannot_be_warmed_yet_says_why_and_asks_nothing_of_harbor() {
    let world = World::start().await;
    let resolved = Resolved {
        image: world.image("app/x:1"),
        proxy_project: "hub".to_owned(),
        platforms: Vec::new(),
        puller: world.puller(),
        harbor: world.client.clone(),
        allowance: world.allowance(),
        away: None,
    };
    let table = [
        (Err(Unresolved::InvalidImage("no".to_owned())), "False/InvalidImage", true),
        (Err(Unresolved::NotProxied("ghcr.io/x".to_owned())), "False/NotProxied", false),
        (Err(Unresolved::InstanceNotReady("default".to_owned())), "False/InstanceNotReady", false),
        (Ok(resolved), "False/PlatformsUnknown", false),
    ];
    for (found, ready, stalled) in table {
        let context = PrewarmContext::new(Arc::new(Nowhere(found)));
        let mut image = world.cached("app/x:1");
        let now = Timestamp::now();
        let first = reconcile(&image, &context, now).await;
        image.status = Some(first.status.clone());
        assert_eq!(state(&image, ConditionType::Ready), ready);
        assert_eq!(!state(&image, ConditionType::Stalled).is_empty(), stalled, "{ready}");
        // What waits for another resource comes by itself, and is no reason to warn.
        assert_eq!(first.notes[0].warning, stalled, "{ready}");
        assert!(first.requeue >= Duration::from_secs(10));
        let second = reconcile(&image, &context, now).await;
        assert_eq!((&second.status, second.notes.len()), (&first.status, 0), "{ready}");
    }
    if let Some(double) = &world.double {
        assert!(double.log().iter().all(|request| !request.path.starts_with("/v2")));
    }
    world.end().await;
}
