use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::{
    api::{
        CachedImageSpec, Platform,
        cached_image::{IndexState, Require},
    },
    prewarm::{
        puller::{AttestationError, Attestations, BlobFetches, PulledImage, PulledManifest},
        rate_limiter::RateRefusal,
        scan::ScanFindings,
        timing::PrewarmTiming,
        verify::{ListedArtifact, Presence, Verification},
    },
    reconcile::ReconcileError,
    registry::{Digest, RetryClass},
};

const IMAGE: &str = "h.example/hub/library/nginx:1.27";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn cached(require: Require) -> CachedImage {
    let spec =
        CachedImageSpec { image: "nginx:1.27".to_owned(), platforms: Vec::new(), require, refresh_interval: None };
    let mut cached = CachedImage::new("nginx", spec);
    cached.metadata.generation = Some(1);
    cached
}

fn setting(now: Timestamp, timing: &PrewarmTiming) -> EventContext<'_> {
    EventContext { image: IMAGE, proxy_project: "hub", pinned: false, missing: &[], now, jitter: 0.5, timing }
}

/// Applies one event at `second`, as the controller does; returns the requeue time in seconds.
fn live(cached: &mut CachedImage, second: i64, event: ImageEvent<'_>) -> u64 {
    let timing = PrewarmTiming::default();
    let next = next(cached, event, &setting(at(second), &timing));
    cached.status = Some(next.status);
    next.requeue.as_secs()
}

fn seen(cached: &CachedImage, second: i64) -> ImageAction {
    step(cached, IMAGE, at(second))
}

fn warmed(fetched: u32) -> PulledImage {
    let digest = Digest::of(b"child");
    let platform = Some("linux/amd64".parse().unwrap());
    let fetches = BlobFetches { touched: fetched, ..BlobFetches::default() };
    let child =
        PulledManifest { platform, digest, layers: 2, bytes: 3 << 20, fetched, fetches, refused: None, foreign: 0 };
    let children = vec![child];
    PulledImage {
        digest: Digest::of(b"index"),
        index_children: Some(2),
        attestations: Attestations::default(),
        nested: false,
        children,
        missing: Vec::new(),
    }
}

fn verdict(stored: bool, by_tag: Presence, by_digest: Presence) -> Verification {
    Verification {
        stored: vec![stored],
        index: None,
        artifact: None,
        by_tag: Some(by_tag),
        by_digest,
        refused: Vec::new(),
        scans: ScanFindings::default(),
    }
}

fn failure(reason: Reason, class: RetryClass) -> ReconcileError {
    ReconcileError::new(reason, "it did not work", class)
}

/// Ready as `status/reason`, and whether Reconciling and Stalled are set.
fn state(cached: &CachedImage) -> (String, bool, bool) {
    let list = &cached.status.as_ref().unwrap().conditions;
    let ready = condition::find(list, ConditionType::Ready).unwrap();
    let has = |kind| condition::is_true(list, kind);
    (format!("{}/{}", ready.status, ready.reason), has(ConditionType::Reconciling), has(ConditionType::Stalled))
}

fn offline(cached: &CachedImage, kind: ConditionType) -> String {
    let list = &cached.status.as_ref().unwrap().conditions;
    condition::find(list, kind).map(|found| format!("{}/{}", found.status, found.reason)).unwrap_or_default()
}

const TAGGED: Presence = Presence::Yes(Reason::Tagged);
const UNTAGGED: Presence = Presence::NotYet(Reason::Untagged);
const SAME: Presence = Presence::Yes(Reason::DigestStored);
const REWRITTEN: Presence = Presence::No(Reason::IndexDigestChanged);
const NOT_YET: Presence = Presence::NotYet(Reason::Verifying);

#[test]
fn an_image_goes_from_pending_to_ready_and_is_looked_after_from_then_on() {
    let mut image = cached(Require::Online);
    assert_eq!(seen(&image, 0), ImageAction::Begin);
    assert_eq!(live(&mut image, 0, ImageEvent::Begun("for linux/amd64")), 0);
    assert_eq!((state(&image), seen(&image, 0)), (("False/Pulling".to_owned(), true, false), ImageAction::Warm));
    assert_eq!(live(&mut image, 10, ImageEvent::Warmed(&warmed(3))), 20);
    assert_eq!((state(&image).0.as_str(), seen(&image, 30)), ("False/Verifying", ImageAction::Look));
    assert_eq!(live(&mut image, 30, ImageEvent::Looked(&verdict(false, UNTAGGED, NOT_YET))), 5);
    assert_eq!(state(&image).0, "False/Verifying");
    live(&mut image, 35, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
    assert_eq!(state(&image), ("True/Warm".to_owned(), false, false));
    assert!(matches!(seen(&image, 36), ImageAction::Idle(pause) if pause > Duration::from_secs(3000)));
    assert_eq!(seen(&image, 36 + 4200), ImageAction::Refresh);
}

#[test]
fn what_harbor_has_already_is_looked_at_without_waiting() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Begun(""));
    assert_eq!(live(&mut image, 1, ImageEvent::Warmed(&warmed(0))), 0);
}

#[test]
fn a_ready_image_waits_on_for_what_is_served_offline_and_then_it_is_decided() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(3)));
    let mut pauses = Vec::new();
    for second in [20, 60, 200, 400, 899] {
        pauses.push(live(&mut image, second, ImageEvent::Looked(&verdict(true, UNTAGGED, NOT_YET))));
        assert_eq!(state(&image).0, "True/Warm");
        assert_eq!(offline(&image, ConditionType::OfflineByTag), "Unknown/Untagged");
        assert_eq!(seen(&image, second), ImageAction::Look);
    }
    assert_eq!(pauses, [5, 15, 50, 60, 60]);
    assert!(live(&mut image, 900, ImageEvent::Looked(&verdict(true, UNTAGGED, NOT_YET))) > 3000);
    assert_eq!(offline(&image, ConditionType::OfflineByTag), "False/Untagged");
    assert_eq!(offline(&image, ConditionType::OfflineByDigest), "False/StoreTimeout");
    assert_eq!(state(&image).0, "True/Warm");
}

#[test]
fn ready_waits_for_what_the_spec_requires_and_stalls_when_it_can_never_be() {
    let table = [
        (Require::Online, 30, TAGGED, REWRITTEN, ("True/Warm", false, false)),
        (Require::OfflineByTag, 30, UNTAGGED, NOT_YET, ("False/Verifying", true, false)),
        (Require::OfflineByTag, 30, TAGGED, REWRITTEN, ("True/Warm", false, false)),
        (Require::OfflineByTag, 900, UNTAGGED, NOT_YET, ("False/Untagged", false, true)),
        (Require::OfflineByDigest, 30, TAGGED, REWRITTEN, ("False/Verifying", true, false)),
        (Require::OfflineByDigest, 60, TAGGED, REWRITTEN, ("False/IndexDigestChanged", false, true)),
        (Require::OfflineByDigest, 30, UNTAGGED, SAME, ("True/Warm", false, false)),
        (Require::OfflineByDigest, 900, TAGGED, NOT_YET, ("False/StoreTimeout", false, true)),
    ];
    for (require, second, by_tag, by_digest, (ready, reconciling, stalled)) in table {
        let mut image = cached(require);
        live(&mut image, 0, ImageEvent::Warmed(&warmed(1)));
        live(&mut image, second, ImageEvent::Looked(&verdict(true, by_tag, by_digest)));
        assert_eq!(
            state(&image),
            (ready.to_owned(), reconciling, stalled),
            "{require:?} {second} {by_tag:?} {by_digest:?}"
        );
    }
}

#[test]
fn a_pinned_image_has_no_tag_to_be_served_by() {
    let timing = PrewarmTiming::default();
    let mut image = cached(Require::OfflineByTag);
    for event in [
        ImageEvent::Warmed(&warmed(1)),
        ImageEvent::Looked(&Verification { by_tag: None, ..verdict(true, TAGGED, SAME) }),
    ] {
        image.status = Some(next(&image, event, &EventContext { pinned: true, ..setting(at(30), &timing) }).status);
        assert_eq!(offline(&image, ConditionType::OfflineByTag), "");
    }
    assert_eq!(state(&image), ("False/InvalidSpec".to_owned(), false, true));
}

#[test]
fn failures_are_tried_again_later_and_later_and_never_before_their_time() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Begun(""));
    let down = failure(Reason::HarborUnreachable, RetryClass::Retry);
    let mut now = 0;
    let mut pauses = Vec::new();
    for attempt in 1..=12 {
        let pause = live(&mut image, now, ImageEvent::Failed(&down));
        assert_eq!(image.status.as_ref().unwrap().attempts, Some(attempt));
        assert_eq!(state(&image), ("False/HarborUnreachable".to_owned(), true, false));
        assert!(matches!(seen(&image, now), ImageAction::Idle(_)));
        pauses.push(pause);
        now += i64::try_from(pause).unwrap() + 1;
        assert_eq!(seen(&image, now), ImageAction::Warm);
    }
    assert_eq!(pauses[..4], [10, 20, 40, 80]);
    assert!(pauses.iter().all(|pause| *pause <= 3600 * 5 / 4));
    live(&mut image, now, ImageEvent::Warmed(&warmed(1)));
    assert_eq!(image.status.as_ref().unwrap().attempts, None);
}

#[test]
fn a_named_wait_is_kept_and_a_person_is_asked_only_when_nothing_else_helps() {
    let table = [
        (RetryClass::Wait(Some(Duration::from_secs(600))), 600, false),
        (RetryClass::Wait(Some(Duration::ZERO)), 10, false),
        (RetryClass::Wait(None), 30, false),
        (RetryClass::Stalled, 3600, true),
    ];
    for (class, pause, stalled) in table {
        let mut image = cached(Require::Online);
        assert_eq!(live(&mut image, 0, ImageEvent::Failed(&failure(Reason::RateLimited, class))), pause, "{class:?}");
        assert_eq!(state(&image).2, stalled, "{class:?}");
    }
}

#[test]
fn jitter_spreads_the_pauses_around_their_mean() {
    let timing = PrewarmTiming::default();
    let pause = |jitter| {
        let setting = EventContext { jitter, ..setting(at(0), &timing) };
        next(&cached(Require::Online), ImageEvent::Failed(&failure(Reason::PullFailed, RetryClass::Retry)), &setting)
            .requeue
    };
    assert_eq!((pause(0.0), pause(1.0)), (Duration::from_millis(7500), Duration::from_millis(12_500)));
}

#[test]
fn what_harbor_does_not_store_in_time_is_pulled_again_after_a_minute_then_two_then_four() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(3)));
    let nothing = verdict(false, UNTAGGED, NOT_YET);
    assert!(live(&mut image, 59, ImageEvent::Looked(&nothing)) <= 60);
    assert_eq!(state(&image).0, "False/Verifying");
    assert_eq!(live(&mut image, 60, ImageEvent::Looked(&nothing)), 0, "at once");
    assert_eq!((state(&image).0.as_str(), seen(&image, 60)), ("False/Pulling", ImageAction::Warm));
    let mut now = 60;
    for (pull, bound) in [(2, 120), (3, 240), (4, 360), (5, 360)] {
        live(&mut image, now, ImageEvent::Warmed(&warmed(0)));
        live(&mut image, now + bound - 1, ImageEvent::Looked(&nothing));
        assert_eq!(state(&image).0, "False/Verifying", "pull {pull}");
        now += bound;
        now += i64::try_from(live(&mut image, now, ImageEvent::Looked(&nothing))).unwrap() + 1;
        assert_eq!(
            (state(&image).0.as_str(), seen(&image, now)),
            ("False/StoreTimeout", ImageAction::Warm),
            "pull {pull}"
        );
        let status = image.status.as_ref().unwrap();
        assert_eq!((status.attempts, status.unstored_pulls), (Some(pull), Some(pull)));
    }
    live(&mut image, now, ImageEvent::Warmed(&warmed(0)));
    live(&mut image, now + 20, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
    assert_eq!((state(&image).0.as_str(), image.status.as_ref().unwrap().unstored_pulls), ("True/Warm", None));
}

/// Harbor lists the image as `sha256:own` since `second`.
fn listed(index: IndexState, second: i64, by_tag: Presence, by_digest: Presence) -> Verification {
    let artifact = ListedArtifact { digest: "sha256:own".to_owned(), since: Some(at(second)) };
    Verification { index: Some(index), artifact: Some(artifact), ..verdict(true, by_tag, by_digest) }
}

#[test]
fn an_index_that_was_cached_before_its_tag_was_asked_for_is_said_to_need_its_digest_half_a_minute_later() {
    let message = |image: &CachedImage, kind| {
        condition::find(&image.status.as_ref().unwrap().conditions, kind).unwrap().message.clone()
    };
    for (require, ready) in [(Require::Online, "True/Warm"), (Require::OfflineByTag, "False/PullByDigest")] {
        let mut image = cached(require);
        live(&mut image, 1000, ImageEvent::Warmed(&warmed(0)));
        let found = listed(IndexState::Complete, 0, UNTAGGED, SAME);
        live(&mut image, 1020, ImageEvent::Looked(&found));
        assert_eq!(offline(&image, ConditionType::OfflineByTag), "Unknown/Untagged", "Harbor tags 10 s after HEAD");
        let pause = live(&mut image, 1030, ImageEvent::Looked(&found));
        assert_eq!((state(&image).0.as_str(), pause), (ready, 60), "once more, for clocks differ");
        assert_eq!(offline(&image, ConditionType::OfflineByTag), "False/PullByDigest");
        assert_eq!(offline(&image, ConditionType::OfflineByDigest), "True/DigestStored");
        let said = message(&image, ConditionType::OfflineByTag);
        assert!(said.contains("pull by digest: h.example/hub/library/nginx@sha256:own"), "{said}");
    }
    // An index that Harbor stored only just now may still get its tag.
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(0)));
    live(&mut image, 60, ImageEvent::Looked(&listed(IndexState::Complete, 45, UNTAGGED, SAME)));
    assert_eq!(offline(&image, ConditionType::OfflineByTag), "Unknown/Untagged");
}

#[test]
fn what_a_manifest_says_of_offline_pulls_is_said_with_the_pull() {
    let mut nested = cached(Require::Online);
    live(&mut nested, 0, ImageEvent::Warmed(&PulledImage { nested: true, ..warmed(1) }));
    for kind in [ConditionType::OfflineByTag, ConditionType::OfflineByDigest] {
        assert_eq!(offline(&nested, kind), "False/NestedIndex");
    }
    let never = Presence::No(Reason::NestedIndex);
    let nothing = Verification { index: Some(IndexState::Nested), ..verdict(true, never, never) };
    assert!(live(&mut nested, 20, ImageEvent::Looked(&nothing)) < 60, "Harbor may store both indexes");
    assert_eq!(state(&nested).0, "True/Warm");
    assert!(live(&mut nested, 120, ImageEvent::Looked(&nothing)) > 3000);

    let mut foreign = cached(Require::Online);
    let mut pulled = warmed(1);
    pulled.children[0].foreign = 1;
    live(&mut foreign, 0, ImageEvent::Warmed(&pulled));
    assert_eq!(offline(&foreign, ConditionType::OfflineByTag), "False/ForeignLayer");
    assert!(live(&mut foreign, 20, ImageEvent::Looked(&verdict(false, UNTAGGED, NOT_YET))) > 3000);
    assert_eq!(state(&foreign), ("False/ForeignLayer".to_owned(), false, true));
}

#[test]
fn attestations_are_counted_apart_from_platforms() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(1)));
    assert_eq!(image.status.as_ref().unwrap().attestations, None);
    let attestations =
        Attestations { found: 4, fetched: 3, failed: Some(AttestationError::TooLarge), ..Attestations::default() };
    live(&mut image, 0, ImageEvent::Warmed(&PulledImage { attestations, ..warmed(1) }));
    let status = image.status.unwrap();
    let counted = status.attestations.unwrap();
    assert_eq!((status.platforms.len(), counted.found, counted.fetched), (1, 4, 3));
    assert!(counted.message.unwrap().contains("64 MiB"));
}

#[test]
fn an_image_that_harbor_lost_is_warmed_again() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(3)));
    live(&mut image, 1000, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
    assert_eq!(live(&mut image, 9000, ImageEvent::Looked(&verdict(false, UNTAGGED, NOT_YET))), 0);
    assert_eq!((state(&image).0.as_str(), seen(&image, 9000)), ("False/Pulling", ImageAction::Warm));
}

#[test]
fn a_harbor_that_cannot_be_looked_at_does_not_make_a_ready_image_unready() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(3)));
    let down = failure(Reason::HarborUnreachable, RetryClass::Retry);
    assert_eq!(live(&mut image, 30, ImageEvent::LookFailed(&down)), 60);
    assert_eq!((state(&image).0.as_str(), seen(&image, 31)), ("False/HarborUnreachable", ImageAction::Look));
    live(&mut image, 1000, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
    let limited = failure(Reason::RateLimited, RetryClass::Wait(Some(Duration::from_secs(500))));
    assert_eq!(live(&mut image, 4000, ImageEvent::LookFailed(&limited)), 500);
    assert_eq!(live(&mut image, 5000, ImageEvent::LookFailed(&down)), 60);
    assert_eq!(state(&image).0, "True/Warm");
    let blocked = failure(Reason::PullBlocked, RetryClass::Wait(None));
    live(&mut image, 6000, ImageEvent::LookFailed(&blocked));
    assert_eq!(state(&image).0, "False/PullBlocked");
}

#[test]
fn an_image_that_is_verified_says_on_that_harbor_does_not_answer_while_it_is_left_alone() {
    let mut cached = cached(Require::Online);
    live(&mut cached, 0, ImageEvent::Begun("x"));
    live(&mut cached, 1, ImageEvent::Warmed(&warmed(1)));
    live(&mut cached, 21, ImageEvent::LookFailed(&failure(Reason::HarborUnreachable, RetryClass::Retry)));
    let reported = cached.status.clone();
    live(&mut cached, 30, ImageEvent::Away("Harbor did not answer"));
    assert_eq!(cached.status, reported);
    assert_eq!(state(&cached), ("False/HarborUnreachable".to_owned(), true, false));
    assert_eq!(seen(&cached, 60), ImageAction::Look, "what was pulled is not pulled again");
    live(&mut cached, 60, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
    assert_eq!(state(&cached).0, "True/Warm");
}

#[test]
fn state_machine_restarts_on_a_changed_spec_or_mapping_and_continues_after_a_restart() {
    let mut image = cached(Require::Online);
    live(&mut image, 0, ImageEvent::Warmed(&warmed(3)));
    live(&mut image, 1000, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
    let restarted = image.clone();
    assert!(matches!(seen(&restarted, 1001), ImageAction::Idle(_)));
    assert_eq!(step(&image, "h.example/other/library/nginx:1.27", at(1001)), ImageAction::Begin);
    image.metadata.generation = Some(2);
    assert_eq!(seen(&image, 1001), ImageAction::Begin);
}

#[test]
fn a_platform_that_the_user_listed_must_be_there_and_one_of_the_cluster_need_not() {
    let timing = PrewarmTiming::default();
    let absent: [Platform; 1] = ["linux/s390x".parse().unwrap()];
    for (listed, ready, message) in
        [(true, "False/PlatformMissing", "linux/s390x"), (false, "True/Warm", "no child for linux/s390x")]
    {
        let mut image = cached(Require::Online);
        if listed {
            image.spec.platforms = absent.to_vec();
        }
        live(&mut image, 0, ImageEvent::Warmed(&warmed(1)));
        let setting = EventContext { missing: &absent, ..setting(at(30), &timing) };
        image.status = Some(next(&image, ImageEvent::Looked(&verdict(true, TAGGED, SAME)), &setting).status);
        assert_eq!(state(&image).0, ready);
        let list = &image.status.as_ref().unwrap().conditions;
        assert!(condition::find(list, ConditionType::Ready).unwrap().message.contains(message));
    }
}

#[test]
fn what_is_left_to_harbor_is_looked_at_when_harbor_has_fetched_it_and_given_the_time_for_that() {
    let timing = PrewarmTiming::default().left_to_harbor();
    let mut image = cached(Require::Online);
    let left = |mut warmed: PulledImage| {
        warmed.children[0].fetches = BlobFetches { left: 3, ..BlobFetches::default() };
        warmed
    };
    let mut live = |second, event: ImageEvent<'_>| {
        let next = next(&image, event, &setting(at(second), &timing));
        image.status = Some(next.status);
        (next.requeue.as_secs(), state(&image).0)
    };
    live(0, ImageEvent::Begun("for linux/amd64"));
    assert_eq!(live(10, ImageEvent::Warmed(&left(warmed(0)))), (205, "False/Verifying".to_owned()));
    assert_eq!(live(500, ImageEvent::Looked(&verdict(false, UNTAGGED, NOT_YET))).1, "False/Verifying");
    assert_eq!(live(1100, ImageEvent::Looked(&verdict(false, UNTAGGED, NOT_YET))).1, "False/Pulling");
}

#[test]
fn pulled_message_describes_how_blobs_were_fetched() {
    let message = |change: &dyn Fn(&mut PulledImage)| {
        let (mut image, mut pulled) = (cached(Require::Online), warmed(3));
        change(&mut pulled);
        live(&mut image, 0, ImageEvent::Begun(""));
        live(&mut image, 10, ImageEvent::Warmed(&pulled));
        condition::find(&image.status.unwrap().conditions, ConditionType::Ready).unwrap().message.clone()
    };
    assert!(message(&|_| ()).contains("3 blobs fetched"));
    let slow = message(&|warmed| {
        warmed.children[0].fetches = BlobFetches { touched: 1, streamed: 1, fell_back: 1, ..BlobFetches::default() }
    });
    assert!(slow.contains("2 blobs fetched") && slow.contains("1 blob not stored in time"), "{slow}");
    assert!(
        message(&|warmed| warmed.attestations = Attestations { found: 3, fetched: 2, ..Attestations::default() })
            .contains("also 2 of 3 attestations fetched")
    );
    let left = message(&|warmed| warmed.children[0].fetches = BlobFetches { left: 4, ..BlobFetches::default() });
    assert!(left.contains("4 blobs not requested"), "{left}");
}

#[test]
fn blocked_image_has_the_reason_of_its_scan() {
    use crate::api::{ScanState, ScanStatus};
    let open = "current image without vulnerability scanning cannot be pulled due to configured policy in 'Prevent images with \
                vulnerability severity of \"High\" or higher from running.'";
    let bad = "current image with 2 vulnerabilities cannot be pulled due to configured policy in 'Prevent images with \
               vulnerability severity of \"High\" or higher from running.'";
    let table = [
        (open, ScanState::Unscanned, "NotScanned", false),
        (open, ScanState::Scanning, "Scanning", false),
        (open, ScanState::Failed, "ScanFailed", false),
        (open, ScanState::NoScanner, "NoScanner", true),
        (bad, ScanState::Scanned, "VulnerabilitiesFound", true),
        ("The image is not signed.", ScanState::Scanned, "PullBlocked", true),
    ];
    for (refusal, scan, reason, stalled) in table {
        let mut image = cached(Require::Online);
        live(&mut image, 0, ImageEvent::Begun("x"));
        live(&mut image, 10, ImageEvent::Warmed(&warmed(2)));
        let each = vec![Some(ScanStatus { state: scan, ..ScanStatus::default() })];
        let again = (scan == ScanState::Scanning).then(|| Duration::from_secs(7));
        let scans = ScanFindings { each, waits: again.is_some(), again };
        let refused = vec![Some(refusal.to_owned())];
        let requeue = live(
            &mut image,
            40,
            ImageEvent::Looked(&Verification { refused, scans, ..verdict(false, UNTAGGED, SAME) }),
        );
        let conditions = &image.status.as_ref().unwrap().conditions;
        let blocked = condition::find(conditions, ConditionType::PullBlocked).unwrap();
        assert_eq!((blocked.status.as_str(), blocked.reason.as_str()), ("True", reason));
        let (ready, reconciling, is_stalled) = state(&image);
        assert_eq!((ready, reconciling, is_stalled), (format!("False/{reason}"), !stalled, stalled), "{reason}");
        assert_eq!(requeue, if stalled { 3600 } else { 7 }, "{reason}");
        // Once allowed, the image looks as if it had never been blocked.
        live(&mut image, 60, ImageEvent::Looked(&verdict(true, TAGGED, SAME)));
        let conditions = &image.status.as_ref().unwrap().conditions;
        assert!(condition::find(conditions, ConditionType::PullBlocked).is_none(), "{reason}");
        assert_eq!(state(&image).0, "True/Warm", "{reason}");
    }
}

/// An event, owned.
#[derive(Debug, Clone)]
enum AnyEvent {
    Begun,
    Warmed(PulledImage),
    Failed(ReconcileError),
    Deferred(RateRefusal),
    Away,
    Looked(Verification),
    LookFailed(ReconcileError),
}

impl AnyEvent {
    fn event(&self) -> ImageEvent<'_> {
        match self {
            Self::Begun => ImageEvent::Begun("for linux/amd64"),
            Self::Warmed(warmed) => ImageEvent::Warmed(warmed),
            Self::Failed(failure) => ImageEvent::Failed(failure),
            Self::Deferred(refused) => ImageEvent::Deferred(refused),
            Self::Away => ImageEvent::Away("Harbor did not answer"),
            Self::Looked(verdict) => ImageEvent::Looked(verdict),
            Self::LookFailed(failure) => ImageEvent::LookFailed(failure),
        }
    }
}

fn any_failure() -> impl Strategy<Value = ReconcileError> {
    let reasons = prop::sample::select(vec![
        Reason::HarborUnreachable,
        Reason::HarborUnauthorized,
        Reason::ImageNotFound,
        Reason::InstanceNotReady,
        Reason::NotScanned,
        Reason::PlatformsUnknown,
        Reason::PullBlocked,
        Reason::PullFailed,
        Reason::RateLimited,
        Reason::UpstreamUnhealthy,
        Reason::VulnerabilitiesFound,
    ]);
    let classes = prop::sample::select(vec![
        RetryClass::Retry,
        RetryClass::Wait(None),
        RetryClass::Wait(Some(Duration::from_secs(500))),
        RetryClass::Stalled,
    ]);
    (reasons, classes).prop_map(|(reason, class)| failure(reason, class))
}

fn any_verification() -> impl Strategy<Value = Verification> {
    let by_tag = prop::sample::select(vec![
        None,
        Some(TAGGED),
        Some(UNTAGGED),
        Some(Presence::No(Reason::NestedIndex)),
        Some(Presence::No(Reason::PullByDigest)),
    ]);
    let by_digest = prop::sample::select(vec![SAME, REWRITTEN, NOT_YET]);
    let refused = prop::sample::select(vec![
        None,
        Some("The image is not signed.".to_owned()),
        Some("current image without vulnerability scanning cannot be pulled due to configured policy".to_owned()),
    ]);
    let again = prop::option::of((1_u64..600).prop_map(Duration::from_secs));
    (any::<bool>(), by_tag, by_digest, refused, any::<bool>(), again).prop_map(
        |(stored, by_tag, by_digest, refused, waits, again)| Verification {
            by_tag,
            refused: vec![refused],
            scans: ScanFindings { each: vec![None], waits, again },
            ..verdict(stored, UNTAGGED, by_digest)
        },
    )
}

fn any_event() -> impl Strategy<Value = AnyEvent> {
    let pulled = (0_u32..3, any::<bool>(), 0_u32..2).prop_map(|(fetched, nested, foreign)| {
        let mut pulled = PulledImage { nested, ..warmed(fetched) };
        pulled.children[0].foreign = foreign;
        pulled
    });
    let refusals = (any::<bool>(), 0_i64..4000).prop_map(|(limited, second)| {
        let until = at(second);
        if limited { RateRefusal::Paused { until } } else { RateRefusal::Silent { until } }
    });
    prop_oneof![
        Just(AnyEvent::Begun),
        pulled.prop_map(AnyEvent::Warmed),
        any_failure().prop_map(AnyEvent::Failed),
        refusals.prop_map(AnyEvent::Deferred),
        Just(AnyEvent::Away),
        any_verification().prop_map(AnyEvent::Looked),
        any_failure().prop_map(AnyEvent::LookFailed),
    ]
}

fn any_image() -> impl Strategy<Value = CachedImage> {
    prop::sample::select(vec![Require::Online, Require::OfflineByTag, Require::OfflineByDigest]).prop_map(cached)
}

/// The phases that may follow an event.
fn follows(before: Phase, event: &AnyEvent, after: Phase) -> bool {
    use Phase::{BackingOff, Deferred, Pending, Pulling, Settled, Verifying};
    match (before, event) {
        (_, AnyEvent::Begun) => after == Pulling,
        (_, AnyEvent::Warmed(_)) => after == Verifying,
        (_, AnyEvent::Failed(_)) => matches!(after, BackingOff { attempts, .. } if attempts == before.attempts() + 1),
        (BackingOff { attempts, .. }, AnyEvent::Deferred(_)) => {
            matches!(after, BackingOff { attempts: kept, .. } if kept == attempts)
        }
        (_, AnyEvent::Deferred(_)) => matches!(after, Deferred { by: DeferredBy::Upstream, .. }) || after == before,
        (Pending | Pulling | Deferred { .. }, AnyEvent::Away) => {
            matches!(after, Deferred { by: DeferredBy::Harbor, .. })
        }
        (BackingOff { .. } | Verifying | Settled { .. }, AnyEvent::Away) => after == before,
        (Verifying | Settled { .. }, AnyEvent::Looked(_)) => {
            matches!(after, Pulling | Verifying | Settled { .. } | BackingOff { .. })
        }
        (Verifying | Settled { .. }, AnyEvent::LookFailed(_)) => {
            matches!(after, Verifying | Settled { .. } | BackingOff { .. })
        }
        (Pending | Pulling | Deferred { .. } | BackingOff { .. }, AnyEvent::Looked(_) | AnyEvent::LookFailed(_)) => {
            after == before
        }
    }
}

proptest! {
    #[test]
    fn each_event_in_each_phase_leads_to_a_phase_that_the_status_shows(
        mut image in any_image(),
        events in prop::collection::vec((any_event(), 0_i64..4000), 1..12),
        jitter in 0.0..1.0,
    ) {
        let timing = PrewarmTiming::default();
        let mut second = 0;
        for (event, passed) in &events {
            second += passed;
            let before = Phase::of(image.status.as_ref().unwrap_or(&CachedImageStatus::default()));
            let setting = EventContext { jitter, ..setting(at(second), &timing) };
            let (result, entered) = transition(&image, event.event(), &setting);
            prop_assert_eq!(Phase::of(&result.status), entered, "{:?} in {:?}", event, before);
            prop_assert!(follows(before, event, entered), "{event:?} in {before:?} led to {entered:?}");
            prop_assert!(result.requeue <= timing.backoff_max * 5 / 4);
            image.status = Some(result.status);
            // A step is due in every phase, at the latest when the phase ends.
            let late = entered.until().unwrap_or(at(second)).max(at(second));
            let action = step(&image, IMAGE, late);
            prop_assert!(!matches!(action, ImageAction::Idle(_)), "{entered:?} ends, and is idle");
        }
    }

    #[test]
    fn a_recorded_phase_reads_back(second in 0_i64..1_000_000, attempts in 1_u32..1000) {
        let pulled = CachedImageStatus {
            warmed_at: Some(Time(at(0))), digest: Some("sha256:a".to_owned()), ..CachedImageStatus::default()
        };
        let until = at(second);
        let table = [
            (Phase::Pending, None, &CachedImageStatus::default()),
            (Phase::Pulling, Some(Reason::Pulling), &CachedImageStatus::default()),
            (Phase::Pulling, Some(Reason::Pulling), &pulled),
            (Phase::Deferred { by: DeferredBy::Upstream, until: Some(until) }, Some(Reason::RateLimited), &pulled),
            (Phase::Deferred { by: DeferredBy::Harbor, until: None }, Some(Reason::InstanceNotReady), &pulled),
            (Phase::BackingOff { attempts, until }, Some(Reason::RateLimited), &pulled),
            (Phase::Verifying, Some(Reason::Warm), &pulled),
            (Phase::Settled { until }, Some(Reason::Warm), &pulled),
        ];
        for (phase, reason, status) in table {
            let mut status = status.clone();
            if let Some(reason) = reason {
                let mut conditions = Conditions::from_status(&[], Some(1), at(0));
                conditions.progressing(reason, "why");
                status.conditions = conditions.into_list();
            }
            phase.record(&mut status);
            prop_assert_eq!(Phase::of(&status), phase);
        }
    }
}
