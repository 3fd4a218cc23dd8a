use super::*;
use crate::manifests::{ImageRole, ManifestText};

fn file(path: &str, text: &str) -> Seen {
    let manifests = ManifestText::read(text).unwrap();
    let new = |template: usize, image: usize| {
        let image = &manifests.templates()[template].images[image];
        (image.role != ImageRole::KustomizeName).then(|| format!("harbor.test/hub/{}", image.image))
    };
    Seen { name: path.to_owned(), path: Some(path.into()), ..Seen::of(&manifests, new) }
}

fn pod(image: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, spec: {{containers: [{{name: a, image: '{image}'}}]}}}}")
}

fn kustomization(more: &str) -> String {
    format!("{{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization, {more}}}")
}

fn renamed(done: &Consequences) -> Vec<&str> {
    done.renamed.values().map(String::as_str).collect()
}

#[test]
fn an_entry_is_renamed_with_the_images_that_it_means() {
    let images = "images: [{name: nginx, newTag: '1'}, {name: other, newTag: '2'}]";
    let files = [
        file("/a/pod.yaml", &pod("nginx:latest")),
        file("/a/kustomization.yaml", &kustomization(&format!("resources: [pod.yaml], {images}"))),
    ];
    let done = consequences(&files);
    assert_eq!(renamed(&done), ["harbor.test/hub/nginx"]);
    assert!(done.held.is_empty(), "{done:?}");
}

#[test]
fn an_entry_means_what_the_kustomizations_below_put_there() {
    let files = [
        file("/base/pod.yaml", &pod("nginx")),
        file(
            "/base/kustomization.yaml",
            &kustomization("resources: [pod.yaml], images: [{name: nginx, newName: web}]"),
        ),
        file("/prod/kustomization.yml", &kustomization("resources: [../base], images: [{name: web, newTag: '2'}]")),
    ];
    assert_eq!(renamed(&consequences(&files)), ["harbor.test/hub/nginx", "harbor.test/hub/web"]);
}

#[test]
fn a_component_means_what_those_have_that_use_it() {
    let component =
        "{apiVersion: kustomize.config.k8s.io/v1alpha1, kind: Component, images: [{name: nginx, newTag: '1'}]}";
    let files = [
        file("/app/pod.yaml", &pod("nginx")),
        file("/app/kustomization.yaml", &kustomization("resources: [pod.yaml], components: [../c]")),
        file("/c/kustomization.yaml", component),
    ];
    assert_eq!(renamed(&consequences(&files)), ["harbor.test/hub/nginx"]);
    let done = consequences(&files[1..]);
    assert!(done.renamed.is_empty() && done.held.is_empty(), "nothing of it changes: {done:?}");
}

#[test]
fn images_stay_where_an_entry_would_not_mean_all_of_them_any_more() {
    for (more, why) in [
        ("resources: [pod.yaml, ../elsewhere]", "uses ../elsewhere"),
        ("resources: [pod.yaml, 'https://example.com/x.yaml']", "uses https://example.com/x.yaml"),
        ("resources: [pod.yaml], helmCharts: [{name: x}]", "`helmCharts`"),
        ("resources: [pod.yaml], patches: [{patch: '[{op: add, path: /x, value: \"nginx:2\"}]'}]", "has a patch"),
    ] {
        let images = "images: [{name: nginx, newTag: '1'}]";
        let files = [
            file("/a/pod.yaml", &pod("nginx:latest")),
            file("/a/kustomization.yaml", &kustomization(&format!("{more}, {images}"))),
        ];
        let done = consequences(&files);
        assert!(done.renamed.is_empty(), "{more}");
        assert!(done.held[&(0, "nginx".to_owned())].contains(why), "{done:?}");
    }
}

#[test]
fn an_image_that_one_overlay_holds_is_held_for_all() {
    let overlay = |path: &str, more: &str| {
        file(
            path,
            &kustomization(&format!("resources: [../base/pod.yaml{more}], images: [{{name: nginx, newTag: '1'}}]")),
        )
    };
    let files = [
        file("/base/pod.yaml", &pod("nginx")),
        overlay("/one/kustomization.yaml", ""),
        overlay("/two/kustomization.yaml", ", missing.yaml"),
    ];
    let done = consequences(&files);
    assert!(done.renamed.is_empty(), "{done:?}");
    assert!(done.held.contains_key(&(0, "nginx".to_owned())));
}

#[test]
fn a_kustomization_that_was_not_given_holds_what_it_means() {
    let outside = Seen {
        outside: true,
        ..file("/a/kustomization.yaml", &kustomization("resources: [pod.yaml], images: [{name: nginx, newTag: '1'}]"))
    };
    let done = consequences(&[file("/a/pod.yaml", &pod("nginx")), outside]);
    assert!(done.held[&(0, "nginx".to_owned())].contains("is not on the command line"), "{done:?}");
}

/// Like [`file`], for images of Docker Hub that have one name at Harbor.
fn hub_file(path: &str, text: &str) -> Seen {
    let manifests = ManifestText::read(text).unwrap();
    let new = |template: usize, image: usize| {
        let image = &manifests.templates()[template].images[image];
        let name = image.image.trim_start_matches("docker.io/");
        (!name.starts_with("harbor.test/")).then(|| format!("harbor.test/hub/{name}"))
    };
    Seen { name: path.to_owned(), path: Some(path.into()), ..Seen::of(&manifests, new) }
}

fn two_images(first: &str, second: &str, entries: &str) -> Consequences {
    consequences(&[
        hub_file("/a/one.yaml", &pod(first)),
        hub_file("/a/two.yaml", &pod(second)),
        hub_file(
            "/a/kustomization.yaml",
            &kustomization(&format!("resources: [one.yaml, two.yaml], images: [{entries}]")),
        ),
    ])
}

#[test]
fn an_image_stays_where_its_entry_would_mean_another_one_of_the_same_name_at_harbor() {
    for second in ["docker.io/web:2", "harbor.test/hub/web:2"] {
        let done = two_images("web:1", second, "{name: web, newTag: '3'}");
        assert!(done.renamed.is_empty(), "{second}: {done:?}");
        assert!(done.held[&(0, "web".to_owned())].contains("would also select"), "{done:?}");
    }
    let done = two_images("web:1", "docker.io/web:2", "{name: web, newTag: '3'}, {name: docker.io/web, newTag: '4'}");
    assert_eq!((renamed(&done), done.held.len()), (vec!["harbor.test/hub/web"], 3), "{done:?}");
    assert!(!done.held.contains_key(&(1, "docker.io/web".to_owned())), "{done:?}");
}

#[test]
fn an_image_stays_where_an_entry_that_stays_would_mean_it() {
    let done = two_images("web:1", "harbor.test/hub/web:2", "{name: harbor.test/hub/web, newTag: '3'}");
    assert!(done.renamed.is_empty(), "{done:?}");
    assert!(done.held[&(0, "web".to_owned())].contains("would also select it"), "{done:?}");
}

#[test]
fn an_entry_means_what_an_entry_before_it_puts_there() {
    let done = two_images("web", "other", "{name: web, newName: site}, {name: site, newTag: '2'}");
    assert_eq!(renamed(&done), ["harbor.test/hub/web", "harbor.test/hub/site"]);
    let done = two_images("web", "other", "{name: site, newTag: '2'}, {name: web, newName: site}");
    assert_eq!(renamed(&done), ["harbor.test/hub/web"], "{done:?}");
}

#[test]
fn images_stay_that_an_entry_without_a_plain_name_or_of_image_tags_may_mean() {
    for (more, held) in [
        ("images: [{name: 'we.', newTag: '1'}]", vec![0, 1, 2]),
        ("images: [{name: '.*web', newTag: '1'}]", vec![0, 1, 2]),
        ("images: [{name: 'web:1', newTag: '2'}]", vec![0]),
        ("imageTags: [{name: web, newTag: '2'}]", vec![0]),
    ] {
        let own = kustomization(&format!("resources: [one.yaml, two.yaml], {more}"));
        let files = [
            hub_file("/a/one.yaml", &pod("web:1")),
            hub_file("/a/two.yaml", &pod("other:1")),
            hub_file("/a/kustomization.yaml", &own),
        ];
        let done = consequences(&files);
        let files: Vec<usize> = done.held.keys().map(|(file, _)| *file).filter(|file| *file < 2).collect();
        let expected: Vec<usize> = held.into_iter().filter(|file| *file < 2).collect();
        assert_eq!(files, expected, "{more}: {done:?}");
    }
}

/// An unreadable Kustomization, in `/a`.
fn unreadable(text: Option<&str>) -> Seen {
    let path = Some("/a/kustomization.yaml".into());
    Seen { name: "a".to_owned(), path, ..Seen::unreadable(text) }
}

#[test]
fn images_that_a_kustomization_which_cannot_be_read_may_mean_stay() {
    for (text, expected) in [
        (Some("resources: [one.yaml\n"), &[0][..]),
        (Some("resources: [one.yaml, ../b/two.yaml\n"), &[0, 1]),
        (Some("resources:\n- ../b/two.yaml\n- \"x"), &[0, 1]),
        (Some("resources: [../b\n"), &[0, 1, 2]),
        (Some("resources: [{{ .base }}\n"), &[0, 1, 2, 3]),
        (None, &[0, 1, 2, 3]),
    ] {
        let files = [
            hub_file("/a/one.yaml", &pod("web:1")),
            hub_file("/b/two.yaml", &pod("web:1")),
            hub_file("/c/three.yaml", &pod("web:1")),
            hub_file("/d/four.yaml", &pod("web:1")),
            hub_file("/b/kustomization.yaml", &kustomization("resources: [two.yaml, ../c/three.yaml]")),
            unreadable(text),
        ];
        let held: Vec<usize> = consequences(&files).held.keys().map(|(file, _)| *file).collect();
        assert_eq!(held, expected, "{text:?}");
    }
}

#[test]
fn an_entry_keeps_its_name_where_a_base_cannot_be_read() {
    let files = [
        hub_file("/b/one.yaml", &pod("web:1")),
        unreadable(Some("resources: [../c/two.yaml\n")),
        hub_file("/c/two.yaml", &pod("web:1")),
        hub_file(
            "/b/kustomization.yaml",
            &kustomization("resources: [one.yaml, ../a], images: [{name: web, newTag: '2'}]"),
        ),
    ];
    let done = consequences(&files);
    assert!(done.renamed.is_empty(), "{done:?}");
    assert!([0, 2].iter().all(|file| done.held.contains_key(&(*file, "web".to_owned()))), "{done:?}");
}

/// A Deployment with one container for each image, named like the image without tag.
fn deployment(images: &[&str]) -> String {
    let containers: Vec<String> =
        images.iter().map(|image| format!("{{name: {}, image: '{image}'}}", name_of(image))).collect();
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{template: {{spec: {{containers: [{}]}}}}}}}}",
        containers.join(", ")
    )
}

const SOURCE: &str = "source: {kind: ConfigMap, name: c, fieldPath: data.tag}";
const IMAGE: &str = "spec.template.spec.containers.[name=one].image";

/// Names that are not rewritten.
fn held(files: &[Seen]) -> Vec<String> {
    consequences(files).held.into_keys().map(|(_, name)| name).collect()
}

#[test]
fn images_stay_that_replacements_read_or_write_in_part() {
    let target = |more: &str| format!("targets: [{{select: {{kind: Deployment}}, fieldPaths: ['{IMAGE}']{more}}}]");
    let source = |more: &str, path: &str| {
        format!(
            "source: {{kind: Deployment, name: web, fieldPath: '{IMAGE}'{more}}}, \
             targets: [{{select: {{kind: Job}}, fieldPaths: ['{path}']}}]"
        )
    };
    let partial = ", options: {delimiter: ':', index: 1}";
    let both = &["one", "two"][..];
    for (replacement, expected) in [
        (format!("{SOURCE}, {}", target(partial)), both),
        (format!("{SOURCE}, {}", target(partial)).replace("[name=one]", "*"), both),
        (format!("{SOURCE}, {}", target(partial)).replace("[name=one]", "0"), both),
        (format!("{SOURCE}, {}", target(partial)).replace("kind: Deployment", "name: web"), both),
        (format!("{SOURCE}, {}", target(partial)).replace("kind: Deployment", "name: pre-web"), &[]),
        (format!("{SOURCE}, {}", target(partial)).replace("kind: Deployment", "kind: Job"), &[]),
        (format!("{SOURCE}, {}", target(partial)).replace("kind: Deployment", "name: other"), &[]),
        (format!("{SOURCE}, {}", target(partial)).replace(".image", ".name"), &[]),
        (format!("{SOURCE}, {}", target("")), &[]),
        (source(partial, "spec.a"), both),
        (source("", "spec.template.spec.containers.0.env.0.value"), both),
        (source("", "spec.template.spec.containers.0.image"), &[]),
    ] {
        let app = || file("/a/deploy.yaml", &deployment(&["one:1", "two:2"]));
        let inline = format!("resources: [deploy.yaml], replacements: [{{{replacement}}}]");
        assert_eq!(held(&[app(), file("/a/kustomization.yaml", &kustomization(&inline))]), expected, "{replacement}");

        let own =
            || file("/a/kustomization.yaml", &kustomization("resources: [deploy.yaml], replacements: [{path: r}]"));
        for text in [format!("{{{replacement}}}"), format!("[{{{replacement}}}]")] {
            assert_eq!(held(&[app(), own(), file("/a/r", &text)]), expected, "{text}");
        }
        assert_eq!(held(&[app(), own()]), both, "a file that cannot be read may mean all");
        let overlay = kustomization(&inline.replace("deploy.yaml", "../a"));
        let files = [
            app(),
            file("/a/kustomization.yaml", &kustomization("resources: [deploy.yaml]")),
            file("/b/kustomization.yaml", &overlay),
        ];
        assert_eq!(held(&files), expected, "in an overlay: {replacement}");
    }
}

#[test]
fn an_image_that_a_json_patch_tests_stays() {
    let test =
        "[{op: test, path: /spec/template/spec/containers/0/image, value: 'one:1'}, {op: remove, path: /spec/x}]";
    let whole = "[{op: test, path: /spec/template/spec/containers/0, value: {name: one, image: 'one:1'}}]";
    let other = "[{op: test, path: /spec/replicas, value: 1}]";
    for (patch, expected) in [(test, &["one"][..]), (whole, &["one"]), (other, &[])] {
        let app = || file("/a/deploy.yaml", &deployment(&["one:1", "two:2"]));
        for patches in ["patches: [{patch: PATCH}]", "patchesJson6902: [{patch: PATCH}]"] {
            let text = format!("resources: [deploy.yaml], {}", patches.replace("PATCH", &format!("{patch:?}")));
            assert_eq!(held(&[app(), file("/a/kustomization.yaml", &kustomization(&text))]), expected, "{text}");
        }
        let own = file("/a/kustomization.yaml", &kustomization("resources: [deploy.yaml], patches: [{path: p.yaml}]"));
        assert_eq!(held(&[app(), own, file("/a/p.yaml", patch)]), expected, "{patch}");
    }
}

#[test]
fn an_entry_keeps_its_name_where_configurations_make_it_mean_a_field_that_is_not_rewritten() {
    let app = |image: &str| {
        format!("{{apiVersion: x.example/v1, kind: MyApp, spec: {{image: '{image}', parts: [{{image: 'one:7'}}]}}}}")
    };
    let images = "resources: [deploy.yaml, app.yaml], images: [{name: one, newTag: '2'}], configurations: [conf.yaml]";
    for (image, fields, stays) in [
        ("one:1", "images: [{path: spec/image, kind: MyApp}]", true),
        ("other:1", "images: [{path: spec/image, kind: MyApp}]", false),
        ("one:1", "images: [{path: spec/image, kind: Other}]", false),
        ("one:1", "images: [{path: spec/image}]", true),
        ("other:1", "images: [{path: 'spec/parts[]/image', kind: MyApp}]", true),
        ("one:1", "images: [{path: 'spec/template/spec/containers[]/image', kind: Deployment}]", false),
        ("one:1", "namePrefix: [{path: spec/image, kind: MyApp}]", false),
    ] {
        let mut files = vec![
            file("/a/deploy.yaml", &deployment(&["one:1"])),
            file("/a/app.yaml", &app(image)),
            file("/a/kustomization.yaml", &kustomization(images)),
            file("/a/conf.yaml", fields),
        ];
        assert_eq!(held(&files).is_empty(), !stays, "{image} {fields}");
        assert_eq!(renamed(&consequences(&files)).is_empty(), stays, "{image} {fields}");
        files.pop();
        assert!(!held(&files).is_empty(), "a file that cannot be read may mean more fields");
    }
}

#[test]
fn replacements_know_an_object_by_the_prefixes_and_suffixes_that_kustomizations_set() {
    let copy = "source: {kind: Deployment, name: NAME, fieldPath: 'PATH'}, targets: [{select: {kind: Job}, fieldPaths: [spec.a]}]";
    for (name, more, expected) in [
        ("web", "", true),
        ("web-api", "", false),
        ("my-web", "", false),
        ("my-web", ", namePrefix: my-", true),
        ("my-web", ", nameSuffix: -my", false),
        ("my-web-1", ", namePrefix: my-", false),
        ("my-web-1", ", namePrefix: my-, nameSuffix: '-1'", true),
        ("my-web", ", transformers: [t.yaml]", true),
    ] {
        let copy = copy.replace("NAME", name).replace("PATH", IMAGE);
        let own = kustomization(&format!("resources: [deploy.yaml], replacements: [{{{copy}}}]{more}"));
        let files = [file("/a/deploy.yaml", &deployment(&["one:1"])), file("/a/kustomization.yaml", &own)];
        assert_eq!(!held(&files).is_empty(), expected, "{name} {more}");
    }
}

#[test]
fn images_stay_that_vars_copy_into_other_texts() {
    for (name, path, expected) in [
        ("web", "spec.template.spec.containers[0].image", true),
        ("web", "spec.template.spec.containers.[0].image", true),
        ("other", "spec.template.spec.containers[0].image", false),
        ("web", "spec.template.spec.containers[0].name", false),
        ("web", "metadata.name", false),
    ] {
        let object =
            format!("{{name: IMG, objref: {{kind: Deployment, name: {name}}}, fieldref: {{fieldpath: '{path}'}}}}");
        let own = kustomization(&format!("resources: [deploy.yaml], vars: [{object}]"));
        let files = [file("/a/deploy.yaml", &deployment(&["one:1"])), file("/a/kustomization.yaml", &own)];
        assert_eq!(!held(&files).is_empty(), expected, "{name} {path}");
    }
}

#[test]
fn an_entry_keeps_its_name_where_it_means_a_list_of_containers_that_is_not_rewritten() {
    let images = "resources: [deploy.yaml, other.yaml], images: [{name: one, newTag: '2'}]";
    let foo = |spec: &str| format!("{{apiVersion: e.io/v1, kind: Foo, metadata: {{name: f}}, spec: {spec}}}");
    let policy =
        |kind: &str| format!("{{apiVersion: {kind}, spec: {{a: [{{containers: [{{name: '*', image: one}}]}}]}}}}");
    for (other, stays) in [
        (foo("{containers: [{name: a, image: one, version: '2'}]}"), true),
        (foo("{a: [{initContainers: [{name: a, image: one, version: '2'}]}]}"), true),
        (foo("{containers: [{name: a, image: 'one:1', version: '2'}]}"), false),
        (foo("{containers: [{name: a, image: 'one:1'}]}"), false),
        (foo("{containers: [{name: a, image: 'one:1'}, {name: b, image: one, version: '2'}]}"), true),
        (foo("{containers: [{name: a, image: two, version: '2'}]}"), false),
        (foo("{others: [{name: a, image: one, version: '2'}]}"), false),
        (policy("kyverno.io/v1, kind: ClusterPolicy"), true),
        (policy("apiextensions.k8s.io/v1, kind: CustomResourceDefinition"), false),
        (format!("{{apiVersion: v1, kind: List, items: [{}]}}", policy("kyverno.io/v1, kind: ClusterPolicy")), true),
    ] {
        let files = [
            file("/a/deploy.yaml", &deployment(&["one:1"])),
            file("/a/other.yaml", &other),
            file("/a/kustomization.yaml", &kustomization(images)),
        ];
        let done = consequences(&files);
        assert_eq!(renamed(&done).is_empty(), stays, "{other}: {done:?}");
        assert_eq!(done.held.contains_key(&(0, "one".to_owned())), stays, "{other}: {done:?}");
    }
}
