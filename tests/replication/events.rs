//! Replication that pushes and deletions set going.

use std::time::Duration;

use harbor_double::{Harbor, Image};
use harbor_pilot::harbor::model::{RegistryReference, ReplicationPolicyContent, ReplicationTrigger};
use serde_json::json;

use crate::stage::{Stage, filter, new_registry, trigger};

#[tokio::test]
async fn each_push_tag_and_deletion_is_an_event() {
    let stage = Stage::start().await;
    let project = stage.project("events", json!({})).await;
    let all = filter("name", &format!("{project}/**"), "");
    let on_event = |base: &str, filters| ReplicationPolicyContent {
        trigger: trigger(ReplicationTrigger::EVENT_BASED, ""),
        ..stage.push(base, base, filters)
    };
    let everything = ReplicationPolicyContent { deletion: true, ..on_event("every", vec![all.clone()]) };
    let every = stage.client.create_replication_policy(&everything).await.unwrap();
    let releases = on_event("release", vec![all.clone(), filter("tag", "v*", "")]);
    let release = stage.client.create_replication_policy(&releases).await.unwrap();
    let off = ReplicationPolicyContent { enabled: false, ..on_event("off", vec![all]) };
    let off = stage.client.create_replication_policy(&off).await.unwrap();

    let multi = Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]).layers([10]);
    let repository = format!("{project}/app");
    let pushed = stage.push_image(&repository, "x1", &multi).await;
    let executions = stage.ended_of(every, 3).await;
    assert_eq!(executions.len(), 3, "the children of an index are events, too");
    assert!(
        executions.iter().all(|found| found.status == "Succeed" && found.trigger == "event_based"),
        "{executions:?}"
    );
    assert_eq!(stage.upstream.tags("every/app").get("x1"), Some(&pushed.digest));
    assert_eq!(stage.client.replication_executions(release, 10).await.unwrap(), []);

    let tags = format!("/projects/{project}/repositories/app/artifacts/x1/tags");
    assert_eq!(stage.api("POST", &tags, Some(json!({"name": "v1"}))).await.0, 201);
    assert_eq!(stage.ended_of(every, 4).await.len(), 4);
    assert_eq!(stage.ended_of(release, 1).await[0].status, "Succeed");
    assert_eq!(stage.upstream.tags("release/app").into_keys().collect::<Vec<_>>(), ["v1"]);

    let artifact = format!("/projects/{project}/repositories/app/artifacts/x1");
    assert_eq!(stage.api("DELETE", &artifact, None).await.0, 200);
    let executions = stage.ended_of(every, 5).await;
    let task = stage.client.replication_tasks(executions[0].id).await.unwrap().remove(0);
    assert_eq!((task.operation.as_str(), task.status.as_str()), ("deletion", "Succeed"));
    assert_eq!(task.src_resource, format!("{repository} [2 item(s) in total]"));
    assert!(stage.upstream.tags("every/app").is_empty());
    assert_eq!(stage.upstream.tags("release/app").len(), 1, "deletions are replicated only where the policy says so");
    assert_eq!(stage.client.replication_executions(off, 10).await.unwrap(), []);
    stage.clear().await;
}

#[tokio::test]
async fn two_harbors_that_replicate_to_each_other_come_to_rest() {
    let stage = Stage::start().await;
    let peer = Harbor::builder().speed(100.0).start().await;
    let project = stage.project("shared", json!({"public": "true"})).await;
    let there = new_registry(&stage.name("peer"), "harbor", &peer.url(), Some(("admin", "Harbor12345")));
    let there = stage.client.create_registry(&there).await.unwrap();
    let policy = |registry: i64| ReplicationPolicyContent {
        name: stage.name("both"),
        dest_registry: RegistryReference { id: registry },
        filters: vec![filter("name", &format!("{project}/**"), "")],
        trigger: trigger(ReplicationTrigger::EVENT_BASED, ""),
        deletion: true,
        enabled: true,
        override_: true,
        ..Default::default()
    };
    let out = stage.client.create_replication_policy(&policy(there)).await.unwrap();
    let credential = json!({"type": "basic", "access_key": stage.site.username, "access_secret": stage.site.password});
    let here = json!({"name": "home", "type": "harbor", "url": stage.site.url, "credential": credential});
    assert_eq!(peer.manual_request("POST", "/registries", Some(here)).await.0, 201);
    let back = serde_json::to_value(policy(1)).unwrap();
    assert_eq!(peer.manual_request("POST", "/replication/policies", Some(back)).await.0, 201);

    let repository = format!("{project}/app");
    let pushed = stage.push_image(&repository, "v1", &Image::single("linux", "amd64").layers([10])).await;
    assert_eq!(stage.ended_of(out, 1).await[0].status, "Succeed");
    assert_eq!(peer.artifacts(&repository).get(&pushed.digest), Some(&vec!["v1".to_owned()]));
    let (_, made) = peer.manual_request("GET", &format!("/projects/{project}"), None).await;
    assert_eq!(made["metadata"]["public"], "true", "as public as where it comes from");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_, answers) = peer.manual_request("GET", "/replication/executions", None).await;
    assert_eq!(answers.as_array().unwrap().len(), 1, "{answers}");
    assert_eq!(answers[0]["status"], "Succeed", "{answers}");
    let executions = stage.client.replication_executions(out, 10).await.unwrap();
    assert_eq!(executions.len(), 1, "what is there already is not pushed, and so is no event: {executions:?}");

    let other = Image::single("linux", "amd64").layers([10]).seed("of the peer");
    let pushed = peer.push_image(&repository, "v2", &other);
    for _ in 0..300 {
        if stage.tags(&repository).await == ["v1", "v2"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stage.client.artifact(&project, "app", "v2").await.unwrap().unwrap().digest, pushed.digest);
    stage.ended_of(out, 2).await;
    stage.clear().await;
}
