//! What Prometheus and Grafana get.

use harbor_pilot_e2e::helm::chart;
use serde_json::Value;

use super::support::{case, find, read, rendered};

#[tokio::test]
async fn the_chart_installs_its_alerts_and_its_dashboard_as_they_are() {
    let objects = rendered(&case("everything")).await;
    let file = |name: &str| read(&chart().join("files/monitoring").join(name));
    let alerts: Value = serde_saphyr::from_str(&file("alerts.yaml")).unwrap();
    assert_eq!(find(&objects, "PrometheusRule/harbor-pilot")["spec"], alerts);
    let dashboard = &find(&objects, "ConfigMap/harbor-pilot-dashboard")["data"]["harbor-pilot.json"];
    assert_eq!(dashboard.as_str().unwrap().trim(), file("dashboard.json").trim());
}

#[tokio::test]
async fn monitors_find_what_they_are_to_ask() {
    let objects = rendered(&case("everything")).await;
    let service = find(&objects, "Service/harbor-pilot-metrics");
    let port = &service["spec"]["ports"][0];
    let monitor = &find(&objects, "ServiceMonitor/harbor-pilot")["spec"];
    for (key, value) in monitor["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(service["metadata"]["labels"][key], *value, "{key}");
        // The webhook's own Service has no metrics.
        assert!(key != "app.kubernetes.io/component" || value == "metrics");
    }
    assert_eq!(monitor["endpoints"][0]["port"], port["name"]);
    let pods = &find(&objects, "PodMonitor/harbor-pilot")["spec"];
    for name in ["webhook", "controller"] {
        let template = &find(&objects, &format!("Deployment/harbor-pilot-{name}"))["spec"]["template"];
        for selector in [&service["spec"]["selector"], &pods["selector"]["matchLabels"]] {
            for (key, value) in selector.as_object().unwrap() {
                assert_eq!(template["metadata"]["labels"][key], *value, "{name}: {key}");
            }
        }
        let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
        let ops = ports.iter().find(|port| port["name"] == "ops").unwrap();
        assert_eq!(ops["containerPort"], port["port"], "{name}");
    }
    let groups = find(&objects, "PrometheusRule/harbor-pilot")["spec"]["groups"].as_array().unwrap();
    assert!(groups.iter().all(|group| !group["rules"].as_array().unwrap().is_empty()));
    let dashboard = find(&objects, "ConfigMap/harbor-pilot-dashboard")["data"]["harbor-pilot.json"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(dashboard).unwrap()["title"].is_string());
}
