//! What Helm says of the chart, and what it makes of its values. No cluster is asked.

use std::collections::BTreeMap;

use clap::Parser;
use futures::{StreamExt, stream};
use harbor_pilot::cli::Cli;
use harbor_pilot_e2e::helm::chart;
use serde_json::{Value, json};

use super::support::{at, case, cases, defaults, find, helm, id, read, rendered, settings};

#[tokio::test]
async fn helm_lint_has_nothing_to_say() {
    let directory = chart().display().to_string();
    for (name, _) in cases() {
        let file = chart().join(format!("ci/{name}-values.yaml")).display().to_string();
        let mut arguments = vec!["lint", "--strict", "--quiet", "--kube-version", "1.36.3", &directory];
        if name != "defaults" {
            arguments.extend(["--values", &file]);
        }
        let output = helm().await.run(&arguments).await.unwrap();
        assert!(output.status.success(), "{name}: {}{}", output.stdout, output.stderr);
    }
}

#[tokio::test]
async fn a_wrong_value_is_refused_with_its_place_and_what_is_wrong() {
    let table = [
        (json!({"webhook": {"replica": 3}}), "/webhook", "'replica' not allowed"),
        (json!({"nameOverride": "x"}), "''", "'nameOverride' not allowed"),
        (json!({"webhook": {"replicas": "two"}}), "/webhook/replicas", "got string, want integer"),
        (json!({"webhook": {"replicas": 0}}), "/webhook/replicas", "got 0, want 1"),
        (json!({"webhook": {"timeoutSeconds": 31}}), "/webhook/timeoutSeconds", "got 31, want 30"),
        (json!({"webhook": {"failurePolicy": "Fail"}}), "/webhook/failurePolicy", "want object"),
        (json!({"webhook": {"failurePolicy": {"mutating": "fail"}}}), "/mutating", "'Ignore', 'Fail'"),
        (json!({"webhook": {"excludedNamespaces": ["Harbor"]}}), "/excludedNamespaces/0", "does not match"),
        (json!({"webhook": {"resources": {"limits": {"memory": "lots"}}}}), "/limits/memory", "does not match"),
        (json!({"webhook": {"podLabels": {"app.kubernetes.io/name": "x"}}}), "/webhook/podLabels", "false schema"),
        (json!({"controller": {"maxInflightBytes": -1}}), "/controller/maxInflightBytes", "got number, want string"),
        (json!({"image": {"tag": 1.3}}), "/image/tag", "got number, want string"),
        (json!({"image": {"digest": "sha256:short"}}), "/image/digest", "does not match"),
        (json!({"podSecurityContext": {"runAsUser": 0}}), "/podSecurityContext/runAsUser", "got 0, want 1"),
        (json!({"podSecurityContext": {"privileged": true}}), "/podSecurityContext", "'privileged' not allowed"),
        (json!({"certificates": {"source": "vault"}}), "/certificates/source", "'managed', 'certManager', 'provided'"),
        (json!({"certificates": {"source": "provided"}}), "certificates.provided.secretName", "name the Secret"),
        (json!({"certificates": {"provided": {"caBundle": "x"}}}), "/provided/caBundle", "does not match"),
        (json!({"metrics": {"serviceMonitor": {"enabled": "yes"}}}), "/serviceMonitor/enabled", "want boolean"),
        (
            json!({"webhook": {"autoscaling": {"enabled": true, "minReplicas": 20}}}),
            "webhook.autoscaling",
            "minReplicas is above maxReplicas",
        ),
    ];
    for (values, place, what) in table {
        let output = helm().await.template(&values).await.unwrap();
        assert!(!output.status.success(), "{values} is not refused");
        assert!(output.stderr.contains(place) && output.stderr.contains(what), "{values}: {}", output.stderr);
    }
    // As Helm hands them to a chart that another one depends on.
    let dependency = json!({"enabled": true, "global": {"of": "others"}});
    assert!(helm().await.template(&dependency).await.unwrap().status.success());
}

#[tokio::test]
async fn every_value_is_tried_and_changes_what_is_rendered() {
    let (defaults, cases) = (defaults(), cases());
    let mut asked = Vec::new();
    for setting in settings().into_iter().filter(|setting| !setting.group) {
        let turned = |values: &Value| at(values, &setting.path).is_some_and(|value| *value != setting.default);
        let case = cases.iter().find(|(_, values)| turned(values));
        let (case, with) = case.unwrap_or_else(|| panic!("no file of ci/ sets {}", setting.path.join(".")));
        let mut without = with.clone();
        let (last, above) = setting.path.split_last().unwrap();
        let object = above.iter().fold(&mut without, |value, key| &mut value[key]);
        object[last] = at(&defaults, &setting.path).unwrap().clone();
        // Helm adds the keys of a map to those of the default.
        for key in with_keys(at(with, &setting.path)) {
            if object[last].get(&key).is_none() && object[last].is_object() {
                object[last][&key] = Value::Null;
            }
        }
        asked.push((setting.path.join("."), case, without));
    }
    assert!(asked.len() > 80, "{}", asked.len());
    let mut rendered = BTreeMap::new();
    for (name, values) in &cases {
        rendered.insert(name, helm().await.template(values).await.unwrap().ok().unwrap());
    }
    let same = stream::iter(asked)
        .map(async |(path, case, without)| (path, case, helm().await.template(&without).await.unwrap()))
        .buffer_unordered(2)
        // What cannot be left out is no value without effect.
        .filter_map(async |(path, case, without)| {
            (without.status.success() && rendered[case] == without.stdout).then_some(path)
        });
    let same: Vec<String> = same.collect().await;
    assert!(same.is_empty(), "these values change nothing: {same:?}");
}

fn with_keys(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_object).map(|object| object.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn the_schema_knows_every_value_and_nothing_else() {
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    let mut wrong = Vec::new();
    compare(&schema, &schema, &defaults(), "", &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn compare(schema: &Value, part: &Value, values: &Value, path: &str, wrong: &mut Vec<String>) {
    let part = match part["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => part,
    };
    let (Some(properties), Some(values)) = (part["properties"].as_object(), values.as_object()) else { return };
    if path != ".global" && part["additionalProperties"] != false {
        wrong.push(format!("{path} takes anything"));
    }
    // A default of {} stands for a map whose keys the comment explains.
    if values.is_empty() {
        return;
    }
    for (name, property) in properties {
        match values.get(name) {
            Some(value) => compare(schema, property, value, &format!("{path}.{name}"), wrong),
            None if path.is_empty() && name == "enabled" => {}
            None => wrong.push(format!("{path}.{name} is not in values.yaml")),
        }
    }
    let unknown = values.keys().filter(|name| !properties.contains_key(*name));
    wrong.extend(unknown.map(|name| format!("{path}.{name} is not in the schema")));
}

#[tokio::test]
async fn only_the_issuer_of_the_certificate_writes_the_ca_bundle() {
    for (case_name, bundle, annotated) in [
        ("defaults", false, false),
        ("everything", false, false),
        ("cert-manager", false, true),
        ("provided", true, false),
    ] {
        let objects = rendered(&case(case_name)).await;
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            let configuration = find(&objects, &format!("{kind}/harbor-pilot"));
            for webhook in configuration["webhooks"].as_array().unwrap() {
                assert_eq!(webhook["clientConfig"].get("caBundle").is_some(), bundle, "{case_name}: {webhook}");
            }
            let injected = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
            assert_eq!(*injected == "harbor-pilot/harbor-pilot-webhook", annotated, "{case_name}: {injected}");
        }
        let issued = objects.iter().any(|object| id(object) == "Certificate/harbor-pilot-webhook");
        assert_eq!(issued, annotated, "{case_name}");
        let controller = find(&objects, "Deployment/harbor-pilot-controller");
        let arguments = controller["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        let managed = arguments.contains(&json!("--certificates=managed"));
        assert_eq!(managed, !bundle && !annotated, "{case_name}: {arguments:?}");
    }
}

#[tokio::test]
async fn webhooks_leave_out_only_what_a_tenant_cannot_claim_to_be() {
    for (name, values) in cases() {
        let objects = rendered(&values).await;
        for object in objects.iter().filter(|object| id(object).contains("WebhookConfiguration/")) {
            for webhook in object["webhooks"].as_array().unwrap() {
                assert_eq!(webhook["objectSelector"], json!({}), "{name}: a tenant labels his own Pods");
                let excluded = webhook["namespaceSelector"]["matchExpressions"][0].clone();
                assert_eq!(excluded["key"], "kubernetes.io/metadata.name", "{name}");
                let namespaces = excluded["values"].as_array().unwrap();
                assert!(
                    namespaces.contains(&json!("kube-system")) && namespaces.contains(&json!("harbor-pilot")),
                    "{name}"
                );
                for condition in webhook["matchConditions"].as_array().unwrap() {
                    let expression = condition["expression"].as_str().unwrap();
                    assert!(expression.contains("request.userInfo"), "{name}: {expression}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_autoscaler_is_the_only_one_who_counts_replicas() {
    for (autoscaling, replicas) in [(true, Value::Null), (false, json!(2))] {
        let objects = rendered(&json!({"webhook": {"autoscaling": {"enabled": autoscaling}}})).await;
        let deployment = find(&objects, "Deployment/harbor-pilot-webhook");
        assert_eq!(deployment["spec"]["replicas"], replicas);
        assert_eq!(objects.iter().any(|object| object["kind"] == "HorizontalPodAutoscaler"), autoscaling);
    }
}

#[tokio::test]
async fn a_pod_that_is_ended_has_the_time_to_serve_on_and_to_drain() {
    for (values, grace) in [(json!({}), 30), (json!({"webhook": {"shutdownDelaySeconds": 60}}), 80)] {
        let objects = rendered(&values).await;
        let pod = &find(&objects, "Deployment/harbor-pilot-webhook")["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], grace);
    }
}

#[tokio::test]
async fn the_webhook_is_open_to_named_peers_alone_where_they_are_named() {
    let peer = json!({"ipBlock": {"cidr": "10.0.0.1/32"}});
    for (named, source) in [(false, "managed"), (true, "managed"), (true, "certManager")] {
        let from = if named { vec![peer.clone()] } else { vec![] };
        let values = json!({"networkPolicy": {"webhookFrom": from}, "certificates": {"source": source}});
        let objects = rendered(&values).await;
        let ingress = &find(&objects, "NetworkPolicy/harbor-pilot-webhook")["spec"]["ingress"];
        let of_port =
            |port: i64| ingress.as_array().unwrap().iter().filter(move |rule| rule["ports"][0]["port"] == port);
        let rules: Vec<_> = of_port(8443).collect();
        assert_eq!(rules.len(), 1, "{ingress}");
        let from = rules[0]["from"].as_array().cloned().unwrap_or_default();
        // The controller asks each replica for its certificate, where that is the controller's.
        assert_eq!(from.len(), usize::from(named) + usize::from(named && source == "managed"), "{ingress}");
        assert_eq!(from.first(), named.then_some(&peer));
        if let Some(controller) = from.get(1) {
            assert_eq!(controller["podSelector"]["matchLabels"]["app.kubernetes.io/component"], "controller");
        }
        assert_eq!(of_port(8081).count(), 1);
    }
}

#[tokio::test]
async fn a_controller_whose_way_out_is_closed_still_sees_which_certificates_replicas_serve() {
    for (source, open) in [("managed", true), ("certManager", false)] {
        let values = json!({"networkPolicy": {"egress": {"enabled": true}}, "certificates": {"source": source}});
        let objects = rendered(&values).await;
        let policy = find(&objects, "NetworkPolicy/harbor-pilot-controller");
        let to_webhook = |rule: &&Value| rule["ports"][0]["port"] == 8443;
        let rules = policy["spec"]["egress"].as_array().unwrap();
        let found = rules.iter().find(to_webhook);
        assert_eq!(found.is_some(), open, "{source}: {rules:?}");
        let labels = found.map(|rule| &rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]);
        assert!(labels.is_none_or(|component| component == "webhook"), "{labels:?}");
    }
}

#[tokio::test]
async fn the_program_takes_the_arguments_that_it_is_given() {
    for (case, values) in cases() {
        for deployment in rendered(&values).await.iter().filter(|object| object["kind"] == "Deployment") {
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            let given = container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
            let taken = Cli::try_parse_from(["harbor-pilot"].into_iter().chain(given));
            assert!(taken.is_ok(), "{case}: {}", taken.err().unwrap());
        }
    }
}
