//! What no command passes over in silence.

use super::Desk;

const MIXED: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - {name: a, image: nginx, args: [--side=docker.io/library/redis:7]}
  - {name: b, image: 'ghcr.io//acme/b'}
  - {name: c, image: '${IMAGE}'}
";

#[test]
fn every_command_lists_what_it_does_not_read_with_file_line_and_place() {
    let desk = Desk::new();
    desk.write("app.yaml", MIXED);
    let text = "app.yaml:6:43: Pod p: spec.containers[0].args[0]: docker.io/library/redis:7 ";
    let commands: [(&[&str], &str, &[&str]); 3] = [
        (
            &["rewrite", "--rules", "rules.yaml", "-f", "app.yaml"],
            "is not rewritten",
            &["ghcr.io//acme/b is not rewritten"],
        ),
        (
            &["check", "--rules", "rules.yaml", "-f", "app.yaml"],
            "is not checked",
            &[
                "; 1 more text names an image of a mapped host and is not checked",
                "app.yaml:7:22: Pod p: spec.containers[1].image: ghcr.io//acme/b is checked as written",
                "app.yaml:8:22: Pod p: spec.containers[2].image: ${IMAGE} cannot be checked: this is a variable",
                "2 are placeholders or invalid references",
            ],
        ),
        (
            &["plan", "-f", "rules.yaml", "-f", "app.yaml", "--harbor", "http://127.0.0.1:1"],
            "is not part of the plan",
            &[
                "app.yaml:6:22: Pod p: spec.containers[0].image: nginx is not part of the plan",
                "2 more texts name images of mapped hosts and are not part of the plan",
            ],
        ),
    ];
    for (arguments, what, more) in commands {
        let done = super::run_with_account(&desk, arguments);
        assert!(done.err.contains(&format!("{text}{what}")), "{arguments:?}: {}", done.err);
        more.iter().for_each(|more| assert!(done.err.contains(more), "{more}: {}", done.err));
        assert!(!done.err.contains("rules.yaml:"), "rules are no images: {}", done.err);
    }
    let strict = desk.run(&["check", "--rules", "rules.yaml", "-f", "app.yaml", "--strict"], "");
    assert_eq!(strict.code, 1, "{}", strict.err);
}

#[test]
fn rewrite_leaves_images_that_a_kustomization_which_cannot_be_read_may_build_on() {
    let desk = Desk::new();
    let pod = super::pod_json("nginx");
    desk.write("k/base/pod.yaml", &pod);
    desk.write("k/base/kustomization.yaml", "resources: [pod.yaml]\n");
    desk.write("k/other/pod.yaml", &pod);
    desk.write("k/prod/kustomization.yaml", "resources: [../base\nimages: [{name: nginx, newTag: '2'}]\n");
    let done = desk.rewrite(&["-f", "k", "-R", "--in-place"], "");
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains("is not rewritten: k/prod/kustomization.yaml cannot be read"), "{}", done.err);
    assert_eq!(desk.read("k/base/pod.yaml"), pod);
    assert!(desk.read("k/other/pod.yaml").contains("harbor.example.com/hub/library/nginx"));

    std::fs::write(desk.path("k/prod/kustomization.yaml"), b"\xff\xfer\0").unwrap();
    desk.write("k/other/pod.yaml", &pod);
    assert_eq!(desk.rewrite(&["-f", "k", "-R", "--in-place"], "").code, 2);
    assert_eq!(desk.read("k/other/pod.yaml"), pod, "what it builds on is not known at all");
}

#[test]
fn an_image_that_is_not_filled_in_is_named_once_by_rewrite_and_check() {
    let desk = Desk::new();
    desk.write(
        "app.yaml",
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: 'ghcr.io/acme/b:${TAG}'}]}\n",
    );
    for command in ["rewrite", "check"] {
        let done = desk.run(&[command, "--rules", "rules.yaml", "-f", "app.yaml", "--strict"], "");
        assert_eq!((done.code, done.err.matches("ghcr.io/acme/b").count()), (1, 1), "{command}: {}", done.err);
        assert!(done.err.contains("0 more texts name images"), "{command}: {}", done.err);
    }
}

#[test]
fn check_says_of_an_image_that_is_not_filled_in_what_to_do() {
    let desk = Desk::new();
    let policy = "apiVersion: harbor-pilot.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: p}\n\
                  spec: {action: Enforce, allowed: [{host: harbor.example.com}]}\n";
    desk.write("rules.yaml", &format!("{}---\n{policy}", super::RULES));
    let pod =
        |image: &str| format!("{{apiVersion: v1, kind: Pod, spec: {{containers: [{{name: a, image: '{image}'}}]}}}}");
    for (image, expected) in [
        (
            "{{ .Values.image }}",
            "error: Pod (without a name): container \"a\": image \"{{ .Values.image }}\": this is a chart template",
        ),
        ("${REPO}:1", "this is a variable"),
        ("${REPO}:1", "a Template of OpenShift: `oc process`"),
        ("Nginx", "is not a valid image reference"),
    ] {
        let done = desk.run(&["check", "--rules", "rules.yaml", "-f", "-"], &pod(image));
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(done.out.contains(expected), "{image}: {}", done.out);
        assert_eq!(done.out.contains("is not a valid image reference"), image == "Nginx", "{}", done.out);
    }
    let workflow = "{apiVersion: argoproj.io/v1alpha1, kind: Workflow, spec: {templates: [{container: {image: '{{inputs.parameters.image}}'}}]}}";
    let done = desk.run(&["check", "--rules", "rules.yaml", "-f", "-", "--strict"], workflow);
    assert_eq!((done.code, done.out.as_str()), (0, ""), "the Pod has its image: {}", done.err);
}

#[test]
fn the_placeholder_of_an_injector_stays_and_each_command_says_whose_it_is() {
    let desk = Desk::new();
    let pod = "{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, image: auto}]}}\n";
    let done = desk.rewrite(&["-f", "-"], pod);
    assert_eq!((done.code, done.out.as_str()), (0, pod), "{}", done.err);
    assert!(done.err.contains("auto is not rewritten: a placeholder that Istio's injector replaces"), "{}", done.err);
    let out = desk.explain(&["auto"]).out;
    assert!(out.contains("Placeholder: not rewritten: a placeholder that Istio's injector replaces\n"), "{out}");
    assert!(!out.contains("applies\n") && out.contains("hub      matches docker.io, but does not apply"), "{out}");
}

#[test]
fn rewrite_does_the_other_files_where_a_new_text_does_not_read_as_it_should() {
    let desk = Desk::new();
    let pod = super::pod_json("nginx");
    // A list of pull secrets would be deeper than the values of a text may be.
    let deep = format!("{}{{image: nginx}}{}", "{a: ".repeat(198), "}".repeat(198));
    let deep = format!("{{apiVersion: x.example/v1, kind: Thing, spec: {deep}}}\n");
    desk.write("in/a.yaml", &deep);
    desk.write("in/b.yaml", &pod);
    desk.write(
        "fields.yaml",
        "kinds: [{group: x.example, kinds: [Thing], images: ['**.image'], pullSecrets: ['**.secrets']}]\n",
    );
    let all = ["-f", "in", "--fields", "fields.yaml", "--pull-secrets"];
    let done = desk.rewrite(&all, "");
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains("in/a.yaml:1:1: this document cannot be rewritten in place"), "{}", done.err);
    assert!(done.err.contains("1 unreadable file"), "{}", done.err);
    assert!(done.out.contains("harbor.example.com/hub/library/nginx") && !done.out.contains("Thing"), "{}", done.out);
    let stopped = desk.rewrite(&[&all[..], &["--fail-fast"]].concat(), "");
    assert_eq!((stopped.code, stopped.out.as_str()), (2, ""), "{}", stopped.err);

    assert_eq!(desk.rewrite(&[&all[..], &["--in-place"]].concat(), "").code, 2);
    assert_eq!(desk.read("in/a.yaml"), deep);
    assert!(desk.read("in/b.yaml").contains("harbor.example.com"));
}

#[test]
fn rewrite_reads_files_without_extension_that_a_kustomization_names() {
    let desk = Desk::new();
    let pod = super::pod_json("nginx");
    desk.write("k/app/deploy", &pod);
    desk.write("k/app/notes", "image: [nginx");
    desk.write("k/app/kustomization.yaml", "resources: [deploy, ../../outside]\n");
    desk.write("outside", &pod);
    assert_eq!(desk.rewrite(&["-f", "k/app", "--in-place", "--strict"], "").code, 0);
    assert!(desk.read("k/app/deploy").contains("harbor.example.com/hub/library/nginx"));
    desk.write("k/app/deploy", &pod);
    let done = desk.rewrite(&["-f", "k", "-R", "--in-place"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(desk.read("k/app/deploy").contains("harbor.example.com/hub/library/nginx"));
    assert_eq!(
        (desk.read("outside"), desk.read("k/app/notes").as_str()),
        (pod, "image: [nginx"),
        "not within, not named"
    );
}

#[test]
fn rewrite_holds_what_patches_test_and_replacements_change_in_files_that_were_not_given() {
    let desk = Desk::new();
    let pod = super::pod_json("nginx");
    desk.write("k/pod.yaml", &pod);
    desk.write("k/more/p.yaml", "[{op: test, path: /spec/containers/0/image, value: nginx}]");
    let select = "{select: {kind: Pod}, fieldPaths: [spec.containers.0.image], options: {delimiter: ':', index: 1}}";
    desk.write("k/more/r.yaml", &format!("source: {{kind: Pod, fieldPath: spec.x}}\ntargets: [{select}]\n"));
    for (more, why) in [
        ("patches: [{path: more/p.yaml}]", "p.yaml: a JSON Patch with `op: test` expects it"),
        ("replacements: [{path: more/r.yaml}]", "r.yaml: a target of `replacements` changes a part of it"),
    ] {
        desk.write("k/kustomization.yaml", &format!("resources: [pod.yaml]\n{more}\n"));
        for given in ["k", "k/pod.yaml"] {
            let done = desk.rewrite(&["-f", given, "--in-place"], "");
            assert_eq!(done.code, 3, "{more}: {}", done.err);
            assert!(done.err.contains(why), "{}", done.err);
            assert_eq!(desk.read("k/pod.yaml"), pod);
        }
    }
}

#[test]
fn an_entry_keeps_its_name_where_an_anchor_keeps_its_image() {
    let desk = Desk::new();
    let own = "resources: [pod.yaml]\nimages: [{name: nginx, newTag: '2'}]\n";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: &i nginx, args: [*i]}]}}\n";
    desk.write("k/pod.yaml", pod);
    desk.write("k/kustomization.yaml", own);
    let done = desk.rewrite(&["-f", "k", "--in-place"], "");
    assert_eq!(done.code, 3, "{}", done.err);
    assert_eq!((desk.read("k/pod.yaml").as_str(), desk.read("k/kustomization.yaml").as_str()), (pod, own));
}
