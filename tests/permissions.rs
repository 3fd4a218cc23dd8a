//! The rights of the robot account: the table of operations, the command that prints what manifests need, and the README, against the
//! double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use harbor_double::{Image, Upstream};
use harbor_pilot::{
    api::{HarborInstance, ProxyProject, Registry, ReplicationRule},
    harbor::{
        Client, Error, model,
        permissions::{OPERATIONS, Permission, PermissionLevel},
    },
    registry,
    transport::{Credentials, Endpoint},
};
use serde_json::{Value, json};
use support::Site;

/// A robot of the site that has these rights: those on projects on one project, or on all (`*`).
async fn robot(site: &Site, name: &str, namespace: &str, rights: &BTreeSet<Permission>) -> Credentials {
    let access = |level| -> Vec<Value> {
        let of_level = rights.iter().filter(|right| right.level == level);
        of_level.map(|right| json!({"resource": right.resource, "action": right.action})).collect()
    };
    // Harbor takes no level without a right.
    let levels =
        [("system", "/", access(PermissionLevel::System)), ("project", namespace, access(PermissionLevel::Project))];
    let levels = levels.into_iter().filter(|(.., access)| !access.is_empty());
    let permissions: Vec<Value> =
        levels.map(|(kind, at, access)| json!({"kind": kind, "namespace": at, "access": access})).collect();
    made(site, json!({"name": site.name(name), "level": "system", "duration": 1, "permissions": permissions})).await
}

async fn made(site: &Site, body: Value) -> Credentials {
    let (status, made) = site.manual_request("POST", "/robots", Some(&body)).await;
    assert_eq!(status, 201, "{body}: {made}");
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    Credentials { username: text("name"), password: text("secret").into() }
}

fn client(site: &Site, credentials: &Credentials) -> Client {
    let credentials = Some(credentials.clone());
    Client::new(&Endpoint { credentials, ..Endpoint::new(site.url.clone()) }).unwrap()
}

/// What the operations are about.
struct Ground {
    project: i64,
    name: String,
    registry: i64,
    policy: i64,
    retention: i64,
    label: i64,
    quota: i64,
}

/// A project by hand, with all that operations are about. Nothing is changed by what is tried: what would, names what is not there.
async fn ground(site: &Site, upstream: &Upstream) -> Ground {
    let name = site.name("rights");
    let admin = site.client();
    let manual_request = async |path: &str, body: Value| {
        let (status, answer) = site.manual_request("POST", path, Some(&body)).await;
        assert_eq!(status, 201, "{path}: {answer}");
    };
    manual_request("/registries", json!({"name": name, "type": "docker-registry", "url": upstream.url()})).await;
    let registry = admin.registry_named(&name).await.unwrap().unwrap().id;
    manual_request(
        "/projects",
        json!({"project_name": name, "registry_id": registry, "metadata": {"public": "false"}}),
    )
    .await;
    let found = admin.project_named(&name).await.unwrap().unwrap();
    let project = found.project_id;
    manual_request("/labels", json!({"name": "mark", "scope": "p", "project_id": project})).await;
    let policy =
        json!({"name": name, "src_registry": {"id": registry}, "trigger": {"type": "manual"}, "enabled": true});
    manual_request("/replication/policies", policy).await;
    Ground {
        project,
        registry,
        policy: admin.replication_policy_named(&name).await.unwrap().unwrap().id,
        retention: found.metadata["retention_id"].parse().unwrap(),
        label: admin.project_labels(project).await.unwrap()[0].id,
        quota: admin.project_quota(project).await.unwrap().unwrap().id,
        name,
    }
}

const NOT_THERE: i64 = 99_999_999;
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What an operation says to an account.
async fn attempt(name: &str, client: &Client, on: &Ground) -> Result<(), Error> {
    let Ground { project, name: called, registry, policy, retention, label, quota } = on;
    let (registry, project, policy) = (*registry, *project, *policy);
    let retention_policy = || async { client.retention(*retention).await };
    match name {
        "system_info" => client.system_info().await.map(drop),
        "health" => client.health().await.map(drop),
        "registries" => client.registries().await.map(drop),
        "unhealthy_registries" => client.unhealthy_registries().await.map(drop),
        "registry_named" => client.registry_named(called).await.map(drop),
        "create_registry" => {
            let new =
                json!({"name": called, "type": "docker-registry", "url": "http://127.0.0.1:9", "insecure": false});
            let text = |key: &str| new[key].as_str().unwrap().to_owned();
            let new = model::NewRegistry {
                name: text("name"),
                type_: text("type"),
                url: text("url"),
                description: String::new(),
                credential: None,
                insecure: false,
                ca_certificate: None,
            };
            client.create_registry(&new).await.map(drop)
        }
        "update_registry" => {
            client
                .update_registry(
                    registry,
                    &model::RegistryUpdate { description: Some("x".to_owned()), ..Default::default() },
                )
                .await
        }
        // Forbidden is 403 for what is not there, too.
        "delete_registry" => client.delete_registry(NOT_THERE).await,
        "ping_registry" => {
            let ping = model::RegistryPing {
                type_: "docker-registry".to_owned(),
                url: "http://127.0.0.1:9".to_owned(),
                insecure: false,
            };
            client.ping_registry(&ping).await
        }
        "projects" => client.projects().await.map(drop),
        "project_named" => client.project_named(called).await.map(drop),
        "projects_of_registry" => client.projects_of_registry(registry).await.map(drop),
        "create_project" => {
            let new = model::NewProject {
                project_name: called.clone(),
                registry_id: registry,
                metadata: BTreeMap::new(),
                storage_limit: None,
            };
            client.create_project(&new).await.map(drop)
        }
        "project" => client.project(project).await.map(drop),
        "update_project" => {
            let metadata = BTreeMap::from([("auto_scan".to_owned(), "false".to_owned())]);
            client.update_project(project, &model::ProjectUpdate { metadata, cve_allowlist: None }).await
        }
        "project_deletable" => client.project_deletable(project).await.map(drop),
        // It is deleted at the end, by whoever may.
        "delete_project" => client.delete_project(project).await,
        "project_quotas" => client.project_quotas().await.map(drop),
        "project_quota" => client.project_quota(project).await.map(drop),
        "update_quota" => client.update_quota(*quota, 1 << 30).await,
        "retention" => retention_policy().await.map(drop),
        "create_retention" => {
            let policy = model::RetentionPolicy {
                id: 0,
                algorithm: "or".to_owned(),
                rules: Vec::new(),
                trigger: model::RetentionTrigger { kind: "Schedule".to_owned(), ..Default::default() },
                scope: model::RetentionScope { level: "project".to_owned(), reference: project },
            };
            client.create_retention(&policy).await.map(drop)
        }
        "update_retention" => {
            let policy = model::RetentionPolicy {
                id: *retention,
                algorithm: "or".to_owned(),
                rules: Vec::new(),
                trigger: model::RetentionTrigger { kind: "Schedule".to_owned(), ..Default::default() },
                scope: model::RetentionScope { level: "project".to_owned(), reference: project },
            };
            client.update_retention(&policy).await
        }
        "delete_retention" => client.delete_retention(*retention).await,
        "project_labels" => client.project_labels(project).await.map(drop),
        "create_label" => client.create_label(&label_of(project)).await.map(drop),
        "update_label" => client.update_label(*label, &label_of(project)).await,
        "repositories" => client.repositories(called).await.map(drop),
        "delete_repository" => client.delete_repository(called, "not/there").await,
        "scanned_artifacts" => client.scanned_artifacts(called, "not/there").await.map(drop),
        "artifacts_of" => client.artifacts_of(called, "not/there", &[DIGEST]).await.map(drop),
        "artifact" => client.artifact(called, "not/there", "v1").await.map(drop),
        "scanned_artifact" => client.scanned_artifact(called, "not/there", "v1").await.map(drop),
        "start_scan" => client.start_scan(called, "not/there", DIGEST).await,
        "replication_policies" => client.replication_policies().await.map(drop),
        "replication_policy_named" => client.replication_policy_named(called).await.map(drop),
        "replication_policy" => client.replication_policy(policy).await.map(drop),
        "create_replication_policy" => client.create_replication_policy(&content(called, registry)).await.map(drop),
        "update_replication_policy" => client.update_replication_policy(policy, &content(called, registry)).await,
        "delete_replication_policy" => client.delete_replication_policy(NOT_THERE).await,
        "start_replication" => client.start_replication(NOT_THERE).await.map(drop),
        "replication_executions" => client.replication_executions(policy, 1).await.map(drop),
        "replication_executions_page" => client.replication_executions_page(1).await.map(drop),
        "replication_execution" => client.replication_execution(NOT_THERE).await.map(drop),
        "stop_replication" => client.stop_replication(NOT_THERE).await,
        "replication_tasks" => client.replication_tasks(NOT_THERE).await.map(drop),
        "replication_task_log" => client.replication_task_log(NOT_THERE, 1).await.map(drop),
        other => panic!("no attempt at {other}"),
    }
}

fn label_of(project_id: i64) -> model::Label {
    model::Label { id: 0, name: "mark".to_owned(), description: "x".to_owned(), scope: "p".to_owned(), project_id }
}

fn content(name: &str, registry: i64) -> model::ReplicationPolicyContent {
    let content = json!({"name": name, "src_registry": {"id": registry}, "trigger": {"type": "manual"}});
    serde_json::from_value(content).unwrap()
}

fn every_right() -> BTreeSet<Permission> {
    OPERATIONS.iter().filter_map(|operation| operation.right).collect()
}

fn forbids(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::Forbidden { .. } | Error::Unauthorized { .. }))
}

#[tokio::test]
async fn rights_of_each_operation_are_those_that_harbor_checks() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let ground = ground(&site, &upstream).await;
    // Deletions of what the others need come last.
    let mut operations: Vec<_> = OPERATIONS.iter().filter(|operation| operation.name != "pull").collect();
    operations.sort_by_key(|operation| match operation.name {
        "delete_project" => 2,
        "delete_retention" => 1,
        _ => 0,
    });
    let mut number = 0;
    for right in every_right() {
        number += 1;
        let mut others = every_right();
        others.remove(&right);
        let lacking = client(&site, &robot(&site, &format!("lack{number}"), &ground.name, &others).await);
        for operation in operations.iter().filter(|operation| operation.right == Some(right)) {
            // Lists of projects are answered to anybody, and hold less.
            if operation.request == "GET projects" {
                continue;
            }
            let result = attempt(operation.name, &lacking, &ground).await;
            assert!(forbids(&result), "{} without {right:?}: {result:?}", operation.name);
        }
    }
    let all = client(&site, &robot(&site, "all", &ground.name, &every_right()).await);
    for operation in &operations {
        let result = attempt(operation.name, &all, &ground).await;
        assert!(!forbids(&result), "{} with all rights: {result:?}", operation.name);
    }
    let none = client(
        &site,
        &robot(
            &site,
            "none",
            &ground.name,
            &[Permission { level: PermissionLevel::System, resource: "catalog", action: "read" }].into(),
        )
        .await,
    );
    for operation in operations.iter().filter(|operation| operation.right.is_none()) {
        let result = attempt(operation.name, &none, &ground).await;
        assert!(!forbids(&result), "{} is for anybody: {result:?}", operation.name);
    }
    site.clean(&[&ground.name]).await;
}

#[tokio::test]
async fn rights_to_pull_are_those_of_the_repository() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    upstream.push_image("team/app", "v1", &Image::single("linux", "amd64"));
    let ground = ground(&site, &upstream).await;
    let mut others = every_right();
    others.retain(|right| right.action != "pull");
    for (rights, name, may) in [(every_right(), "pulls", true), (others, "lacks", false)] {
        let credentials = robot(&site, name, &ground.name, &rights).await;
        let endpoint = Endpoint { credentials: Some(credentials), ..Endpoint::new(site.url.clone()) };
        let client = registry::Client::new(&endpoint).unwrap();
        let result = client.head(&format!("{}/team/app", ground.name), "v1").await;
        assert_eq!(result.is_ok(), may, "{result:?}");
    }
    site.clean(&[&ground.name]).await;
}

/// Resources that use all fields which take rights of their own, as files and as specs.
struct Everything {
    name: String,
    upstream: String,
}

impl Everything {
    fn specs(&self) -> [(&'static str, Value); 3] {
        let name = &self.name;
        [
            (
                "Registry",
                json!({"type": "docker-registry", "url": self.upstream, "credentialsSecretRef": {"name": "up"}, "deletionPolicy": "Delete"}),
            ),
            (
                "ProxyProject",
                json!({
                    "registryRef": {"name": name}, "storageLimit": "10Gi", "deletionPolicy": "Purge",
                    "retention": {"rules": [{"pulledWithinDays": 30}], "schedule": "0 0 3 * * *"},
                    "cveAllowlist": {"items": ["CVE-2024-1"]},
                }),
            ),
            (
                "ReplicationRule",
                json!({
                    "source": {"registryRef": {"name": name}}, "filters": {"name": "team/app"}, "override": true, "deletionPolicy": "Delete",
                }),
            ),
        ]
    }

    fn files(&self) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (kind, spec) in self.specs() {
            let resource = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": self.name}, "spec": spec});
            fs::write(directory.path().join(format!("{kind}.json")), resource.to_string()).unwrap();
        }
        directory
    }
}

fn permissions(more: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_harbor-pilot")).arg("permissions").args(more).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn permissions_prints_a_robot_that_can_do_all_that_the_files_say() {
    let site = Site::start().await;
    let upstream = Upstream::builder().basic_auth("puller", "right").start().await;
    upstream.push_image("team/app", "v1", &Image::single("linux", "amd64"));
    let everything = Everything { name: site.name("every"), upstream: upstream.url() };
    let (name, files) = (everything.name.as_str(), everything.files());
    let robot_name = site.name("pilot");
    let path = files.path().to_str().unwrap();
    let (ok, printed, errors) = permissions(&["-f", path, "-o", "json", "--name", &robot_name, "--duration", "1"]);
    assert!(ok, "{errors}");
    let account = made(&site, serde_json::from_str(&printed).unwrap()).await;
    let password = secrecy::ExposeSecret::expose_secret(&account.password).to_owned();
    site.secret("harbor", &account.username, &password);
    let ready = |seen: (String, String)| assert_eq!(seen.0, "True Reconciled", "{}", seen.1);

    // A wrong password first: Harbor is asked which of the two it is.
    site.secret("up", "puller", "wrong");
    let [registry, project, rule] = everything.specs().map(|(_, spec)| spec);
    assert_eq!(site.reconcile::<HarborInstance>("default").await.ready(), "True Healthy");
    site.apply::<Registry>(name, registry.clone());
    assert_eq!(site.reconcile::<Registry>(name).await.ready(), "False CredentialsRejected");
    site.secret("up", "puller", "right");
    for round in 0..2 {
        let change = |mut spec: Value, change: Value| {
            if round > 0 {
                json_patch::merge(&mut spec, &change);
            }
            spec
        };
        site.apply::<Registry>(name, change(registry.clone(), json!({"description": "changed"})));
        site.apply::<ProxyProject>(
            name,
            change(
                project.clone(),
                json!({"storageLimit": "20Gi", "proxySpeedKB": 64, "retention": {"rules": [{"always": true}]}}),
            ),
        );
        site.apply::<ReplicationRule>(name, change(rule.clone(), json!({"description": "changed"})));
        let seen = site.reconcile::<Registry>(name).await;
        ready((seen.ready(), seen.message()));
        let seen = site.reconcile::<ProxyProject>(name).await;
        ready((seen.ready(), seen.message()));
        let seen = site.reconcile::<ReplicationRule>(name).await;
        ready((seen.ready(), seen.message()));
        if round == 0 {
            // By hand: the retention is removed, and the label loses the marker.
            let found = site.client().project_named(name).await.unwrap().unwrap();
            let retention = format!("/retentions/{}", found.metadata["retention_id"]);
            assert_eq!(site.manual_request("DELETE", &retention, None).await.0, 200);
            let label = site.client().project_labels(found.project_id).await.unwrap()[0].clone();
            let edited =
                json!({"name": label.name, "description": "edited", "scope": "p", "project_id": found.project_id});
            assert_eq!(site.manual_request("PUT", &format!("/labels/{}", label.id), Some(&edited)).await.0, 200);
        }
    }
    site.annotate::<ReplicationRule>(name, "harbor-pilot.dev/run-now", "1");
    for _ in 0..3 {
        let seen = site.reconcile::<ReplicationRule>(name).await;
        ready((seen.ready(), seen.message()));
    }
    let project = site.client().project_named(name).await.unwrap().unwrap();
    assert_eq!(site.client().project_quota(project.project_id).await.unwrap().unwrap().hard.storage, 20 << 30);
    assert!(project.metadata.contains_key("retention_id"), "{project:?}");
    site.clean(&[name, "team"]).await;
}

#[test]
fn permissions_asks_for_no_more_than_the_fields_need() {
    let of = |change: Value| {
        let directory = tempfile::tempdir().unwrap();
        let mut resource = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": "a"}, "spec": {"registryRef": {"name": "a"}}});
        json_patch::merge(&mut resource["spec"], &change);
        fs::write(directory.path().join("a.json"), resource.to_string()).unwrap();
        let (ok, printed, errors) = permissions(&["-f", directory.path().to_str().unwrap(), "-o", "json"]);
        assert!(ok, "{errors}");
        let body: Value = serde_json::from_str(&printed).unwrap();
        let all = body["permissions"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|level| level["access"].as_array().unwrap().clone());
        all.map(|right| format!("{}:{}", right["resource"].as_str().unwrap(), right["action"].as_str().unwrap()))
            .collect::<BTreeSet<_>>()
    };
    let plain = of(json!({}));
    assert!(plain.contains("project:create") && plain.contains("repository:pull"), "{plain:?}");
    let observed = of(json!({"managementPolicy": "ObserveOnly"}));
    assert!(
        observed.is_subset(&plain) && !observed.contains("project:create") && !observed.contains("label:create"),
        "{observed:?}"
    );
    let more = |change: Value| of(change).difference(&plain).cloned().collect::<Vec<_>>();
    assert_eq!(more(json!({"storageLimit": "1Gi"})), ["quota:list", "quota:update"]);
    let retention = more(json!({"retention": {"rules": [{"always": true}]}}));
    let actions = ["create", "delete", "read", "update"].map(|action| format!("tag-retention:{action}"));
    assert_eq!(retention, [&["project:read".to_owned()][..], &actions].concat());
    assert_eq!(more(json!({"deletionPolicy": "Delete"})), ["project:delete"]);
    assert_eq!(more(json!({"deletionPolicy": "Purge"})), ["project:delete", "repository:delete", "repository:list"]);
    assert!(
        more(json!({"public": true, "vulnerabilities": {"prevent": true, "severity": "High", "autoScan": true}}))
            .is_empty()
    );
}

#[test]
fn permissions_are_a_table_for_people_and_an_error_without_resources() {
    let everything = Everything { name: "every".to_owned(), upstream: "http://up.test".to_owned() };
    let files = everything.files();
    let (ok, printed, _) = permissions(&["-f", files.path().to_str().unwrap()]);
    assert!(ok && printed.starts_with("LEVEL"), "{printed}");
    assert!(
        printed.contains("ProxyProject every (storageLimit)") && printed.contains("ReplicationRule every"),
        "{printed}"
    );
    let (ok, _, errors) = permissions(&["-f", files.path().to_str().unwrap(), "--instance", "other"]);
    assert!(!ok && errors.contains("HarborInstance other"), "{errors}");
    let (ok, ..) = permissions(&["-f", files.path().to_str().unwrap(), "--duration", "0"]);
    assert!(!ok);
}

#[test]
fn rights_in_the_readme_are_those_of_all_operations() {
    let mut rows: BTreeMap<(PermissionLevel, &str), BTreeSet<&str>> = BTreeMap::new();
    for right in every_right() {
        rows.entry((right.level, right.resource)).or_default().insert(right.action);
    }
    let line = |((level, resource), actions): (&(PermissionLevel, &str), &BTreeSet<&str>)| {
        let of = if *level == PermissionLevel::System { "the system" } else { "all projects" };
        format!("| {of} | {resource} | {} |", actions.iter().copied().collect::<Vec<_>>().join(", "))
    };
    let table = rows.iter().map(line).collect::<Vec<_>>().join("\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(path).unwrap();
    let head = "| of | resource | actions |\n|---|---|---|\n";
    let (before, rest) = readme.split_once(head).unwrap();
    let (found, after) = rest.split_once("\n\n").unwrap();
    if std::env::var_os("HARBOR_PILOT_BLESS").is_some() {
        fs::write(path, format!("{before}{head}{table}\n\n{after}")).unwrap();
        return;
    }
    assert_eq!(found, table, "run this test with HARBOR_PILOT_BLESS=1");
}
