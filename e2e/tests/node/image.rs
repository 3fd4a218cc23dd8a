//! What the script makes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use harbor_pilot_e2e::node::images::build_product;
use serde_json::Value;

pub fn the_image_is_the_same_twice_runs_as_nobody_and_lists_what_is_linked() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build_product(first.path()).unwrap();
    build_product(second.path()).unwrap();
    let digest = |path: &Path| fs::read_to_string(path.join("digest")).unwrap();
    assert_eq!(digest(first.path()), digest(second.path()));

    assert!(first.path().join("harbor-pilot-linux-amd64").is_file(), "the binary, for a release");

    let (config, layers) = read(&first.path().join("oci"));
    assert_eq!((&config["os"], &config["architecture"]), (&"linux".into(), &"amd64".into()));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/harbor-pilot"]));
    for label in ["title", "version", "revision", "created", "licenses"] {
        let label = format!("org.opencontainers.image.{label}");
        assert!(config["config"]["Labels"][&label].is_string(), "{label}: {config}");
    }
    for file in [
        "./harbor-pilot",
        "./etc/passwd",
        "./etc/ssl/certs/ca-certificates.crt",
        "./usr/share/sbom/harbor-pilot.cdx.json",
    ] {
        assert!(layers.contains(file), "{file} of {layers:?}");
    }

    let bill = fs::read_to_string(first.path().join("harbor-pilot-amd64.cdx.json")).unwrap();
    assert!(!bill.contains(env!("CARGO_MANIFEST_DIR").trim_end_matches("/e2e")), "it tells where it was built");
    let bill: Value = serde_json::from_str(&bill).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bill["metadata"]["component"]["name"], "harbor-pilot");
    let listed: BTreeSet<String> = bill["components"].as_array().unwrap().iter().map(named).collect();
    let missing: Vec<String> = linked().into_iter().filter(|name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "linked and not in the bill: {missing:?}");
    for component in bill["components"].as_array().unwrap() {
        assert!(component["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/")), "{component}");
    }
}

fn named(component: &Value) -> String {
    format!("{} {}", component["name"].as_str().unwrap(), component["version"].as_str().unwrap())
}

/// `name version` of each crate that cargo links into the binary.
fn linked() -> BTreeSet<String> {
    let arguments = [
        "tree",
        "-p",
        "harbor-pilot",
        "-e",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--target",
        "x86_64-unknown-linux-musl",
    ];
    let output = Command::new("cargo").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let crates = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(" v")?;
        Some(format!("{name} {}", rest.split(' ').next()?))
    });
    let crates: BTreeSet<String> = crates.filter(|name| !name.starts_with("harbor-pilot ")).collect();
    assert!(crates.len() > 100, "{crates:?}");
    crates
}

/// The configuration and the files of the one image of a layout.
fn read(layout: &Path) -> (Value, BTreeSet<String>) {
    let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let json = |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let index = json(&layout.join("index.json"));
    let index = json(&blob(&index["manifests"][0]["digest"]));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let mut files = BTreeSet::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let output =
            Command::new("tar").arg("--list").arg("--gzip").arg("--file").arg(blob(&layer["digest"])).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        files.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    (json(&blob(&manifest["config"]["digest"])), files)
}
