//! The permissions that each request requires of a robot account, as Harbor 2.15 checks them.
//!
//! One row for each operation of [`super::Client`]; a test enforces this. A row without a permission is allowed for any
//! account. On all projects (`*`) Harbor accepts `project: update` as the permission to update everything in every project, and
//! the same for `read` and `delete`; the rows name the permission that is checked for a named project.

use serde::Serialize;

/// The scope of a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PermissionLevel {
    /// Harbor itself.
    System,
    /// One project, or all of them.
    Project,
}

/// A permission of a robot account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// Its scope.
    pub level: PermissionLevel,
    /// Harbor's name of the resource, such as `tag-retention`.
    pub resource: &'static str,
    /// `list`, `read`, `create`, `update`, `delete`, `pull`.
    pub action: &'static str,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiOperation {
    /// Method of [`super::Client`], or of [`crate::registry::Client`] for `pull`.
    pub name: &'static str,
    /// Method and path below `/api/v2.0`, with `*` for one segment.
    pub request: &'static str,
    /// The required permission; `None`: any account is allowed.
    pub right: Option<Permission>,
}

const fn open(name: &'static str, request: &'static str) -> ApiOperation {
    ApiOperation { name, request, right: None }
}

const fn system(
    name: &'static str,
    request: &'static str,
    resource: &'static str,
    action: &'static str,
) -> ApiOperation {
    ApiOperation { name, request, right: Some(Permission { level: PermissionLevel::System, resource, action }) }
}

const fn project(
    name: &'static str,
    request: &'static str,
    resource: &'static str,
    action: &'static str,
) -> ApiOperation {
    ApiOperation { name, request, right: Some(Permission { level: PermissionLevel::Project, resource, action }) }
}

/// All operations.
pub const OPERATIONS: &[ApiOperation] = &[
    open("system_info", "GET systeminfo"),
    open("health", "GET health"),
    system("registries", "GET registries", "registry", "list"),
    system("unhealthy_registries", "GET registries", "registry", "list"),
    system("registry_named", "GET registries", "registry", "list"),
    system("create_registry", "POST registries", "registry", "create"),
    system("update_registry", "PUT registries/*", "registry", "update"),
    system("delete_registry", "DELETE registries/*", "registry", "delete"),
    system("ping_registry", "POST registries/ping", "registry", "read"),
    // Without this Harbor lists only public projects.
    system("projects", "GET projects", "project", "list"),
    system("project_named", "GET projects", "project", "list"),
    system("projects_of_registry", "GET projects", "project", "list"),
    system("create_project", "POST projects", "project", "create"),
    project("project", "GET projects/*", "project", "read"),
    project("update_project", "PUT projects/*", "project", "update"),
    project("project_deletable", "GET projects/*/_deletable", "project", "delete"),
    project("delete_project", "DELETE projects/*", "project", "delete"),
    system("project_quotas", "GET quotas", "quota", "list"),
    system("project_quota", "GET quotas", "quota", "list"),
    system("update_quota", "PUT quotas/*", "quota", "update"),
    project("retention", "GET retentions/*", "tag-retention", "read"),
    project("create_retention", "POST retentions", "tag-retention", "create"),
    project("update_retention", "PUT retentions/*", "tag-retention", "update"),
    project("delete_retention", "DELETE retentions/*", "tag-retention", "delete"),
    project("project_labels", "GET labels", "label", "list"),
    project("create_label", "POST labels", "label", "create"),
    project("update_label", "PUT labels/*", "label", "update"),
    project("repositories", "GET projects/*/repositories", "repository", "list"),
    project("delete_repository", "DELETE projects/*/repositories/*", "repository", "delete"),
    project("scanned_artifacts", "GET projects/*/repositories/*/artifacts", "artifact", "list"),
    project("artifacts_of", "GET projects/*/repositories/*/artifacts", "artifact", "list"),
    project("artifact", "GET projects/*/repositories/*/artifacts/*", "artifact", "read"),
    project("scanned_artifact", "GET projects/*/repositories/*/artifacts/*", "artifact", "read"),
    project("start_scan", "POST projects/*/repositories/*/artifacts/*/scan", "scan", "create"),
    system("replication_policies", "GET replication/policies", "replication-policy", "list"),
    system("replication_policy_named", "GET replication/policies", "replication-policy", "list"),
    system("replication_policy", "GET replication/policies/*", "replication-policy", "read"),
    system("create_replication_policy", "POST replication/policies", "replication-policy", "create"),
    system("update_replication_policy", "PUT replication/policies/*", "replication-policy", "update"),
    system("delete_replication_policy", "DELETE replication/policies/*", "replication-policy", "delete"),
    system("start_replication", "POST replication/executions", "replication", "create"),
    system("replication_executions", "GET replication/executions", "replication", "list"),
    system("replication_executions_page", "GET replication/executions", "replication", "list"),
    system("replication_execution", "GET replication/executions/*", "replication", "read"),
    system("stop_replication", "PUT replication/executions/*", "replication", "create"),
    system("replication_tasks", "GET replication/executions/*/tasks", "replication", "list"),
    system("replication_task_log", "GET replication/executions/*/tasks/*/log", "replication", "read"),
    project("pull", "GET /v2", "repository", "pull"),
];

/// Returns the operation with this name.
pub fn operation(name: &str) -> Option<&'static ApiOperation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_are_all_that_the_client_can_ask() {
        let sources = [
            include_str!("artifacts.rs"),
            include_str!("projects.rs"),
            include_str!("registries.rs"),
            include_str!("replication.rs"),
            include_str!("system.rs"),
        ];
        let methods = sources.iter().flat_map(|source| source.split("    pub async fn ").skip(1));
        let mut methods: BTreeSet<&str> = methods.map(|rest| rest.split('(').next().unwrap()).collect();
        methods.insert("pull");
        let rows: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
        assert_eq!(rows, methods);
        assert_eq!(rows.len(), OPERATIONS.len(), "one row each");
    }
}
