use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::rewrite::pod::ImageLocation;

const HARBOR: &str = "harbor.example.com";

/// Moves every image to Harbor, unless it is there.
fn at_harbor(image: &str) -> String {
    if image.starts_with(HARBOR) { image.to_owned() } else { format!("{HARBOR}/hub/{image}") }
}

fn wishes(manifests: &ManifestText<'_>, wanted: impl Fn(&Template, &str) -> String) -> Vec<Edit> {
    let templates = manifests.templates().iter().enumerate();
    templates
        .flat_map(|(template, found)| {
            let images = found.images.iter().enumerate();
            let all = images.map(|(image, each)| Edit::Image { template, image, text: wanted(found, &each.image) });
            all.collect::<Vec<_>>()
        })
        .collect()
}

fn edited(text: &str) -> EditedText {
    let manifests = ManifestText::read(text).unwrap();
    manifests.edit(&wishes(&manifests, |_, image| at_harbor(image))).unwrap()
}

fn with_secret(text: &str) -> EditedText {
    let manifests = ManifestText::read(text).unwrap();
    let secrets = |template| Edit::PullSecret { template, name: "harbor-pull".to_owned() };
    manifests.edit(&(0..manifests.templates().len()).map(secrets).collect::<Vec<_>>()).unwrap()
}

fn pod(containers: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n{containers}")
}

fn images(text: &str) -> Vec<String> {
    let manifests = ManifestText::read(text).unwrap();
    let all = manifests.templates().iter().flat_map(|template| template.images.clone());
    all.map(|image| image.image).collect()
}

#[test]
fn only_the_image_changes_whatever_its_style() {
    let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for (before, after) in [
        ("image: nginx:1", "image: harbor.example.com/hub/nginx:1"),
        ("image:   nginx:1   # why", "image:   harbor.example.com/hub/nginx:1   # why"),
        ("image: 'nginx:1'", "image: 'harbor.example.com/hub/nginx:1'"),
        ("image: \"nginx:1\"", "image: \"harbor.example.com/hub/nginx:1\""),
        ("\"image\" : \"ngin\\x78:1\"", "\"image\" : \"harbor.example.com/hub/nginx:1\""),
        ("image: !!str nginx:1", "image: !!str harbor.example.com/hub/nginx:1"),
        ("image: &x nginx:1", "image: &x harbor.example.com/hub/nginx:1"),
        ("image: |-\n      nginx:1", "image: |-\n      harbor.example.com/hub/nginx:1"),
        ("image: >-\n      nginx:1\n", "image: >-\n      harbor.example.com/hub/nginx:1\n"),
        ("image:\n      nginx:1", "image:\n      harbor.example.com/hub/nginx:1"),
        ("? image\n    : nginx:1", "? image\n    : harbor.example.com/hub/nginx:1"),
    ] {
        let text = pod(&format!("  - name: a\n    {before}\n    # kept\n"));
        assert_eq!(edited(&text).text, text.replace(before, after), "{before}");
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(edited(&crlf).text, text.replace(before, after).replace('\n', "\r\n"), "{before} with CRLF");
    }
    let flow = format!("{{apiVersion: v1, kind: Pod, spec: {{containers: [{{name: a, image: nginx@{digest}}}]}}}}");
    assert_eq!(edited(&flow).text, flow.replace("nginx", "harbor.example.com/hub/nginx"));
    let json = "{\n\t\"kind\": \"Pod\", \"apiVersion\": \"v1\",\n\t\"spec\": {\"containers\": [{\"name\":\"a\",\"image\":\"a\\/b\"}]}\n}";
    assert_eq!(edited(json).text, json.replace("a\\/b", "harbor.example.com/hub/a/b"));
    let marked = format!("\u{feff}{}", pod("  - {name: a, image: nginx}"));
    assert_eq!(edited(&marked).text, marked.replace("nginx", "harbor.example.com/hub/nginx"));
}

#[test]
fn a_host_that_cannot_stand_bare_is_quoted() {
    let text = pod("  - name: a\n    image: nginx\n");
    let manifests = ManifestText::read(&text).unwrap();
    let edited = manifests.edit(&wishes(&manifests, |_, image| format!("[::1]:5000/hub/{image}"))).unwrap();
    assert_eq!(edited.text, text.replace("nginx", "\"[::1]:5000/hub/nginx\""));
}

#[test]
fn pod_specifications_are_found_in_objects_of_any_kind() {
    let text = r#"
# Source: chart/templates/all.yaml
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: jobs}
spec:
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: nightly}}
        spec:
          initContainers: [{name: i, image: init}]
          containers: [{name: c, image: main}]
          volumes:
          - name: data
            image: {reference: volume}
          - name: other
            emptyDir: {}
---
---
# nothing but a comment
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {generateName: p-, labels: {app: p}, annotations: {a: b}}
  spec:
    containers: [{name: c, image: pod}]
    ephemeralContainers: [{name: e, image: debug}]
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
apiVersion: example.com/v1
kind: Database
metadata: {name: db, labels: {app: own}}
spec:
  containers:
  - {name: extra, image: custom}
  - {name: without}
"#;
    let manifests = ManifestText::read(text).unwrap();
    let found: Vec<_> = manifests.templates().iter().map(|t| (t.document, t.line, t.object.to_string())).collect();
    assert_eq!(
        found,
        [(1, 13, "CronJob jobs/nightly".to_owned()), (4, 31, "Pod p-".to_owned()), (5, 40, "Database db".to_owned())]
    );
    let [job, pod, database] = manifests.templates() else { panic!() };
    assert_eq!(job.labels.as_ref().unwrap()["app"], "nightly");
    assert_eq!(pod.annotations.as_ref().unwrap()["a"], "b");
    assert_eq!(database.labels, None, "the labels of a custom object are not those of its Pods");
    assert_eq!(images(text), ["main", "init", "volume", "pod", "debug", "custom"]);
    assert_eq!(job.images[2].list, ImageLocation::Volumes);
    assert_eq!((job.images[0].line, job.images[0].column), (14, 41));
    assert_eq!(manifests.namespaces()["shop"]["team"], "a");
    assert_eq!(manifests.foreign_documents(), [0; 0]);
    let made: Value = serde_json::from_str(&job.pod(Some("elsewhere"))).unwrap();
    assert_eq!(made["metadata"]["namespace"], "jobs");
    assert_eq!(made["spec"]["volumes"][0]["image"]["reference"], "volume");
}

#[test]
fn what_only_looks_like_a_container_is_left_alone() {
    for text in [
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  pod.yaml: |\n    spec:\n      containers:\n      - {name: a, image: nginx}\n",
        "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nspec: {pattern: {spec: {containers: [{name: '*', image: nginx}]}}}\n",
        "apiVersion: v1\nkind: Pod\nstatus: {containers: [{name: a, image: nginx}]}\n",
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: 1.5}]}\n",
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: }]}\n",
        "apiVersion: v1\nkind: Pod\nspec: {containers: {name: a, image: nginx}}\n",
        "apiVersion: example.com/v1\nkind: Scan\nspec: {image: nginx, images: [{name: a, image: nginx}]}\n",
        "image: nginx\ncontainers: [{name: a, image: nginx}]\n",
        "# nothing\n",
        "",
    ] {
        assert_eq!(images(text), [""; 0], "{text}");
        assert_eq!(edited(text).text, text);
    }
    assert_eq!(ManifestText::read("a: 1\n---\n- b\n").unwrap().foreign_documents(), [1, 2]);
}

#[test]
fn an_anchor_is_followed_where_all_it_is_used_for_changes_alike() {
    let shared = pod("  - {name: a, image: &i nginx}\n  - {name: b, image: *i}\n");
    assert_eq!(edited(&shared).text, shared.replace("nginx", "harbor.example.com/hub/nginx"));
    assert_eq!(edited(&shared).images, 2);

    let whole = pod("  - &c {name: a, image: nginx}\n  initContainers:\n  - *c\n  - <<: *c\n    name: other\n");
    assert_eq!(edited(&whole).text, whole.replace("nginx", "harbor.example.com/hub/nginx"));
    assert_eq!(edited(&whole).images, 3);
}

#[test]
fn an_image_that_is_also_something_else_is_written_out_or_named_as_left() {
    let elsewhere =
        "apiVersion: v1\nkind: Pod\nmetadata: {labels: {was: &i nginx}}\nspec: {containers: [{name: a, image: *i}]}\n";
    let done = edited(elsewhere);
    assert_eq!(done.text, elsewhere.replace("*i", "harbor.example.com/hub/nginx"));
    assert_eq!(done.unkept, []);

    let defined = pod("  - name: a\n    image: &i nginx\n    env: [{name: IMAGE, value: *i}]\n");
    let done = edited(&defined);
    assert_eq!((done.text, done.images), (defined, 0));
    assert_eq!(done.unkept[0].line, 7);
    assert!(done.unkept[0].detail.contains("write the image without the anchor"), "{}", done.unkept[0].detail);

    let overridden = pod("  - &c {name: a, image: nginx}\n  - <<: *c\n    name: b\n    image: redis\n");
    let done = edited(&overridden);
    assert_eq!(images(&done.text), ["harbor.example.com/hub/nginx", "harbor.example.com/hub/redis"]);
}

#[test]
fn templates_that_share_an_image_and_want_different_ones_keep_theirs() {
    let text = concat!(
        "apiVersion: v1\nkind: List\nitems:\n",
        "- {apiVersion: v1, kind: Pod, metadata: {name: one}, spec: {containers: [&c {name: a, image: nginx}]}}\n",
        "- {apiVersion: v1, kind: Pod, metadata: {name: two}, spec: {containers: [*c, {name: b, image: redis}]}}\n",
    );
    let manifests = ManifestText::read(text).unwrap();
    let only_two = |template: &Template, image: &str| match template.object.name.as_str() {
        "two" => at_harbor(image),
        _ => image.to_owned(),
    };
    let done = manifests.edit(&wishes(&manifests, only_two)).unwrap();
    assert_eq!(done.text, text.replace("redis", "harbor.example.com/hub/redis"));
    assert_eq!((done.images, done.unkept.len()), (1, 1));
}

#[test]
fn what_is_no_yaml_is_refused_with_document_line_and_column() {
    for (text, expected) in [
        ("a: 1\n---\nb: [1\n", "document 2, line 3, column 4: unclosed bracket"),
        ("a: 'x", "document 1, line 1, column 4"),
        ("a: 1\n\tb: 2\n", "tab"),
        ("a: *missing\n", "unknown anchor"),
        ("{\"a\": 1}\n{\"b\": }\n{\"c\": [}\n", "document 2, line 2, column 7: expected value"),
        ("a: &a [*a]\n", "more than 200 nested values"),
        ("a: &a {<<: *a}\n", "endless merge keys"),
        ("a: {<<: 1}\n", "a merge key takes a mapping"),
    ] {
        let error = ManifestText::read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        laughs += &format!("a{level}: &a{level} [{before}]\n");
    }
    assert!(ManifestText::read(&laughs).unwrap_err().detail.contains("more than"));
}

#[test]
fn pull_secrets_are_added_once_in_the_style_of_the_specification() {
    let block = pod("  - {name: a, image: nginx}\n");
    let new = block.replace("  containers:", "  imagePullSecrets:\n  - name: harbor-pull\n  containers:");
    for (text, expected) in [
        (block.clone(), new.clone()),
        (block.replace('\n', "\r\n"), new.replace('\n', "\r\n")),
        (format!("{block}  imagePullSecrets: []\n"), format!("{block}  imagePullSecrets: [{{\"name\": \"harbor-pull\"}}]\n")),
        (format!("{block}  imagePullSecrets: ~\n"), format!("{block}  imagePullSecrets: [{{\"name\": \"harbor-pull\"}}]\n")),
        (
            format!("{block}  imagePullSecrets: # ours\n    -   name: own\n"),
            format!("{block}  imagePullSecrets: # ours\n    - name: harbor-pull\n    -   name: own\n"),
        ),
        (
            format!("{block}  imagePullSecrets: [name: own]\n"),
            format!("{block}  imagePullSecrets: [{{\"name\": \"harbor-pull\"}}, name: own]\n"),
        ),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"spec\":{\"containers\":[{\"name\":\"a\"}]}}".to_owned(),
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"spec\":{\"imagePullSecrets\": [{\"name\": \"harbor-pull\"}], \"containers\":[{\"name\":\"a\"}]}}".to_owned(),
        ),
    ] {
        let done = with_secret(&text);
        assert_eq!((done.text.as_str(), done.unkept), (expected.as_str(), vec![]));
        assert_eq!(with_secret(&expected).text, expected, "a second time");
    }
}

#[test]
fn a_pull_secret_that_cannot_be_added_is_named() {
    let text = pod("  - {name: a, image: nginx}\n  imagePullSecrets:\n");
    let done = with_secret(&text);
    assert_eq!(done.text, text);
    assert!(done.unkept[0].detail.contains("add it manually"), "{:?}", done.unkept);
}

/// Draws choices from bytes, so that proptest can shrink them.
struct Draw<'b>(std::slice::Iter<'b, u8>);

impl Draw<'_> {
    fn below(&mut self, bound: u8) -> u8 {
        self.0.next().copied().unwrap_or(0) % bound
    }

    fn one_in(&mut self, bound: u8) -> bool {
        self.below(bound) == bound - 1
    }
}

fn workload(draw: &mut Draw<'_>) -> Value {
    const IMAGES: [&str; 6] = ["nginx", "ghcr.io/acme/app:1.0", "localhost:5000/x", "", "busybox:1.36", "a/b"];
    let list = |draw: &mut Draw<'_>| {
        let container = |draw: &mut Draw<'_>| {
            let image = IMAGES[usize::from(draw.below(6))];
            let mut made =
                json!({"name": format!("c{}", draw.below(9)), "args": ["-c", "# no: comment", "image: nginx"]});
            if !image.is_empty() {
                made["image"] = json!(image);
            }
            made
        };
        (0..=draw.below(3)).map(|_| container(draw)).collect::<Vec<_>>()
    };
    let mut spec = json!({"containers": list(draw), "terminationGracePeriodSeconds": 30, "hostNetwork": false});
    if draw.one_in(2) {
        spec["initContainers"] = json!(list(draw));
    }
    if draw.one_in(2) {
        spec["volumes"] = json!([{"name": "v", "image": {"reference": "vol/ume:1"}}, {"name": "e", "emptyDir": {}}]);
    }
    let template = json!({"metadata": {"labels": {"app": "x"}, "annotations": {"image": "nginx"}}, "spec": spec});
    let metadata = json!({"name": "w", "annotations": {"note": "containers: [{name: a, image: b}]"}});
    match draw.below(4) {
        0 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
        1 => {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"template": template}})
        }
        2 => json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "batch/v1", "kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template}}}}]}),
        _ => {
            json!({"apiVersion": "x.example/v1", "kind": "Thing", "spec": {"deep": [{"podTemplate": template}]}, "image": "left"})
        }
    }
}

fn scalar(value: &Value, draw: &mut Draw<'_>) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "./:-_".contains(c)) && !text.starts_with('-');
    match draw.below(4) {
        0 if plain => text.clone(),
        1 => format!("'{text}'"),
        _ => value.to_string(),
    }
}

fn flow(value: &Value, draw: &mut Draw<'_>) -> String {
    let space = if draw.one_in(2) { " " } else { "" };
    match value {
        Value::Object(entries) => {
            let all: Vec<_> = entries.iter().map(|(key, value)| format!("\"{key}\": {}", flow(value, draw))).collect();
            format!("{{{space}{}{space}}}", all.join(", "))
        }
        Value::Array(items) => {
            let all: Vec<_> = items.iter().map(|item| flow(item, draw)).collect();
            format!("[{space}{}{space}]", all.join(", "))
        }
        _ => scalar(value, draw),
    }
}

/// Returns lines in block style at an indentation; the first line has none.
fn block(value: &Value, indent: usize, draw: &mut Draw<'_>) -> String {
    let margin = " ".repeat(indent);
    let mut out = String::new();
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(entries) => entries.iter().map(|(key, value)| (format!("{key}:"), value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("-".to_owned(), item)).collect(),
        _ => return scalar(value, draw) + "\n",
    };
    for (at, (head, value)) in entries.into_iter().enumerate() {
        if at > 0 {
            if draw.one_in(4) {
                out += &format!("{margin}# image: nginx é\n");
            }
            out += &margin;
        }
        let empty = matches!(value, Value::Object(map) if map.is_empty());
        out += &match value {
            Value::String(text) if draw.one_in(5) => {
                let style = if draw.one_in(2) { '|' } else { '>' };
                format!("{head} {style}-\n{margin}  {text}\n")
            }
            Value::Object(_) | Value::Array(_) if empty || draw.one_in(4) => format!("{head} {}\n", flow(value, draw)),
            Value::Object(_) if head == "-" => format!("- {}", block(value, indent + 2, draw)),
            Value::Object(_) | Value::Array(_) => format!("{head}\n{margin}  {}", block(value, indent + 2, draw)),
            _ => format!("{head} {}{}\n", scalar(value, draw), if draw.one_in(3) { "  # image: x" } else { "" }),
        };
    }
    out
}

/// Returns the same object with its images at Harbor, computed separately.
fn replaced(value: &Value) -> Value {
    fn walk(value: &Value, pod: bool) -> Value {
        match value {
            Value::Object(entries) => {
                let each = |(key, below): (&String, &Value)| {
                    let new = match (key.as_str(), below) {
                        ("image" | "reference", Value::String(image)) if pod => json!(at_harbor(image)),
                        ("annotations", _) => below.clone(),
                        (key, _) => walk(below, pod || matches!(key, "containers" | "initContainers" | "volumes")),
                    };
                    (key.clone(), new)
                };
                Value::Object(entries.iter().map(each).collect())
            }
            Value::Array(items) => items.iter().map(|item| walk(item, pod)).collect(),
            other => other.clone(),
        }
    }
    walk(value, false)
}

proptest! {
    #[test]
    fn a_rewritten_text_is_the_same_value_with_other_images_and_stays_so(bytes in prop::collection::vec(any::<u8>(), 1..400)) {
        let mut draw = Draw(bytes.iter());
        let documents: Vec<Value> = (0..=draw.below(3)).map(|_| workload(&mut draw)).collect();
        let mut text = String::new();
        for document in &documents {
            text += "---\n# Source: chart/x.yaml\n";
            text += &if draw.one_in(5) { flow(document, &mut draw) + "\n" } else { block(document, 0, &mut draw) };
        }
        if draw.one_in(3) {
            text = text.replace('\n', "\r\n");
        }
        let read = |text: &str| serde_saphyr::from_multiple::<Value>(text).unwrap();
        prop_assert_eq!(&read(&text), &documents);
        let once = edited(&text);
        prop_assert_eq!(&once.unkept, &[]);
        prop_assert_eq!(read(&once.text), documents.iter().map(replaced).collect::<Vec<_>>(), "{}", text);
        prop_assert_eq!(&edited(&once.text).text, &once.text);

        // Without the inserted text, it equals the old text.
        let put_in = format!("{HARBOR}/hub/");
        prop_assert_eq!(once.text.matches(&put_in).count(), once.images);
        prop_assert_eq!(&once.text.replace(&put_in, ""), &text);

        let with = with_secret(&text);
        prop_assert_eq!(&with.unkept, &[]);
        prop_assert_eq!(&with_secret(&with.text).text, &with.text);
    }
}

proptest! {
    #[test]
    fn a_text_with_typing_errors_is_refused_or_keeps_all_but_its_images(
        bytes in prop::collection::vec(any::<u8>(), 1..200),
        errors in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, "[-:#&*{}\\[\\],'\"|>!%@?<~ \ta\r\n]"), 1..6),
    ) {
        let mut draw = Draw(bytes.iter());
        let mut text = block(&workload(&mut draw), 0, &mut draw);
        for (at, what, put) in errors {
            let mut at = at.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            match what {
                0 => text.insert_str(at, &put),
                1 => drop(text.remove(at)),
                _ => text.insert_str(at, &format!("&a {put}")),
            }
        }
        let Ok(manifests) = ManifestText::read(&text) else { return Ok(()) };
        let all = wishes(&manifests, |_, image| at_harbor(image));
        let once = manifests.edit(&all);
        prop_assert!(once.is_ok(), "{}: {text}", once.unwrap_err());
        let once = once.unwrap();
        if once.unkept.is_empty() {
            prop_assert_eq!(&edited(&once.text).text, &once.text);
        }
        let with = ManifestText::read(&text).unwrap();
        let with = with.edit(&[Edit::PullSecret { template: 0, name: "harbor-pull".to_owned() }]);
        prop_assert!(with.is_ok(), "{}: {text}", with.unwrap_err());
    }
}

/// Returns the images of a text, each with its name, and checks that exactly these are rewritten.
fn named(text: &str) -> Vec<String> {
    let manifests = ManifestText::read(text).unwrap();
    let all = manifests.templates().iter().flat_map(|template| template.images.clone());
    all.map(|image| format!("{}={}", image.name, image.image)).collect()
}

#[test]
fn images_are_found_by_what_is_known_of_a_kind() {
    for (text, expected) in [
        (
            "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec:\n  templates:\n  - {name: a, script: {image: one, source: x}}\n  \
             - {name: b, container: {image: two}, sidecars: [{image: three}], plugin: {image: four}}\n  \
             - {name: c, containerSet: {containers: [{name: d, image: five}]}}\n",
            &["script=one", "container=two", "sidecars=three", "d=five"][..],
        ),
        (
            "apiVersion: argoproj.io/v1alpha1\nkind: CronWorkflow\nspec: {workflowSpec: {templates: [{script: {image: one}}]}}\n",
            &["script=one"],
        ),
        (
            "apiVersion: tekton.dev/v1\nkind: Pipeline\nspec: {tasks: [{taskSpec: {stepTemplate: {image: one}, steps: [{image: two}, {name: x, image: three}], sidecars: [{image: four}]}}]}\n",
            &["stepTemplate=one", "steps=two", "x=three", "sidecars=four"],
        ),
        ("apiVersion: tekton.dev/v1beta1\nkind: StepAction\nspec: {image: one, script: x}\n", &["image=one"]),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {template: {spec: {containers: [{image: one}]}}}\n",
            &["=one"],
        ),
        (
            "apiVersion: sparkoperator.k8s.io/v1beta2\nkind: SparkApplication\nspec: {image: one, driver: {image: two, sidecars: [{name: s, image: three, args: [a]}]}, executor: {image: four}}\n",
            &["image=one", "driver=two", "s=three", "executor=four"],
        ),
        (
            "apiVersion: monitoring.coreos.com/v1\nkind: Prometheus\nspec: {image: one, baseImage: two, containers: [{name: c}], thanos: {image: three}}\n",
            &["image=one", "thanos=three"],
        ),
        ("apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nspec: {imageName: one}\n", &["imageName=one"]),
        (
            "apiVersion: ps.percona.com/v1\nkind: PerconaServerMySQL\nspec: {initImage: one, mysql: {image: two}}\n",
            &["initImage=one", "mysql=two"],
        ),
        (
            "apiVersion: beat.k8s.elastic.co/v1\nkind: Beat\nspec: {image: one, daemonSet: {podTemplate: {spec: {containers: [{name: b, image: two}]}}}}\n",
            &["b=two", "image=one"],
        ),
        ("apiVersion: other.io/v1\nkind: Workflow\nspec: {templates: [{script: {image: one}}], image: two}\n", &[]),
    ] {
        assert_eq!(named(text), expected, "{text}");
    }
}

#[test]
fn images_are_found_by_shape_in_kinds_that_are_not_known() {
    let thing = |spec: &str| format!("apiVersion: x.example/v1\nkind: Thing\nspec: {spec}\n");
    for (spec, expected) in [
        ("{extraContainers: [{image: one}]}", &["extraContainers=one"][..]),
        ("{agents: [{name: a, image: one, env: []}, {name: b, image: two}]}", &["a=one"]),
        ("{agent: {image: one, command: [x]}}", &["agent=one"]),
        ("{proxyContainer: {image: one, resources: {limits: {cpu: 1}}}}", &["proxyContainer=one"]),
        ("{proxyContainer: {image: one, name: a}}", &["a=one"]),
        ("{proxyContainer: {image: one}}", &[]),
        ("{container: {image: a/b.png, width: 3}}", &[]),
        ("{vm: {image: ubuntu-22.04, env: prod}}", &[]),
        ("{vm: {image: ubuntu-22.04, env: [prod]}}", &[]),
        ("{vm: {image: ubuntu-22.04, env: }}", &[]),
        ("{vm: {image: ubuntu-22.04, command: boot}}", &[]),
        ("{vm: {image: ubuntu-22.04, args: [{a: b}]}}", &[]),
        ("{vm: {image: ubuntu-22.04, volumeMounts: [/data]}}", &[]),
        ("{vm: {image: ubuntu-22.04, imagePullPolicy: fast}}", &[]),
        ("{nodes: [{image: debian-12, ports: [22]}]}", &[]),
        ("{nodes: [{image: debian-12, ports: []}]}", &[]),
        ("{nodes: [{image: debian-12, resources: {cpu: 2}}]}", &[]),
        ("{nodes: [{image: debian-12, securityContext: none, livenessProbe: [], workingDir: 1}]}", &[]),
        ("{nodes: [{image: one, ports: [{containerPort: 22}]}]}", &["nodes=one"]),
        ("{nodes: [{image: one, livenessProbe: {}}]}", &["nodes=one"]),
        ("{shots: [{image: img/hero.png, resources: []}]}", &[]),
        ("{agent: {image: one, resources: {}}}", &[]),
        ("{image: one}", &[]),
        ("{image: one, imagePullPolicy: Always}", &["image=one"]),
        ("{images: [{name: a, image: one}]}", &[]),
        ("{podTemplates: [{name: a, spec: {containers: [{name: c, image: one}]}}]}", &["c=one"]),
        ("{agent: {image: quay.io/a/b, tag: v1, env: []}}", &["agent=quay.io/a/b"]),
        (
            "{general: {version: 2.3.0, image: 'docker.io/o/o:2.3.0', imagePullPolicy: Always}}",
            &["general=docker.io/o/o:2.3.0"],
        ),
        ("{general: {version: 2.3.0, image: 'o/o:2.3.0', imagePullPolicy: Always}}", &["general=o/o:2.3.0"]),
        ("{general: {tag: '1', image: 'o@sha256:00', args: []}}", &["general=o@sha256:00"]),
        ("{general: {registry: quay.io, image: 'quay.io/o/o', args: []}}", &["general=quay.io/o/o"]),
        ("{general: {repository: r, hub: h, image: 'quay.io/o/o', args: []}}", &["general=quay.io/o/o"]),
        ("{general: {registry: '', repository: , version: ~, tag: {}, image: o, args: []}}", &["general=o"]),
        ("{general: {registry: quay.io, image: 'o/o:1', args: []}}", &[]),
        ("{general: {version: 1, image: 'localhost:5000/o', args: []}}", &[]),
    ] {
        assert_eq!(named(&thing(spec)), expected, "{spec}");
    }
}

#[test]
fn an_image_that_other_fields_complete_is_listed_as_the_image_that_they_make() {
    let of = |kind: &str, spec: &str| format!("{{apiVersion: {kind}, metadata: {{name: x}}, spec: {spec}}}");
    let thing = |spec: &str| of("x.example/v1, kind: Thing", spec);
    let istio = |kind: &str, spec: &str| of(&format!("{kind}, kind: Thing"), &format!("{{values: {spec}}}"));
    let operator = "install.istio.io/v1alpha1, kind: IstioOperator";
    for (text, expected) in [
        (
            thing("{driver: {repository: quay.io/org, image: driver, version: '535', imagePullPolicy: Always}}"),
            "spec.driver.image quay.io/org/driver:535",
        ),
        (
            thing("{driver: {repository: quay.io/org, image: driver, version: 'sha256:00', args: []}}"),
            "spec.driver.image quay.io/org/driver@sha256:00",
        ),
        (
            thing("{agent: {image: agent, registry: quay.io/org, imagePullPolicy: Always}}"),
            "spec.agent.image quay.io/org/agent",
        ),
        (
            thing("{proxies: [{image: proxy, hub: quay.io/org, tag: 1.2, env: []}]}"),
            "spec.proxies[0].image quay.io/org/proxy:1.2",
        ),
        (thing("{mainContainer: {image: quay.io/a/b, version: '1'}}"), "spec.mainContainer.image quay.io/a/b:1"),
        (thing("{image: quay.io/a/b, tag: v1}"), "spec.image quay.io/a/b:v1"),
        (
            thing("{image: 'quay.io/a/b:2', version: 1, registry: quay.io/x}"),
            "spec.image quay.io/a/b:2|spec.registry quay.io/x",
        ),
        (thing("{image: org/app, registry: quay.io}"), "spec.image quay.io/org/app"),
        (thing("{image: 'org/app:2', registry: quay.io, tag: v1}"), "spec.image quay.io/org/app:2"),
        (thing("{image: driver, repository: nvcr.io/nvidia, version: '550'}"), ""),
        (thing("{image: org/app, registry: nvcr.io, other: quay.io/a/b}"), "spec.other quay.io/a/b"),
        (thing("{agent: {image: agent, tag: v1, env: []}}"), "spec.agent.image agent"),
        (of(operator, "{values: {pilot: {image: pilot, env: {A: b}}}}"), "spec.values.pilot.image pilot"),
        (
            istio("sailoperator.io/v1", "{ztunnel: {image: ztunnel, env: {A: b}, imagePullPolicy: Always}}"),
            "spec.values.ztunnel.image ztunnel",
        ),
        (
            of(
                "k8ssandra.io/v1alpha1, kind: K8ssandraCluster",
                "{medusa: {containerImage: {repository: org, name: medusa, tag: 1}}}",
            ),
            "spec.medusa.containerImage.name org/medusa:1",
        ),
        (
            thing("{reaper: {image: {registry: quay.io, repository: org, name: reaper, tag: '2'}}}"),
            "spec.reaper.image.name quay.io/org/reaper:2",
        ),
    ] {
        assert_eq!(images(&text), [""; 0], "{text}");
        let found = mentioned(&text);
        let found: Vec<&str> = found.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
        assert_eq!(found.join("|"), expected, "{text}");
    }
}

#[test]
fn images_are_read_in_sidecars_of_spark_and_extensions_of_opentelemetry() {
    let spark = "{driver: {sidecars: [{name: a, image: one}]}, executor: {sidecars: [{image: two}]}}";
    for (kind, spec, expected) in [
        ("sparkoperator.k8s.io/v1beta2, kind: SparkApplication", spark.to_owned(), &["one", "two"][..]),
        (
            "sparkoperator.k8s.io/v1beta2, kind: ScheduledSparkApplication",
            format!("{{template: {spark}}}"),
            &["one", "two"],
        ),
        (
            "opentelemetry.io/v1alpha1, kind: Instrumentation",
            "{java: {image: one, extensions: [{image: two, dir: /x}]}}".to_owned(),
            &["one", "two"],
        ),
    ] {
        assert_eq!(images(&format!("{{apiVersion: {kind}, spec: {spec}}}")), expected, "{kind}");
    }
}

#[test]
fn a_blank_image_is_none_and_a_key_that_is_no_text_has_its_name() {
    let blank = "{apiVersion: apps.openshift.io/v1, kind: DeploymentConfig, spec: {template: {spec: {containers: [{name: a, image: ' '}]}}}}";
    assert_eq!(images(blank), [""; 0]);
    assert_eq!(
        mentioned("{apiVersion: v1, kind: ConfigMap, data: {8080: quay.io/a/b, true: quay.io/c/d}}"),
        ["1:48 data.8080 quay.io/a/b", "1:67 data.true quay.io/c/d",]
    );
}

#[test]
fn fields_of_the_user_add_to_what_is_known() {
    let fields = KindTable::with(
        "kinds:\n- {group: x.example, kinds: [Thing], images: ['spec.parts.*.picture'], pullSecrets: [spec.secrets], ignored: [spec.notes], listed: [spec.raw]}\n",
    )
    .unwrap();
    let text = "apiVersion: x.example/v1\nkind: Thing\nspec:\n  parts: [{picture: one}]\n  notes: {image: 'quay.io/a/b'}\n  \
                raw: {containers: [{image: 'quay.io/c/d'}]}\n";
    let manifests = ManifestText::read_with(text, &fields).unwrap();
    let [template] = manifests.templates() else { panic!() };
    assert_eq!(
        (template.images[0].image.as_str(), template.images[0].place.as_str()),
        ("one", "spec.parts[0].picture")
    );
    let done = manifests.edit(&[Edit::PullSecret { template: 0, name: "hp".to_owned() }]).unwrap();
    assert_eq!(done.text, text.replace("  parts", "  secrets:\n  - name: \"hp\"\n  parts"));
    let mentions = manifests.mentions(&|image| image.starts_with("quay.io/"));
    assert_eq!(mentions.iter().map(|mention| mention.image.as_str()).collect::<Vec<_>>(), ["quay.io/c/d"]);
}

#[test]
fn pull_secrets_are_added_only_where_the_schema_of_the_kind_has_them() {
    let first = "imagePullSecrets:\n  - name: harbor-pull\n  ";
    for (text, expected) in [
        (
            "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec:\n  templates:\n  - container: {image: a}\n    initContainers: [{name: i, image: b}]\n",
            Some(("  templates", format!("  {first}templates"))),
        ),
        (
            "apiVersion: sparkoperator.k8s.io/v1beta2\nkind: SparkApplication\nspec:\n  image: a\n",
            Some(("  image", "  imagePullSecrets:\n  - harbor-pull\n  image".to_owned())),
        ),
        (
            "apiVersion: sparkoperator.k8s.io/v1beta2\nkind: SparkApplication\nspec:\n  image: a\n  imagePullSecrets: [x]\n",
            Some(("[x]", "[\"harbor-pull\", x]".to_owned())),
        ),
        ("apiVersion: tekton.dev/v1\nkind: Task\nspec: {steps: [{image: a}], sidecars: [{image: b}]}\n", None),
        ("apiVersion: x.example/v1\nkind: Thing\nspec:\n  containers:\n  - {name: a, image: b}\n", None),
        (
            "apiVersion: pxc.percona.com/v1\nkind: PerconaXtraDBCluster\nspec:\n  tls: {enabled: true}\n  pmm: {image: b}\n  pxc:\n    image: a\n",
            Some(("    image", "    imagePullSecrets:\n    - name: harbor-pull\n    image".to_owned())),
        ),
        (
            "apiVersion: ps.percona.com/v1\nkind: PerconaServerMySQL\nspec:\n  unsafeFlags: {proxy: true}\n  proxy:\n    router:\n      image: a\n",
            Some(("      image", "      imagePullSecrets:\n      - name: harbor-pull\n      image".to_owned())),
        ),
        (
            "apiVersion: psmdb.percona.com/v1\nkind: PerconaServerMongoDB\nspec:\n  image: a\n  sharding: {mongos: {size: 1}}\n  secrets: {users: x}\n",
            Some(("  image", "  imagePullSecrets:\n  - name: harbor-pull\n  image".to_owned())),
        ),
        (
            "apiVersion: databases.spotahome.com/v1\nkind: RedisFailover\nspec:\n  auth: {secretPath: x}\n  redis:\n    image: a\n",
            Some(("    image", "    imagePullSecrets:\n    - name: harbor-pull\n    image".to_owned())),
        ),
        ("apiVersion: psmdb.percona.com/v1\nkind: PerconaServerMongoDBBackup\nspec: {image: a}\n", None),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {template: {spec: {\n  containers: [{image: a}]}}}\n",
            Some(("spec: {\n", "spec: {\"imagePullSecrets\": [{\"name\": \"harbor-pull\"}], \n".to_owned())),
        ),
    ] {
        let done = with_secret(text);
        assert_eq!(done.unkept, []);
        let expected = expected.map_or(text.to_owned(), |(old, new)| text.replace(old, &new));
        assert_eq!(done.text, expected);
        assert_eq!(with_secret(&done.text).text, done.text, "a second time");
    }
}

#[test]
fn pull_secrets_are_added_to_mappings_within_one_another() {
    let fields = KindTable::with(
        "kinds:\n- {group: x.example, kinds: [Thing], images: ['spec.**.image'], pullSecrets: [spec.secrets, spec.a.secrets, spec.a.b.secrets, spec.c.secrets]}\n",
    )
    .unwrap();
    for text in [
        "apiVersion: x.example/v1\nkind: Thing\nspec: {a: {b: {image: one}}, c: {image: two}}\n",
        "apiVersion: x.example/v1\nkind: Thing\nspec:\n  a:\n    b:\n      image: one\n  c:\n    image: two\n",
    ] {
        let manifests = ManifestText::read_with(text, &fields).unwrap();
        let wishes: Vec<Edit> = (0..manifests.templates().len())
            .map(|template| Edit::PullSecret { template, name: "hp".to_owned() })
            .collect();
        let done = manifests.edit(&wishes).unwrap();
        assert_eq!(done.text.matches("secrets").count(), done.pull_secrets, "{}", done.text);
        assert!(done.pull_secrets >= 4 && done.unkept.is_empty(), "{done:?}");
        let again = ManifestText::read_with(&done.text, &fields).unwrap();
        assert_eq!(again.edit(&wishes).unwrap().text, done.text, "a second time");
    }
}

/// Returns `line:column place image` of each text that names a short image or an image of quay.io.
fn mentioned(text: &str) -> Vec<String> {
    let manifests = ManifestText::read(text).unwrap();
    let is_meant = |image: &str| image.starts_with("quay.io/") || !image.split('/').next().unwrap().contains('.');
    let all = manifests.mentions(&is_meant);
    all.iter()
        .map(|mention| format!("{}:{} {} {}", mention.line, mention.column, mention.place, mention.image))
        .collect()
}

#[test]
fn mentions_are_texts_that_name_images_outside_of_templates() {
    let text = r#"apiVersion: v1
kind: Pod
metadata:
  annotations: {note: 'was quay.io/a/old:1', harbor-pilot.dev/original-images: '{"containers/a":"quay.io/a/x"}'}
spec:
  containers:
  - name: a
    image: quay.io/a/main:1
    args: ["--sidecar=quay.io/a/side:1,quay.io/a/more:1", --image, "redis:7", "https://quay.io/a/page"]
    env: [{name: RELATED_IMAGE_X, value: "quay.io/a/é:1"}, {name: DB_IMAGE, value: "postgres:16"}, {name: N, value: "x:1"}]
---
apiVersion: v1
kind: ConfigMap
data:
  inner.yaml: |
    spec:
      containers:
      - image: "nginx:1"   # quay.io/a/comment
  folded: >-
    see quay.io/a/one and
    quay.io/a/two.
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
spec:
  values:
    image: {registry: quay.io, repository: a/app, tag: 1.2}
    imageRegistry: quay.io/
    containers: [{name: x, image: quay.io/a/listed}]
---
image: {repository: quay.io/a/values, tag: "1"}
"#;
    assert_eq!(
        mentioned(text),
        [
            "4:28 metadata.annotations.note quay.io/a/old:1",
            "9:23 spec.containers[0].args[0] quay.io/a/side:1",
            "9:40 spec.containers[0].args[0] quay.io/a/more:1",
            "9:69 spec.containers[0].args[2] redis:7",
            "10:43 spec.containers[0].env[0].value quay.io/a",
            "10:85 spec.containers[0].env[1].value postgres:16",
            "18:17 data[\"inner.yaml\"] nginx:1",
            "18:30 data[\"inner.yaml\"] quay.io/a/comment",
            "20:9 data.folded quay.io/a/one",
            "21:5 data.folded quay.io/a/two",
            "27:44 spec.values.image.repository quay.io/a/app:1.2",
            "28:20 spec.values.imageRegistry quay.io",
            "29:35 spec.values.containers[0].image quay.io/a/listed",
            "31:21 image.repository quay.io/a/values:1",
        ]
    );
}

#[test]
fn an_image_that_is_not_filled_in_yet_says_what_would_fill_it_in() {
    let placeholder = |text: &str| {
        let manifests = ManifestText::read(text).unwrap();
        manifests.templates()[0].images[0].placeholder
    };
    for (image, expected) in [
        ("'{{ .Values.image }}'", Some(Placeholder::Template)),
        ("{{ .Values.image }}", Some(Placeholder::Template)),
        ("\"{{.Values.repo}}:1\"", Some(Placeholder::Template)),
        ("${IMAGE}", Some(Placeholder::Variable)),
        ("nginx:${TAG:-1}", Some(Placeholder::Variable)),
        ("nginx:1", None),
    ] {
        assert_eq!(placeholder(&pod(&format!("  - name: a\n    image: {image}\n"))), expected, "{image}");
    }
    let workflow = "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec: {templates: [{container: {image: '{{inputs.parameters.image}}'}}]}\n";
    assert_eq!(placeholder(workflow), Some(Placeholder::RunTime));
}

#[test]
fn keys_that_stand_twice_count_once_the_last_time_and_are_warned_of() {
    let text = pod("  - {name: a, image: one, image: two}\n");
    let manifests = ManifestText::read(&text).unwrap();
    assert_eq!(images(&text), ["two"]);
    let [warning] = manifests.duplicates() else { panic!() };
    assert_eq!((warning.line, warning.column), (6, 27));
    assert_eq!(edited(&text).text, text.replace("two", "harbor.example.com/hub/two"));
}

#[test]
fn json_values_without_a_separator_are_documents() {
    let one = r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a","image":"one"}]}}"#;
    let text = format!("{one}\n{}{one}\n", one.replace("one", "two"));
    assert_eq!(images(&text), ["one", "two", "one"]);
    let manifests = ManifestText::read(&text).unwrap();
    let places: Vec<_> =
        manifests.templates().iter().map(|template| (template.images[0].line, template.images[0].column)).collect();
    assert_eq!(places, [(1, 75), (2, 75), (2, 75 + one.len())]);
    assert_eq!(
        edited(&text).text,
        text.replace("\"one\"", "\"harbor.example.com/hub/one\"").replace("\"two\"", "\"harbor.example.com/hub/two\"")
    );
}

#[test]
fn many_values_by_few_aliases_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..5 {
        bomb += &format!("a{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(10));
    }
    assert!(ManifestText::read(&bomb).unwrap_err().detail.contains("by aliases"));
    let many = format!("a: [{}]\n", "x, ".repeat(tree::MAX_NODES));
    assert!(ManifestText::read(&many).unwrap_err().detail.contains("split it"));
}

#[test]
fn a_text_of_four_thousand_deployments_is_read() {
    let container = "{name: a, image: nginx, args: [a], env: [{name: A, value: b}], ports: [{name: http, containerPort: 80}], \
                     resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1, memory: 1Gi}}}";
    let one = format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a, labels: {{app: a}}}}, spec: {{replicas: 1, selector: \
         {{matchLabels: {{app: a}}}}, template: {{metadata: {{labels: {{app: a}}}}, spec: {{containers: [{container}, {container}]}}}}}}}}\n---\n"
    );
    let text = one.repeat(4_000);
    assert_eq!(ManifestText::read(&text).unwrap().templates().len(), 4_000);
}

/// The mentions of a text, where every image is meant.
fn all_mentions(text: &str) -> Vec<(String, String)> {
    let manifests = ManifestText::read(text).unwrap();
    let found = manifests.mentions(&is_any_image).into_iter().map(|mention| (mention.place, mention.image));
    // A version looks like an image with a host.
    found.filter(|(place, _)| place != "apiVersion").collect()
}

fn is_any_image(image: &str) -> bool {
    crate::image::ImageRef::parse(image).is_ok()
}

#[test]
fn mentions_have_the_images_that_values_of_charts_make() {
    let release = |values: &str| {
        format!("{{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, spec: {{values: {{{values}}}}}}}")
    };
    for (values, place, image) in [
        ("web: {repository: nginx, tag: ''}", "web.repository", "nginx"),
        ("image: {repository: acme/web}", "image.repository", "acme/web"),
        ("image: {repository: acme/web, tag: '1'}", "image.repository", "acme/web:1"),
        ("imageRepository: nginx, imageTag: '1.27'", "imageRepository", "nginx:1.27"),
        ("imageRegistry: quay.io, imageRepository: a/b", "imageRepository", "quay.io/a/b"),
        ("image: {name: acme/web, tag: '1'}", "image.name", "acme/web:1"),
        ("imageName: 'nginx:1.27'", "imageName", "nginx:1.27"),
    ] {
        let expected = (format!("spec.values.{place}"), image.to_owned());
        assert_eq!(all_mentions(&release(values)), [expected], "{values}");
    }
    for values in ["image: {name: web}", "web: {repository: web}", "repository: 'https://example.com/charts', tag: x"] {
        assert_eq!(all_mentions(&release(values)), [], "{values}");
    }
}

#[test]
fn mentions_have_the_images_of_a_kustomization_of_flux() {
    let text = "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, spec: {images: [\
                {name: nginx, newTag: '1'}, {name: acme/web, newName: acme/site}]}}";
    let images: Vec<String> = all_mentions(text).into_iter().map(|(_, image)| image).collect();
    assert_eq!(images, ["nginx", "acme/web", "acme/site"]);
}

#[test]
fn mentions_have_the_values_of_json_patches_at_paths_of_images() {
    for (text, place) in [
        ("- {op: replace, path: /spec/containers/0/image, value: 'nginx'}", "[0].value"),
        ("- {op: add, path: /spec/volumes/0/image/reference, value: acme/data}", "[0].value"),
        (
            "{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization, patches: [{patch: \
             '[{\"op\": \"add\", \"path\": \"/spec/image\", \"value\": \"nginx\"}]'}]}",
            "patches[0].patch",
        ),
    ] {
        let found: Vec<String> = all_mentions(text).into_iter().map(|(place, _)| place).collect();
        assert_eq!(found, [place], "{text}");
    }
    assert_eq!(all_mentions("- {op: replace, path: /spec/replicas, value: nginx}"), []);
}

#[test]
fn mentions_have_no_block_devices_of_rbd() {
    for text in [
        "{apiVersion: v1, kind: PersistentVolume, spec: {rbd: {image: disk, pool: p}}}",
        "{apiVersion: v1, kind: Pod, spec: {volumes: [{name: a, rbd: {image: disk, pool: p}}], containers: [{name: a}]}}",
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, parameters: {image: disk}}",
    ] {
        assert_eq!(all_mentions(text), [], "{text}");
        assert_eq!(all_mentions(&text.replace("rbd:", "web:").replace("parameters", "others")).len(), 1, "{text}");
    }
}

#[test]
fn mentions_are_found_behind_a_byte_order_mark_in_a_text() {
    let map = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\ndata:\n  {data}");
    for data in ["a: \"\\uFEFFimage: nginx\"", "a: |\n    \u{feff}kind: Pod\n    image: nginx\n"] {
        assert_eq!(all_mentions(&map(data)), [("data.a".to_owned(), "nginx".to_owned())], "{data}");
    }
}

#[test]
fn mentions_have_their_own_line_and_column_each() {
    let text =
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    \u{e9} quay.io/a/b quay.io/a/b\n\n    quay.io/a/b\n";
    let manifests = ManifestText::read(text).unwrap();
    let places: Vec<_> =
        manifests.mentions(&is_any_image).iter().map(|mention| (mention.line, mention.column)).collect();
    assert_eq!(places, [(5, 7), (5, 19), (7, 5)]);
}

/// Returns the CPU seconds of this thread.
fn processor_seconds(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let before = now();
    work();
    now() - before
}

#[test]
fn mentions_take_time_in_proportion_to_the_text() {
    for line in ["    image: quay.io/a/b:1\n", "    image: quay.io/a/b:1"] {
        let seconds = |count: usize| {
            let text = format!("apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    x{}\n", line.repeat(count));
            let manifests = ManifestText::read(&text).unwrap();
            let mentions = || assert!(manifests.mentions(&is_any_image).len() >= count);
            (0..3).map(|_| processor_seconds(mentions)).fold(f64::MAX, f64::min)
        };
        let (few, many) = (seconds(1_000), seconds(8_000));
        assert!(many < few * 24.0, "{line}: {few} {many}");
    }
}

#[test]
fn docker_images_of_openshift_are_images() {
    let text = r#"
apiVersion: image.openshift.io/v1
kind: ImageStream
spec: {tags: [{name: "1", from: {kind: DockerImage, name: acme/web}}, {name: "2", from: {kind: ImageStreamTag, name: "web:1"}}]}
---
apiVersion: build.openshift.io/v1
kind: BuildConfig
spec: {strategy: {sourceStrategy: {from: {kind: DockerImage, name: "golang:1"}}}}
---
apiVersion: example.com/v1
kind: Other
spec: {from: {kind: DockerImage, name: none}}
"#;
    assert_eq!(images(text), ["acme/web", "golang:1"]);
    assert!(edited(text).text.contains("name: \"harbor.example.com/hub/golang:1\""));
}

#[test]
fn items_of_typed_lists_are_objects_of_their_kind() {
    let pod = "metadata: {name: p, namespace: shop, labels: {a: b}}, spec: {containers: [{name: c, image: nginx, args: ['--x=quay.io/a/b']}]}";
    let text = format!("apiVersion: v1\nkind: PodList\nitems:\n- {{{pod}}}\n");
    let manifests = ManifestText::read(&text).unwrap();
    let template = &manifests.templates()[0];
    assert_eq!((template.object.kind.as_str(), template.object.to_string().as_str()), ("Pod", "Pod shop/p"));
    assert_eq!(template.labels.as_ref().unwrap()["a"], "b");
    assert!(template.takes_pull_secrets());
    assert_eq!(manifests.mentions(&is_any_image)[0].object.as_ref().unwrap().kind, "Pod");

    let deployment = "metadata: {name: d}, spec: {template: {spec: {containers: [{name: c, image: redis}]}}}";
    for list in ["DeploymentList", "List"] {
        let own = if list == "List" { "apiVersion: apps/v1, kind: Deployment, " } else { "" };
        let text = format!("apiVersion: apps/v1\nkind: {list}\nitems:\n- {{{own}{deployment}}}\n");
        let manifests = ManifestText::read(&text).unwrap();
        assert_eq!(manifests.templates()[0].object.to_string(), "Deployment d", "{list}");
        assert_eq!(images(&text), ["redis"], "{list}");
    }
}

#[test]
fn objects_of_an_openshift_template_and_repositories_of_image_streams_are_read() {
    let text = r#"
apiVersion: template.openshift.io/v1
kind: Template
objects:
- apiVersion: apps.openshift.io/v1
  kind: DeploymentConfig
  spec:
    template: {spec: {containers: [{name: a, image: "${IMAGE}"}, {name: b, image: redis}]}}
    triggers: [{type: ImageChange, imageChangeParams: {from: {kind: ImageStreamTag, name: "web:1"}}}]
- {apiVersion: image.openshift.io/v1, kind: ImageStream, spec: {dockerImageRepository: acme/web}}
parameters: [{name: IMAGE, value: "nginx:1"}]
"#;
    assert_eq!(images(text), ["${IMAGE}", "redis", "acme/web"]);
    let manifests = ManifestText::read(text).unwrap();
    let mentions: Vec<String> = manifests.mentions(&is_any_image).into_iter().map(|found| found.image).collect();
    assert!(mentions.contains(&"nginx:1".to_owned()), "{mentions:?}");
}

#[test]
fn line_breaks_that_only_kubectl_knows_are_refused_outside_of_quotes() {
    for (code, character) in [("0085", '\u{85}'), ("2028", '\u{2028}'), ("2029", '\u{2029}')] {
        let hidden = format!("a: 1\n---\nb: c # x{character}image: quay.io/a/b\n");
        let error = ManifestText::read(&hidden).unwrap_err();
        assert_eq!((error.document, error.line, error.column), (2, 3, 9), "{error}");
        assert!(error.detail.contains(&format!("U+{code}")), "{error}");
        assert!(ManifestText::read(&format!("a: |\n  x{character}y\n")).is_err());
        assert!(ManifestText::read(&format!("# {character}\n{{\"a\": \"x\"}}")).is_err());
        for fine in [format!("a: \"x{character}y\" # z\n"), format!("a: 'x{character}'\nb: 1")] {
            assert!(ManifestText::read(&fine).is_ok(), "{fine:?}");
        }
    }
}

#[test]
fn a_quoted_text_that_goes_on_without_indentation_is_an_error_with_advice() {
    let error = ManifestText::read("a:\n  b: \"one\ntwo\"\n").unwrap_err();
    assert!(error.detail.contains("indent its further lines"), "{error}");
}
