//! Whose object it is: nothing is made twice, and nothing of a stranger is written to, whatever was lost, restored, renamed or
//! made by somebody else. Against the double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use harbor_double::{Harbor, Image, Upstream};
use harbor_pilot::{
    api::{ProxyProject, ProxyProjectStatus, Registry, RegistryStatus, ReplicationRule, ReplicationRuleStatus},
    controller::{EventMessage, FinalizeResult, ReconciledKind, Reconciler, Reconcilers},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rstest::rstest;
use serde_json::{Value, json};
use support::{Declared, Seen, Site};

/// One of each kind, all of one name.
struct Trio<'a> {
    site: &'a Site,
    upstream: &'a Upstream,
    name: String,
}

impl<'a> Trio<'a> {
    fn new(site: &'a Site, upstream: &'a Upstream, name: &str) -> Self {
        Self { site, upstream, name: name.to_owned() }
    }

    /// Applies all three, with a change that each of them takes.
    fn apply(&self, change: &Value) {
        let spec = |mut spec: Value| {
            json_patch::merge(&mut spec, change);
            spec
        };
        let (site, name) = (self.site, &self.name);
        let registry =
            json!({"type": "docker-registry", "url": self.upstream.url(), "credentialsSecretRef": {"name": "up"}});
        site.secret("up", "puller", "right");
        site.apply::<Registry>(name, spec(registry));
        let project =
            json!({"registryRef": {"name": name}, "proxySpeedKB": 512, "retention": {"rules": [{"always": true}]}});
        site.apply::<ProxyProject>(name, spec(project));
        let rule =
            json!({"source": {"registryRef": {"name": name}}, "filters": {"name": "team/app"}, "override": true});
        site.apply::<ReplicationRule>(name, spec(rule));
    }

    /// One look at each. What Ready says, and its message.
    async fn look(&self) -> [(String, String); 3] {
        fn ready<K: ReconciledKind>(seen: &Seen<K>) -> (String, String) {
            (seen.ready(), seen.message())
        }
        [
            ready(&self.site.reconcile::<Registry>(&self.name).await),
            ready(&self.site.reconcile::<ProxyProject>(&self.name).await),
            ready(&self.site.reconcile::<ReplicationRule>(&self.name).await),
        ]
    }

    async fn assert_ready(&self) {
        for (ready, message) in self.look().await {
            assert_eq!(ready, "True Reconciled", "{message}");
        }
    }

    /// Ids in Harbor, looked up by name: registry, project, policy.
    async fn ids(&self) -> [i64; 3] {
        let client = self.site.client();
        [
            client.registry_named(&self.name).await.unwrap().unwrap().id,
            client.project_named(&self.name).await.unwrap().unwrap().project_id,
            client.replication_policy_named(&self.name).await.unwrap().unwrap().id,
        ]
    }

    /// Ids as status remembers them.
    fn remembered(&self) -> [Option<i64>; 3] {
        let world = &self.site.world;
        [
            world.get::<Registry>(&self.name).unwrap().status.clone().unwrap_or_default().id,
            world.get::<ProxyProject>(&self.name).unwrap().status.clone().unwrap_or_default().id,
            world.get::<ReplicationRule>(&self.name).unwrap().status.clone().unwrap_or_default().id,
        ]
    }

    async fn end(self) {
        self.site.clean(&[&self.name]).await;
    }
}

async fn upstream() -> Upstream {
    Upstream::builder().basic_auth("puller", "right").start().await
}

/// Deletes a resource, and what it has in Harbor if that is its own.
async fn delete<K>(site: &Site, name: &str) -> Vec<EventMessage>
where
    K: ReconciledKind + Declared,
    Reconcilers: Reconciler<K>,
{
    site.delete::<K>(name);
    match site.finalize::<K>(name).await {
        FinalizeResult::Done(notes) => notes,
        FinalizeResult::Blocked(outcome) => panic!("blocked: {:?}", outcome.notes),
    }
}

/// Documents of Harbor as they stand there.
async fn documents(site: &Site, paths: &[String]) -> Vec<Value> {
    let mut documents = Vec::new();
    for path in paths {
        let (status, body) = site.manual_request("GET", path, None).await;
        assert_eq!(status, 200, "{path}");
        documents.push(body);
    }
    documents
}

#[tokio::test]
async fn without_any_status_everything_is_found_again_and_only_a_secret_is_sent_once_more() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let trio = Trio::new(&site, &upstream, &site.name("restored"));
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let ids = trio.ids().await;
    site.world.set_status::<Registry>(&trio.name, RegistryStatus::default()).unwrap();
    site.world.set_status::<ProxyProject>(&trio.name, ProxyProjectStatus::default()).unwrap();
    site.world.set_status::<ReplicationRule>(&trio.name, ReplicationRuleStatus::default()).unwrap();
    site.writes();
    trio.assert_ready().await;
    assert_eq!((trio.ids().await, trio.remembered()), (ids, ids.map(Some)));
    if let Some(double) = &site.double {
        // Harbor does not show which secret it has.
        let writes: Vec<String> =
            double.writes().iter().map(|write| format!("{} {}", write.method, write.path)).collect();
        assert_eq!(writes, [format!("PUT /api/v2.0/registries/{}", ids[0])]);
    }
    site.writes();
    trio.assert_ready().await;
    assert!(site.writes().is_none_or(|writes| writes == 0));
    trio.end().await;
}

/// Has so many objects of each kind made by hand, named `prefix-1` and so on; the registry of the first of them is used by all.
async fn make_strangers(harbor: &Harbor, upstream: &Upstream, names: &[String]) {
    let credential = json!({"type": "basic", "access_key": "puller", "access_secret": "right"});
    let made = async |path: &str, body: Value| {
        let (status, answer) = harbor.manual_request("POST", path, Some(body)).await;
        assert_eq!(status, 201, "{path}: {answer}");
    };
    for name in names {
        let registry =
            json!({"name": name, "type": "docker-registry", "url": upstream.url(), "credential": credential});
        made("/registries", registry).await;
        made("/projects", json!({"project_name": name, "registry_id": 1})).await;
        let policy = json!({"name": name, "src_registry": {"id": 1}, "trigger": {"type": "manual"}});
        made("/replication/policies", policy).await;
    }
}

/// All that a new Harbor has of the first so many ids.
fn paths(count: i64) -> Vec<String> {
    let of = |id: i64| {
        let labels = format!("/labels?scope=p&project_id={}", id + 1);
        [
            format!("/registries/{id}"),
            format!("/projects/{}", id + 1),
            format!("/replication/policies/{id}"),
            format!("/retentions/{id}"),
            format!("/quotas/{}", id + 1),
            labels,
        ]
    };
    (1..=count).flat_map(of).collect()
}

#[tokio::test]
async fn rebuilt_harbor_gets_everything_once_under_new_ids() {
    let (site, upstream) = (Site::doubled(Harbor::builder().speed(100.0)).await, upstream().await);
    let double = site.double.as_ref().unwrap();
    let trio = Trio::new(&site, &upstream, "ours");
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let before = trio.ids().await;
    assert_eq!(before, [1, 2, 1]);

    double.wipe();
    let strangers: Vec<String> = (1..=4).map(|number| format!("stranger-{number}")).collect();
    make_strangers(double, &upstream, &strangers).await;
    let theirs = documents(&site, &paths(4)).await;
    double.clear_log();
    // Whoever refers to the registry comes before it, and has to wait.
    let first = site.reconcile::<ReplicationRule>("ours").await.ready();
    assert_eq!(
        (first.as_str(), site.reconcile::<ProxyProject>("ours").await.ready().as_str()),
        ("False RegistryNotReady", "False RegistryNotReady")
    );
    assert_eq!(site.writes(), Some(0));
    trio.assert_ready().await;
    trio.assert_ready().await;
    let after = trio.ids().await;
    assert_eq!((after, trio.remembered()), ([5, 6, 5], after.map(Some)));
    assert_eq!(created(double), 4, "registry, project, its label and policy");
    let client = site.client();
    assert_eq!(client.project_named("ours").await.unwrap().unwrap().registry_id, Some(5));
    assert_eq!(client.replication_policy_named("ours").await.unwrap().unwrap().content.src_registry.id, 5);
    assert_eq!(documents(&site, &paths(4)).await, theirs);
}

/// How many objects were made.
fn created(double: &Harbor) -> usize {
    double.writes().iter().filter(|write| write.method == "POST" && write.status == 201).count()
}

#[tokio::test]
async fn stale_list_from_before_a_rebuild_causes_no_write() {
    let (site, upstream) = (Site::doubled(Harbor::builder().speed(100.0)).await, upstream().await);
    let double = site.double.as_ref().unwrap();
    let trio = Trio::new(&site, &upstream, "ours");
    trio.apply(&json!({}));
    trio.assert_ready().await;
    double.wipe();
    make_strangers(double, &upstream, &["stranger".to_owned()]).await;
    let theirs = documents(&site, &paths(1)).await;
    // What has just been read may be written by; this is older.
    tokio::time::sleep(std::time::Duration::from_millis(5200)).await;
    trio.apply(&json!({"interval": "1h", "insecure": true, "public": true, "override": false}));
    for _ in 0..2 {
        site.reconcile_again::<ReplicationRule>("ours").await;
        site.reconcile_again::<ProxyProject>("ours").await;
        site.reconcile_again::<Registry>("ours").await;
    }
    trio.assert_ready().await;
    assert_eq!(documents(&site, &paths(1)).await, theirs);
    assert_eq!(created(double), 4 + 4, "registry, project, its label and policy, in each Harbor");
}

#[tokio::test]
async fn what_has_our_names_and_ids_in_a_restored_harbor_and_no_marker_is_a_strangers() {
    let (site, upstream) = (Site::doubled(Harbor::builder().speed(100.0)).await, upstream().await);
    let double = site.double.as_ref().unwrap();
    let trio = Trio::new(&site, &upstream, "ours");
    trio.apply(&json!({}));
    trio.assert_ready().await;
    // All that was long ago.
    let before = Time("2020-01-01T00:00:00Z".parse().unwrap());
    macro_rules! since {
        ($kind:ty) => {
            let mut status = site.world.get::<$kind>("ours").unwrap().status.clone().unwrap();
            let owned = status.owned.as_mut().unwrap();
            owned.since = before.clone();
            site.world.set_status::<$kind>("ours", status).unwrap();
        };
    }
    since!(Registry);
    since!(ProxyProject);
    since!(ReplicationRule);
    double.wipe();
    make_strangers(double, &upstream, &["ours".to_owned()]).await;
    let theirs = documents(&site, &paths(1)).await;
    double.clear_log();
    for _ in 0..2 {
        let [registry, project, rule] = trio.look().await;
        assert_eq!(registry.0, "False AdoptionRequired");
        for (ready, message) in [project, rule] {
            assert_eq!(ready, "False RegistryNotReady");
            assert!(message.contains("AdoptionRequired"), "{message}");
        }
    }
    assert_eq!(site.writes(), Some(0));
    assert_eq!(documents(&site, &paths(1)).await, theirs);
    assert!(site.world.get::<ProxyProject>("ours").unwrap().active_rule().is_some(), "what served is not taken away");
}

#[tokio::test]
async fn a_second_installation_with_the_same_manifests_says_so_and_writes_nothing_not_even_when_it_goes() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let second = site.beside().await;
    let name = site.name("shared");
    let (ours, theirs) = (Trio::new(&site, &upstream, &name), Trio::new(&second, &upstream, &name));
    ours.apply(&json!({}));
    ours.assert_ready().await;
    let ids = ours.ids().await;
    site.writes();
    theirs.apply(&json!({"adoptionPolicy": "IfExists", "deletionPolicy": "Delete"}));
    let [registry, project, rule] = theirs.look().await;
    assert_eq!(registry.0, "False NameConflict");
    assert!(registry.1.contains(&site.kinds.installation.0), "{}", registry.1);
    for (ready, message) in [project, rule] {
        assert_eq!(ready, "False RegistryNotReady");
        assert!(message.contains("NameConflict"), "{message}");
    }
    // Where it may use the registry of the first, its own objects still are the first one's.
    let observed = json!({"type": "docker-registry", "url": upstream.url(), "managementPolicy": "ObserveOnly"});
    second.apply::<Registry>(&name, observed);
    let [_, project, rule] = theirs.look().await;
    for (ready, message) in [project, rule] {
        assert_eq!(ready, "False NameConflict", "{message}");
    }
    theirs.apply(&json!({"adoptionPolicy": "IfExists", "deletionPolicy": "Delete"}));
    let notes = [
        delete::<ReplicationRule>(&second, &name).await,
        delete::<ProxyProject>(&second, &name).await,
        delete::<Registry>(&second, &name).await,
    ];
    for notes in notes {
        assert!(notes.len() == 1 && notes[0].warning && notes[0].message.contains("was not modified"), "{notes:?}");
    }
    assert!(site.writes().is_none_or(|writes| writes == 0));
    ours.assert_ready().await;
    assert_eq!(ours.ids().await, ids);
    ours.end().await;
}

#[tokio::test]
async fn of_two_resources_for_one_object_the_first_has_it_and_the_other_says_so() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let name = site.name("one");
    let trio = Trio::new(&site, &upstream, &name);
    trio.apply(&json!({}));
    trio.assert_ready().await;
    site.writes();
    let registry =
        json!({"type": "docker-registry", "url": upstream.url(), "name": name, "adoptionPolicy": "IfExists"});
    site.apply::<Registry>("other", registry);
    site.apply::<ProxyProject>(
        "other",
        json!({"registryRef": {"name": name}, "name": name, "adoptionPolicy": "IfExists"}),
    );
    let source = json!({"registryRef": {"name": name}});
    site.apply::<ReplicationRule>("other", json!({"source": source, "name": name, "adoptionPolicy": "IfExists"}));
    let seen = site.reconcile::<Registry>("other").await;
    assert_eq!(seen.ready(), "False NameConflict");
    assert!(seen.message().contains(&format!("Registry {name} is older")), "{}", seen.message());
    let seen = site.reconcile::<ProxyProject>("other").await;
    assert_eq!(seen.ready(), "False NameConflict");
    assert!(seen.message().contains(&format!("ProxyProject {name} is older")), "{}", seen.message());
    let seen = site.reconcile::<ReplicationRule>("other").await;
    assert_eq!(seen.ready(), "False NameConflict");
    assert!(seen.message().contains(&format!("ReplicationRule {name} is older")), "{}", seen.message());
    assert!(site.writes().is_none_or(|writes| writes == 0));
    trio.end().await;
}

#[tokio::test]
async fn another_name_makes_another_registry_and_project_and_renames_a_policy() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let (name, other) = (site.name("before"), site.name("after"));
    let trio = Trio::new(&site, &upstream, &name);
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let [registry, project, policy] = trio.ids().await;
    let old = [
        format!("/registries/{registry}"),
        format!("/projects/{project}"),
        format!("/labels?scope=p&project_id={project}"),
    ];
    let before = documents(&site, &old).await;
    // The API server refuses the change for the first two; a new resource of the old name comes to the same.
    trio.apply(&json!({"name": other}));
    trio.assert_ready().await;
    let renamed = Trio::new(&site, &upstream, &other);
    let ids = renamed.ids().await;
    assert_eq!(ids[2], policy, "Harbor renames policies");
    assert!(ids[0] != registry && ids[1] != project);
    assert_eq!(documents(&site, &old).await, before, "Harbor renames neither registries nor projects: they stay");
    assert_eq!(trio.remembered(), ids.map(Some));
    site.clean(&[&name, &other]).await;
}

#[rstest]
#[case::never("Never")]
#[case::if_exists("IfExists")]
#[tokio::test]
async fn manually_created_objects_are_adopted_or_not_modified(#[case] adoption: &str) {
    let (site, upstream) = (Site::start().await, upstream().await);
    let (name, base) = (site.name("adopted"), site.name("base"));
    let made = async |path: &str, body: Value| {
        let (status, answer) = site.manual_request("POST", path, Some(&body)).await;
        assert_eq!(status, 201, "{path}: {answer}");
    };
    let credential = json!({"type": "basic", "access_key": "puller", "access_secret": "right"});
    made("/registries", json!({"name": name, "type": "docker-registry", "url": upstream.url(), "description": "by hand", "credential": credential})).await;
    // What the project and the policy are of is ours already.
    site.secret("up", "puller", "right");
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": "up"}});
    site.apply::<Registry>(&base, spec.clone());
    assert_eq!(site.reconcile::<Registry>(&base).await.ready(), "True Reconciled");
    let client = site.client();
    let registry = client.registry_named(&base).await.unwrap().unwrap().id;
    let metadata = json!({"public": "true", "proxy_speed_kb": "64", "auto_scan": "true"});
    made("/projects", json!({"project_name": name, "registry_id": registry, "metadata": metadata})).await;
    let project = client.project_named(&name).await.unwrap().unwrap().project_id;
    made("/labels", json!({"name": "harbor-pilot", "scope": "p", "project_id": project, "description": "somebody's"}))
        .await;
    made("/replication/policies", json!({"name": name, "description": "by hand", "src_registry": {"id": registry}, "speed": 7, "trigger": {"type": "manual"}})).await;
    let policy = client.replication_policy_named(&name).await.unwrap().unwrap().id;
    let theirs = client.registry_named(&name).await.unwrap().unwrap().id;

    let with = |mut spec: Value| {
        spec["adoptionPolicy"] = json!(adoption);
        spec
    };
    site.apply::<Registry>(&name, with(spec));
    site.apply::<ProxyProject>(&name, with(json!({"registryRef": {"name": base}, "proxySpeedKB": 512})));
    let rule = json!({"source": {"registryRef": {"name": base}}, "override": true});
    site.apply::<ReplicationRule>(&name, with(rule));
    let paths = [
        format!("/registries/{theirs}"),
        format!("/projects/{project}"),
        format!("/labels?scope=p&project_id={project}"),
        format!("/replication/policies/{policy}"),
    ];
    let before = documents(&site, &paths).await;
    let ready = [
        site.reconcile::<Registry>(&name).await.ready(),
        site.reconcile::<ProxyProject>(&name).await.ready(),
        site.reconcile::<ReplicationRule>(&name).await.ready(),
    ];
    let after = documents(&site, &paths).await;
    if adoption == "Never" {
        assert_eq!(ready, ["False AdoptionRequired"; 3]);
        assert_eq!(after, before);
        return site.clean(&[&name, &base]).await;
    }
    assert_eq!(ready, ["True Reconciled"; 3]);
    let [registry, project, labels, policy] = after.as_slice() else { panic!("{after:?}") };
    let marker = |kind: &str| format!("[harbor-pilot {}/{kind}/{name}]", site.kinds.installation.0);
    assert_eq!(registry["description"], format!("by hand {}", marker("Registry")));
    let metadata = |key: &str| project["metadata"][key].clone();
    assert_eq!([metadata("public"), metadata("proxy_speed_kb"), metadata("auto_scan")], ["true", "512", "true"]);
    assert_eq!((labels.as_array().unwrap().len(), &labels[0]["description"]), (1, &json!(marker("ProxyProject"))));
    assert_eq!(policy["description"], format!("by hand {}", marker("ReplicationRule")));
    assert_eq!((&policy["speed"], &policy["override"], &policy["enabled"]), (&json!(7), &json!(true), &Value::Null));
    site.clean(&[&name, &base]).await;
}

#[tokio::test]
async fn an_empty_project_that_is_older_than_its_resource_does_not_go_with_it() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let name = site.name("older");
    site.secret("up", "puller", "right");
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": "up"}});
    site.apply::<Registry>(&name, spec);
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    let client = site.client();
    let registry = client.registry_named(&name).await.unwrap().unwrap().id;
    let project = json!({"project_name": name, "registry_id": registry});
    assert_eq!(site.manual_request("POST", "/projects", Some(&project)).await.0, 201);
    // Times of resources are in whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}, "deletionPolicy": "Purge"}));
    let notes = delete::<ProxyProject>(&site, &name).await;
    assert!(notes[0].warning && notes[0].message.contains("was not modified"), "{notes:?}");
    assert!(client.project_named(&name).await.unwrap().is_some());

    // The same of a project that was made since.
    let id = client.project_named(&name).await.unwrap().unwrap().project_id;
    client.delete_project(id).await.unwrap();
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}, "deletionPolicy": "Delete"}));
    assert_eq!(site.manual_request("POST", "/projects", Some(&project)).await.0, 201);
    let notes = delete::<ProxyProject>(&site, &name).await;
    assert!(notes[0].message.starts_with("deleted project"), "{notes:?}");
    site.clean(&[&name]).await;
}

/// What a person's hand leaves of the markers of all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing.
    Nothing,
    /// The marker of another installation.
    Foreign,
}

/// Takes the markers away, as people do who edit a description in the portal or delete a label.
async fn unmark(site: &Site, name: &str, [registry, project, policy]: [i64; 3], left: Left) {
    let text = |kind: &str| match left {
        Left::Nothing => "edited".to_owned(),
        Left::Foreign => format!("edited [harbor-pilot somebody-else/{kind}/{name}]"),
    };
    let done = async |method: &str, path: &str, body: Option<Value>| {
        let (status, answer) = site.manual_request(method, path, body.as_ref()).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
    };
    let registry = format!("/registries/{registry}");
    done("PUT", &registry, Some(json!({"description": text("Registry")}))).await;
    let labels = site.client().project_labels(project).await.unwrap();
    let path = format!("/labels/{}", labels[0].id);
    if left == Left::Nothing {
        done("DELETE", &path, None).await;
    } else {
        let label =
            json!({"name": "harbor-pilot", "description": text("ProxyProject"), "scope": "p", "project_id": project});
        done("PUT", &path, Some(label)).await;
    }
    let path = format!("/replication/policies/{policy}");
    let mut document = site.manual_request("GET", &path, None).await.1;
    document["description"] = json!(text("ReplicationRule"));
    done("PUT", &path, Some(document)).await;
}

/// The descriptions that hold the markers: of the registry, of the label, of the policy.
async fn descriptions(site: &Site, [registry, project, policy]: [i64; 3]) -> [String; 3] {
    let paths = [
        format!("/registries/{registry}"),
        format!("/labels?scope=p&project_id={project}"),
        format!("/replication/policies/{policy}"),
    ];
    let found = documents(site, &paths).await;
    let text = |value: &Value| value["description"].as_str().unwrap_or_default().to_owned();
    [text(&found[0]), text(&found[1][0]), text(&found[2])]
}

#[tokio::test]
async fn ownership_marker_that_a_person_removed_is_restored_whatever_adoption_says() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let name = site.name("unmarked");
    let trio = Trio::new(&site, &upstream, &name);
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let ids = trio.ids().await;
    unmark(&site, &name, ids, Left::Nothing).await;
    // What refers to the registry does not wait until that is marked again.
    let seen = site.reconcile::<ReplicationRule>(&name).await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    // A project that is otherwise as specified is looked at closely when that is asked for, or in its turn.
    site.annotate::<ProxyProject>(&name, "harbor-pilot.dev/reconcile-now", "1");
    trio.assert_ready().await;
    assert_eq!(trio.ids().await, ids, "nothing was made twice");
    let marker = |kind: &str| format!("[harbor-pilot {}/{kind}/{name}]", site.kinds.installation.0);
    let expected = [
        format!("edited {}", marker("Registry")),
        marker("ProxyProject"),
        format!("edited {}", marker("ReplicationRule")),
    ];
    assert_eq!(descriptions(&site, ids).await, expected);
    // The next change finds them marked.
    trio.apply(&json!({"description": "new"}));
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}, "proxySpeedKB": 1024}));
    trio.assert_ready().await;
    trio.end().await;
}

#[tokio::test]
async fn ownership_label_that_a_person_removed_is_restored_in_turn_and_before_a_write() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let name = site.name("label");
    let trio = Trio::new(&site, &upstream, &name);
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let ids = trio.ids().await;
    let label = site.client().project_labels(ids[1]).await.unwrap()[0].id;
    assert_eq!(site.manual_request("DELETE", &format!("/labels/{label}"), None).await.0, 200);
    let spec = json!({"registryRef": {"name": name}, "proxySpeedKB": 1024});
    site.apply::<ProxyProject>(&name, spec);
    let seen = site.reconcile::<ProxyProject>(&name).await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    assert!(
        seen.0.notes.iter().any(|note| note.message.contains("label harbor-pilot: nothing instead")),
        "{:?}",
        seen.0.notes
    );
    assert_eq!(site.client().project_labels(ids[1]).await.unwrap().len(), 1);
    trio.end().await;
}

#[tokio::test]
async fn ownership_of_a_project_with_repositories_is_restored_where_status_remembers_it_and_nowhere_else() {
    let (site, upstream) = (Site::doubled(Harbor::builder().speed(100.0)).await, upstream().await);
    let trio = Trio::new(&site, &upstream, "stocked");
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let project = trio.ids().await[1];
    // An empty project without a label is taken for a creation that was cut short.
    let image = Image::single("linux", "amd64").layers([64]);
    site.double.as_ref().unwrap().store_image("stocked/team/app", "v1", &image);
    let label = async || site.client().project_labels(project).await.unwrap().into_iter().next();
    let unmark = async || {
        let path = format!("/labels/{}", label().await.unwrap().id);
        assert_eq!(site.manual_request("DELETE", &path, None).await.0, 200);
    };
    unmark().await;
    site.annotate::<ProxyProject>("stocked", "harbor-pilot.dev/reconcile-now", "1");
    let seen = site.reconcile::<ProxyProject>("stocked").await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    assert!(label().await.is_some_and(|label| label.description.contains("ProxyProject/stocked")));

    unmark().await;
    site.world.set_status::<ProxyProject>("stocked", ProxyProjectStatus::default()).unwrap();
    let seen = site.reconcile::<ProxyProject>("stocked").await;
    assert_eq!(seen.ready(), "False AdoptionRequired", "{}", seen.message());
    assert_eq!(label().await, None);
}

#[tokio::test]
async fn ownership_of_a_foreign_marker_is_never_taken_back() {
    let (site, upstream) = (Site::start().await, upstream().await);
    let name = site.name("foreign");
    let trio = Trio::new(&site, &upstream, &name);
    trio.apply(&json!({}));
    trio.assert_ready().await;
    let ids = trio.ids().await;
    unmark(&site, &name, ids, Left::Foreign).await;
    let before = descriptions(&site, ids).await;
    site.annotate::<ProxyProject>(&name, "harbor-pilot.dev/reconcile-now", "1");
    let ready = |seen: &[(String, String); 3]| seen.iter().map(|(ready, _)| ready.clone()).collect::<Vec<_>>();
    let seen = trio.look().await;
    assert_eq!(ready(&seen)[0], "False NameConflict", "{seen:?}");
    assert_eq!(descriptions(&site, ids).await, before);
    // Not even once the foreign marker is gone: status knows since then that it is another's.
    unmark_registry(&site, ids[0]).await;
    let seen = site.reconcile::<Registry>(&name).await;
    assert_eq!(seen.ready(), "False AdoptionRequired", "{}", seen.message());
    trio.end().await;
}

async fn unmark_registry(site: &Site, id: i64) {
    let path = format!("/registries/{id}");
    assert_eq!(site.manual_request("PUT", &path, Some(&json!({"description": "nobody's"}))).await.0, 200);
}

#[rstest]
#[case::of_another_id("id")]
#[case::of_another_url("url")]
#[case::that_was_only_observed("observed")]
#[tokio::test]
async fn ownership_is_not_claimed_of_an_unmarked_registry(#[case] what: &str) {
    let (site, upstream, other) = (Site::start().await, upstream().await, upstream().await);
    let name = site.name("claimed");
    site.secret("up", "puller", "right");
    let policy = if what == "observed" { "ObserveOnly" } else { "Full" };
    let spec = |policy: &str| json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": "up"}, "managementPolicy": policy});
    let manual_request = json!({"name": name, "type": "docker-registry", "url": upstream.url(), "description": "by hand", "credential": {"type": "basic", "access_key": "puller", "access_secret": "right"}});
    if what == "observed" {
        assert_eq!(site.manual_request("POST", "/registries", Some(&manual_request)).await.0, 201);
    }
    site.apply::<Registry>(&name, spec(policy));
    site.reconcile::<Registry>(&name).await;
    let id = site.client().registry_named(&name).await.unwrap().unwrap().id;
    match what {
        "id" => {
            assert_eq!(site.manual_request("DELETE", &format!("/registries/{id}"), None).await.0, 200);
            assert_eq!(site.manual_request("POST", "/registries", Some(&manual_request)).await.0, 201);
        }
        "url" => {
            let body = json!({"description": "moved", "url": other.url(), "credential_type": "basic", "access_key": "puller", "access_secret": "right"});
            assert_eq!(site.manual_request("PUT", &format!("/registries/{id}"), Some(&body)).await.0, 200);
        }
        _ => site.apply::<Registry>(&name, spec("Full")),
    }
    let seen = site.reconcile::<Registry>(&name).await;
    assert_eq!(seen.ready(), "False AdoptionRequired", "{}", seen.message());
    site.clean(&[&name]).await;
}
