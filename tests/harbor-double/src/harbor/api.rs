//! `/api`: from method and path to the end point. What is not here is 404, what is here with another method 405.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderName, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{
    Core,
    auth::Who,
    http::{Ask, Fault, Outcome, json_reply, now, put, text},
};

/// Paths below `/api/v2.0/` (`*` is any segment) and the methods that they have.
const PATHS: &[(&str, &[&str])] = &[
    ("ping", &["GET"]),
    ("health", &["GET"]),
    ("systeminfo", &["GET"]),
    ("systeminfo/volumes", &["GET"]),
    ("users/current", &["GET"]),
    ("replication/adapters", &["GET"]),
    ("replication/adapterinfos", &["GET"]),
    ("replication/policies", &["GET", "POST"]),
    ("replication/policies/*", &["DELETE", "GET", "PUT"]),
    ("replication/executions", &["GET", "POST"]),
    ("replication/executions/*", &["GET", "PUT"]),
    ("replication/executions/*/tasks", &["GET"]),
    ("replication/executions/*/tasks/*/log", &["GET"]),
    ("registries", &["GET", "POST"]),
    ("registries/ping", &["POST"]),
    ("registries/*", &["DELETE", "GET", "PUT"]),
    ("registries/*/info", &["GET"]),
    ("projects", &["GET", "HEAD", "POST"]),
    ("projects/*", &["DELETE", "GET", "PUT"]),
    ("projects/*/_deletable", &["GET"]),
    ("projects/*/summary", &["GET"]),
    ("projects/*/metadatas", &["GET", "POST"]),
    ("projects/*/metadatas/*", &["DELETE", "GET", "PUT"]),
    ("projects/*/immutabletagrules", &["GET", "POST"]),
    ("projects/*/immutabletagrules/*", &["DELETE"]),
    ("projects/*/repositories", &["GET"]),
    ("projects/*/repositories/*", &["DELETE", "GET"]),
    ("projects/*/repositories/*/artifacts", &["GET", "POST"]),
    ("projects/*/repositories/*/artifacts/*", &["DELETE", "GET"]),
    ("projects/*/repositories/*/artifacts/*/tags", &["GET", "POST"]),
    ("projects/*/repositories/*/artifacts/*/tags/*", &["DELETE"]),
    ("projects/*/repositories/*/artifacts/*/labels", &["POST"]),
    ("projects/*/repositories/*/artifacts/*/labels/*", &["DELETE"]),
    ("projects/*/repositories/*/artifacts/*/scan", &["POST"]),
    ("quotas", &["GET"]),
    ("quotas/*", &["GET", "PUT"]),
    ("retentions", &["POST"]),
    ("retentions/metadatas", &["GET"]),
    ("retentions/*", &["DELETE", "GET", "PUT"]),
    ("labels", &["GET", "POST"]),
    ("labels/*", &["DELETE", "GET", "PUT"]),
    ("robots", &["GET", "POST"]),
    ("robots/*", &["DELETE", "GET", "PATCH", "PUT"]),
];

impl Core {
    pub(crate) async fn api(self: &Arc<Self>, ask: &Ask) -> Outcome {
        if ask.path == "/api/version" {
            return Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "{\"version\":\"v2.0\"}"));
        }
        let unknown = || Fault::not_found(format!("path {} was not found", ask.path));
        let rest = ask.path.strip_prefix("/api/v2.0/").ok_or_else(unknown)?.trim_end_matches('/');
        // Decoded once, as any router does; the name of a repository may be encoded twice.
        let segments: Vec<String> =
            rest.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect();
        let fits = |pattern: &str| {
            pattern.split('/').count() == segments.len()
                && pattern.split('/').zip(&segments).all(|(wanted, found)| wanted == "*" || wanted == found)
        };
        let (_, methods) = PATHS.iter().find(|(pattern, _)| fits(pattern)).ok_or_else(unknown)?;
        if !methods.contains(&ask.method.as_str()) {
            let message = format!("method {} is not allowed, but [{}] are", ask.method, methods.join(","));
            return Err(Fault::not_allowed(message));
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        self.end_point(ask, ask.method.as_str(), &segments).await
    }

    async fn end_point(self: &Arc<Self>, ask: &Ask, method: &str, segments: &[&str]) -> Outcome {
        match (method, segments) {
            (_, ["ping"]) => Ok(text(StatusCode::OK, "text/plain", "Pong")),
            (_, ["health"]) => Ok(health()),
            (_, ["systeminfo"]) => Ok(self.system_info(ask)),
            (_, ["systeminfo", "volumes"]) => Ok(json_reply(&json!({"storage": [{}]}))),
            (_, ["users", "current"]) => current_user(ask),
            (_, ["replication", kind @ ("policies" | "executions"), ..]) => {
                let resource = if *kind == "policies" { "replication-policy" } else { "replication" };
                let action = match (method, *kind) {
                    ("GET", _) if segments.len() == 2 || segments.last() == Some(&"tasks") => "list",
                    ("GET", _) => "read",
                    ("POST", _) | ("PUT", "executions") => "create",
                    ("PUT", _) => "update",
                    _ => "delete",
                };
                self.allowed(ask, resource, action)?;
                self.replication_end_point(ask, method, segments.get(1..).unwrap_or_default()).await
            }
            (_, ["registries" | "replication", ..]) => self.registry_end_point(ask, method, segments).await,
            (_, ["projects", ..]) => self.project_end_point(ask, method, segments),
            ("GET", ["quotas"]) => self.list_quotas(ask),
            ("GET", ["quotas", id]) => self.allowed(ask, "quota", "read").and_then(|()| self.get_quota(id)),
            (_, ["quotas", id]) => self.update_quota(ask, id),
            ("POST", ["retentions"]) => self.signed_in(ask).and_then(|()| self.create_retention(ask)),
            (_, ["retentions", "metadatas"]) => Ok(json_reply(&super::retention::templates())),
            ("GET", ["retentions", id]) => self.signed_in(ask).and_then(|()| self.get_retention(ask, id)),
            ("PUT", ["retentions", id]) => self.signed_in(ask).and_then(|()| self.update_retention(ask, id)),
            (_, ["retentions", id]) => self.signed_in(ask).and_then(|()| self.delete_retention(ask, id)),
            ("GET", ["labels"]) => self.signed_in(ask).and_then(|()| self.list_labels(ask)),
            ("POST", ["labels"]) => self.signed_in(ask).and_then(|()| self.create_label(ask)),
            ("GET", ["labels", id]) => self.signed_in(ask).and_then(|()| self.get_label(ask, id)),
            ("PUT", ["labels", id]) => self.signed_in(ask).and_then(|()| self.update_label(ask, id)),
            (_, ["labels", id]) => self.signed_in(ask).and_then(|()| self.delete_label(ask, id)),
            ("GET", ["robots"]) => self.list_robots(ask),
            ("POST", ["robots"]) => self.create_robot(ask),
            ("GET", ["robots", id]) => self.get_robot(ask, id),
            ("PUT", ["robots", id]) => self.update_robot(ask, id),
            ("PATCH", ["robots", id]) => self.refresh_robot(ask, id),
            (_, ["robots", id]) => self.delete_robot(ask, id),
            _ => Err(Fault::not_found(format!("path {} was not found", ask.path))),
        }
    }

    async fn registry_end_point(&self, ask: &Ask, method: &str, segments: &[&str]) -> Outcome {
        let action = match method {
            "POST" if segments == ["registries"] => "create",
            "PUT" => "update",
            "DELETE" => "delete",
            "GET" if segments.len() == 1 => "list",
            _ => "read",
        };
        let resource = if segments.first() == Some(&"registries") { "registry" } else { "replication-adapter" };
        self.allowed(ask, resource, if resource == "registry" { action } else { "list" })?;
        match (method, segments) {
            (_, ["replication", "adapters"]) => Ok(json_reply(&json!(ADAPTERS))),
            (_, ["replication", ..]) => {
                let none = json!({"endpoint_pattern": null, "credential_pattern": null});
                Ok(json_reply(&ADAPTERS.iter().map(|name| ((*name).to_owned(), none.clone())).collect()))
            }
            ("GET", ["registries"]) => self.list_registries(ask),
            ("POST", ["registries"]) => self.create_registry(ask).await,
            ("POST", ["registries", "ping"]) => self.ping_registry(ask).await,
            ("GET", ["registries", id]) => self.get_registry(id),
            ("PUT", ["registries", id]) => self.update_registry(ask, id).await,
            ("DELETE", ["registries", id]) => self.delete_registry(id),
            (_, ["registries", id, ..]) => self.registry_info(id),
            _ => Err(Fault::internal()),
        }
    }

    fn project_end_point(self: &Arc<Self>, ask: &Ask, method: &str, segments: &[&str]) -> Outcome {
        match (method, segments) {
            ("GET", ["projects"]) => self.list_projects(ask),
            ("HEAD", ["projects"]) => self.head_project(ask),
            ("POST", ["projects"]) => self.create_project(ask),
            ("GET", ["projects", project]) => self.get_project(ask, project),
            ("PUT", ["projects", project]) => self.update_project(ask, project),
            ("DELETE", ["projects", project]) => self.delete_project(ask, project),
            (_, ["projects", project, "_deletable"]) => self.deletable(ask, project),
            (_, ["projects", project, "summary"]) => self.project_summary(ask, project),
            ("GET", ["projects", project, "metadatas"]) => self.list_metadata(ask, project),
            ("POST", ["projects", project, "metadatas"]) => self.create_metadata(ask, project),
            ("GET", ["projects", project, "metadatas", key]) => self.get_metadata(ask, project, key),
            ("PUT", ["projects", project, "metadatas", key]) => self.update_metadata(ask, project, key),
            (_, ["projects", project, "metadatas", key]) => self.delete_metadata(ask, project, key),
            ("GET", ["projects", project, "immutabletagrules"]) => self.list_immutable(ask, project),
            ("POST", ["projects", project, "immutabletagrules"]) => self.create_immutable(ask, project),
            (_, ["projects", project, "immutabletagrules", rule]) => self.delete_immutable(ask, project, rule),
            (_, ["projects", project, "repositories"]) => self.list_repositories(ask, project),
            ("GET", ["projects", project, "repositories", name]) => self.get_repository(ask, project, name),
            (_, ["projects", project, "repositories", name]) => self.delete_repository(ask, project, name),
            ("GET", ["projects", project, "repositories", name, "artifacts"]) => {
                self.list_artifacts(ask, project, name)
            }
            (_, ["projects", project, "repositories", name, "artifacts"]) => self.copy_artifact(ask, project, name),
            ("GET", ["projects", project, "repositories", name, "artifacts", reference]) => {
                self.get_artifact(ask, project, name, reference)
            }
            (_, ["projects", project, "repositories", name, "artifacts", reference]) => {
                self.delete_artifact(ask, project, name, reference)
            }
            ("GET", ["projects", project, "repositories", name, "artifacts", reference, "tags"]) => {
                self.list_tags(ask, project, name, reference)
            }
            (_, ["projects", project, "repositories", name, "artifacts", reference, "tags"]) => {
                self.create_tag(ask, project, name, reference)
            }
            (_, ["projects", project, "repositories", name, "artifacts", reference, "tags", tag]) => {
                self.delete_tag(ask, project, name, reference, tag)
            }
            (_, ["projects", project, "repositories", name, "artifacts", reference, "labels"]) => {
                self.add_label(ask, project, name, reference)
            }
            (_, ["projects", project, "repositories", name, "artifacts", reference, "labels", label]) => {
                self.remove_label(ask, project, name, reference, label)
            }
            (_, ["projects", project, "repositories", name, "artifacts", reference, "scan"]) => {
                self.start_scan(ask, project, name, reference)
            }
            _ => Err(Fault::internal()),
        }
    }

    fn allowed(&self, ask: &Ask, resource: &str, action: &str) -> Result<(), Fault> {
        if ask.who.may(resource, action) { Ok(()) } else { Err(ask.who.refusal()) }
    }

    fn signed_in(&self, ask: &Ask) -> Result<(), Fault> {
        match ask.who {
            Who::Anonymous | Who::Token(_) => Err(ask.who.refusal()),
            _ => Ok(()),
        }
    }

    fn system_info(&self, ask: &Ask) -> super::http::Reply {
        let mut info = json!({
            "auth_mode": "db_auth", "banner_message": "", "oidc_provider_name": "", "primary_auth_mode": false,
            "self_registration": false,
        });
        if !matches!(ask.who, Who::Anonymous | Who::Token(_))
            && let Some(info) = info.as_object_mut()
        {
            let more = json!({
                "current_time": now(), "external_url": self.base, "harbor_version": self.settings.version, "has_ca_root": false,
                "notification_enable": true, "project_creation_restriction": "everyone", "read_only": false,
                "registry_storage_provider_name": "filesystem", "registry_url": self.host,
            });
            info.extend(more.as_object().cloned().unwrap_or_default());
        }
        json_reply(&info)
    }
}

const ADAPTERS: [&str; 12] = [
    "ali-acr",
    "aws-ecr",
    "azure-acr",
    "docker-hub",
    "docker-registry",
    "github-ghcr",
    "google-gcr",
    "harbor",
    "huawei-SWR",
    "jfrog-artifactory",
    "tencent-tcr",
    "volcengine-cr",
];

fn health() -> super::http::Reply {
    let components: Vec<_> = ["core", "database", "jobservice", "portal", "redis", "registry", "registryctl"]
        .iter()
        .map(|name| json!({"name": name, "status": "healthy"}))
        .collect();
    json_reply(&json!({"status": "healthy", "components": components}))
}

fn current_user(ask: &Ask) -> Outcome {
    match &ask.who {
        Who::Admin(name) => Ok(json_reply(&json!({
            "admin_role_in_auth": false, "comment": "admin user", "creation_time": "2026-01-01T00:00:00.000Z",
            "realname": "system admin", "sysadmin_flag": true, "update_time": "2026-01-01T00:00:00.000Z", "user_id": 1,
            "username": name,
        }))),
        Who::Robot(_) => Err(Fault::precondition("get current user not available for security context: robot")),
        _ => Err(ask.who.refusal()),
    }
}

/// The page that the portal's router shows for what it does not know.
pub(crate) fn no_page() -> super::http::Reply {
    let body = "<!DOCTYPE HTML>\n<html>\n<head>\n<title>404 - Page Not Found</title>\n</head>\n</html>\n";
    text(StatusCode::NOT_FOUND, "text/html; charset=utf-8", body)
}

/// Harbor's guard against forged forms: whoever sends the session cookie back has to send the token, too.
pub(crate) fn guard(ask: &Ask, answer: Option<Outcome>) -> super::http::Reply {
    let mut reply: http::Response<Body> = match answer {
        Some(answer) => answer.unwrap_or_else(Fault::reply),
        None => Fault::forbidden("CSRF token not found in request").reply(),
    };
    let token = crate::digest::sha256(ask.path.as_bytes());
    put(
        &mut reply,
        header::SET_COOKIE,
        &format!("_gorilla_csrf={token}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"),
    );
    put(&mut reply, HeaderName::from_static("x-harbor-csrf-token"), &token);
    reply
}
