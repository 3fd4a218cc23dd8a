//! What a ProxyProject says beside its registry is so in Harbor: against the double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use harbor_double::Upstream;
use harbor_pilot::{
    api::{ProxyProject, Registry},
    harbor::model,
};
use serde_json::{Value, json};
use support::Site;

struct Stage {
    site: Site,
    _upstream: Upstream,
    name: String,
}

impl Stage {
    async fn start(base: &str) -> Self {
        let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
        let name = site.name(base);
        site.apply::<Registry>(&name, json!({"type": "docker-registry", "url": upstream.url()}));
        assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
        Self { site, _upstream: upstream, name }
    }

    /// Applies a project with these fields and looks at it once. Answers what was told.
    async fn project(&self, fields: Value) -> String {
        let mut spec = json!({"registryRef": {"name": self.name}});
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.site.apply::<ProxyProject>(&self.name, spec);
        let seen = self.site.reconcile::<ProxyProject>(&self.name).await;
        assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
        seen.0.notes.iter().map(|note| note.message.clone()).collect()
    }

    /// Looks again: nothing may be left to do.
    async fn assert_settled(&self) {
        self.site.writes();
        let seen = self.site.reconcile::<ProxyProject>(&self.name).await;
        assert_eq!((seen.ready().as_str(), seen.0.notes.len()), ("True Reconciled", 0), "{:?}", seen.0.notes);
        assert!(self.site.writes().is_none_or(|writes| writes == 0), "a second look wrote to Harbor");
    }

    async fn id(&self) -> i64 {
        self.site.client().project_named(&self.name).await.unwrap().unwrap().project_id
    }

    async fn end(self) {
        self.site.clean(&[&self.name]).await;
    }
}

#[tokio::test]
async fn the_storage_limit_is_that_of_the_quota_from_the_first_day_on() {
    let stage = Stage::start("quota").await;
    let client = stage.site.client();
    stage.project(json!({"storageLimit": "10Mi"})).await;
    stage.assert_settled().await;
    let id = stage.id().await;
    let limit = async || client.project_quota(id).await.unwrap().unwrap().hard.storage;
    assert_eq!(limit().await, 10 << 20);

    let reported = stage.project(json!({"storageLimit": "1Gi"})).await;
    assert!(reported.contains("storage_limit: 10485760 instead of 1073741824"), "{reported}");
    assert_eq!(limit().await, 1 << 30);
    stage.assert_settled().await;

    let quota = client.project_quota(id).await.unwrap().unwrap();
    client.update_quota(quota.id, 5).await.unwrap();
    stage.project(json!({})).await;
    assert_eq!(limit().await, 5, "a limit that the spec does not name is left alone");

    stage.project(json!({"storageLimit": -1})).await;
    assert_eq!(limit().await, -1);
    stage.assert_settled().await;
    stage.end().await;
}

#[tokio::test]
async fn prevention_comes_with_its_severity_and_its_scans_and_drift_is_repaired() {
    let stage = Stage::start("guard").await;
    let client = stage.site.client();
    let spec = json!({"vulnerabilities": {"prevent": true, "severity": "High"}, "autoSBOM": true});
    stage.project(spec.clone()).await;
    stage.assert_settled().await;
    let metadata = async || client.project_named(&stage.name).await.unwrap().unwrap().metadata;
    let has = |metadata: &std::collections::BTreeMap<String, String>| {
        ["prevent_vul", "severity", "auto_scan", "auto_sbom_generation"].map(|key| metadata[key].clone())
    };
    assert_eq!(has(&metadata().await), ["true", "high", "true", "true"]);

    let bad = [("severity".to_owned(), "HUGE".to_owned()), ("auto_scan".to_owned(), "false".to_owned())];
    let bad = model::ProjectUpdate { metadata: bad.into(), ..model::ProjectUpdate::default() };
    client.update_project(stage.id().await, &bad).await.unwrap();
    let reported = stage.project(spec).await;
    assert!(
        reported.contains("severity: unknown instead of high") && reported.contains("auto_scan: false"),
        "{reported}"
    );
    assert_eq!(has(&metadata().await), ["true", "high", "true", "true"]);
    stage.assert_settled().await;

    stage.project(json!({"vulnerabilities": {"autoScan": false}, "autoSBOM": false})).await;
    assert_eq!(has(&metadata().await), ["false", "high", "false", "false"]);
    stage.assert_settled().await;
    stage.end().await;
}

#[tokio::test]
async fn the_allowlist_is_there_from_the_first_day_on_and_can_be_emptied_or_left_to_harbor() {
    let stage = Stage::start("allow").await;
    let client = stage.site.client();
    let until = json!({"items": ["CVE-2024-2", "CVE-2024-1"], "expiresAt": "2030-03-17T17:46:40Z"});
    stage.project(json!({"cveAllowlist": until})).await;
    stage.assert_settled().await;
    let list = async || client.project_named(&stage.name).await.unwrap().unwrap().cve_allowlist;
    let ids = |list: &model::CveAllowlist| list.items.iter().map(|item| item.cve_id.clone()).collect::<Vec<_>>();
    let seen = list().await;
    assert_eq!((ids(&seen).len(), seen.expires_at), (2, Some(1_900_000_000)));

    stage.project(json!({"cveAllowlist": {"items": ["CVE-2024-3"]}, "vulnerabilities": {}})).await;
    let seen = list().await;
    assert_eq!((ids(&seen), seen.expires_at), (vec!["CVE-2024-3".to_owned()], None));
    stage.assert_settled().await;

    stage.project(json!({"public": true})).await;
    assert_eq!(ids(&list().await), ["CVE-2024-3"], "a list that the spec does not name is left alone");
    stage.project(json!({"cveAllowlist": {"system": true}})).await;
    assert_eq!(ids(&list().await), ["CVE-2024-3"]);
    let metadata = client.project_named(&stage.name).await.unwrap().unwrap().metadata;
    assert_eq!(metadata["reuse_sys_cve_allowlist"], "true");
    stage.assert_settled().await;

    stage.project(json!({"cveAllowlist": {"items": []}})).await;
    assert!(list().await.items.is_empty());
    stage.assert_settled().await;
    stage.end().await;
}

#[tokio::test]
async fn retention_is_the_policy_that_harbor_made_changed_repaired_deleted_and_made_again() {
    let stage = Stage::start("retain").await;
    let client = stage.site.client();
    let id = async || {
        let project = client.project_named(&stage.name).await.unwrap().unwrap();
        project.metadata.get("retention_id").and_then(|id| id.parse::<i64>().ok())
    };
    let month = json!({"rules": [{"pulledWithinDays": 30, "tags": {"matches": "v*"}, "untagged": true}], "schedule": "0 0 3 * * *"});
    stage.project(json!({"retention": month})).await;
    stage.assert_settled().await;
    let created_at = id().await.unwrap();
    let policy = client.retention(created_at).await.unwrap();
    assert_eq!(policy.rules[0].params["nDaysSinceLastPull"], 30);
    assert_eq!((policy.rules.len(), policy.trigger.settings.cron.as_str()), (1, "0 0 3 * * *"));

    let mut spoiled = policy.clone();
    spoiled.trigger.settings.cron = "0 0 4 * * *".to_owned();
    client.update_retention(&spoiled).await.unwrap();
    let reported = stage.project(json!({"retention": month})).await;
    assert!(reported.contains("at 0 0 4 * * * instead of"), "{reported}");
    assert_eq!(client.retention(created_at).await.unwrap(), policy);
    stage.assert_settled().await;

    stage.project(json!({"retention": {"rules": []}})).await;
    assert_eq!(id().await, None);
    stage.assert_settled().await;

    let rules =
        json!([{"always": true, "repositories": {"excludes": "tmp/**"}}, {"latestPushed": 10, "disabled": true}]);
    stage.project(json!({"retention": {"rules": rules, "schedule": ""}})).await;
    assert_eq!(client.retention(id().await.unwrap()).await.unwrap().rules.len(), 2);
    stage.assert_settled().await;
    stage.project(json!({})).await;
    assert!(id().await.is_some(), "a policy that the spec does not name is left alone");
    stage.end().await;
}

#[tokio::test]
async fn project_can_be_created_without_retention_and_a_hanging_schedule_is_not_sent() {
    let stage = Stage::start("unretained").await;
    stage.project(json!({"retention": {"rules": []}})).await;
    let project = stage.site.client().project_named(&stage.name).await.unwrap().unwrap();
    assert!(!project.metadata.contains_key("retention_id"), "{:?}", project.metadata);
    stage.assert_settled().await;

    let never = json!({"rules": [{"always": true}], "schedule": "0 0 2 30 2 *"});
    stage.site.writes();
    stage.site.apply::<ProxyProject>(&stage.name, json!({"registryRef": {"name": stage.name}, "retention": never}));
    let seen = stage.site.reconcile::<ProxyProject>(&stage.name).await;
    assert_eq!(seen.ready(), "False InvalidSpec");
    assert!(seen.message().contains("never fires"), "{}", seen.message());
    assert!(stage.site.writes().is_none_or(|writes| writes == 0));
    stage.end().await;
}

#[tokio::test]
async fn quay_is_registered_and_a_project_on_it_is_refused_with_the_way_out() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("quay");
    site.apply::<Registry>(&name, json!({"type": "quay", "url": upstream.url()}));
    let seen = site.reconcile::<Registry>(&name).await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    assert_eq!(site.client().registry_named(&name).await.unwrap().unwrap().type_, "quay");

    site.writes();
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}}));
    let seen = site.reconcile::<ProxyProject>(&name).await;
    assert_eq!(seen.ready(), "False InvalidSpec");
    assert!(seen.message().contains("type quay-io"), "{}", seen.message());
    assert!(site.writes().is_none_or(|writes| writes == 0), "Harbor would have answered 400");
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn what_an_older_harbor_does_not_have_is_refused_with_the_version_that_has_it() {
    let builder = harbor_double::Harbor::builder().speed(100.0).version("v2.10.3-0a1b2c3d");
    let (site, upstream) = (Site::doubled(builder).await, Upstream::builder().start().await);
    site.apply::<Registry>("old", json!({"type": "docker-registry", "url": upstream.url(), "caBundle": "-----BEGIN"}));
    let seen = site.reconcile::<Registry>("old").await;
    assert_eq!(seen.ready(), "False InvalidSpec");
    assert!(seen.message().contains("spec.caBundle needs Harbor v2.15.0 or later"), "{}", seen.message());

    site.apply::<Registry>("old", json!({"type": "docker-registry", "url": upstream.url()}));
    assert_eq!(site.reconcile::<Registry>("old").await.ready(), "True Reconciled");
    site.writes();
    let newer =
        json!({"registryRef": {"name": "old"}, "public": true, "proxySpeedKB": 100, "maxUpstreamConnections": 5});
    site.apply::<ProxyProject>("old", newer);
    let seen = site.reconcile::<ProxyProject>("old").await;
    assert_eq!(seen.ready(), "False InvalidSpec");
    for said in
        ["proxySpeedKB needs Harbor v2.12.0", "maxUpstreamConnections needs Harbor v2.14.1", "this Harbor is v2.10.3"]
    {
        assert!(seen.message().contains(said), "{}", seen.message());
    }
    assert_eq!(site.writes(), Some(0));

    let old = json!({"registryRef": {"name": "old"}, "public": true, "storageLimit": "1Gi"});
    site.apply::<ProxyProject>("old", old);
    assert_eq!(site.reconcile::<ProxyProject>("old").await.ready(), "True Reconciled");
}

#[test]
fn the_resources_of_the_documentation_are_taken() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/projects.md")).unwrap();
    let block = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("resources.yaml"), block).unwrap();
    let manifests = harbor_pilot::standalone::read(directory.path()).unwrap();
    assert_eq!((manifests.registries.len(), manifests.projects.len()), (1, 1));
}
