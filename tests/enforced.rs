//! What holds of every Pod under a policy that refuses: none passes with an image that the policy does not allow.
//!
//! A generated review goes through `/mutate`, its patch is applied, another webhook may set an image, and `/validate`
//! judges what arrives. What it admits is held against an oracle that knows nothing of the product: it splits a text at
//! its slashes. `HARBOR_PILOT_PROPERTY_CASES` says how many reviews there are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harbor_pilot::api::ImagePolicy;
use harbor_pilot::image::ImageRef;
use harbor_pilot::policy::Policies;
use harbor_pilot::rewrite::{ALLOW_EXEMPT, EXEMPT, KEEP_IMAGES, Namespaces, ORIGINAL_IMAGES, Rule, Rules};
use harbor_pilot::webhook::review::mutate;
use harbor_pilot::webhook::validate::validate;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

const LISTS: [&str; 4] = ["containers", "initContainers", "ephemeralContainers", "volumes"];
const NAMES: [&str; 5] = ["a", "b", "c", "a", ""];
const IMAGES: [&str; 32] = [
    "harbor.old/hub/library/nginx:1",
    "docker.io:443/library/nginx:1",
    "harbor.corp/hub/library/nginx",
    "harbor.corp/hub/library/nginx:1",
    "harbor.corp/hub/library/auto",
    "harbor.corp/before/library/nginx",
    "harbor.corp/team-a/app",
    "harbor.corp/team/app",
    "harbor.corp/other/x",
    "HARBOR.corp/hub/x",
    "nginx",
    "nginx:1",
    "library/nginx",
    "docker.io/library/redis:8",
    "index.docker.io/acme/x",
    "registry-1.docker.io/acme/x",
    "ghcr.io/acme/tool:1",
    "ghcr.io/other/tool",
    "evil.example/x",
    "evil.example/harbor.corp/hub/x",
    "harbor.corp.evil/hub/x",
    "user@harbor.corp/hub/x",
    "harbor.corp:443/hub/x",
    "harbor.corp",
    "harbor.corp/hub",
    "auto",
    "injector-envoy-image",
    "docker.io/harbor.corp/hub/x",
    "[::1]:5000/hub/x",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "Bad Image",
    "",
];

/// A review, and what happens on the way of its object.
#[derive(Debug, Clone)]
struct Case {
    rules: usize,
    policies: usize,
    namespace: &'static str,
    sub_resource: &'static str,
    object: Value,
    old: Option<Value>,
    /// Whether the old object was admitted by `/mutate`.
    old_was_mutated: bool,
    /// Whether `/mutate` answers in time.
    mutates: bool,
    /// An image that another webhook sets after that.
    set: Option<(Index, String)>,
}

fn rules(which: usize) -> Rules {
    let rule = |name: &str, created, matched: &str, project: &str, unavailable, terms: Value| Rule {
        name: name.to_owned(),
        created,
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: project.to_owned(),
        terms: serde_json::from_value(terms).unwrap(),
        unavailable,
        replaces: Vec::new(),
        docker_hub: false,
    };
    let hub = |unavailable, terms| rule("hub", 1, "docker.io", "hub", unavailable, terms);
    let acme = rule("acme", 2, "ghcr.io/acme", "acme", false, json!({"pullSecretName": "harbor"}));
    let shop = json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}});
    let rules = match which {
        0 => vec![hub(false, json!({})), acme],
        1 => vec![hub(true, json!({})), acme],
        2 => vec![hub(true, json!({"whenUnavailable": "Rewrite"})), acme],
        3 => vec![hub(false, json!({"mode": "Disabled"})), acme],
        4 => vec![hub(false, json!({"namespaceSelector": shop, "exclude": ["**/redis"]}))],
        5 => vec![hub(false, json!({"objectSelector": {"matchLabels": {"team": "shop"}}})), acme],
        6 => vec![rule("hub", 1, "docker.io", "before", false, json!({}))],
        7 => {
            let replaces = vec!["harbor.old/hub".to_owned()];
            let matches = vec!["docker.io".to_owned(), "harbor.old/hub".to_owned()];
            vec![Rule { matches, replaces, ..hub(false, json!({})) }]
        }
        _ => Vec::new(),
    };
    Rules::compile(rules)
}

fn policies(which: usize) -> Policies {
    let spec = match which {
        0 => json!({"allowed": [{"host": "harbor.corp"}]}),
        1 => json!({"allowed": [{"host": "harbor.corp", "projects": ["hub", "team-*"]}]}),
        _ => json!({
            "allowed": [{"host": "harbor.corp"}], "duringOutage": "Warn",
            "exemptions": [{"images": ["ghcr.io/other/tool"], "namespaces": ["free"], "reason": "x"}],
        }),
    };
    let mut policy = json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ImagePolicy", "metadata": {"name": "p"}, "spec": spec,
    });
    policy["spec"]["action"] = json!("Enforce");
    Policies::compile(&[serde_json::from_value::<ImagePolicy>(policy).unwrap()])
}

/// Whether the policy allows an image of a Pod, told from its text.
fn oracle(case: &Case, image: &str) -> bool {
    let (host, path) = image.split_once('/').unwrap_or(("", image));
    // 443 is the port that runtimes take without one.
    let at_harbor = ["harbor.corp", "harbor.corp:443"].iter().any(|own| host.eq_ignore_ascii_case(own));
    match case.policies {
        0 => at_harbor,
        1 => at_harbor && (path.starts_with("hub/") || path.starts_with("team-")),
        _ => at_harbor || exempt(case, image) || left_in_an_outage(case, image),
    }
}

fn exempt(case: &Case, image: &str) -> bool {
    let rest = image.strip_prefix("ghcr.io/other/tool");
    case.namespace == "free" && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
}

/// The second set of rules leaves images of Docker Hub while Harbor is away.
fn left_in_an_outage(case: &Case, image: &str) -> bool {
    let host = image.split_once('/').map_or("", |(host, _)| host.trim_end_matches(":443"));
    case.rules == 1 && (host.ends_with("docker.io") || !host.contains(['.', ':', '@']) && host == host.to_lowercase())
}

/// All images of an object, with list and name.
fn images(object: &Value) -> Vec<(&'static str, &str, &str)> {
    let mut found = Vec::new();
    for list in LISTS {
        for element in object["spec"][list].as_array().into_iter().flatten() {
            let image = if list == "volumes" { &element["image"]["reference"] } else { &element["image"] };
            let name = element["name"].as_str().unwrap_or_default();
            found.extend(image.as_str().filter(|image| !image.is_empty()).map(|image| (list, name, image)));
        }
    }
    found
}

fn review(case: &Case, object: &Value, old: Option<&Value>) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": case.namespace,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "subResource": if old.is_some() { case.sub_resource } else { "" },
            "operation": if old.is_some() { "UPDATE" } else { "CREATE" }, "object": object, "oldObject": old,
        },
    });
    review.to_string().into_bytes()
}

/// The object after `/mutate`, and how many operations its patch has.
fn mutated(case: &Case, object: &Value, old: Option<&Value>) -> (Value, usize) {
    let reply = mutate(&review(case, object, old), &rules(case.rules), &namespaces()).unwrap();
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    let Some(patch) = answer["response"]["patch"].as_str() else { return (object.clone(), 0) };
    let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).unwrap();
    (object, patch.0.len())
}

fn namespaces() -> Namespaces {
    let free: BTreeMap<String, String> = [(ALLOW_EXEMPT.to_owned(), "true".to_owned())].into();
    [("shop".to_owned(), BTreeMap::new()), ("free".to_owned(), free)].into_iter().collect()
}

/// An image of the table, or one that is nearly so.
fn image() -> impl Strategy<Value = String> {
    let piece = select(vec!["/", ":", "@", ".", "_", "-", "A", " ", "\u{430}", "a", "0", "harbor.corp/", "@sha256:"]);
    let near = (select(&IMAGES[..]), piece, any::<Index>()).prop_map(|(image, piece, place)| {
        let mut image = image.to_owned();
        image.insert_str(place.index(image.len() + 1), piece);
        image
    });
    let long = Just(format!("{}.example/x", "a".repeat(2_000)));
    prop_oneof![12 => select(&IMAGES[..]).prop_map(str::to_owned), 4 => near, 1 => long]
}

fn annotations() -> impl Strategy<Value = Value> {
    let key = (select(&LISTS[..]), select(&NAMES[..])).prop_map(|(list, name)| format!("{list}/{name}"));
    let record = prop::collection::btree_map(key, image(), 0..5).prop_map(|record| json!(record).to_string());
    let record = prop_oneof![8 => record, 1 => Just("not JSON".to_owned()), 1 => Just("[]".to_owned())];
    let kept = select(vec!["", "a", "b, c", "a,b,c,"]);
    let mirror = prop::bool::weighted(0.05);
    (prop::option::of(record), prop::option::weighted(0.2, kept), mirror).prop_map(|(record, kept, mirror)| {
        let mut annotations = json!({"other": "x"});
        record.into_iter().for_each(|record| annotations[ORIGINAL_IMAGES] = json!(record));
        kept.into_iter().for_each(|kept| annotations[KEEP_IMAGES] = json!(kept));
        if mirror {
            annotations["kubernetes.io/config.mirror"] = json!("x");
        }
        annotations
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let policy = prop::option::weighted(0.3, select(vec!["Never", "Always", "IfNotPresent", ""]));
    let element = (select(&NAMES[..]), image(), policy).boxed();
    let list = || prop::collection::vec(element.clone(), 0..3);
    let labels = (prop::bool::weighted(0.2), any::<bool>());
    (annotations(), labels, [list(), list(), list(), list()]).prop_map(|(annotations, (exempt, team), lists)| {
        let labels = json!({EXEMPT: exempt.to_string(), "team": if team { "shop" } else { "bank" }});
        let mut pod = json!({"metadata": {"annotations": annotations, "labels": labels}, "spec": {}});
        for (list, elements) in LISTS.into_iter().zip(lists) {
            let elements = elements.into_iter().map(|(name, image, policy)| match list {
                "volumes" => json!({"name": name, "image": {"reference": image, "pullPolicy": policy}}),
                _ => json!({"name": name, "image": image, "imagePullPolicy": policy}),
            });
            pod["spec"][list] = elements.collect();
        }
        pod
    })
}

/// An old object: another one, or the new one but for some of its lists.
fn old(new: Value) -> impl Strategy<Value = Option<Value>> {
    let similar = (pod(), any::<[bool; 5]>()).prop_map(move |(mut old, same)| {
        for (list, same) in LISTS.into_iter().zip(same) {
            if same {
                old["spec"][list] = new["spec"][list].clone();
            }
        }
        if same[4] {
            old["metadata"] = new["metadata"].clone();
        }
        old
    });
    prop_oneof![Just(None), similar.prop_map(Some), pod().prop_map(Some)]
}

fn case() -> impl Strategy<Value = Case> {
    let where_from = (0..9_usize, 0..3_usize, select(vec!["shop", "free", "unknown"]));
    let sub_resource = select(vec!["", "", "ephemeralcontainers"]);
    let set = prop::option::weighted(0.2, (any::<Index>(), image()));
    (where_from, sub_resource, pod(), any::<bool>(), prop::bool::weighted(0.8), set)
        .prop_flat_map(|rest| (old(rest.2.clone()), Just(rest)))
        .prop_map(|(old, ((rules, policies, namespace), sub_resource, object, old_was_mutated, mutates, set))| Case {
            rules,
            policies,
            namespace,
            sub_resource,
            object,
            old,
            old_was_mutated,
            mutates,
            set,
        })
}

/// The object as it arrives at `/validate`.
fn arrived(case: &Case, old: Option<&Value>) -> Value {
    let mut object = case.object.clone();
    if case.mutates {
        object = mutated(case, &object, old).0;
    }
    if let Some((place, image)) = &case.set {
        let list = LISTS[place.index(LISTS.len())];
        if let Some(first) = object["spec"][list].as_array_mut().and_then(|list| list.first_mut()) {
            let pointer = if list == "volumes" { "/image/reference" } else { "/image" };
            *first.pointer_mut(pointer).unwrap() = json!(image);
        }
    }
    object
}

#[test]
fn mutate_keeps_the_image_that_it_made_where_the_old_record_names_it() {
    let pod =
        |image: &str| json!({"metadata": {"annotations": {}}, "spec": {"containers": [{"name": "a", "image": image}]}});
    let mut old = pod("harbor.old/hub/library/nginx:1");
    let record = json!({"containers/a": "harbor.corp/hub/library/nginx:1"});
    old["metadata"]["annotations"][ORIGINAL_IMAGES] = json!(record.to_string());
    let case = Case {
        rules: 0,
        policies: 0,
        namespace: "shop",
        sub_resource: "",
        object: pod("nginx:1"),
        old: Some(old),
        old_was_mutated: false,
        mutates: true,
        set: None,
    };
    let (once, _) = mutated(&case, &case.object, case.old.as_ref());
    assert_eq!(once["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx:1");
    let (twice, operations) = mutated(&case, &once, case.old.as_ref());
    assert_eq!(operations, 0, "{once} became {twice}");
}

fn cases() -> u32 {
    std::env::var("HARBOR_PILOT_PROPERTY_CASES").map_or(2_000, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn validate_admits_no_image_that_the_policy_does_not_allow(case in case()) {
        let old = case.old.as_ref().map(|old| {
            if case.old_was_mutated { mutated(&Case { rules: 6, ..case.clone() }, old, None).0 } else { old.clone() }
        });
        let object = arrived(&case, old.as_ref());
        let reply =
            validate(&review(&case, &object, old.as_ref()), &rules(case.rules), &namespaces(), &policies(case.policies), None);
        let answer: Value = serde_json::from_slice(&reply.unwrap().body).unwrap();
        let before = old.as_ref().map(images).unwrap_or_default();
        let new: Vec<_> = images(&object).into_iter().filter(|image| !before.contains(image)).collect();
        let refused: Vec<_> = new.iter().filter(|(_, _, image)| !oracle(&case, image)).collect();
        if answer["response"]["allowed"] == true {
            prop_assert!(refused.is_empty(), "{refused:?} passed as part of {object}");
        } else if refused.is_empty() && case.rules != 1 {
            // What is at Harbor by its text is refused only where no runtime can read it, or where it is not a new one by the
            // place in its list.
            let readable = new.iter().all(|(_, _, image)| ImageRef::parse(image).is_ok());
            let distinct = [Some(&object), old.as_ref()].into_iter().flatten().all(|object| {
                let mut names: Vec<_> = images(object).into_iter().map(|(list, name, _)| (list, name)).collect();
                let count = names.len();
                names.sort_unstable();
                names.dedup();
                names.len() == count
            });
            prop_assert!(!readable || !distinct, "{object} was refused: {}", answer["response"]["status"]["message"]);
        }
    }

    #[test]
    fn mutate_patches_nothing_when_it_is_asked_again(case in case()) {
        let (once, _) = mutated(&case, &case.object, case.old.as_ref());
        let (twice, operations) = mutated(&case, &once, case.old.as_ref());
        prop_assert_eq!(operations, 0, "{} became {}", once, twice);
    }
}
