//! `deletionPolicy: Purge`: a project goes with its repositories: against the double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use harbor_double::{Hold, Image, Upstream};
use harbor_pilot::{
    api::{ConditionType, ProxyProject, ProxyProjectStatus, Registry},
    controller::{FinalizeResult, ReconcileResult},
};
use serde_json::{Value, json};
use support::{Seen, Site};

/// A project with a cache, whose resource is to be deleted.
struct Stage {
    site: Site,
    upstream: Upstream,
    name: String,
}

impl Stage {
    async fn start(base: &str, policy: &str) -> Self {
        let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
        let name = site.name(base);
        site.apply::<Registry>(&name, json!({"type": "docker-registry", "url": upstream.url()}));
        assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
        site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}, "deletionPolicy": policy}));
        assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");
        Self { site, upstream, name }
    }

    /// Has these repositories cached.
    async fn cache(&self, repositories: &[&str]) {
        for repository in repositories {
            let image = Image::single("linux", "amd64").layers([64]);
            if let Some(double) = &self.site.double {
                double.store_image(&format!("{}/{repository}", self.name), "v1", &image);
                continue;
            }
            let pushed = self.upstream.push_image(repository, "v1", &image);
            self.pull(repository, &format!("manifests/{}", pushed.digest)).await;
            self.pull(repository, "manifests/v1").await;
            for blob in pushed.children[0].layers.iter().chain([&pushed.children[0].config]) {
                self.pull(repository, &format!("blobs/{}", blob.digest)).await;
            }
        }
        for _ in 0..120 {
            if self.repositories().await.len() == repositories.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{:?} were cached of {repositories:?}", self.repositories().await);
    }

    async fn pull(&self, repository: &str, what: &str) {
        let url = format!("{}/v2/{}/{repository}/{what}", self.site.url, self.name);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.get(&url).basic_auth(&self.site.username, Some(&self.site.password));
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
        let answer = request.header("accept", accept).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.bytes().await.unwrap();
    }

    async fn repositories(&self) -> Vec<String> {
        let mut names = self.site.client().repositories(&self.name).await.unwrap();
        names.sort();
        names
    }

    /// One look at the deletion.
    async fn look(&self) -> FinalizeResult<ProxyProjectStatus> {
        let finalized = self.site.finalize::<ProxyProject>(&self.name).await;
        if let FinalizeResult::Blocked(outcome) = &finalized {
            self.site.world.set_status::<ProxyProject>(&self.name, outcome.status.clone()).unwrap();
        }
        finalized
    }

    async fn blocked(&self) -> (ReconcileResult<ProxyProjectStatus>, String, String) {
        let FinalizeResult::Blocked(outcome) = self.look().await else { panic!("it is gone") };
        let (_, reason, message) =
            Seen::<ProxyProject>(outcome.clone()).condition(ConditionType::DeletionBlocked).unwrap();
        (outcome, reason, message)
    }

    async fn assert_deleted(&self) {
        let finalized = self.look().await;
        let FinalizeResult::Done(notes) = &finalized else { panic!("{finalized:?}") };
        assert!(notes.len() == 1 && notes[0].message.starts_with("deleted project"), "{notes:?}");
        assert!(self.site.client().project_named(&self.name).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_project_goes_with_its_repositories_whatever_their_names() {
    let stage = Stage::start("purged", "Purge").await;
    stage.cache(&["app", "team/app", "team/x_y/deep.er-app"]).await;
    stage.site.delete::<ProxyProject>(&stage.name);
    stage.assert_deleted().await;
    stage.site.clean(&[&stage.name]).await;
}

#[tokio::test]
async fn purge_reports_what_harbor_does_not_delete_and_deletes_the_rest() {
    let stage = Stage::start("immutable", "Purge").await;
    stage.cache(&["team/kept", "team/gone"]).await;
    let selector =
        |decoration: &str, pattern: &str| json!([{"kind": "doublestar", "decoration": decoration, "pattern": pattern}]);
    let rule = json!({
        "action": "immutable", "template": "immutable_template", "tag_selectors": selector("matches", "**"),
        "scope_selectors": {"repository": selector("repoMatches", "team/kept")},
    });
    let rules = format!("/projects/{}/immutabletagrules", stage.name);
    assert_eq!(stage.site.manual_request("POST", &rules, Some(&rule)).await.0, 201);
    stage.site.delete::<ProxyProject>(&stage.name);
    let (_, reason, message) = stage.blocked().await;
    assert_eq!(reason, "NotEmpty");
    assert!(
        message.contains("still has 1 of its repositories: team/kept: the tag v1 configured as immutable"),
        "{message}"
    );
    assert_eq!(stage.repositories().await, ["team/kept"]);
    let (outcome, _, again) = stage.blocked().await;
    assert_eq!((again, outcome.notes), (message, Vec::new()), "what is told once is enough");

    let found = stage.site.manual_request("GET", &rules, None).await.1;
    let id = found[0]["id"].as_i64().unwrap();
    assert_eq!(stage.site.manual_request("DELETE", &format!("{rules}/{id}"), None).await.0, 200);
    stage.assert_deleted().await;
    stage.site.clean(&[&stage.name]).await;
}

#[tokio::test]
async fn a_project_that_does_not_carry_our_marker_keeps_everything() {
    let stage = Stage::start("stranger", "Purge").await;
    stage.cache(&["app"]).await;
    let client = stage.site.client();
    let id = client.project_named(&stage.name).await.unwrap().unwrap().project_id;
    let label = client.project_labels(id).await.unwrap().remove(0);
    let theirs = label.description.replace(&stage.site.kinds.installation.0, "another");
    let described = |text: &str| harbor_pilot::harbor::model::Label { description: text.to_owned(), ..label.clone() };
    stage.site.delete::<ProxyProject>(&stage.name);
    let deleted = stage.site.world.get::<ProxyProject>(&stage.name).unwrap();
    for text in ["", &theirs] {
        client.update_label(label.id, &described(text)).await.unwrap();
        stage.site.writes();
        let finalized =
            harbor_pilot::controller::Reconciler::finalize(&stage.site.kinds, deleted.as_ref(), jiff::Timestamp::now());
        let FinalizeResult::Done(notes) = finalized.await else { panic!("blocked by {text:?}") };
        assert!(notes[0].warning && notes[0].message.contains("no marker of ours"), "{notes:?}");
        assert!(stage.site.writes().is_none_or(|writes| writes == 0), "{text:?}");
        assert_eq!(stage.repositories().await, ["app"]);
    }
    client.delete_repository(&stage.name, "app").await.unwrap();
    stage.site.clean(&[&stage.name]).await;
}

#[tokio::test]
async fn a_full_project_is_kept_by_delete_and_the_way_out_is_named() {
    let stage = Stage::start("full", "Delete").await;
    stage.cache(&["app"]).await;
    stage.site.delete::<ProxyProject>(&stage.name);
    let (_, reason, message) = stage.blocked().await;
    assert!(
        reason == "NotEmpty" && message.contains("deletionPolicy: Purge") && message.contains("Retain"),
        "{message}"
    );
    assert_eq!(stage.repositories().await, ["app"]);
    stage.site.client().delete_repository(&stage.name, "app").await.unwrap();
    stage.assert_deleted().await;
    stage.site.clean(&[&stage.name]).await;
}

#[tokio::test]
async fn purge_of_a_large_project_takes_several_reconciles_and_reports_progress() {
    let stage = Stage::start("large", "Purge").await;
    let Some(double) = &stage.site.double else { return stage.site.clean(&[&stage.name]).await };
    for number in 0..230 {
        let name = format!("{}/team/app-{number}", stage.name);
        double.store_image(&name, "v1", &Image::single("linux", "amd64").layers([8]));
    }
    stage.site.delete::<ProxyProject>(&stage.name);
    let (mut left, mut notes) = (Vec::new(), 0);
    loop {
        match stage.look().await {
            FinalizeResult::Done(_) => break,
            FinalizeResult::Blocked(outcome) => {
                assert!(outcome.requeue <= Duration::from_secs(5));
                notes += outcome.notes.len();
                let reported = Seen::<ProxyProject>(outcome).condition(ConditionType::DeletionBlocked).unwrap();
                assert_eq!(reported.1, "Progressing");
                let digits = reported.2.split_once("in Harbor: ").unwrap().1.split(' ').next().unwrap().to_owned();
                left.push(digits.parse::<usize>().unwrap());
            }
        }
    }
    // What is under way when the look has enough is carried out.
    assert!(left.len() == 2 && left[0].abs_diff(130) < 4 && left[1].abs_diff(30) < 8, "{left:?}");
    assert_eq!(notes, 1, "progress is told of once, and stands in status");
    let pages = double.log().iter().filter(|request| request.path.contains("/repositories?")).count();
    assert_eq!(pages, 3 + 2 + 1, "230, 130 and 30 repositories in pages of 100");
}

#[tokio::test]
async fn a_purge_that_was_killed_goes_on_where_it_was() {
    let stage = Stage::start("killed", "Purge").await;
    let Some(double) = &stage.site.double else { return stage.site.clean(&[&stage.name]).await };
    let names: Vec<String> = (0..12).map(|number| format!("app-{number}")).collect();
    stage.cache(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    stage.site.delete::<ProxyProject>(&stage.name);
    for at in [0, 2, 5, 9] {
        double.hold(Some(Hold::After(at)));
        tokio::select! {
            finalized = stage.look() => panic!("{finalized:?}"),
            () = double.until_held() => {}
        }
        double.hold(None);
    }
    assert!(stage.repositories().await.len() < 12);
    stage.assert_deleted().await;
}

#[test]
fn what_holds_no_images_cannot_be_purged_and_that_is_said() {
    let refused = |kind: &str, spec: Value| {
        let directory = tempfile::tempdir().unwrap();
        let manifest = json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec,
        });
        std::fs::write(directory.path().join("x.json"), manifest.to_string()).unwrap();
        harbor_pilot::standalone::read(directory.path()).err().map(|problem| problem.to_string()).unwrap_or_default()
    };
    for policy in ["Retain", "Delete", "Purge"] {
        let wrong = policy == "Purge";
        let registry = refused("Registry", json!({"type": "docker-hub", "deletionPolicy": policy}));
        assert_eq!(registry.contains("a registry has none: use Delete"), wrong, "{registry}");
        let source = json!({"registryRef": {"name": "x"}});
        let rule = refused("ReplicationRule", json!({"source": source, "deletionPolicy": policy}));
        assert_eq!(rule.contains("a replication policy has none: use Delete"), wrong, "{rule}");
        assert_eq!(refused("ProxyProject", json!({"registryRef": {"name": "x"}, "deletionPolicy": policy})), "");
    }
}
