use serde_json::{Value, json};

use super::*;
use crate::api::ImagePolicy;
use crate::policy::{ForeignReason, JudgedImage, Policies, PolicyResult, ScanEvidence};
use crate::rewrite::PodScope;

const HOUR: i64 = 3600;
const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

/// Returns the scan of a manifest: a state, or a severity and its age in hours.
fn scan(severity: &str, hours: i64) -> Value {
    match severity {
        "Scanning" | "Unscanned" | "Failed" | "NoScanner" => json!({"state": severity}),
        _ => {
            let scanned_at = at(NOW - hours * HOUR).to_string();
            json!({"state": "Scanned", "severity": severity, "total": 3, "fixable": 2, "scannedAt": scanned_at})
        }
    }
}

/// Returns a CachedImage of `harbor.corp/hub/REST` with the digest `index`, and manifests of these digests.
fn cached(rest: &str, index: Option<char>, manifests: &[(char, Value)]) -> CachedImage {
    let platform = |(letter, scan): &(char, Value)| json!({"platform": "linux/amd64", "digest": digest(*letter), "layers": 1, "bytes": 1, "stored": true, "scan": scan});
    let platforms: Vec<Value> = manifests.iter().map(platform).collect();
    let image = format!("harbor.corp/hub/{rest}");
    serde_json::from_value(json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": rest},
        "spec": {"image": image}, "status": {"image": image, "digest": index.map(digest), "platforms": platforms},
    }))
    .unwrap()
}

fn compiled(images: &[CachedImage]) -> ScanIndex {
    let records: Vec<ScanRecord> = images.iter().filter_map(ScanRecord::of).collect();
    ScanIndex::compile(&records)
}

fn policy(action: &str, max: &str, unscanned: &str) -> Policies {
    policy_of(
        json!({"action": action, "vulnerability": {"maxSeverity": max, "onUnscanned": unscanned, "maxAge": "24h"}}),
    )
}

fn policy_of(spec: Value) -> Policies {
    let document = json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ImagePolicy", "metadata": {"name": "ceiling"}, "spec": spec,
    });
    let policy: ImagePolicy = serde_json::from_value(document).unwrap();
    Policies::compile([&policy])
}

fn judge(policies: &Policies, scans: &ScanIndex, image: &str, unavailable: bool) -> PolicyResult {
    let at_harbor = |image: &ImageRef| {
        let mapped = image.as_str().strip_prefix("registry.corp/")?;
        ImageRef::parse(&format!("harbor.corp/hub/{mapped}")).ok()
    };
    let evidence = ScanEvidence { scans, now: at(NOW), at_harbor: &at_harbor };
    let judged =
        JudgedImage { noun: "container", name: "app", sent: image, image, unavailable, note: ForeignReason::None };
    policies.evaluate(&PodScope::default(), [judged], Some(&evidence))
}

/// Returns `denied`, `warned`, `noted` or `-`.
fn reported(judgement: &PolicyResult) -> &'static str {
    match (judgement.is_denied(), judgement.warnings().is_empty(), judgement.notes().is_empty()) {
        (true, ..) => "denied",
        (_, false, _) => "warned",
        (.., false) => "noted",
        _ => "-",
    }
}

#[test]
fn a_verdict_is_found_for_every_spelling_of_the_image() {
    let scans = compiled(&[cached("library/bad:1", Some('a'), &[('a', scan("Critical", 1))])]);
    let hub = crate::rewrite::Rule {
        name: "hub".to_owned(),
        matches: vec!["docker.io".to_owned()],
        docker_hub: true,
        pull_host: "harbor.corp".to_owned(),
        project: "hub".to_owned(),
        ..Default::default()
    };
    let rules = crate::rewrite::Rules::compile([hub]);
    let at_harbor = |image: &ImageRef| rules.canonical_for_anyone(image);
    let evidence = ScanEvidence { scans: &scans, now: at(NOW), at_harbor: &at_harbor };
    let policies = policy("Enforce", "High", "Warn");
    for image in [
        "bad:1",
        "harbor.corp/hub/library/bad:1",
        "HARBOR.corp/hub/library/bad:1",
        "harbor.corp:443/hub/library/bad:1",
        "harbor.corp/hub/bad:1",
        "Harbor.Corp:443/hub/bad:1",
    ] {
        let judged = JudgedImage {
            noun: "container",
            name: "app",
            sent: image,
            image,
            unavailable: false,
            note: ForeignReason::None,
        };
        let judgement = policies.evaluate(&PodScope::default(), [judged], Some(&evidence));
        assert_eq!(reported(&judgement), "denied", "{image}");
    }
}

#[test]
fn a_record_that_knows_less_of_an_image_hides_no_verdict() {
    let bad = cached("bad:1", Some('a'), &[('a', scan("Critical", 1))]);
    let cold = cached("bad:1", None, &[]);
    for records in [[bad.clone(), cold.clone()], [cold, bad]] {
        let judgement =
            judge(&policy("Enforce", "High", "Warn"), &compiled(&records), "HARBOR.corp:443/hub/bad:1", false);
        assert_eq!(reported(&judgement), "denied");
    }
}

#[test]
fn a_verdict_is_held_against_the_ceiling() {
    let words = ["None", "Unknown", "Negligible", "Low", "Medium", "High", "Critical", "Apocalyptic"];
    // The number of these severities that each ceiling admits.
    for (max, admits) in [("None", 1), ("Low", 4), ("Medium", 5), ("High", 6), ("Critical", 8)] {
        for (rank, word) in words.iter().enumerate() {
            let scans = compiled(&[cached("app:1", Some('a'), &[('a', scan(word, 1))])]);
            let expected = rank >= admits;
            for (action, refusal) in [("Enforce", "denied"), ("Warn", "warned"), ("Audit", "noted")] {
                let judgement = judge(&policy(action, max, "Deny"), &scans, "harbor.corp/hub/app:1", false);
                assert_eq!(reported(&judgement), if expected { refusal } else { "-" }, "{action} {max} {word}");
            }
        }
    }
}

#[test]
fn an_image_without_a_verdict_is_what_the_policy_makes_of_it() {
    let states = ["Scanning", "Unscanned", "Failed", "NoScanner"];
    let mut known: Vec<(CachedImage, &str)> = states
        .iter()
        .map(|state| (cached("app:1", Some('a'), &[('a', scan(state, 0))]), "harbor.corp/hub/app:1"))
        .collect();
    known.extend([
        (cached("app:1", Some('a'), &[('a', scan("None", 25))]), "harbor.corp/hub/app:1"),
        (cached("app:1", None, &[('a', scan("None", 1))]), "harbor.corp/hub/app:1"),
        (cached("app:1", None, &[]), "harbor.corp/hub/app:1"),
        (cached("app:1", Some('a'), &[('a', scan("None", 1)), ('b', scan("None", 25))]), "harbor.corp/hub/app:1"),
        (cached("app:2", Some('a'), &[('a', scan("None", 1))]), "harbor.corp/hub/app:1"),
        (cached("app:1", Some('a'), &[('a', scan("None", 1)), ('b', scan("Scanning", 0))]), "harbor.corp/hub/app:1"),
    ]);
    for (image, asked) in &known {
        let scans = compiled(std::slice::from_ref(image));
        for (action, unscanned, expected) in [
            ("Enforce", "Deny", "denied"),
            ("Enforce", "Warn", "warned"),
            ("Enforce", "Allow", "-"),
            ("Warn", "Deny", "warned"),
            ("Warn", "Warn", "warned"),
            ("Audit", "Deny", "noted"),
            ("Audit", "Warn", "noted"),
            ("Audit", "Allow", "-"),
        ] {
            let judgement = judge(&policy(action, "High", unscanned), &scans, asked, false);
            assert_eq!(reported(&judgement), expected, "{action} {unscanned}: {:#?}", image.status);
            let counts = expected == "denied" || expected == "noted" || (action, unscanned) == ("Warn", "Deny");
            assert_eq!(judgement.audit().is_some(), counts, "{action} {unscanned}");
        }
    }
}

#[test]
fn a_verdict_belongs_to_a_digest_and_a_tag_has_that_of_what_it_pointed_to() {
    let index = [('b', scan("None", 1)), ('c', scan("Critical", 1))];
    let scans = compiled(&[
        cached("multi:1", Some('a'), &index),
        cached("single", Some('d'), &[('d', scan("Low", 1))]),
        cached("pinned@sha256:eeee", None, &[]),
        cached(&format!("pinned@{}", digest('e')), Some('e'), &[('e', scan("High", 1))]),
        // Its tag has moved away from a vulnerable image.
        cached("moved:1", None, &[('f', scan("Critical", 1))]),
    ]);
    let policies = policy("Enforce", "Medium", "Warn");
    let pinned = |letter| format!("harbor.corp/hub/multi@{}", digest(letter));
    let table = [
        ("harbor.corp/hub/multi:1".to_owned(), "denied"),
        (pinned('a'), "denied"),
        (pinned('b'), "-"),
        (pinned('c'), "denied"),
        // With a digest, the tag and the repository do not matter.
        (format!("harbor.corp/hub/other:1@{}", digest('b')), "-"),
        (format!("ghcr.io/acme/x@{}", digest('c')), "denied"),
        ("harbor.corp/hub/single".to_owned(), "-"),
        ("harbor.corp/hub/single:latest".to_owned(), "-"),
        ("harbor.corp/hub/single:1".to_owned(), "warned"),
        (pinned('e'), "denied"),
        (pinned('9'), "warned"),
        ("harbor.corp/hub/moved:1".to_owned(), "warned"),
        (pinned('f'), "denied"),
        // An image that is only mapped is checked under its name at Harbor.
        ("registry.corp/multi:1".to_owned(), "denied"),
        ("registry.corp/single".to_owned(), "-"),
    ];
    for (image, expected) in table {
        assert_eq!(reported(&judge(&policies, &scans, &image, false)), expected, "{image}");
    }
}

#[test]
fn the_refusal_says_what_was_found_when_and_what_to_do() {
    let scans = compiled(&[cached("app:1", Some('a'), &[('a', scan("Critical", 1))])]);
    let denials = judge(&policy("Enforce", "High", "Deny"), &scans, "harbor.corp/hub/app:1", false).denials();
    assert_eq!(
        denials,
        [
            "container \"app\": image \"harbor.corp/hub/app:1\" has vulnerabilities of severity Critical (policy ceiling allows at most \
          High): 3 found, 2 fixable, scanned 2027-01-15T07:00:00Z; use a fixed image, or ask for an exemption"
        ]
    );
    let unknown = judge(&policy("Enforce", "High", "Deny"), &scans, "harbor.corp/hub/app:2", false).denials();
    assert!(
        unknown[0].contains("has no scan result (policy ceiling requires one): the image is not known yet"),
        "{unknown:?}"
    );
}

#[test]
fn the_newest_verdict_of_a_digest_counts_and_a_deleted_image_is_forgotten() {
    let (old, new) = ([('a', scan("Critical", 20))], [('a', scan("None", 1))]);
    let policies = policy("Enforce", "High", "Deny");
    for order in [[&old, &new], [&new, &old]] {
        let images = [cached("app:1", Some('a'), order[0]), cached("app:2", Some('a'), order[1])];
        let judgement = judge(&policies, &compiled(&images), &format!("harbor.corp/hub/app@{}", digest('a')), false);
        assert_eq!(reported(&judgement), "-");
    }
    let mut deleted = cached("app:1", Some('a'), &new);
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)));
    assert!(compiled(&[deleted]).is_empty());
}

#[test]
fn in_an_outage_a_verdict_stands_and_what_is_unknown_goes_as_the_policy_says() {
    let scans = compiled(&[cached("bad:1", Some('a'), &[('a', scan("Critical", 1))])]);
    let vulnerability = json!({"maxSeverity": "High", "onUnscanned": "Deny"});
    for (outage, unknown) in [("Enforce", "denied"), ("Warn", "warned")] {
        let spec = json!({"action": "Enforce", "vulnerability": vulnerability, "duringOutage": outage});
        let policies = policy_of(spec);
        assert_eq!(reported(&judge(&policies, &scans, "registry.corp/bad:1", true)), "denied", "{outage}");
        assert_eq!(reported(&judge(&policies, &scans, "registry.corp/new:1", true)), unknown, "{outage}");
    }
}

#[test]
fn exemptions_apply_and_a_policy_without_a_ceiling_asks_for_no_scan() {
    let scans = compiled(&[cached("bad:1", Some('a'), &[('a', scan("Critical", 1))])]);
    let exemption = json!([{"images": ["harbor.corp/hub/bad"], "reason": "known"}]);
    let exempt = policy_of(json!({
        "action": "Enforce", "vulnerability": {"maxSeverity": "High"}, "exemptions": exemption,
    }));
    assert_eq!(reported(&judge(&exempt, &scans, "harbor.corp/hub/bad:1", false)), "-");
    assert!(exempt.use_scans());
    assert!(!policy_of(json!({"action": "Enforce", "forbidLatest": true})).use_scans());
}

#[test]
fn ten_thousand_images_take_a_few_megabytes_and_little_time() {
    let record = |number: usize| {
        let letters = ['a', 'b', 'c'].map(|letter| (letter, scan("Low", 1)));
        let mut image =
            cached(&format!("team-{}/application-{number}:v1.2.{number}", number % 50), Some('d'), &letters);
        let status = image.status.as_mut().unwrap();
        for (at, child) in status.platforms.iter_mut().enumerate() {
            child.digest = format!("sha256:{:064x}", number * 4 + at);
        }
        status.digest = Some(format!("sha256:{:064x}", number * 4 + 3));
        ScanRecord::of(&image).unwrap()
    };
    let records: Vec<ScanRecord> = (0..2_000).map(record).collect();
    let scans = ScanIndex::compile(&records);
    assert_eq!(scans.len(), 2_000 * 5);
    let manifests = size_of::<DigestKey>() + size_of::<ScannedManifest>();
    assert!(manifests <= 80, "{manifests} bytes for each manifest");
}
