//! What `kubectl kustomize` makes of rewritten files is what it made of the files before, with its images at Harbor.

use harbor_pilot_e2e::{helm::documents, kubectl::Kubectl, tools::Tool};
use serde_json::Value;

use super::desk::{Desk, HARBOR};

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      initContainers: [{name: init, image: 'ghcr.io/acme/init'}]
      containers:
      - {name: web, image: 'nginx:latest'}
      - {name: side, image: docker.io/library/redis}
";

/// Files, and the directory that is built.
struct Case {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    build: &'static str,
    /// The exit status of the command.
    code: i32,
}

const CASES: [Case; 9] = [
    Case {
        name: "a tag",
        files: &[("a/kustomization.yaml", "resources: [deploy.yaml]\nimages:\n- {name: nginx, newTag: '1.27.3'}\n")],
        build: "a",
        code: 0,
    },
    Case {
        name: "a name without a tag",
        files: &[(
            "a/kustomization.yaml",
            "resources: [deploy.yaml]\nimages:\n- {name: nginx, newName: quay.io/acme/nginx}\n",
        )],
        build: "a",
        code: 0,
    },
    Case {
        name: "a digest",
        files: &[(
            "a/kustomization.yml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [deploy.yaml]\nimages:\n- name: nginx\n  \
             digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n- {name: docker.io/library/redis, newTag: '7'}\n",
        )],
        build: "a",
        code: 0,
    },
    Case {
        name: "overlays on overlays",
        files: &[
            ("a/kustomization.yaml", "resources: [deploy.yaml]\nimages:\n- {name: nginx, newName: web, newTag: '1'}\n"),
            (
                "b/kustomization.yaml",
                "resources: [../a]\nimages:\n- {name: web, newTag: '2'}\n- {name: ghcr.io/acme/init, newTag: '3'}\n",
            ),
            ("c/Kustomization", "resources: [../b]\nimages:\n- {name: web, newName: quay.io/acme/web}\n"),
        ],
        build: "c",
        code: 0,
    },
    Case {
        name: "a component",
        files: &[
            ("a/kustomization.yaml", "resources: [deploy.yaml]\ncomponents: [../c]\n"),
            (
                "c/kustomization.yaml",
                "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nimages:\n- {name: nginx, newTag: '4'}\n",
            ),
        ],
        build: "a",
        code: 0,
    },
    Case {
        name: "a patch in a file",
        files: &[
            (
                "a/kustomization.yaml",
                "resources: [deploy.yaml]\npatches: [{path: patch.yaml}]\nimages:\n- {name: httpd, newTag: '5'}\n",
            ),
            (
                "a/patch.yaml",
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: web, image: httpd}]}}}\n",
            ),
        ],
        build: "a",
        code: 0,
    },
    Case {
        name: "a patch in the Kustomization",
        files: &[(
            "a/kustomization.yaml",
            "resources: [deploy.yaml]\nimages:\n- {name: nginx, newTag: '6'}\npatches:\n- target: {kind: Deployment}\n  patch: |-\n    \
             - {op: replace, path: /spec/template/spec/containers/0/image, value: 'nginx:old'}\n",
        )],
        build: "a",
        code: 3,
    },
    Case {
        name: "a resource that is made",
        files: &[(
            "a/kustomization.yaml",
            "resources: [deploy.yaml]\ngenerators: []\nimages:\n- {name: nginx, newTag: '7'}\n",
        )],
        build: "a",
        code: 3,
    },
    Case {
        name: "an entry that means nothing",
        files: &[("a/kustomization.yaml", "resources: [deploy.yaml]\nimages:\n- {name: none, newTag: '8'}\n")],
        build: "a",
        code: 0,
    },
];

async fn build(desk: &Desk, directory: &str) -> Vec<Value> {
    let home = desk.path("home");
    let kubectl = Kubectl::new(&Tool::Kubectl.path_async().await.unwrap(), &home, &home);
    let directory = desk.path(directory).display().to_string();
    documents(&kubectl.run(&["kustomize", &directory], "").await.unwrap().ok().unwrap()).unwrap()
}

/// Each image as it is below Harbor, by a way of its own.
fn at_harbor(image: &str) -> String {
    let (host, rest) = image.split_once('/').filter(|(host, _)| host.contains('.')).unwrap_or(("docker.io", image));
    match host {
        HARBOR => image.to_owned(),
        "docker.io" if !rest.contains('/') => format!("{HARBOR}/hub/library/{rest}"),
        "docker.io" => format!("{HARBOR}/hub/{rest}"),
        "ghcr.io" => format!("{HARBOR}/ghcr/{rest}"),
        "quay.io" => format!("{HARBOR}/quay/{rest}"),
        other => panic!("{other}"),
    }
}

fn images_at_harbor(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "image" => *text = at_harbor(text),
                    value => images_at_harbor(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(images_at_harbor),
        _ => {}
    }
}

#[tokio::test]
async fn rewrite_keeps_what_kustomize_makes_of_the_files() {
    for Case { name, files, build: directory, code } in CASES {
        let desk = Desk::new();
        desk.write("in/a/deploy.yaml", DEPLOYMENT);
        files.iter().for_each(|(file, text)| desk.write(&format!("in/{file}"), text));
        let directory = format!("in/{directory}");
        let mut before = build(&desk, &directory).await;
        let done = desk.rewrite("in").await;
        assert_eq!(done.code, code, "{name}: {}", done.err);
        let mut after = build(&desk, &directory).await;
        if code == 0 {
            before.iter_mut().for_each(images_at_harbor);
        } else {
            assert!(done.err.contains("nginx:latest is not rewritten: "), "{name}: {}", done.err);
            // Some images are at Harbor, some are not: what each of them is has not changed.
            before.iter_mut().chain(&mut after).for_each(images_at_harbor);
        }
        assert_eq!(after, before, "{name}");
    }
}
