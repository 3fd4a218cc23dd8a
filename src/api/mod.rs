//! The custom resources of `harbor-pilot.dev/v1alpha1`, one file per kind.
//!
//! The input is YAML or JSON from users; the output is validated values. A value that its type cannot hold (an invalid interval,
//! a platform without an architecture) fails to decode. A check of two fields, or of the old object, is a CEL rule; the API
//! server and [`standalone`](crate::cli) both evaluate it.

#![allow(clippy::duplicated_attributes, reason = "each printcolumn of a kind has a type_ of its own")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

pub mod cached_image;
pub mod common;
pub mod condition;
pub mod harbor_instance;
pub mod image_policy;
pub mod platform;
pub mod proxy_project;
pub mod pulls;
pub mod registry;
pub mod registry_type;
pub mod replication_rule;
pub mod retention;
pub mod scan;
pub mod storage_limit;
pub mod vulnerabilities;

pub use cached_image::{CachedImage, CachedImageSpec, CachedImageStatus};
pub use common::{AdoptionPolicy, DeletionPolicy, HarborRef, Interval, LocalRef, ManagementPolicy, OwnedObject};
pub use condition::{ConditionType, Conditions, Reason};
pub use harbor_instance::{HarborInstance, HarborInstanceSpec, HarborInstanceStatus};
pub use image_policy::{ImagePolicy, ImagePolicySpec, ImagePolicyStatus};
pub use platform::Platform;
pub use proxy_project::{ProxyProject, ProxyProjectSpec, ProxyProjectStatus, RewriteRuleStatus};
pub use pulls::{PullLimit, UpstreamPulls};
pub use registry::{Registry, RegistrySpec, RegistryStatus};
pub use registry_type::{PrivateEcr, RegistryType};
pub use replication_rule::{ReplicationRule, ReplicationRuleSpec, ReplicationRuleStatus};
pub use retention::Retention;
pub use scan::{FoundSeverity, ScanState, ScanStatus};
pub use storage_limit::StorageLimit;
pub use vulnerabilities::{CveAllowlist, Severity, Vulnerabilities};

/// API group of all kinds.
pub const GROUP: &str = "harbor-pilot.dev";
/// The only served version.
pub const VERSION: &str = "v1alpha1";
/// Finalizer of resources whose deletion changes Harbor (`deletionPolicy` other than `Retain`).
pub const FINALIZER: &str = "harbor-pilot.dev/finalizer";

/// The CRDs of all kinds, in the order in which to apply them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let unseen = serde_json::json!({"observedGeneration": -1});
    let reconciled = [HarborInstance::crd(), Registry::crd(), ProxyProject::crd(), ReplicationRule::crd()];
    let images = unseen_at_first(CachedImage::crd(), &pending());
    let reconciled = reconciled.into_iter().map(|crd| unseen_at_first(crd, &unseen));
    reconciled.chain([images, ImagePolicy::crd()]).map(known_formats).collect()
}

/// A CRD as YAML, without the status that the API server writes.
///
/// # Errors
/// No error occurs for the CRDs of this project.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = serde_saphyr::to_string(crd)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Adds a default status that says that no controller has reconciled the resource. Without a status, kstatus reports the resource
/// as done, and tools that apply it and wait would continue too early.
fn unseen_at_first(mut crd: CustomResourceDefinition, first: &serde_json::Value) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
            status.default = Some(JSON(first.clone()));
        }
    }
    crd
}

/// Removes the formats of unsigned numbers: they are names of Rust types, and the API server warns about each. The bounds stay.
fn known_formats(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schemas =
        crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(forget_unsigned);
    crd
}

fn forget_unsigned(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(forget_unsigned);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        forget_unsigned(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        forget_unsigned(values);
    }
}

/// Thousands of images may wait in the queue. Each shows that from its creation on.
fn pending() -> serde_json::Value {
    let ready = serde_json::json!({
        "type": "Ready", "status": "Unknown", "reason": Reason::Pending.as_str(),
        "message": "waiting for the first reconcile", "lastTransitionTime": "1970-01-01T00:00:00Z",
    });
    serde_json::json!({"observedGeneration": -1, "conditions": [ready]})
}
