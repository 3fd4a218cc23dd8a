//! `harbor-pilot plan`, as its users run it: against the double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use harbor_double::{Harbor, Upstream};
use harbor_pilot::{
    api::{ProxyProject, Registry, ReplicationRule},
    harbor::model::{self, ReplicationPolicyContent, ReplicationTrigger},
};
use serde_json::{Value, json};
use support::{Site, ran::Ran};
use tempfile::TempDir;

impl Ran {
    /// The changes of one resource, as a controller would tell them.
    fn changes(&self, kind: &str) -> Vec<String> {
        let plan = self.json();
        let found = plan["resources"].as_array().unwrap().iter().find(|line| line["kind"] == kind).unwrap().clone();
        let shown = |value: &Value| value.as_str().filter(|text| !text.is_empty()).unwrap_or("nothing").to_owned();
        let changes = found["changes"].as_array().cloned().unwrap_or_default();
        let text = |change: &Value| {
            format!("{}: {} instead of {}", shown(&change["field"]), shown(&change["harbor"]), shown(&change["spec"]))
        };
        changes.iter().map(text).collect()
    }

    /// Kind and action of each resource.
    fn actions(&self) -> Vec<(String, String)> {
        let plan = self.json();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let lines = plan["resources"].as_array().unwrap().iter();
        lines.map(|line| (word(&line["kind"]), word(&line["action"]))).collect()
    }
}

/// A directory of manifests about a Harbor.
struct Files<'s> {
    site: &'s Site,
    directory: TempDir,
}

impl<'s> Files<'s> {
    /// With the HarborInstance and its Secret.
    fn new(site: &'s Site) -> Self {
        let files = Self { site, directory: tempfile::tempdir().unwrap() };
        files.write("10-harbor.yaml", &files.harbor());
        files
    }

    fn harbor(&self) -> String {
        let Site { url, username, password, .. } = self.site;
        let account = json!({"username": username, "password": password});
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: harbor}}\nstringData: {account}\n{}",
            resource("HarborInstance", "default", &json!({"url": url, "credentialsSecretRef": {"name": "harbor"}}))
        )
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.directory.path().join(file), text).unwrap();
    }

    /// The resources of one name.
    fn declare(&self, name: &str, specs: &Specs) {
        let text = [
            resource("Registry", name, &specs.registry),
            resource("ProxyProject", name, &specs.project),
            resource("ReplicationRule", name, &specs.rule),
        ];
        self.write("20-resources.yaml", &text.concat());
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
        for variable in ["HARBOR_USERNAME", "HARBOR_PASSWORD"] {
            command.env_remove(variable);
        }
        let installation = self.site.kinds.installation.0.as_str();
        command.env("HARBOR_PILOT_INSTALLATION", installation);
        command.current_dir(self.directory.path()).arg("plan").args(more);
        command
    }

    async fn plan(&self, more: &[&str]) -> Ran {
        let mut command = self.command(&["-f", "."]);
        command.args(more);
        run(command).await
    }

    fn writes(&self) -> usize {
        self.site.writes().unwrap_or_default()
    }
}

/// The process runs beside the double, which lives on this runtime.
async fn run(mut command: Command) -> Ran {
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
    Ran::of(output)
}

struct Specs {
    registry: Value,
    project: Value,
    rule: Value,
}

impl Specs {
    fn of(name: &str, upstream: &Upstream) -> Self {
        Self {
            registry: json!({"type": "docker-registry", "url": upstream.url(), "description": "the upstream"}),
            project: json!({
                "registryRef": {"name": name}, "public": true, "proxySpeedKB": 512, "maxUpstreamConnections": 8,
                "serveRemoved": true,
            }),
            rule: json!({
                "source": {"registryRef": {"name": name}}, "destination": {"namespace": name, "flattenLevels": 1},
                "filters": {"name": "team/**", "tag": {"matches": "v*"}}, "description": "each night",
                "trigger": {"type": "Scheduled", "cron": "0 30 2 * * *"}, "override": true, "enabled": true,
                "replicateDeletions": false, "speedKB": 512, "copyByChunk": true, "singleActive": true,
            }),
        }
    }

    fn with(mut self, change: &Value) -> Self {
        for spec in [&mut self.registry, &mut self.project, &mut self.rule] {
            json_patch::merge(spec, change);
        }
        self
    }
}

fn resource(kind: &str, name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    });
    format!("---\n{object}\n")
}

fn expected(words: [&str; 4]) -> Vec<(String, String)> {
    let kinds = ["HarborInstance", "Registry", "ProxyProject", "ReplicationRule"];
    kinds.iter().zip(words).map(|(kind, word)| ((*kind).to_owned(), word.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_harbor_is_planned_for_without_a_write_and_has_nothing_to_do_once_it_is_applied() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("plan"));
    files.declare(&name, &Specs::of(&name, &upstream));
    site.writes();

    let planned = files.plan(&["-o", "json"]).await;
    assert_eq!((planned.code, planned.actions()), (1, expected(["nothing", "create", "create", "create"])));
    let planned = files.plan(&[]).await;
    assert_eq!(planned.code, 1, "{planned:?}");
    for line in [
        format!("create   Registry {name}: registry {name}\n"),
        format!("create   ProxyProject {name}: proxy project {name}\n"),
        format!("create   ReplicationRule {name}: replication policy {name}\n"),
        "Plan: 3 to create, 0 to adopt, 0 to change, 0 to observe only, 0 refused, 1 as specified\n".to_owned(),
    ] {
        assert!(planned.out.contains(&line), "{line}{}", planned.out);
    }
    assert_eq!(files.writes(), 0);

    let applied = files.plan(&["--apply"]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    for done in ["created registry", "created proxy project", "created replication policy"] {
        assert!(applied.out.contains(&format!("done     {done} {name} in Harbor\n")), "{done}: {}", applied.out);
    }
    assert!(site.client().replication_policy_named(&name).await.unwrap().is_some());
    files.writes();

    let again = files.plan(&["-o", "json"]).await;
    assert_eq!((again.code, again.actions()), (0, expected(["nothing"; 4])), "{again:?}");
    let again = files.plan(&["--apply"]).await;
    assert_eq!((again.code, files.writes()), (0, 0), "{again:?}");
    site.clean(&[&name]).await;
}

/// Changes every field in Harbor that can be changed there.
async fn meddle(site: &Site, name: &str) {
    let client = site.client();
    let registry = client.registry_named(name).await.unwrap().unwrap();
    let update = model::RegistryUpdate {
        description: Some(registry.description.replace("the upstream", "by hand")),
        insecure: Some(true),
        access_key: Some("somebody".to_owned()),
        access_secret: Some("else".to_owned()),
        credential_type: Some("basic"),
        ..model::RegistryUpdate::default()
    };
    client.update_registry(registry.id, &update).await.unwrap();
    let project = client.project_named(name).await.unwrap().unwrap();
    let metadata = [
        ("public", "false"),
        ("proxy_speed_kb", "64"),
        ("max_upstream_conn", "2"),
        ("proxy_cache_local_on_not_found", "false"),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    client
        .update_project(project.project_id, &model::ProjectUpdate { metadata, ..model::ProjectUpdate::default() })
        .await
        .unwrap();
    let policy = client.replication_policy_named(name).await.unwrap().unwrap();
    let meddled = ReplicationPolicyContent {
        description: policy.content.description.replace("each night", "by hand"),
        dest_namespace: format!("{name}-elsewhere"),
        dest_namespace_replace_count: 0,
        filters: Vec::new(),
        trigger: ReplicationTrigger::default(),
        enabled: false,
        override_: false,
        deletion: true,
        speed: 0,
        copy_by_chunk: false,
        single_active_replication: false,
        ..policy.content
    };
    client.update_replication_policy(policy.id, &meddled).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_field_that_differs_is_shown_in_the_words_of_the_controller() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("field"));
    let specs = Specs::of(&name, &upstream);
    files.declare(&name, &specs);
    assert_eq!(files.plan(&["--apply"]).await.code, 0);
    meddle(&site, &name).await;
    site.writes();

    let planned = files.plan(&["-o", "json"]).await;
    assert_eq!((planned.code, planned.actions()), (1, expected(["nothing", "change", "change", "change"])));
    let fields = |kind| {
        let changes = planned.changes(kind);
        changes.iter().map(|change| change.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(fields("Registry"), ["description", "insecure", "access_key"]);
    assert_eq!(
        fields("ProxyProject"),
        ["max_upstream_conn", "proxy_cache_local_on_not_found", "proxy_speed_kb", "public"]
    );
    assert_eq!(
        fields("ReplicationRule"),
        [
            "description",
            "dest_namespace",
            "dest_namespace_replace_count",
            "filters",
            "trigger",
            "enabled",
            "override",
            "deletion",
            "speed",
            "copy_by_chunk",
            "single_active_replication"
        ]
    );
    assert!(planned.changes("ProxyProject").contains(&"public: false instead of true".to_owned()));
    let text = files.plan(&[]).await.out;
    for kind in ["Registry", "ProxyProject", "ReplicationRule"] {
        for change in planned.changes(kind) {
            assert!(text.contains(&format!("  {change}\n")), "{change}: {text}");
        }
    }

    // The controller, told to observe only, says the same.
    let observed = Specs::of(&name, &upstream).with(&json!({"managementPolicy": "ObserveOnly"}));
    site.apply::<Registry>(&name, observed.registry);
    site.apply::<ProxyProject>(&name, observed.project);
    site.apply::<ReplicationRule>(&name, observed.rule);
    assert_eq!(site.reconcile::<Registry>(&name).await.0.status.drift, planned.changes("Registry"));
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.0.status.drift, planned.changes("ProxyProject"));
    assert_eq!(site.reconcile::<ReplicationRule>(&name).await.0.status.drift, planned.changes("ReplicationRule"));
    assert_eq!(files.writes(), 0);

    let applied = files.plan(&["--apply", "-o", "json"]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    for line in applied.json()["resources"].as_array().unwrap().iter().skip(1) {
        let kind = line["kind"].as_str().unwrap();
        let reported = format!("in Harbor, which had {}", planned.changes(kind).join("; "));
        assert!(line["done"][0].as_str().unwrap().ends_with(&reported), "{line}");
        assert_eq!((&line["action"], &line["left"]["action"]), (&json!("change"), &json!("nothing")));
    }
    assert_eq!(files.plan(&[]).await.code, 0);
    site.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_a_stranger_is_refused_with_what_depends_on_it_and_adopted_where_that_is_asked_for() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("stranger"));
    let manual_request = model::NewRegistry {
        name: name.clone(),
        type_: "docker-registry".to_owned(),
        url: upstream.url(),
        description: "by hand".to_owned(),
        credential: None,
        insecure: false,
        ca_certificate: None,
    };
    let id = site.client().create_registry(&manual_request).await.unwrap();
    files.declare(&name, &Specs::of(&name, &upstream));
    site.writes();
    for apply in [&["-o", "json"][..], &["-o", "json", "--apply"]] {
        let planned = files.plan(apply).await;
        assert_eq!((planned.code, planned.actions()), (2, expected(["nothing", "refused", "refused", "refused"])));
        let lines = planned.json()["resources"].clone();
        assert_eq!(
            (&lines[1]["reason"], &lines[2]["reason"]),
            (&json!("AdoptionRequired"), &json!("RegistryNotReady"))
        );
        assert!(lines[2]["message"].as_str().unwrap().contains("AdoptionRequired: registry"), "{lines}");
    }

    files.declare(&name, &Specs::of(&name, &upstream).with(&json!({"adoptionPolicy": "IfExists"})));
    let planned = files.plan(&["-o", "json"]).await;
    assert_eq!((planned.code, planned.actions()), (1, expected(["nothing", "adopt", "create", "create"])));
    let marker = format!("[harbor-pilot {}/Registry/{name}]", site.kinds.installation.0);
    assert_eq!(planned.changes("Registry"), [format!("description: by hand instead of the upstream {marker}")]);
    assert_eq!(files.writes(), 0);
    let applied = files.plan(&["--apply"]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    assert!(applied.out.contains(&format!("done     adopted registry {name} in Harbor, which had")), "{}", applied.out);

    // Another installation with the same files.
    let other = files.command(&["-f", ".", "-o", "json", "--installation-id", "other"]);
    let other = run(other).await;
    assert_eq!((other.code, &other.json()["resources"][1]["reason"]), (2, &json!("NameConflict")));
    assert_eq!(site.client().registry_named(&name).await.unwrap().unwrap().id, id);
    site.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_without_a_marker_is_adopted_only_where_that_is_asked_for() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("adopt"));
    let specs = || Specs::of(&name, &upstream).with(&json!({"adoptionPolicy": "IfExists"}));
    files.write("20-registry.yaml", &resource("Registry", &name, &specs().registry));
    assert_eq!(files.plan(&["--apply"]).await.code, 0);
    let registry_id = site.client().registry_named(&name).await.unwrap().unwrap().id;
    let metadata = [("public".to_owned(), "true".to_owned())].into();
    let manual_request = model::NewProject { project_name: name.clone(), registry_id, metadata, storage_limit: None };
    site.client().create_project(&manual_request).await.unwrap();
    site.writes();

    files.write(
        "30-project.yaml",
        &resource(
            "ProxyProject",
            &name,
            &json!({"registryRef": {"name": name}, "public": true, "adoptionPolicy": "IfExists"}),
        ),
    );
    let planned = files.plan(&["-o", "json"]).await;
    assert_eq!((planned.code, planned.actions()), (1, expected(["nothing", "nothing", "adopt", "-"])[..3].to_vec()));
    let marker = format!("[harbor-pilot {}/ProxyProject/{name}]", site.kinds.installation.0);
    assert_eq!(planned.changes("ProxyProject"), [format!("label harbor-pilot: nothing instead of {marker}")]);
    assert_eq!(files.writes(), 0);
    assert_eq!(files.plan(&["--apply"]).await.code, 0);
    assert_eq!(files.plan(&[]).await.code, 0);
    site.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_observed_is_a_difference_and_is_not_written_even_when_applied() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("observe"));
    files.declare(&name, &Specs::of(&name, &upstream));
    assert_eq!(files.plan(&["--apply"]).await.code, 0);
    meddle(&site, &name).await;
    site.writes();
    files.declare(&name, &Specs::of(&name, &upstream).with(&json!({"managementPolicy": "ObserveOnly"})));
    for more in [&["-o", "json"][..], &["-o", "json", "--apply"]] {
        let planned = files.plan(more).await;
        assert_eq!((planned.code, planned.actions()), (1, expected(["nothing", "observe", "observe", "observe"])));
    }
    assert_eq!(files.writes(), 0);
    files.declare(&name, &Specs::of(&name, &upstream).with(&json!({"suspend": true})));
    let planned = files.plan(&["-o", "json", "--apply"]).await;
    assert_eq!((planned.code, planned.actions(), files.writes()), (0, expected(["nothing"; 4]), 0));
    site.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_sent_when_it_is_applied_and_never_printed() {
    let site = Site::start().await;
    let upstream = Upstream::builder().basic_auth("puller", "s3cret-of-upstream").start().await;
    let (files, name) = (Files::new(&site), site.name("secret"));
    let secret = |password: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: upstream}}\nstringData: {{username: puller, password: {password}}}\n"
        )
    };
    let specs = Specs::of(&name, &upstream);
    let mut registry = specs.registry.clone();
    registry["credentialsSecretRef"] = json!({"name": "upstream"});
    files.write("20-registry.yaml", &resource("Registry", &name, &registry));

    // Without the Secret a plan compares the rest, and nothing is applied.
    let planned = files.plan(&[]).await;
    assert!(planned.code == 1 && planned.out.contains("credentials were not compared"), "{planned:?}");
    let applied = files.plan(&["--apply"]).await;
    assert!(applied.code == 2 && applied.out.contains("SecretNotFound"), "{applied:?}");

    files.write("15-secret.yaml", &secret("wr0ng-s3cret"));
    let applied = files.plan(&["--apply", "-o", "json"]).await;
    assert_eq!(applied.code, 2, "{applied:?}");
    assert_eq!(applied.json()["resources"][1]["left"]["reason"], "CredentialsRejected", "{applied:?}");
    files.write("15-secret.yaml", &secret("s3cret-of-upstream"));
    let mut all = vec![applied, files.plan(&["--apply"]).await];
    assert_eq!(all[1].code, 0, "{:?}", all[1]);
    site.writes();
    let planned = files.plan(&[]).await;
    assert!(planned.code == 0 && planned.out.contains("Harbor does not return its secret"), "{planned:?}");
    assert_eq!(files.writes(), 0);
    all.push(planned);
    all.push(files.plan(&["-o", "json", "--apply"]).await);
    assert_eq!(all[3].code, 0);
    assert!(site.writes().is_none_or(|writes| writes == 1), "the secret is sent, for it cannot be compared");
    for ran in &all {
        for secret in ["s3cret", &site.password] {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{ran:?}");
        }
    }
    site.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_resources_for_one_object_the_second_is_refused() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("twice"));
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "name": name});
    files.write("20.yaml", &format!("{}{}", resource("Registry", "one", &spec), resource("Registry", "two", &spec)));
    let planned = files.plan(&["-o", "json"]).await;
    let lines = planned.json()["resources"].clone();
    assert_eq!((planned.code, &lines[1]["action"], &lines[2]["reason"]), (2, &json!("create"), &json!("NameConflict")));
    assert!(lines[2]["message"].as_str().unwrap().contains("Registry one is older"), "{lines}");
    site.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_harbor_that_does_not_answer_is_said_once_and_nothing_else_is_asked() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("away"));
    files.declare(&name, &Specs::of(&name, &upstream));
    for apply in [&["--harbor", "http://127.0.0.1:9"][..], &["--harbor", "http://127.0.0.1:9", "--apply"]] {
        let planned = files.plan(apply).await;
        assert_eq!(planned.code, 2, "{planned:?}");
        assert!(planned.out.contains("refused  HarborInstance default: HarborUnreachable"), "{}", planned.out);
        assert_eq!(planned.out.matches("InstanceNotReady").count(), 3, "{}", planned.out);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_and_an_account_from_outside_need_no_instance_in_the_files() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (files, name) = (Files::new(&site), site.name("outside"));
    files.declare(&name, &Specs::of(&name, &upstream));
    let (url, directory) = (site.url.as_str(), files.directory.path());
    fs::remove_file(directory.join("10-harbor.yaml")).unwrap();
    let without = files.plan(&["--harbor", url]).await;
    assert!(without.code == 2 && without.err.contains("HARBOR_USERNAME"), "{without:?}");

    let mut command = files.command(&["-f", "-", "--harbor", url, "-o", "json"]);
    command.env("HARBOR_USERNAME", &site.username).env("HARBOR_PASSWORD", &site.password);
    let text = fs::read(directory.join("20-resources.yaml")).unwrap();
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&text).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    });
    let ran = ran.await.unwrap();
    assert_eq!((ran.code, ran.actions()), (1, expected(["nothing", "create", "create", "create"])));

    // The account is meant for one Harbor.
    let other = resource("HarborInstance", "other", &json!({"url": url, "credentialsSecretRef": {"name": "nowhere"}}));
    files.write("10-harbor.yaml", &(files.harbor() + &other));
    let several = files.plan(&["--harbor", url]).await;
    assert!(several.code == 2 && several.err.contains("several HarborInstances"), "{several:?}");
    let mut several = files.command(&["-f", "."]);
    several.env("HARBOR_USERNAME", &site.username).env("HARBOR_PASSWORD", &site.password);
    let several = run(several).await;
    assert!(several.code == 2 && several.err.contains("several HarborInstances"), "{several:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_is_named_and_nothing_is_planned() {
    let site = Site::start().await;
    let files = Files::new(&site);
    let wrong = |more: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nstringData: {{password: 918273645{more}}}\n")
    };
    for (text, expected) in [
        (resource("Registry", "x", &json!({"type": "nonsense", "url": "https://x.example"})), "nonsense"),
        (
            resource("Registry", "x", &json!({"type": "docker-hub", "url": "https://x.example", "adopton": 1})),
            "spec.adopton",
        ),
        (wrong(""), "quotes"),
        (wrong(", a: ["), "20.yaml"),
    ] {
        files.write("20.yaml", &text);
        let ran = files.plan(&[]).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("20.yaml") && ran.err.contains(expected) && !ran.err.contains("918273645"), "{ran:?}");
    }
    files.write("20.yaml", "");
    let harbor = files.directory.path().join("10-harbor.yaml");
    fs::write(harbor, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n").unwrap();
    let ran = files.plan(&[]).await;
    assert!(ran.code == 2 && ran.err.contains("the files have no HarborInstance"), "{ran:?}");
    let ran = files.plan(&["-f", "nowhere"]).await;
    assert!(ran.code == 2 && ran.err.contains("nowhere"), "{ran:?}");
}

/// What the documentation shows is what is printed: the double in the place of the Harbor that it speaks of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_shows_what_is_printed() {
    let (site, upstream) = (Site::doubled(Harbor::builder()).await, Upstream::builder().start().await);
    let files = Files::new(&site);
    let declare = |name: &str| {
        let registry = json!({"type": "docker-registry", "url": upstream.url()});
        let project = json!({"registryRef": {"name": name}, "public": true});
        resource("Registry", name, &registry) + &resource("ProxyProject", name, &project)
    };
    let rule = json!({
        "source": {"registryRef": {"name": "dockerhub"}}, "filters": {"name": "library/nginx"}, "enabled": true,
        "trigger": {"type": "Scheduled", "cron": "0 30 2 * * *"},
    });
    files.write("20-dockerhub.yaml", &declare("dockerhub"));
    files.write("30-nightly.yaml", &resource("ReplicationRule", "nightly", &rule));
    let plan = async |more: &[&str]| {
        let mut command = files.command(more);
        command.env("HARBOR_PILOT_INSTALLATION", "production");
        run(command).await
    };
    assert_eq!(plan(&["-f", ".", "--apply"]).await.code, 0);

    let client = site.client();
    let project = client.project_named("dockerhub").await.unwrap().unwrap();
    let metadata = [("public".to_owned(), "false".to_owned())].into();
    client
        .update_project(project.project_id, &model::ProjectUpdate { metadata, ..model::ProjectUpdate::default() })
        .await
        .unwrap();
    let policy = client.replication_policy_named("nightly").await.unwrap().unwrap();
    let content = ReplicationPolicyContent { enabled: false, ..policy.content };
    client.update_replication_policy(policy.id, &content).await.unwrap();
    let quay = json!({"name": "quay", "type": "docker-registry", "url": upstream.url()});
    assert_eq!(site.double.as_ref().unwrap().manual_request("POST", "/registries", Some(quay)).await.0, 201);
    files.write("40-ghcr.yaml", &declare("ghcr"));
    files.write("50-quay.yaml", &declare("quay"));

    let documentation = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/plan.md")).unwrap();
    let block = |language: &str| {
        let begun = documentation.split(&format!("```{language}\n")).nth(1).unwrap();
        begun.split("```").next().unwrap().to_owned()
    };
    let text = plan(&["-f", "."]).await;
    assert_eq!((block("text"), text.code), (text.out, 2));
    let shown: Value = serde_json::from_str(&block("json")).unwrap();
    let printed = plan(&["-f", "10-harbor.yaml", "-f", "20-dockerhub.yaml", "-o", "json"]).await;
    assert_eq!((shown, printed.code), (printed.json(), 1), "{}", printed.out);
}
