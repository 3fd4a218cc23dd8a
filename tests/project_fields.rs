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

    let told = stage.project(json!({"storageLimit": "1Gi"})).await;
    assert!(told.contains("storage_limit: 10485760 instead of 1073741824"), "{told}");
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
    let told = stage.project(spec).await;
    assert!(told.contains("severity: unknown instead of high") && told.contains("auto_scan: false"), "{told}");
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
