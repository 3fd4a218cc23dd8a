//! Scans of what is warm: read back, asked for, and what Harbor refuses because of them.

use std::time::Duration;

use harbor_double::Image;
use harbor_pilot::{
    api::{CachedImage, ConditionType, ScanState, ScanStatus},
    prewarm::ScanTerms,
};
use serde_json::{Value, json};

use crate::world::{World, is_ready, is_settled, multi, state};

/// A project that lets nobody pull what is as bad as this.
fn blocking(severity: &str, auto_scan: bool) -> Value {
    json!({"public": "false", "prevent_vul": "true", "severity": severity, "auto_scan": auto_scan.to_string()})
}

const WANTED: ScanTerms = ScanTerms { wanted: true, blocks: false, max_age: None };
const BLOCKING: ScanTerms = ScanTerms { wanted: true, blocks: true, max_age: None };

fn scan(image: &CachedImage) -> ScanStatus {
    image.status.as_ref().and_then(|status| status.scan.clone()).unwrap_or_default()
}

fn is_scanned(image: &CachedImage) -> bool {
    scan(image).state == ScanState::Scanned
}

fn blocked(image: &CachedImage) -> String {
    state(image, ConditionType::PullBlocked)
}

/// How often Harbor was asked to scan.
fn requests(world: &World) -> Option<usize> {
    let log = world.double.as_ref()?.log();
    Some(log.iter().filter(|request| request.method == "POST" && request.path.ends_with("/scan")).count())
}

#[tokio::test]
async fn scan_result_is_in_status_for_each_manifest_and_the_worst_for_the_image() {
    let world = World::with(json!({"public": "false"}), true).await;
    let pushed = world.upstream.push_image("app/multi", "v1", &multi("scans"));
    let [amd, arm] = ["amd64", "arm64"].map(|architecture| {
        let child = pushed.children.iter().find(|child| child.platform.architecture == architecture);
        child.unwrap().digest.clone()
    });
    world.set_report(&arm, &["Critical", "Low"]);
    let context = world.context_with(&["linux/amd64", "linux/arm64"], WANTED);
    let mut image = world.cached("app/multi:v1");
    world.live(&mut image, &context, is_scanned).await;
    world.live(&mut image, &context, is_ready).await;
    let status = image.status.clone().unwrap();
    let shown = |scan: &ScanStatus| (scan.severity.clone().unwrap(), scan.total, scan.fixable.is_some());
    let each: Vec<_> = status.platforms.iter().map(|child| shown(child.scan.as_ref().unwrap())).collect();
    assert_eq!(each, [("None".to_owned(), Some(0), true), ("Critical".to_owned(), Some(2), true)]);
    let worst = scan(&image);
    assert_eq!((shown(&worst), worst.digest.as_ref()), (("Critical".to_owned(), Some(2), true), Some(&arm)));
    assert!(worst.scanned_at.is_some() && status.platforms[0].digest == amd);
    assert_eq!(blocked(&image), "", "the project blocks nothing");
    if let Some(requests) = requests(&world) {
        assert_eq!(requests, 2, "each child is asked for once");
    }
    world.end().await;
}

#[tokio::test]
async fn scan_is_not_requested_without_a_policy_that_uses_scans() {
    let world = World::with(json!({"public": "false"}), true).await;
    world.upstream.push_image("app/single", "v1", &Image::single("linux", "amd64").seed("unasked"));
    let mut image = world.cached("app/single:v1");
    world.live(&mut image, &world.context(), is_ready).await;
    assert_eq!(scan(&image).state, ScanState::Unscanned);
    assert!(requests(&world).is_none_or(|requests| requests == 0));
    world.end().await;
}

#[tokio::test]
async fn a_clean_index_in_a_blocking_project_is_ready_once_its_children_are_scanned_and_can_be_pulled() {
    let world = World::with(blocking("high", true), true).await;
    let pushed = world.upstream.push_image("app/clean", "v1", &multi("clean"));
    let context = world.context_with(&["linux/amd64", "linux/arm64"], BLOCKING);
    let mut image = world.cached("app/clean:v1");
    let outcomes = world.live(&mut image, &context, is_ready).await;
    assert_eq!((blocked(&image).as_str(), scan(&image).state), ("", ScanState::Scanned));
    let client = harbor_pilot::registry::Client::new(&world.endpoint).unwrap();
    for child in pushed.children.iter().filter(|child| ["amd64", "arm64"].contains(&&*child.platform.architecture)) {
        client.manifest(&format!("{}/app/clean", world.project), &child.digest).await.unwrap();
    }
    let warnings: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.notes).filter(|note| note.warning).collect();
    assert!(warnings.is_empty(), "that it is scanned first is no reason to warn: {warnings:?}");
    world.end().await;
}

#[tokio::test]
async fn a_bad_image_in_a_blocking_project_is_blocked_and_never_ready_until_its_vulnerabilities_may_pass() {
    let world = World::with(blocking("high", false), true).await;
    let pushed = world.upstream.push_image("app/bad", "v1", &Image::single("linux", "amd64").seed("bad"));
    world.set_report(&pushed.digest, &["Critical", "Low"]);
    let mut context = world.context_with(&["linux/amd64"], BLOCKING);
    context.timing.refresh = Duration::from_secs(2);
    let mut image = world.cached("app/bad:v1");
    let found = |image: &CachedImage| blocked(image) == "True/VulnerabilitiesFound";
    let outcomes = world.live(&mut image, &context, found).await;
    assert_eq!(state(&image, ConditionType::Stalled), "True/VulnerabilitiesFound");
    assert_eq!(state(&image, ConditionType::Ready), "False/VulnerabilitiesFound");
    let status = image.status.clone().unwrap();
    let reported = &status.conditions.iter().find(|condition| condition.type_ == "PullBlocked").unwrap().message;
    let expected =
        "unknown: 2 vulnerabilities, 2 of them fixable, the worst Critical. Use a fixed image, or allow these";
    assert!(reported.contains(expected), "{reported}");
    let warnings = outcomes.iter().flat_map(|outcome| &outcome.notes).filter(|note| note.warning).count();
    assert_eq!(warnings, 1, "told once");
    for outcome in &outcomes {
        let ready = outcome.status.conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
        assert!(!ready, "{outcome:?}");
    }

    // Another look changes nothing, and says nothing.
    let again = world.live_for(&mut image, &context, 2).await;
    assert!(found(&image) && again.iter().all(|outcome| outcome.notes.is_empty()), "{again:?}");

    let list = json!({"metadata": {"reuse_sys_cve_allowlist": "false"}, "cve_allowlist": {"items": [{"cve_id": "CVE-2026-0"}]}});
    assert_eq!(world.api("PUT", &format!("/projects/{}", world.project), Some(list)).await, 200);
    world.live(&mut image, &context, is_ready).await;
    assert_eq!((blocked(&image).as_str(), scan(&image).severity.as_deref()), ("", Some("Critical")));
    world.end().await;
}

#[tokio::test]
async fn a_scan_that_failed_is_asked_for_again_after_a_pause() {
    let world = World::with(blocking("high", false), true).await;
    let pushed = world.upstream.push_image("app/fails", "v1", &Image::single("linux", "amd64").seed("fails"));
    world.fail_next_scan(&pushed.digest);
    let mut context = world.context_with(&["linux/amd64"], BLOCKING);
    // Longer than a scan takes, so that the failure is seen before the next request.
    context.timing.backoff = Duration::from_secs(if world.double.is_some() { 4 } else { 30 });
    let mut image = world.cached("app/fails:v1");
    let failed = |image: &CachedImage| scan(image).state == ScanState::Failed;
    world.live(&mut image, &context, failed).await;
    assert_eq!(blocked(&image), "True/ScanFailed");
    assert_eq!(state(&image, ConditionType::Stalled), "");
    world.live(&mut image, &context, is_ready).await;
    assert!(is_scanned(&image) && blocked(&image).is_empty());
    assert!(requests(&world).is_none_or(|requests| requests == 2));
    world.end().await;
}

#[tokio::test]
async fn without_a_scanner_harbor_blocks_nothing_and_is_not_asked_again_and_again() {
    let world = World::with(blocking("low", true), false).await;
    world.upstream.push_image("app/free", "v1", &Image::single("linux", "amd64").seed("free"));
    let mut context = world.context_with(&["linux/amd64"], BLOCKING);
    context.timing.refresh = Duration::from_secs(1);
    let mut image = world.cached("app/free:v1");
    world.live(&mut image, &context, is_ready).await;
    world.live_for(&mut image, &context, 2).await;
    let scan = scan(&image);
    assert_eq!((scan.state, blocked(&image).as_str()), (ScanState::NoScanner, ""));
    assert!(scan.message.clone().unwrap().contains("configure a scanner in Harbor"), "{scan:?}");
    assert!(requests(&world).is_none_or(|requests| requests == 1));
    world.end().await;
}

#[tokio::test]
async fn an_image_that_is_blocked_already_when_it_is_warmed_is_scanned_and_then_warmed() {
    let world = World::with(blocking("high", false), true).await;
    world.upstream.push_image("app/early", "v1", &Image::single("linux", "amd64").seed("early"));
    // Somebody else pulled it through Harbor, which nobody scans.
    let path = format!("{}/app/early", world.project);
    let puller = world.puller();
    puller.warm(&world.target("app/early:v1"), &[], &()).await.unwrap();
    let client = puller.client();
    let refused =
        async || matches!(client.head(&path, "v1").await, Err(harbor_pilot::registry::Error::PolicyBlocked { .. }));
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while !refused().await {
        assert!(std::time::Instant::now() < end, "Harbor goes on serving it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let context = world.context_with(&["linux/amd64"], BLOCKING);
    let mut image = world.cached("app/early:v1");
    let outcomes = world.live(&mut image, &context, is_ready).await;
    let waited = outcomes.iter().any(|outcome| {
        outcome.status.conditions.iter().any(|one| one.type_ == "PullBlocked" && one.reason == "Scanning")
    });
    assert!(waited && is_scanned(&image), "{outcomes:#?}");
    world.end().await;
}

#[tokio::test]
async fn a_verdict_is_renewed_at_half_of_the_age_that_policies_allow() {
    let world = World::with(json!({"public": "false"}), true).await;
    world.upstream.push_image("app/old", "v1", &Image::single("linux", "amd64").seed("old"));
    let terms = ScanTerms { max_age: Some(Duration::from_secs(6)), ..WANTED };
    let context = world.context_with(&["linux/amd64"], terms);
    let mut image = world.cached("app/old:v1");
    world.live(&mut image, &context, is_scanned).await;
    let first = scan(&image).scanned_at.unwrap();
    let renewed = |image: &CachedImage| is_scanned(image) && scan(image).scanned_at.unwrap().0 > first.0;
    let outcomes = world.live(&mut image, &context, renewed).await;
    for outcome in outcomes {
        let scan = outcome.status.scan.unwrap();
        assert!(scan.scanned_at.is_some(), "the old verdict stands until there is a new one: {scan:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn blocked_platform_does_not_block_the_other_platforms() {
    let world = World::with(blocking("high", true), true).await;
    let pushed = world.upstream.push_image("app/half", "v1", &multi("half"));
    let amd = pushed.children.iter().find(|child| child.platform.architecture == "amd64").unwrap();
    world.set_report(&amd.digest, &["Critical", "Low"]);
    let bad = |image: &CachedImage| blocked(image) == "True/VulnerabilitiesFound" && is_settled(image);
    let mut first = world.cached("app/half:v1");
    world.live(&mut first, &world.context_with(&["linux/amd64"], BLOCKING), bad).await;

    // From here on no pull gets through for amd64: neither one for a further platform, nor one from the start.
    let context = world.context_with(&["linux/amd64", "linux/arm64"], BLOCKING);
    for mut image in [first, world.cached("app/half:v1")] {
        let both = |image: &CachedImage| bad(image) && image.status.as_ref().unwrap().platforms.len() == 2;
        world.live(&mut image, &context, both).await;
        let stored = |at: usize| {
            let child = &image.status.as_ref().unwrap().platforms[at];
            (child.platform.clone(), child.stored && child.bytes > 241_000)
        };
        assert_eq!(stored(1), ("linux/arm64".to_owned(), true), "{:#?}", image.status);
        assert_eq!(stored(0).0, "linux/amd64");
        assert_eq!(state(&image, ConditionType::Ready), "False/VulnerabilitiesFound");
        let status = image.status.as_ref().unwrap();
        let reported = &status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message;
        assert!(reported.contains("refuses to serve linux/amd64: 2 vuln") && !reported.contains("arm64"), "{reported}");
    }
    world.end().await;
}

/// A registry that refuses to say what a tag points to (412), and serves its index.
async fn refuses_head_alone() -> String {
    use axum::{
        Router,
        http::{Method, StatusCode, Uri},
        response::IntoResponse,
    };
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []});
    let answer = async move |method: Method, uri: Uri| match (method, uri.path()) {
        (_, "/v2/") => StatusCode::OK.into_response(),
        (Method::HEAD, _) => StatusCode::PRECONDITION_FAILED.into_response(),
        _ => ([("content-type", "application/vnd.oci.image.index.v1+json")], index.to_string()).into_response(),
    };
    let router = Router::new().fallback(answer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn what_is_let_through_by_the_time_that_it_is_asked_why_not_is_tried_again_soon() {
    let world = World::start().await;
    let context = world.elsewhere(&refuses_head_alone().await);
    let mut image = world.cached("app/race:v1");
    let tried = |image: &CachedImage| image.status.as_ref().is_some_and(|status| status.attempts >= Some(1));
    let outcomes = world.live(&mut image, &context, tried).await;
    assert_eq!(state(&image, ConditionType::Ready), "False/PullFailed", "{:#?}", image.status);
    assert_eq!((state(&image, ConditionType::Stalled), blocked(&image)), (String::new(), String::new()));
    assert!(outcomes.last().unwrap().requeue < Duration::from_secs(20));
    world.end().await;
}
