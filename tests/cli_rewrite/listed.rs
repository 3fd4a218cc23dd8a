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
        (&["rewrite", "--rules", "rules.yaml", "-f", "app.yaml"], "stays", &["ghcr.io//acme/b stays as it is"]),
        (
            &["check", "--rules", "rules.yaml", "-f", "app.yaml"],
            "is not judged",
            &[
                "; 1 more text names an image of a mapped host and is not judged",
                "app.yaml:7:22: Pod p: spec.containers[1].image: ghcr.io//acme/b is judged as it is written",
                "2 are not filled in or no valid references",
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
    assert!(done.err.contains("stays as it is: k/prod/kustomization.yaml cannot be read"), "{}", done.err);
    assert_eq!(desk.read("k/base/pod.yaml"), pod);
    assert!(desk.read("k/other/pod.yaml").contains("harbor.example.com/hub/library/nginx"));

    std::fs::write(desk.path("k/prod/kustomization.yaml"), b"\xff\xfer\0").unwrap();
    desk.write("k/other/pod.yaml", &pod);
    assert_eq!(desk.rewrite(&["-f", "k", "-R", "--in-place"], "").code, 2);
    assert_eq!(desk.read("k/other/pod.yaml"), pod, "what it builds on is not known at all");
}
