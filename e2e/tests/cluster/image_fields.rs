//! Kubernetes' own schema against what admission looks at.

use std::collections::BTreeSet;

use harbor_pilot::rewrite::pod::ImageLocation;
use harbor_pilot_e2e::control_plane;
use harbor_pilot_e2e::image_fields::image_fields;
use serde_json::{Value, json};

const POD: &str = "io.k8s.api.core.v1.Pod";

#[tokio::test]
async fn every_field_of_a_pod_that_carries_an_image_is_one_that_admission_rewrites() {
    let plane = control_plane::shared().await.unwrap();
    let text = plane.kubectl(&["get", "--raw", "/openapi/v3/api/v1"]).await.unwrap().ok().unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    let handled: BTreeSet<String> = ImageLocation::ALL
        .into_iter()
        .map(|kind| format!("spec.{}[]{}", kind.field(), kind.image_pointer().replace('/', ".")))
        .collect();
    assert_eq!(image_fields(&document, POD, "spec").unwrap(), handled, "what the API server has, what we rewrite");

    // A field of tomorrow, deep below the containers, does not pass unseen.
    let hooks = "/components/schemas/io.k8s.api.core.v1.LifecycleHandler/properties";
    document.pointer_mut(hooks).unwrap()["helperImage"] = json!({"type": "string"});
    let tomorrow = image_fields(&document, POD, "spec").unwrap();
    assert!(tomorrow.contains("spec.initContainers[].lifecycle.preStop.helperImage"), "{tomorrow:?}");
}
