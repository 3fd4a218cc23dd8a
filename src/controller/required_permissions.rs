//! The permissions that the account of a Harbor needs for the given resources, and no others.

use std::collections::{BTreeMap, BTreeSet};

use super::PreviewInput;
use crate::{
    api::{DeletionPolicy, ManagementPolicy, ProxyProject, Registry, ReplicationRule},
    harbor::permissions::{Permission, operation},
};

/// A permission, and the resources that need it, each with the field that requires it.
pub type Needs = BTreeMap<Permission, BTreeSet<String>>;

/// The permissions that the account of the HarborInstance of that name needs for these resources.
pub fn of(subjects: &PreviewInput, instance: &str) -> Needs {
    let mut needs = Needs::new();
    let registries = subjects.registries.iter().filter(|registry| registry.spec.harbor_ref.name == instance);
    registries.for_each(|object| registry(object, &mut needs));
    let projects = subjects.projects.iter().filter(|project| project.spec.harbor_ref.name == instance);
    projects.for_each(|object| project(object, &mut needs));
    let rules = subjects.rules.iter().filter(|rule| rule.spec.harbor_ref.name == instance);
    rules.for_each(|object| rule(object, &mut needs));
    needs
}

fn add(needs: &mut Needs, who: &str, operations: &[&str]) {
    for right in operations.iter().filter_map(|name| operation(name)?.right) {
        needs.entry(right).or_default().insert(who.to_owned());
    }
}

fn goes(deletion: DeletionPolicy, management: ManagementPolicy) -> bool {
    deletion != DeletionPolicy::Retain && management == ManagementPolicy::Full
}

fn registry(object: &Registry, needs: &mut Needs) {
    let who = format!("Registry {}", object.metadata.name.as_deref().unwrap_or_default());
    let spec = &object.spec;
    add(needs, &who, &["registries", "unhealthy_registries", "registry_named"]);
    if spec.management_policy == ManagementPolicy::Full {
        add(needs, &who, &["create_registry", "update_registry", "ping_registry"]);
    }
    if goes(spec.deletion_policy, spec.management_policy) {
        add(needs, &format!("{who} (deletionPolicy)"), &["delete_registry"]);
    }
}

fn project(object: &ProxyProject, needs: &mut Needs) {
    let who = format!("ProxyProject {}", object.metadata.name.as_deref().unwrap_or_default());
    let spec = &object.spec;
    let writes = spec.management_policy == ManagementPolicy::Full;
    add(needs, &who, &["registries", "projects", "project_named", "project_labels"]);
    if writes {
        add(needs, &who, &["create_project", "update_project", "create_label", "update_label"]);
    }
    let prewarm = format!("{who} (warming)");
    add(needs, &prewarm, &["pull", "artifacts_of", "scanned_artifacts", "artifact"]);
    // Also when a user enabled vulnerability prevention in Harbor.
    add(needs, &format!("{who} (scans before a pull)"), &["start_scan"]);
    if spec.storage_limit.is_some() {
        let who = format!("{who} (storageLimit)");
        add(needs, &who, &["project_quotas", "project_quota"]);
        if writes {
            add(needs, &who, &["update_quota"]);
        }
    }
    if spec.retention.is_some() {
        let who = format!("{who} (retention)");
        add(needs, &who, &["retention"]);
        if writes {
            add(needs, &who, &["project", "create_retention", "update_retention", "delete_retention"]);
        }
    }
    if goes(spec.deletion_policy, spec.management_policy) {
        let who = format!("{who} (deletionPolicy)");
        add(needs, &who, &["delete_project"]);
        if spec.deletion_policy == DeletionPolicy::Purge {
            add(needs, &who, &["repositories", "delete_repository"]);
        }
    }
}

fn rule(object: &ReplicationRule, needs: &mut Needs) {
    let who = format!("ReplicationRule {}", object.metadata.name.as_deref().unwrap_or_default());
    let spec = &object.spec;
    add(needs, &who, &["registries", "replication_policies", "replication_policy"]);
    let seen = ["replication_executions", "replication_executions_page", "replication_tasks", "replication_task_log"];
    add(needs, &who, &seen);
    if spec.management_policy == ManagementPolicy::Full {
        add(needs, &who, &["create_replication_policy", "update_replication_policy", "start_replication"]);
    }
    if spec.after_scan {
        add(needs, &format!("{who} (afterScan)"), &["scanned_artifact"]);
    }
    if goes(spec.deletion_policy, spec.management_policy) {
        add(needs, &format!("{who} (deletionPolicy)"), &["delete_replication_policy", "stop_replication"]);
    }
}
