//! A directory with manifests and rules, and the command on them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use harbor_pilot_e2e::pilot;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(120);
pub const HARBOR: &str = "harbor.test";
/// The hosts that the rules map, each with the project at Harbor.
pub const HOSTS: [(&str, &str); 8] = [
    ("docker.io", "hub"),
    ("gcr.io", "gcr"),
    ("ghcr.io", "ghcr"),
    ("mirror.gcr.io", "mirror"),
    ("quay.io", "quay"),
    ("registry.k8s.io", "k8s"),
    ("registry.opensource.zalan.do", "zalando"),
    ("cgr.dev", "chainguard"),
];

pub struct Desk(tempfile::TempDir);

pub struct Ran {
    pub code: i32,
    pub err: String,
}

impl Desk {
    pub fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("rules.yaml", &rules());
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Rewrites a directory in place.
    pub async fn rewrite(&self, directory: &str) -> Ran {
        let mut command = Command::new(pilot::binary().await.unwrap());
        command
            .args(["rewrite", "--rules", "rules.yaml", "-R", "--in-place", "-f", directory])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap();
        assert!(done.stdout.is_empty());
        Ran { code: done.status.code().unwrap(), err: String::from_utf8(done.stderr).unwrap() }
    }
}

/// Every file below a directory, sorted.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn rules() -> String {
    let mut text = format!(
        "apiVersion: harbor-pilot.dev/v1alpha1\nkind: HarborInstance\nmetadata: {{name: default}}\n\
         spec: {{url: 'https://{HARBOR}', credentialsSecretRef: {{name: harbor}}}}\n"
    );
    for (host, project) in HOSTS {
        let (type_, url) =
            if host == "docker.io" { ("docker-hub", "hub.docker.com") } else { ("docker-registry", host) };
        text += &format!(
            "---\napiVersion: harbor-pilot.dev/v1alpha1\nkind: Registry\nmetadata: {{name: {project}}}\n\
             spec: {{type: {type_}, url: 'https://{url}'}}\n---\napiVersion: harbor-pilot.dev/v1alpha1\nkind: ProxyProject\n\
             metadata: {{name: {project}}}\nspec: {{registryRef: {{name: {project}}}}}\n"
        );
    }
    text
}
