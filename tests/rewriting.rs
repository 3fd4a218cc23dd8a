//! What holds of every rewrite: reviews of generated Pods, full of fields that nobody knows, through the whole of admission.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harbor_pilot::image::ImageRef;
use harbor_pilot::rewrite::{Namespaces, ORIGINAL_IMAGES, Rule, Rules};
use harbor_pilot::webhook::review::mutate;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// List of the Pod's spec, and where in an element its image stands.
const PLACES: [(&str, &str); 4] = [
    ("containers", "/image"),
    ("initContainers", "/image"),
    ("ephemeralContainers", "/image"),
    ("volumes", "/image/reference"),
];

fn rules(hub: &str) -> Rules {
    let rule = |name: &str, matched: &str, project: &str| Rule {
        name: name.to_owned(),
        created: 1,
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: project.to_owned(),
        ..Rule::default()
    };
    Rules::compile([rule("hub", "docker.io", hub), rule("acme", "ghcr.io/acme", "acme")])
}

/// The object as it is stored after admission, and the patch.
fn admitted(rules: &Rules, object: &Value, old: Option<&Value>) -> (Value, Vec<Value>) {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop",
            "operation": if old.is_some() { "UPDATE" } else { "CREATE" }, "object": object, "oldObject": old,
        },
    });
    let answer: Value =
        serde_json::from_slice(&mutate(review.to_string().as_bytes(), rules, &Namespaces::default()).unwrap().body)
            .unwrap();
    let Some(patch) = answer["response"]["patch"].as_str() else { return (object.clone(), Vec::new()) };
    let patch: Value = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
    let mut stored = object.clone();
    json_patch::patch(&mut stored, &serde_json::from_value::<json_patch::Patch>(patch.clone()).unwrap()).unwrap();
    (stored, patch.as_array().unwrap().clone())
}

/// All images of a Pod, by the key under which the annotation records them.
fn images(pod: &mut Value) -> Vec<(String, &mut Value)> {
    let mut found = Vec::new();
    let lists = pod["spec"].as_object_mut().unwrap();
    for (field, list) in lists {
        let Some((_, pointer)) = PLACES.iter().find(|(place, _)| place == field) else { continue };
        for element in list.as_array_mut().unwrap() {
            let key = format!("{field}/{}", element["name"].as_str().unwrap());
            found.extend(element.pointer_mut(pointer).map(|image| (key, image)));
        }
    }
    found
}

/// What is left of a Pod without its images and our annotation.
fn rest(mut pod: Value) -> Value {
    images(&mut pod).into_iter().for_each(|(_, image)| *image = Value::Null);
    if let Some(annotations) = pod["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(ORIGINAL_IMAGES);
    }
    // To Kubernetes these are one.
    if pod["metadata"].get("annotations").is_some_and(|found| found.is_null() || *found == json!({})) {
        pod["metadata"].as_object_mut().unwrap().remove("annotations");
    }
    pod
}

/// An image, and what is to become of it.
fn image() -> impl Strategy<Value = (String, String)> {
    let host = select(vec![
        ("", "harbor.corp/hub/"),
        ("docker.io/", "harbor.corp/hub/"),
        ("index.docker.io/", "harbor.corp/hub/"),
        ("ghcr.io/acme/", "harbor.corp/acme/acme/"),
        ("GHCR.io/acme/", "harbor.corp/acme/acme/"),
        ("ghcr.io/acme-evil/", "ghcr.io/acme-evil/"),
        ("docker.io.evil/", "docker.io.evil/"),
        ("quay.io:443/", "quay.io:443/"),
        ("harbor.corp/hub/", "harbor.corp/hub/"),
        ("harbor.corp/elsewhere/", "harbor.corp/elsewhere/"),
    ]);
    let digest = prop::option::of("@sha256:[0-9a-f]{64}");
    (
        host,
        "[a-z0-9]{1,4}",
        prop::option::of("/[a-z]{1,3}_[a-z]"),
        prop::option::of(":[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}"),
        digest,
    )
        .prop_map(|((host, target), name, more, tag, digest)| {
            // Docker Hub's own images have no namespace, unless they are written out.
            let library =
                if target == "harbor.corp/hub/" && host != target && more.is_none() { "library/" } else { "" };
            let end =
                format!("{name}{}{}{}", more.unwrap_or_default(), tag.unwrap_or_default(), digest.unwrap_or_default());
            (format!("{host}{end}"), format!("{target}{library}{end}"))
        })
}

/// Fields that no Kubernetes of today has, of any shape; below them, names that we look for elsewhere.
fn unknown() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(1.5)),
        ".{0,6}".prop_map(Value::from),
        Just(json!("nginx")),
    ];
    let key =
        || select(vec!["image", "reference", "spec", "containers", "name", "a/b~c", "\"\\"]).prop_map(str::to_owned);
    let value = leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..3).prop_map(|map| json!(map)),
        ]
    });
    let key = select(vec!["future", "imageName", "x/y~z", "é", "", "images", "\n"]).prop_map(str::to_owned);
    prop::collection::btree_map(key, value, 0..3).prop_map(|map| map.into_iter().collect())
}

fn extended(mut object: Value, more: Map<String, Value>) -> Value {
    object.as_object_mut().unwrap().extend(more);
    object
}

/// A Pod of such images. Its annotations are absent, null or of others.
fn pod<I: Strategy<Value = String>>(image: impl Fn() -> I) -> impl Strategy<Value = Value> {
    let list = |field: &'static str, pointer: &'static str| {
        let element = (image(), unknown(), unknown());
        prop::collection::vec(element, 0..3).prop_map(move |elements| {
            let elements = elements.into_iter().enumerate().map(|(index, (image, more, below))| {
                let named = match pointer {
                    "/image" => json!({"name": format!("c{index}"), "image": image}),
                    _ => json!({"name": format!("c{index}"), "image": extended(json!({"reference": image}), below)}),
                };
                extended(named, more)
            });
            (field, elements.collect::<Value>())
        })
    };
    let [a, b, c, d] = PLACES.map(|(field, pointer)| list(field, pointer));
    let annotations =
        select(vec![None, Some(Value::Null), Some(json!({"a/b": "c", "x": "harbor-pilot.dev/original-images"}))]);
    ((a, b, c, d), annotations, unknown(), unknown(), unknown()).prop_map(
        |((a, b, c, d), annotations, top, meta, spec)| {
            let mut pod = extended(
                json!({"metadata": extended(json!({"name": "web"}), meta), "spec": extended(json!({}), spec)}),
                top,
            );
            for (field, list) in [a, b, c, d] {
                pod["spec"][field] = list;
            }
            if let Some(annotations) = annotations {
                pod["metadata"]["annotations"] = annotations;
            }
            pod
        },
    )
}

/// References, and what is nearly one.
fn any_image() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "/",
        ":",
        "@",
        ".",
        "_",
        "-",
        "sha256:",
        "A",
        "[::1]",
        "docker.io",
        "ghcr.io/acme/",
        "harbor.corp",
        " ",
        "é",
        "a",
        "0",
    ]);
    let near = (image(), piece, any::<prop::sample::Index>()).prop_map(|((mut image, _), piece, place)| {
        image.insert_str(place.index(image.len()), piece);
        image
    });
    prop_oneof![image().prop_map(|(image, _)| image), near, Just(String::new())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_new_pod_is_stored_as_it_was_sent_but_for_its_images_and_the_record(
        pod in pod(|| image().prop_map(|(image, wanted)| format!("{image} {wanted}"))),
    ) {
        // The generator says with each image what is to become of it.
        let (mut sent, mut wanted, mut record) = (pod.clone(), pod, Map::new());
        for (key, image) in images(&mut sent) {
            let (original, becomes) = image.as_str().unwrap().split_once(' ').unwrap();
            if original != becomes {
                record.insert(key, json!(original));
            }
            *image = json!(original);
        }
        for (_, image) in images(&mut wanted) {
            *image = json!(image.as_str().unwrap().split_once(' ').unwrap().1);
        }
        let (mut stored, patch) = admitted(&rules("hub"), &sent, None);
        prop_assert_eq!(patch.len(), record.len() + usize::from(!record.is_empty()));
        if !record.is_empty() {
            let text = stored["metadata"]["annotations"][ORIGINAL_IMAGES].take();
            prop_assert_eq!(serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap(), Value::from(record));
            wanted["metadata"]["annotations"][ORIGINAL_IMAGES] = Value::Null;
        }
        prop_assert_eq!(stored, wanted);
    }

    #[test]
    fn what_was_rewritten_is_read_as_an_image_at_harbor_with_the_repository_tag_and_digest_that_it_had(pod in pod(any_image)) {
        let (mut stored, _) = admitted(&rules("hub"), &pod, None);
        let mut sent = pod;
        for ((_, before), (_, after)) in images(&mut sent).into_iter().zip(images(&mut stored)) {
            if before == after {
                continue;
            }
            let (before, after) = (ImageRef::parse(before.as_str().unwrap()).unwrap(), after.as_str().unwrap());
            let read = ImageRef::parse(after).unwrap();
            prop_assert_eq!((read.as_str(), read.host()), (after, "harbor.corp"));
            prop_assert_eq!(read.repository().split_once('/').map(|(_, repository)| repository), Some(before.repository()));
            prop_assert_eq!((read.tag(), read.digest()), (before.tag(), before.digest()));
        }
    }

    #[test]
    fn an_update_touches_nothing_else_and_asked_again_nothing_at_all(pod in pod(any_image), old in pod(any_image), created: bool) {
        // The old Pod was admitted before, when the rules were others.
        let old = (!created).then(|| admitted(&rules("before"), &old, None).0);
        let rules = rules("hub");
        let (stored, _) = admitted(&rules, &pod, old.as_ref());
        prop_assert_eq!(rest(stored.clone()), rest(pod));
        let (again, patch) = admitted(&rules, &stored, old.as_ref());
        prop_assert_eq!(again, stored, "{:?}", patch);
        prop_assert_eq!(patch, Vec::<Value>::new());
    }
}
