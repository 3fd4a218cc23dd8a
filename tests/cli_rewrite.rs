//! `harbor-pilot rewrite` and `harbor-pilot explain`, as a user runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/ran.rs"]
mod ran;

#[path = "cli_rewrite/listed.rs"]
mod listed;
#[path = "cli_rewrite/stopped.rs"]
mod stopped;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ran::Ran;

const RULES: &str = r#"
apiVersion: harbor-pilot.dev/v1alpha1
kind: HarborInstance
metadata: {name: default}
spec: {url: "https://harbor.example.com", credentialsSecretRef: {name: harbor}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: Registry
metadata: {name: docker-hub}
spec: {type: docker-hub, url: "https://hub.docker.com"}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: Registry
metadata: {name: ghcr}
spec: {type: github-ghcr, url: "https://ghcr.io"}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ProxyProject
metadata: {name: hub}
spec:
  registryRef: {name: docker-hub}
  rewrite: {pullSecretName: harbor-pull, exclude: ["docker.io/library/registry"]}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ProxyProject
metadata: {name: bitnami}
spec:
  registryRef: {name: docker-hub}
  rewrite: {matches: [docker.io/bitnami], namespaceSelector: {matchLabels: {team: shop}}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ProxyProject
metadata: {name: ghcr}
spec: {registryRef: {name: ghcr}, rewrite: {matches: [ghcr.io/acme]}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ProxyProject
metadata: {name: old}
spec: {registryRef: {name: docker-hub}, suspend: true}
"#;

const CHART: &str = r#"---
# Source: web/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # the shop
spec:
  template:
    metadata:
      labels: { app: web }
    spec:
      containers:
        # pinned
        - name: web
          image: "nginx:1.27"  # do not touch
        - {name: side, image: 'ghcr.io/acme/side:2'}
        - name: own
          image: quay.io/own/app
---
# Source: web/templates/jobs.yaml
apiVersion: v1
kind: List
items:
- apiVersion: batch/v1
  kind: CronJob
  metadata: {name: nightly}
  spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: job, image: busybox}]}}}}}
---
apiVersion: example.com/v1
kind: Database
metadata: {name: db}
spec:
  podTemplate:
    spec:
      initContainers:
      - name: init
        image: >-
          docker.io/registry:2
      - name: load
        image: redis
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {image: nginx}
"#;

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("rules.yaml", RULES);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &[&str], input: &str) -> Ran {
        run(self.0.path(), arguments, input)
    }

    /// With the rules of the desk.
    fn rewrite(&self, arguments: &[&str], input: &str) -> Ran {
        self.run(&[&["rewrite", "--rules", "rules.yaml"], arguments].concat(), input)
    }

    fn explain(&self, arguments: &[&str]) -> Ran {
        self.run(&[&["explain", "--rules", "rules.yaml"], arguments].concat(), "")
    }
}

fn run(directory: &Path, arguments: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"))
        .args(arguments)
        .current_dir(directory)
        .env("KUBECONFIG", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that fails early does not read.
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    let done = child.wait_with_output().unwrap();
    Ran::of(done)
}

/// With an account at Harbor.
fn run_with_account(desk: &Desk, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
    command.args(arguments).current_dir(desk.0.path());
    Ran::of(command.env("HARBOR_USERNAME", "admin").env("HARBOR_PASSWORD", "x").output().unwrap())
}

/// The chart as it has to come out.
fn rewritten_chart() -> String {
    CHART
        .replace("\"nginx:1.27\"", "\"harbor.example.com/hub/library/nginx:1.27\"")
        .replace("'ghcr.io/acme/side:2'", "'harbor.example.com/ghcr/acme/side:2'")
        .replace("image: busybox", "image: harbor.example.com/hub/library/busybox")
        .replace("image: redis", "image: harbor.example.com/hub/library/redis")
}

#[test]
fn a_chart_goes_through_the_pipe_with_nothing_but_its_images_changed_and_a_second_time_unchanged() {
    let desk = Desk::new();
    let once = desk.rewrite(&["-f", "-"], CHART);
    assert_eq!((once.out.as_str(), once.code), (rewritten_chart().as_str(), 0), "{}", once.err);
    assert!(once.err.contains("4 of 6 images rewritten"), "{}", once.err);
    let twice = desk.rewrite(&["-f", "-"], &once.out);
    assert_eq!(twice.out, once.out);
    assert!(twice.err.contains("0 of 6 images rewritten"), "{}", twice.err);
}

#[test]
fn a_diff_shows_what_changes_and_says_by_its_status_whether_anything_does() {
    let desk = Desk::new();
    desk.write("web.yaml", CHART);
    let changed = desk.rewrite(&["-f", "web.yaml", "--diff"], "");
    assert_eq!(changed.code, 1, "{}", changed.err);
    assert!(changed.out.starts_with("--- web.yaml\n+++ web.yaml (rewritten)\n@@ "), "{}", changed.out);
    assert!(changed.out.contains("-          image: \"nginx:1.27\"  # do not touch\n"), "{}", changed.out);
    assert!(changed.out.contains("+          image: \"harbor.example.com/hub/library/nginx:1.27\"  # do not touch\n"));
    assert_eq!(desk.read("web.yaml"), CHART);

    desk.write("web.yaml", &rewritten_chart());
    let same = desk.rewrite(&["-f", "web.yaml", "--diff"], "");
    assert_eq!((same.code, same.out.as_str()), (0, ""));
}

#[test]
fn a_directory_is_read_in_order_and_becomes_one_stream() {
    let desk = Desk::new();
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: a, image: {name}}}]}}"
        )
    };
    desk.write("in/b.yml", &pod("two"));
    desk.write("in/a.yaml", &format!("{}\n", pod("one")));
    desk.write("in/c.json", r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a","image":"three"}]}}"#);
    desk.write("in/notes.txt", "{ no yaml");
    desk.write("in/below/d.yaml", &pod("four"));
    let flat = desk.rewrite(&["-f", "in"], "");
    assert_eq!(flat.code, 0, "{}", flat.err);
    let at: Vec<_> = ["one", "two", "three"].map(|name| flat.out.find(&format!("library/{name}")).unwrap()).into();
    assert!(at.is_sorted(), "{}", flat.out);
    assert_eq!(flat.out.matches("---\n").count(), 3);
    assert!(!flat.out.contains("four"));
    assert!(desk.rewrite(&["-f", "in", "-R"], "").out.contains("library/four"));

    assert_eq!(desk.rewrite(&["-f", "in", "--in-place"], "").out, "");
    assert!(desk.read("in/b.yml").contains("image: harbor.example.com/hub/library/two"));
    assert_eq!(std::fs::read_dir(desk.path("in")).unwrap().count(), 5, "nothing is left beside the files");
}

#[test]
fn pull_secrets_are_added_only_when_asked_for_only_where_an_image_changed_and_with_a_warning() {
    let desk = Desk::new();
    let plain = desk.rewrite(&["-f", "-"], CHART);
    assert!(!plain.out.contains("imagePullSecrets"));
    let done = desk.rewrite(&["-f", "-", "--pull-secrets"], CHART);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.out.contains("    spec:\n      imagePullSecrets:\n      - name: harbor-pull\n      containers:\n"),
        "{}",
        done.out
    );
    assert_eq!(done.out.matches("harbor-pull").count(), 3);
    assert!(
        done.err.contains("Deployment web: a Pod with pull secrets does not get those of its ServiceAccount"),
        "{}",
        done.err
    );
    assert_eq!(desk.rewrite(&["-f", "-", "--pull-secrets"], &done.out).out, done.out);

    let other = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - {name: a, image: ghcr.io/acme/a}\n";
    assert!(!desk.rewrite(&["-f", "-", "--pull-secrets"], other).out.contains("imagePullSecrets"));
}

#[test]
fn pull_secrets_are_not_added_where_the_kind_is_not_known_to_take_them() {
    let desk = Desk::new();
    let thing = "apiVersion: example.com/v1\nkind: Thing\nspec:\n  server: {image: nginx, args: [a]}\n";
    let done = desk.rewrite(&["-f", "-", "--pull-secrets", "--strict"], thing);
    assert_eq!(done.code, 1, "{}", done.err);
    assert_eq!(done.out, thing.replace("nginx", "harbor.example.com/hub/library/nginx"));
    assert!(done.err.contains("pull secret harbor-pull was not added"), "{}", done.err);
}

#[test]
fn rewrite_prints_a_warning_of_an_object_with_several_templates_once() {
    let template = "template: {spec: {containers: [{name: d, image: nginx}]}}";
    let application = format!(
        "{{apiVersion: sparkoperator.k8s.io/v1beta2, kind: SparkApplication, spec: {{image: nginx, driver: {{{template}}}}}}}"
    );
    let done = Desk::new().rewrite(&["-f", "-", "--pull-secrets"], &application);
    assert_eq!(done.err.matches("does not get those of its ServiceAccount").count(), 1, "{}", done.err);
}

#[test]
fn selectors_use_the_namespace_of_the_input_and_unknown_labels_are_reported() {
    let desk = Desk::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {containers: [{name: a, image: bitnami/kafka}]}\n";
    let unknown = desk.rewrite(&["-f", "-"], pod);
    assert!(unknown.out.contains("harbor.example.com/hub/bitnami/kafka"), "{}", unknown.out);
    assert!(
        unknown.err.contains("labels of namespace shop are unknown") && unknown.err.contains("bitnami"),
        "{}",
        unknown.err
    );

    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: shop}}\n---\n";
    let known = desk.rewrite(&["-f", "-"], &format!("{namespace}{pod}"));
    assert!(known.out.contains("harbor.example.com/bitnami/bitnami/kafka"), "{}", known.out);
    assert!(!known.err.contains("not known"), "{}", known.err);
}

#[test]
fn an_image_that_an_anchor_binds_to_something_else_stays_and_shows_in_the_status() {
    let desk = Desk::new();
    let text = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - {name: a, image: &i nginx, env: [{name: I, value: *i}]}\n  - {name: b, image: redis}\n";
    let done = desk.rewrite(&["-f", "-"], text);
    assert_eq!(done.code, 3);
    assert_eq!(done.out, text.replace("image: redis", "image: harbor.example.com/hub/library/redis"));
    assert!(done.err.contains("(standard input):5: nginx is not rewritten"), "{}", done.err);
}

#[test]
fn rewrite_writes_nothing_and_says_where_something_is_wrong() {
    let desk = Desk::new();
    desk.write("good.yaml", CHART);
    desk.write("bad.yaml", "a: 1\n---\nb: [1\n");
    desk.write("broken-rules.yaml", &RULES.replace("name: ghcr}\nspec: {type", "name: other}\nspec: {type"));
    std::fs::write(desk.path("latin.yaml"), b"a: \xe9\n").unwrap();
    std::fs::create_dir(desk.path("empty")).unwrap();
    for (arguments, reported) in [
        (&["--rules", "rules.yaml", "-f", "good.yaml", "-f", "bad.yaml", "--fail-fast"][..], "bad.yaml:3:4: "),
        (&["--rules", "rules.yaml", "-f", "good.yaml", "-f", "bad.yaml", "--fail-fast", "--in-place"], "bad.yaml:3:4"),
        (&["--rules", "rules.yaml", "-f", "nowhere.yaml"], "nowhere.yaml: "),
        (&["--rules", "rules.yaml", "-f", "empty"], "empty: no .yaml"),
        (&["--rules", "rules.yaml", "-f", "latin.yaml"], "latin.yaml: not UTF-8 at byte 4"),
        (&["--rules", "rules.yaml", "-f", "-", "-f", "-"], "standard input can be read only once"),
        (&["--rules", "rules.yaml", "-f", "-", "--in-place"], "--in-place cannot be used with -f -"),
        (&["--rules", "bad.yaml", "-f", "good.yaml"], "rules: bad.yaml"),
        (&["--rules", "broken-rules.yaml", "-f", "good.yaml"], "the manifests have no Registry ghcr"),
        (&["-f", "good.yaml"], "set KUBECONFIG, or read the rules from manifests with --rules"),
        (&["--rules", "rules.yaml"], "--filename"),
    ] {
        let failed = desk.run(&[&["rewrite"], arguments].concat(), "");
        assert_eq!((failed.code, failed.out.as_str()), (2, ""), "{arguments:?}");
        assert!(failed.err.contains(reported), "{arguments:?}: {}", failed.err);
        assert_eq!(desk.read("good.yaml"), CHART);
    }
}

#[test]
fn help_lists_the_exit_codes() {
    for (command, code) in [("rewrite", "3  written, but"), ("explain", "2  an error")] {
        let help = run(Path::new("/"), &[command, "--help"], "").out;
        assert!(help.contains("Exit status:") && help.contains(code), "{help}");
    }
}

#[test]
fn rewrite_counts_what_is_at_harbor_and_what_stays_and_lists_texts_that_name_images() {
    let desk = Desk::new();
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: nginx\n    \
                args: [--side=docker.io/library/redis:7]\n    env: [{name: SIDE_IMAGE, value: 'busybox:1'}]\n  \
                - {name: b, image: harbor.example.com/hub/library/nginx}\n  - {name: c, image: quay.io/a/b}\n";
    let done = desk.rewrite(&["-f", "-"], text);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err.contains("1 of 3 images rewritten, 1 already at Harbor, 1 not rewritten; 2 more texts name images"),
        "{}",
        done.err
    );
    for expected in [
        "(standard input):8:19: Pod p: spec.containers[0].args[0]: docker.io/library/redis:7 is not rewritten",
        "(standard input):9:38: Pod p: spec.containers[0].env[0].value: busybox:1 is not rewritten",
    ] {
        assert!(done.err.contains(expected), "{expected}: {}", done.err);
    }
    assert!(!done.err.contains("quay.io/a/b"), "no rule maps its host: {}", done.err);

    let strict = desk.rewrite(&["-f", "-", "--strict"], text);
    assert_eq!((strict.code, &strict.out), (1, &done.out));
    let clean =
        desk.rewrite(&["-f", "-", "--strict"], "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx}]}\n");
    assert_eq!(clean.code, 0, "{}", clean.err);
}

#[test]
fn rewrite_does_the_other_files_where_one_cannot_be_read() {
    let desk = Desk::new();
    desk.write("in/bad.yaml", "a: 1\n---\nb: [1\n");
    desk.write("in/good.yaml", CHART);
    desk.write("in/template.yaml", "{{- if .Values.x }}\na: 1\n{{- end }}\n");
    std::fs::write(desk.path("in/latin.yaml"), b"a: \xe9\n").unwrap();
    let done = desk.rewrite(&["-f", "in"], "");
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.out.contains(&rewritten_chart()), "{}", done.out);
    for expected in
        ["in/bad.yaml:3:4: ", "in/latin.yaml: not UTF-8 at byte 4", "in/template.yaml:1:", "3 unreadable files"]
    {
        assert!(done.err.contains(expected), "{expected}: {}", done.err);
    }
    assert!(done.err.contains("line 1 has `{{`: this is a chart template; render it first"), "{}", done.err);
    assert_eq!(desk.rewrite(&["-f", "in", "--in-place"], "").code, 2);
    assert_eq!(desk.read("in/good.yaml"), rewritten_chart());
    assert_eq!(std::fs::read_dir(desk.path("in")).unwrap().count(), 4, "nothing is left beside the files");
}

#[test]
fn rewrite_names_what_is_not_filled_in_yet() {
    let desk = Desk::new();
    let pod = |image: &str| format!("apiVersion: v1\nkind: Pod\nspec: {{containers: [{{name: a, image: {image}}}]}}\n");
    for (image, expected) in [
        ("'{{ .Values.image }}'", "this is a chart template: render it first (`helm template`)"),
        ("\"${IMAGE}\"", "this is a variable"),
    ] {
        let done = desk.rewrite(&["-f", "-", "--strict"], &pod(image));
        assert_eq!((done.code, &done.out), (1, &pod(image)), "{}", done.err);
        assert!(done.err.contains(expected) && !done.err.contains("invalid reference"), "{}", done.err);
    }
}

#[test]
fn rewrite_in_place_writes_all_files_or_none() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: nginx}]}\n";
    desk.write("in/a.yaml", pod);
    desk.write("in/b.yaml", pod);
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(desk.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("in/b.yaml", 0o444);
    let refused = desk.rewrite(&["-f", "in", "--in-place"], "");
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("in/b.yaml: the file is read-only, so no file was written"), "{}", refused.err);
    assert_eq!((desk.read("in/a.yaml").as_str(), desk.read("in/b.yaml").as_str()), (pod, pod));

    mode("in/b.yaml", 0o640);
    assert_eq!(desk.rewrite(&["-f", "in", "--in-place"], "").code, 0);
    assert!(["in/a.yaml", "in/b.yaml"].iter().all(|name| desk.read(name).contains("harbor.example.com")));
    assert_eq!(desk.path("in/b.yaml").metadata().unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn rewrite_changes_the_names_that_kustomizations_look_for_or_leaves_their_images() {
    let desk = Desk::new();
    desk.write("app/pod.yaml", "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: 'nginx:latest'}]}\n");
    let kustomization =
        |resources: &str| format!("resources: [{resources}]\nimages:\n- name: nginx   # tested\n  newTag: '1.27'\n");
    desk.write("app/kustomization.yaml", &kustomization("pod.yaml, ../elsewhere"));
    let held = desk.rewrite(&["-f", "app", "--in-place"], "");
    assert_eq!(held.code, 3);
    assert!(
        held.err.contains("nginx:latest is not rewritten: app/kustomization.yaml:3: the entry of `images` for nginx"),
        "{}",
        held.err
    );
    assert!(desk.read("app/pod.yaml").contains("'nginx:latest'"));

    desk.write("app/kustomization.yaml", &kustomization("pod.yaml"));
    let outside = desk.rewrite(&["-f", "app/pod.yaml"], "");
    assert_eq!(outside.code, 3);
    assert!(outside.err.contains("is not on the command line: add it"), "{}", outside.err);

    let done = desk.rewrite(&["-f", "app", "--in-place"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        desk.read("app/kustomization.yaml")
            .contains("- name: harbor.example.com/hub/library/nginx   # tested\n  newTag: '1.27'\n")
    );
    assert!(desk.read("app/pod.yaml").contains("'harbor.example.com/hub/library/nginx:latest'"));
}

#[test]
fn rewrite_reads_more_kinds_from_a_file_of_fields() {
    let desk = Desk::new();
    let thing = "apiVersion: x.example/v1\nkind: Thing\nspec: {picture: 'nginx:1'}\n";
    desk.write("fields.yaml", "kinds:\n- {group: x.example, kinds: [Thing], images: [spec.picture]}\n");
    let done = desk.rewrite(&["-f", "-", "--fields", "fields.yaml"], thing);
    assert_eq!(done.out, thing.replace("nginx", "harbor.example.com/hub/library/nginx"));
    assert_eq!(desk.rewrite(&["-f", "-"], thing).out, thing);
    desk.write("wrong.yaml", "kinds:\n- {group: x.example, kinds: [Thing], image: [spec.picture]}\n");
    let wrong = desk.rewrite(&["-f", "-", "--fields", "wrong.yaml"], thing);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("wrong.yaml:2:38: unknown field"), "{}", wrong.err);
}

#[test]
fn rewrite_refuses_a_bomb_of_aliases_within_little_memory() {
    let desk = Desk::new();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        bomb += &format!("a{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(10));
    }
    let one = format!("k: &k [{}]\n", "'long text of many bytes', ".repeat(4_000));
    let wide = format!("{one}all: [{}]\n", "*k, ".repeat(2_500));
    for text in [bomb, wide] {
        desk.write("bomb.yaml", &text);
        let limit = 256 * 1024;
        let command = format!(
            "ulimit -d {limit}; exec {} rewrite --rules rules.yaml -f bomb.yaml",
            env!("CARGO_BIN_EXE_harbor-pilot")
        );
        let done = Command::new("sh").args(["-c", &command]).current_dir(desk.0.path()).output().unwrap();
        let done = Ran::of(done);
        assert_eq!(done.code, 2, "{}", done.err);
        assert!(done.err.contains("bomb.yaml:") && done.err.contains("by aliases: not allowed"), "{}", done.err);
    }
}

#[test]
fn an_image_is_explained_by_every_rule() {
    let desk = Desk::new();
    let lines = |image: &str| desk.explain(&[image, "--namespace", "shop", "--namespace-labels", "team=bank"]).out;
    for (image, reported) in [
        ("nginx", "nginx, which is docker.io/library/nginx"),
        ("nginx", "Rewritten: the Pod gets harbor.example.com/hub/library/nginx (ProxyProject hub)"),
        ("nginx", "* hub      matches docker.io, applies"),
        ("nginx", "  bitnami  path differs"),
        ("nginx", "  ghcr     host differs: docker.io is not that of ghcr.io/acme"),
        ("nginx", "  old      not active: it is suspended"),
        ("ghcr.io/other/app", "  ghcr     path differs: other/app does not begin with the path of ghcr.io/acme"),
        ("registry:2", "NoRule: not rewritten: no rule matches"),
        ("registry:2", "  hub      matches docker.io, but excludes docker.io/library/registry"),
        (
            "bitnami/kafka",
            "  bitnami  matches docker.io/bitnami, but its namespaceSelector does not select namespace shop",
        ),
        ("harbor.example.com/hub/a", "AlreadyAtHarbor: "),
        ("harbor.example.com/hub/a", "* hub      the image is in this project at Harbor"),
    ] {
        let out = lines(image);
        assert!(out.contains(reported), "{image}: expected {reported} in\n{out}");
    }
    let shop = desk.explain(&["bitnami/kafka", "--namespace", "shop", "--namespace-labels", "team=shop"]).out;
    assert!(shop.contains("  hub      matches docker.io, but docker.io/bitnami of bitnami is longer"), "{shop}");
}

#[test]
fn an_explanation_can_be_read_by_programs() {
    let desk = Desk::new();
    desk.write("rules.yaml", &RULES.replace(", suspend: true", ""));
    let done = desk.explain(&["nginx:1", "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let read: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(read["decision"], "Rewritten");
    assert_eq!(read["result"], "harbor.example.com/hub/library/nginx:1");
    assert_eq!(
        read["rules"][0],
        serde_json::json!({
        "rule": "hub", "verdict": "Decides", "match": "docker.io", "why": "matches docker.io, applies"})
    );
    assert_eq!(read["rules"][1]["verdict"], "Younger");
    assert_eq!(read["rules"][1]["why"], "matches docker.io, but hub has the same and is older, or first by name");
    let refused = desk.explain(&["Nginx"]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""));
    assert!(refused.err.contains("must be lowercase"), "{}", refused.err);
}

fn pod_json(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"a","image":"{name}"}}]}}}}"#
    )
}

#[test]
fn rewrite_joins_files_so_that_each_document_has_a_separator() {
    let desk = Desk::new();
    desk.write("a.json", &format!("{}\n{}\n", pod_json("one"), pod_json("two")));
    desk.write("b.yaml", &format!("# head\n%YAML 1.2\n---\n{}\n", pod_json("three")));
    let done = desk.rewrite(&["-f", "a.json", "-f", "b.yaml", "-f", "./a.json"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    let documents: Vec<&str> = done.out.split("---\n").filter(|document| document.contains("apiVersion")).collect();
    assert_eq!(documents.len(), 3, "each once: {}", done.out);
    assert!(documents.iter().all(|document| document.matches("apiVersion").count() == 1), "{}", done.out);
    assert!(!done.out.contains('%'), "{}", done.out);

    desk.write("c.yaml", "%TAG ! x:\n---\na: 1\n");
    let refused = desk.rewrite(&["-f", "a.json", "-f", "c.yaml"], "");
    assert!(refused.code == 2 && refused.err.contains("%TAG"), "{}", refused.err);
}

#[test]
fn rewrite_leaves_out_links_to_directories_above_and_what_is_no_regular_file() {
    let desk = Desk::new();
    desk.write("in/a.yaml", &pod_json("one"));
    std::os::unix::fs::symlink(".", desk.path("in/self")).unwrap();
    let made = Command::new("mkfifo").arg(desk.path("in/b.yaml")).status().unwrap();
    assert!(made.success());
    let done = desk.rewrite(&["-f", "in", "-R"], "");
    assert_eq!((done.code, done.out.matches("library/one").count()), (0, 1), "{}", done.err);
    assert!(done.err.contains("in/b.yaml: skipped: not a regular file"), "{}", done.err);
    assert!(done.err.contains("in/self: skipped: a symbolic link"), "{}", done.err);
}

#[test]
fn rewrite_names_each_invalid_reference_with_its_place_and_counts_those_of_mapped_hosts() {
    let desk = Desk::new();
    let containers: String = (0..12).map(|n| format!("  - name: c{n}\n    image: ghcr.io//acme/{n}\n")).collect();
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n{containers}");
    let done = desk.rewrite(&["-f", "-", "--strict"], &text);
    for n in 0..12 {
        let line = format!(":{}:12: Pod p: spec.containers[{n}].image: ghcr.io//acme/{n} is not rewritten", 7 + 2 * n);
        assert_eq!(done.err.matches(&line).count(), 1, "{line}: {}", done.err);
    }
    assert!(!done.err.contains("warning: Pod p: the image"), "{}", done.err);
    assert!(done.code == 1 && done.err.contains("12 invalid references of mapped hosts"), "{}", done.err);
}

#[test]
fn rewrite_leaves_the_id_of_a_local_image() {
    let desk = Desk::new();
    let text = pod_json(&format!("sha256:{}", "0a".repeat(32)));
    let done = desk.rewrite(&["-f", "-"], &text);
    assert_eq!(done.out, text);
    assert!(done.err.contains("the ID of a local image"), "{}", done.err);
}

#[test]
fn rewrite_prints_names_without_control_characters() {
    let desk = Desk::new();
    let done = desk.rewrite(
        &["-f", "-"],
        r#"{apiVersion: v1, kind: Pod, metadata: {name: "a\e[31m\nb"}, spec: {containers: [{name: a, image: "A"}]}}"#,
    );
    assert!(done.err.contains(r"Pod a\u{1b}[31m\nb"), "{}", done.err);
    assert!(!done.err.contains('\u{1b}'), "{}", done.err);
}

#[test]
fn rewrite_knows_a_resource_of_a_kustomization_behind_a_symbolic_link() {
    let desk = Desk::new();
    desk.write("in/real.txt", &pod_json("nginx"));
    std::os::unix::fs::symlink("real.txt", desk.path("in/link.yaml")).unwrap();
    desk.write("in/kustomization.yaml", "resources: [link.yaml]\nimages: [{name: nginx, newTag: '1'}]\n");
    let done = desk.rewrite(&["-f", "in"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("name: harbor.example.com/hub/library/nginx, newTag"), "{}", done.out);
}
