//! What the accounts of both processes may do: word for word as it was looked at last, and within bounds that hold for any values.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::support::{cases, holds, id, rendered};

const RBAC: [&str; 4] = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

#[tokio::test]
async fn the_roles_are_those_that_were_looked_at() {
    for (name, values) in cases() {
        let objects = rendered(&values).await;
        let mut text = String::new();
        for object in objects.iter().filter(|object| RBAC.iter().any(|kind| object["kind"] == *kind)) {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("the whole cluster");
            writeln!(text, "{} in {namespace}", id(object)).unwrap();
            for rule in object["rules"].as_array().into_iter().flatten() {
                writeln!(text, "  {}", sentence(rule)).unwrap();
            }
            for subject in object["subjects"].as_array().into_iter().flatten() {
                let word = |key: &str| subject[key].as_str().unwrap();
                let role = &object["roleRef"];
                let role = format!("{}/{}", role["kind"].as_str().unwrap(), role["name"].as_str().unwrap());
                writeln!(text, "  {role} to {} {}/{}", word("kind"), word("namespace"), word("name")).unwrap();
            }
        }
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/golden");
        holds(&golden.join(format!("accounts-{name}.txt")), &text);
    }
}

/// `get list watch: apps/deployments (name, …)`
fn sentence(rule: &Value) -> String {
    let words = |key: &str| -> Vec<&str> {
        rule[key].as_array().into_iter().flatten().map(|word| word.as_str().unwrap()).collect()
    };
    let (verbs, groups, names) = (words("verbs"), words("apiGroups"), words("resourceNames"));
    assert_eq!(groups.len(), 1, "{rule}");
    let group = if groups[0].is_empty() { "core" } else { groups[0] };
    let resources: Vec<String> = words("resources").iter().map(|resource| format!("{group}/{resource}")).collect();
    let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    format!("{}: {}{names}", verbs.join(" "), resources.join(", "))
}

#[tokio::test]
async fn no_role_goes_beyond_its_bounds_whatever_the_values() {
    for (name, values) in cases() {
        let objects = rendered(&values).await;
        for role in objects.iter().filter(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role") {
            let namespace = role["metadata"]["namespace"].as_str();
            assert!(matches!(namespace, None | Some("harbor-pilot" | "default")), "{name}: {role}");
            for rule in role["rules"].as_array().unwrap() {
                let said = rule.to_string();
                assert!(!said.contains('*'), "{name}: a wildcard: {said}");
                assert!(rule.get("nonResourceURLs").is_none(), "{name}: {said}");
                for word in
                    ["escalate", "bind", "impersonate", "roles", "serviceaccounts", "pods/exec", "deletecollection"]
                {
                    assert!(!said.contains(&format!("\"{word}\"")), "{name}: {word} in {said}");
                }
                if said.contains("\"secrets\"") {
                    assert_eq!(namespace, Some("harbor-pilot"), "{name}: Secrets beyond the own namespace: {said}");
                }
                let writes =
                    ["update", "patch"].iter().any(|verb| rule["verbs"].as_array().unwrap().contains(&json!(verb)));
                if writes && rule["apiGroups"][0] != "harbor-pilot.dev" && rule["apiGroups"][0] != "events.k8s.io" {
                    assert!(rule["resourceNames"].is_array(), "{name}: writes whatever there is: {said}");
                }
            }
        }
        let roles: BTreeSet<String> = objects
            .iter()
            .filter(|object| object["subjects"].to_string().contains("harbor-pilot-webhook"))
            .map(|binding| binding["roleRef"]["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(roles, BTreeSet::from(["harbor-pilot-webhook".to_owned()]), "{name}");
        let webhook = objects.iter().find(|object| id(object) == "ClusterRole/harbor-pilot-webhook").unwrap();
        for rule in webhook["rules"].as_array().unwrap() {
            for verb in rule["verbs"].as_array().unwrap() {
                let group = rule["apiGroups"][0].as_str().unwrap();
                let read = matches!(verb.as_str().unwrap(), "get" | "list" | "watch")
                    && (group == "harbor-pilot.dev" || rule["resources"] == json!(["namespaces"]));
                let leave = verb == "create" && rule["resources"] == json!(["cachedimages"]);
                assert!(read || leave, "{name}: the webhook may {rule}");
            }
        }
    }
}
