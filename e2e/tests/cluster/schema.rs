//! What the API server refuses for us, and with which words.

use harbor_pilot_e2e::cluster::{Cluster, resource, shared};
use serde_json::{Value, json};

/// The server's answer to a dry run: empty when it accepts.
async fn judged(cluster: &Cluster, object: &Value) -> String {
    let arguments = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
    let output = cluster.plane.kubectl_with_input(&arguments, &object.to_string()).await.unwrap();
    if output.status.success() { String::new() } else { output.stderr }
}

fn instance(url: &str) -> Value {
    json!({"url": url, "credentialsSecretRef": {"name": "harbor"}})
}

fn typed(kind: &str, url: &str) -> Value {
    json!({"type": kind, "url": url})
}

/// `spec` with more fields.
fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[tokio::test]
async fn a_manifest_that_harbor_or_a_container_runtime_would_misread_is_refused_with_a_reason() {
    let cluster = shared().await.unwrap();
    let harbor = || instance("https://harbor.example.com");
    let token = |path: &str| with(harbor(), json!({"tokenPath": path}));
    let hosts = |list: &[&str]| with(harbor(), json!({"allowedRegistryHosts": list}));
    let project = || json!({"registryRef": {"name": "x"}});
    let ghcr = || typed("github-ghcr", "https://ghcr.io");
    let pull = || json!({"source": {"registryRef": {"name": "x"}}});
    let push = || json!({"destination": {"registryRef": {"name": "x"}}, "trigger": {"type": "EventBased"}});
    let scheduled = |cron: &str| with(pull(), json!({"trigger": {"type": "Scheduled", "cron": cron}}));
    let ecr = |kind: &str, account: &str| json!({"type": kind, "ecr": {"account": account, "region": "eu-central-1"}});
    let keyed = |spec: Value| with(spec, json!({"credentialsSecretRef": {"name": "keys"}}));
    let allowing = |list: Value| with(project(), json!({"cveAllowlist": list}));
    let keeping = |rule: Value| with(project(), json!({"retention": {"rules": [rule]}}));
    let table = [
        ("HarborInstance", "x", instance("harbor.example.com"), "url must be http:// or https://"),
        ("HarborInstance", "x", instance("https://harbor.example.com/registry"), "without path, query or user"),
        ("HarborInstance", "x", instance("https://admin:x@harbor.example.com"), "without path, query or user"),
        ("HarborInstance", "x", with(harbor(), json!({"pullHost": "harbor"})), "pullHost must be a host with a dot"),
        ("HarborInstance", "x", with(harbor(), json!({"maxConcurrentRequests": 0})), "maxConcurrentRequests"),
        ("HarborInstance", "x", with(harbor(), json!({"interval": "ten minutes"})), "interval"),
        ("HarborInstance", "x", json!({"url": "https://harbor.example.com"}), "credentialsSecretRef"),
        ("HarborInstance", "x", token("service/token"), "tokenPath must be a path"),
        ("HarborInstance", "x", token("//evil.example.com/token"), "tokenPath must be a path"),
        ("HarborInstance", "x", token("/service/../api/v2.0/users"), "tokenPath must be a path"),
        ("HarborInstance", "x", token("/service/token?account=x"), "tokenPath must be a path"),
        ("HarborInstance", "x", token("/"), "spec.tokenPath"),
        ("HarborInstance", "x", token(&format!("/{}", "a".repeat(128))), "spec.tokenPath"),
        ("HarborInstance", "x", hosts(&["https://ghcr.io"]), "allowedRegistryHosts must be hosts"),
        ("HarborInstance", "x", hosts(&["ghcr.io", "ghcr.io/app"]), "allowedRegistryHosts must be hosts"),
        ("HarborInstance", "x", hosts(&["10.0.0.0/8"]), "allowedRegistryHosts must be hosts"),
        ("HarborInstance", "x", hosts(&["user@ghcr.io"]), "allowedRegistryHosts must be hosts"),
        ("HarborInstance", "x", hosts(&["{a,b}.example"]), "allowedRegistryHosts must be hosts"),
        ("HarborInstance", "x", hosts(&["ghcr.io "]), "allowedRegistryHosts must be hosts"),
        ("HarborInstance", "x", hosts(&[""]), "spec.allowedRegistryHosts"),
        ("HarborInstance", "x", hosts(&[&"a".repeat(256)]), "spec.allowedRegistryHosts"),
        ("HarborInstance", "x", hosts(&["ghcr.io"; 257]), "spec.allowedRegistryHosts"),
        ("Registry", "x", typed("docker-registry", "ftp://example.com"), "url must begin with http://"),
        ("Registry", "x", typed("docker-registry", "https://u:p@example.com"), "no query, fragment or user"),
        ("Registry", "x", typed("aws-ecr", "https://ecr.eu-central-1.amazonaws.com"), "an aws-ecr url must be"),
        ("Registry", "x", typed("aws-ecr", "http://123456789012.dkr.ecr.eu-central-1.amazonaws.com"), "an aws-ecr url"),
        ("Registry", "x", typed("aws-ecr", "https://12.dkr.ecr.eu-central-1.amazonaws.com"), "an aws-ecr url must be"),
        ("Registry", "x", typed("gitlab", "https://gitlab.example.com"), "Unsupported value"),
        ("Registry", &"x".repeat(65), ghcr(), "at most 64 characters"),
        ("ProxyProject", "x", with(project(), json!({"name": "Docker"})), "lower-case letters and digits"),
        ("ProxyProject", "x", with(project(), json!({"name": "a..b"})), "separated by single"),
        ("ProxyProject", "x", with(project(), json!({"proxySpeedKB": 0})), "proxySpeedKB must be -1"),
        ("ProxyProject", "x", with(project(), json!({"maxUpstreamConnections": 0})), "must be -1 (unlimited)"),
        ("ProxyProject", "x", with(project(), json!({"prewarm": {"mode": "Never"}})), "Unsupported value"),
        ("ProxyProject", "x", with(project(), json!({"prewarm": {"platforms": ["linux"]}})), "platforms"),
        ("ProxyProject", "x", json!({"public": true}), "registryRef"),
        ("Registry", "x", typed("quay-io", "https://quay.io"), "remove url"),
        ("Registry", "x", json!({"type": "harbor"}), "url is required"),
        ("Registry", "x", json!({"type": "aws-ecr"}), "url is required"),
        ("Registry", "x", ecr("aws-ecr", "1234"), "spec.ecr.account"),
        ("Registry", "x", ecr("docker-hub", "123456789012"), "ecr requires type aws-ecr"),
        ("Registry", "x", ecr("aws-ecr", "123456789012"), "aws-ecr needs credentialsSecretRef"),
        ("ProxyProject", "x", with(project(), json!({"storageLimit": -2})), "spec.storageLimit"),
        ("ProxyProject", "x", with(project(), json!({"storageLimit": "1.5Gi"})), "spec.storageLimit"),
        (
            "ProxyProject",
            "x",
            with(project(), json!({"vulnerabilities": {"prevent": true}})),
            "prevent needs a severity",
        ),
        ("ProxyProject", "x", allowing(json!({"items": ["A", "A"]})), "duplicate entries"),
        ("ProxyProject", "x", allowing(json!({"system": true, "items": ["A"]})), "remove items and expiresAt"),
        ("ProxyProject", "x", with(project(), json!({"retention": {}})), "rules: Required value"),
        ("ProxyProject", "x", keeping(json!({})), "set exactly one of pulled"),
        ("ProxyProject", "x", keeping(json!({"always": true, "latestPushed": 3})), "set exactly one of pulled"),
        ("ProxyProject", "x", keeping(json!({"latestPushed": 3, "tags": {}})), "exactly one of matches and excludes"),
        ("ReplicationRule", "x", json!({}), "exactly one of source"),
        ("ReplicationRule", "x", with(push(), pull()), "exactly one of source"),
        ("ReplicationRule", "x", with(pull(), json!({"trigger": {"type": "EventBased"}})), "EventBased needs"),
        ("ReplicationRule", "x", with(push(), json!({"singleActive": true})), "singleActive cannot be used"),
        ("ReplicationRule", "x", with(pull(), json!({"afterScan": true})), "afterScan needs"),
        (
            "ReplicationRule",
            "x",
            with(pull(), json!({"replicateDeletions": true, "trigger": {"type": "Manual"}})),
            "only as events",
        ),
        (
            "ReplicationRule",
            "x",
            with(pull(), json!({"trigger": {"type": "Scheduled"}})),
            "cron and type Scheduled require each other",
        ),
        ("ReplicationRule", "x", scheduled("@daily 0 0 0"), "cron must have 6 fields"),
        ("ReplicationRule", "x", scheduled("0 2 * * *  "), "cron must have 6 fields"),
        ("ReplicationRule", "x", scheduled("5 0 2 * * *"), "seconds, must be 0"),
        ("ReplicationRule", "x", scheduled("0 * 2 * * *"), "minutes, must not be *"),
        ("ReplicationRule", "x", scheduled("0 0 2 * * 1-7"), "Harbor has no 7"),
        ("ReplicationRule", "x", with(pull(), json!({"speedKB": 0})), "speedKB must be -1"),
        ("ReplicationRule", "x", with(pull(), json!({"destination": {"namespace": "Bad NS"}})), "namespace"),
        ("ReplicationRule", "x", with(pull(), json!({"filters": {"tag": {}}})), "exactly one of matches"),
        ("ReplicationRule", "x", with(pull(), json!({"filters": {"labels": {"matches": []}}})), "matches"),
        ("Registry", "x", with(ghcr(), json!({"deletionPolicy": "Purge"})), "a registry has none: use Delete"),
        ("ReplicationRule", "x", with(pull(), json!({"deletionPolicy": "Purge"})), "a replication policy has none"),
        ("CachedImage", "x", json!({"image": ""}), "image"),
        ("CachedImage", "x", json!({"image": "nginx", "require": "Always"}), "Unsupported value"),
    ];
    for (kind, name, spec, message) in table {
        let object = resource(kind, name, spec);
        let answer = judged(&cluster, &object).await;
        assert!(answer.contains(message), "{object} should be refused for {message:?}: {answer:?}");
    }

    let good = [
        ("HarborInstance", "x", with(harbor(), json!({"pullHost": "harbor:8443", "interval": "1h30m"}))),
        ("HarborInstance", "x", instance("http://10.0.0.1:8080/")),
        ("HarborInstance", "x", token("/auth/v1.2/token~_-")),
        ("HarborInstance", "x", hosts(&[])),
        ("HarborInstance", "x", hosts(&["ghcr.io", "*.corp.example", "10.0.0.5:5000", "[2001:db8::1]:443"])),
        ("Registry", "x", keyed(typed("aws-ecr", "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com"))),
        ("Registry", "x", keyed(typed("aws-ecr", "https://api.ecr.us-east-1.amazonaws.com"))),
        ("Registry", &"x".repeat(65), with(ghcr(), json!({"name": "short"}))),
        ("Registry", "x", with(ghcr(), json!({"deletionPolicy": "Delete", "adoptionPolicy": "IfExists"}))),
        ("ProxyProject", "x", with(project(), json!({"name": "docker-hub_1.x", "proxySpeedKB": -1}))),
        ("ProxyProject", "x", with(project(), json!({"prewarm": {"platforms": ["linux/arm64/v8"]}}))),
        ("ProxyProject", "x", with(project(), json!({"deletionPolicy": "Purge"}))),
        ("Registry", "x", json!({"type": "docker-hub"})),
        ("Registry", "x", json!({"type": "quay-io"})),
        ("Registry", "x", keyed(ecr("aws-ecr", "123456789012"))),
        ("ProxyProject", "x", with(project(), json!({"storageLimit": "10Gi", "vulnerabilities": {}}))),
        ("ProxyProject", "x", with(project(), json!({"storageLimit": -1, "retention": {"rules": []}}))),
        ("ProxyProject", "x", allowing(json!({"items": ["A"], "expiresAt": "2030-01-01T00:00:00Z"}))),
        ("ProxyProject", "x", keeping(json!({"latestPushed": 3, "tags": {"matches": "v*"}}))),
        ("ProxyProject", "x", keeping(json!({"always": true}))),
        ("ReplicationRule", "x", pull()),
        ("ReplicationRule", "x", scheduled("0 */10 1-5/2 ? JAN,7 MON-FRI")),
        ("ReplicationRule", "x", with(push(), json!({"afterScan": true, "replicateDeletions": true}))),
        ("ReplicationRule", "x", with(pull(), json!({"destination": {"namespace": "a/b__c", "flattenLevels": 0}}))),
        ("ReplicationRule", "x", with(pull(), json!({"filters": {"name": "**", "labels": {"excludes": ["a"]}}}))),
        ("CachedImage", "x", json!({"image": "nginx:1.27", "platforms": ["linux/amd64"], "require": "OfflineByTag"})),
    ];
    for (kind, name, spec) in good {
        let object = resource(kind, name, spec);
        assert_eq!(judged(&cluster, &object).await, "", "{object}");
    }
}

#[tokio::test]
async fn what_harbor_cannot_change_is_immutable() {
    let cluster = shared().await.unwrap();
    // Suspended, so that nobody tries to make them.
    let registry = json!({"type": "github-ghcr", "url": "https://ghcr.io", "name": "fixed-1", "suspend": true});
    let project = json!({"registryRef": {"name": "fixed"}, "name": "fixed-1", "suspend": true});
    let image = json!({"image": "registry.example.com/fixed:v1"});
    let before = [("Registry", registry.clone()), ("ProxyProject", project.clone()), ("CachedImage", image)];
    for (kind, spec) in before {
        cluster.apply(&resource(kind, "fixed", spec)).await.unwrap();
    }
    let without_name = |mut spec: Value| {
        spec.as_object_mut().unwrap().remove("name");
        spec
    };
    let table = [
        ("Registry", with(registry.clone(), json!({"type": "harbor"})), "type is immutable"),
        ("Registry", with(registry.clone(), json!({"name": "fixed-2"})), "name is immutable"),
        ("Registry", with(registry.clone(), json!({"harborRef": {"name": "other"}})), "harborRef is immutable"),
        ("ProxyProject", with(project.clone(), json!({"name": "fixed-2"})), "name is immutable"),
        ("ProxyProject", with(project.clone(), json!({"registryRef": {"name": "other"}})), "registryRef is immutable"),
        ("ProxyProject", with(project.clone(), json!({"harborRef": {"name": "other"}})), "harborRef is immutable"),
        ("CachedImage", json!({"image": "registry.example.com/fixed:v2"}), "image is immutable"),
    ];
    for (kind, spec, message) in table {
        let object = resource(kind, "fixed", spec);
        let answer = judged(&cluster, &object).await;
        assert!(answer.contains(message), "{object} should be refused for {message:?}: {answer:?}");
    }
    // A name that is taken away is a change, too; as the same manager, for whom absent means removed.
    for (kind, spec) in [("Registry", without_name(registry.clone())), ("ProxyProject", without_name(project))] {
        let error = cluster.apply(&resource(kind, "fixed", spec)).await.unwrap_err();
        assert!(format!("{error:#}").contains("name is immutable"), "{error:#}");
    }
    let moved = with(registry, json!({"url": "https://ghcr.example.com", "insecure": true}));
    assert_eq!(judged(&cluster, &resource("Registry", "fixed", moved)).await, "");
    for kind in ["hci", "hpp", "hreg"] {
        cluster.delete(kind, "fixed").await.unwrap();
    }
}
