//! What a run copies, where to, and what is told of it.

use std::time::Duration;

use harbor_double::{Harbor, Image};
use harbor_pilot::harbor::{
    Error,
    model::{FilterValue, ReplicationFilter, ReplicationPolicyContent, replication_failure},
};
use serde_json::json;

use crate::stage::{Stage, filter};

fn single() -> Image {
    Image::single("linux", "amd64").layers([10, 20])
}

#[tokio::test]
async fn a_pull_copies_what_the_filters_leave_and_makes_the_project() {
    let stage = Stage::start().await;
    for (name, tag) in [("team/a", "v1"), ("team/a", "latest"), ("team/b", "v2"), ("team/c", "v3"), ("other/a", "v4")] {
        stage.upstream.push_image(name, tag, &single());
    }
    let multi = Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]).layers([10]);
    let multi = stage.upstream.push_image("team/b", "v5", &multi);
    let to = stage.name("made");
    let filters =
        vec![filter("name", "team/{a,b}", ""), filter("tag", "v*", "matches"), filter("resource", "image", "")];
    let (id, execution) = stage.run(&stage.pull("pull", &to, filters)).await;
    assert_eq!((execution.status.as_str(), execution.total, execution.succeed), ("Succeed", 2, 2), "{execution:?}");
    assert_eq!((execution.trigger.as_str(), execution.status_text.as_str()), ("manual", ""));
    assert!(execution.start_time.is_some() && execution.end_time.is_some());
    assert_eq!(stage.tags(&format!("{to}/a")).await, ["v1"]);
    assert_eq!(stage.tags(&format!("{to}/b")).await, ["v2", "v5"]);
    let found = stage.client.artifact(&to, "b", "v5").await.unwrap().unwrap();
    assert_eq!((found.digest, found.references.len()), (multi.digest, 2));
    let project = stage.client.project_named(&to).await.unwrap().unwrap();
    assert_eq!(project.metadata["public"], "false");

    let tasks = stage.client.replication_tasks(execution.id).await.unwrap();
    let mut sources: Vec<_> =
        tasks.iter().map(|task| (task.src_resource.as_str(), task.dst_resource.clone())).collect();
    sources.sort();
    let expected = [
        ("team/a [1 item(s) in total]", format!("{to}/a [1 item(s) in total]")),
        ("team/b [2 item(s) in total]", format!("{to}/b [2 item(s) in total]")),
    ];
    assert_eq!(sources, expected);
    assert!(
        tasks.iter().all(|task| task.operation == "copy" && task.resource_type == "image" && task.status == "Succeed")
    );
    let log = stage.client.replication_task_log(execution.id, tasks[0].id).await.unwrap();
    assert!(log.contains("(destination registry) completed"), "{log}");
    assert_eq!(replication_failure(&log), None);

    stage.upstream.push_image("team/a", "v1", &single().seed("moved"));
    let (_, kept) = stage
        .run(&ReplicationPolicyContent {
            override_: false,
            ..stage.pull("keep", &to, vec![filter("name", "team/a", ""), filter("tag", "v1", "")])
        })
        .await;
    assert_eq!((kept.status.as_str(), kept.succeed), ("Succeed", 1), "what may not be moved is skipped");
    let before = stage.client.artifact(&to, "a", "v1").await.unwrap().unwrap().digest;
    assert_eq!(stage.run_again(id).await.status, "Succeed");
    assert_ne!(stage.client.artifact(&to, "a", "v1").await.unwrap().unwrap().digest, before);
    stage.clear().await;
}

#[tokio::test]
async fn the_status_of_a_run_lags_behind_its_tasks() {
    let stage = Stage::with(Harbor::builder().speed(10.0)).await;
    stage.upstream.push_image("team/a", "v1", &single());
    let content = stage.pull("lag", &stage.name("lag"), vec![filter("name", "team/a", "")]);
    let id = stage.client.create_replication_policy(&content).await.unwrap();
    let id = stage.client.start_replication(id).await.unwrap();
    // (status, tasks that go on, tasks that are done, whether there is an end)
    let mut seen = Vec::new();
    loop {
        let found = stage.client.replication_execution(id).await.unwrap().unwrap();
        let state = (found.status.clone(), found.in_progress, found.succeed, found.end_time.is_some());
        if found.is_final() {
            assert_eq!(state, ("Succeed".to_owned(), 0, 1, true));
            break;
        }
        seen.push(state);
        assert!(seen.len() < 3000, "it does not end");
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    // A real Harbor looks each 30 s or so, and may happen to look at once.
    let lagged = seen.contains(&("InProgress".to_owned(), 0, 1, false));
    assert!(lagged || stage.site.double.is_none(), "{seen:?}");
    stage.clear().await;
}

#[tokio::test]
async fn a_namespace_replaces_as_many_levels_as_the_policy_says() {
    let stage = Stage::start().await;
    stage.upstream.push_image("a/b/app", "v1", &single());
    let to = stage.name("levels");
    for (count, expected) in [(-1, "x/app"), (0, "x/a/b/app"), (1, "x/b/app"), (2, "x/app")] {
        let content = stage.pull(&format!("levels{count}"), &format!("{to}/x"), vec![filter("name", "a/b/app", "")]);
        let (_, execution) =
            stage.run(&ReplicationPolicyContent { dest_namespace_replace_count: count, ..content }).await;
        let tasks = stage.client.replication_tasks(execution.id).await.unwrap();
        assert_eq!(tasks[0].dst_resource, format!("{to}/{expected} [1 item(s) in total]"), "{count}");
    }
    let content = stage.pull("levels3", &to, vec![filter("name", "a/b/app", "")]);
    let (_, failed) = stage.run(&ReplicationPolicyContent { dest_namespace_replace_count: 3, ..content }).await;
    let reported = "the source repository \"a/b/app\" contains only 2 path components [a b] excepting the last one, but the destination \
                namespace flattening level is 3";
    assert_eq!((failed.status.as_str(), failed.status_text.as_str(), failed.total), ("Failed", reported, 0));
    stage.clear().await;
}

#[tokio::test]
async fn a_run_without_anything_to_copy_says_so() {
    let stage = Stage::start().await;
    stage.upstream.push_image("team/a", "v1", &single());
    let nothing = ("Succeed", "no resources need to be replicated");
    let reported = |execution: &harbor_pilot::harbor::model::ReplicationExecution| {
        (execution.status.clone(), execution.status_text.clone())
    };
    let into_proxy = stage.proxy("proxy").await;
    let (_, execution) = stage.run(&stage.pull("proxied", &into_proxy, vec![filter("name", "team/a", "")])).await;
    assert_eq!(reported(&execution), (nothing.0.to_owned(), nothing.1.to_owned()));
    for (number, filters) in [
        vec![filter("name", "team/a", ""), filter("tag", "zzz", "")],
        vec![filter("name", "team/x*", "")],
        vec![filter("name", "x/{b", "")],
    ]
    .into_iter()
    .enumerate()
    {
        let (_, execution) = stage.run(&stage.pull(&format!("none{number}"), "library", filters)).await;
        assert_eq!(reported(&execution), (nothing.0.to_owned(), nothing.1.to_owned()), "{number}");
    }
    let (_, execution) = stage.run(&stage.pull("missing", "library", vec![filter("name", "no/such/repo", "")])).await;
    assert_eq!(execution.status, "Failed");
    let expected = "failed to fetch artifacts: failed to fetch artifacts: failed to list artifacts of repository no/such/repo: http \
                    status code: 404, body: {\"errors\":[{\"code\":\"NAME_UNKNOWN\"";
    assert!(execution.status_text.starts_with(expected), "{}", execution.status_text);

    let disabled = ReplicationPolicyContent { enabled: false, ..stage.pull("disabled", "library", Vec::new()) };
    let disabled = stage.client.create_replication_policy(&disabled).await.unwrap();
    let refused = stage.client.start_replication(disabled).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Precondition { message } if *message == format!("the policy {disabled} is disabled"))
    );
    let refused = stage.client.start_replication(999_999).await.unwrap_err();
    assert!(matches!(refused, Error::NotFound { .. }), "{refused}");
    stage.clear().await;
}

#[tokio::test]
async fn a_registry_that_is_down_fails_the_run_and_is_named() {
    let stage = Stage::start().await;
    let project = stage.project("down", json!({})).await;
    stage.push_image(&format!("{project}/app"), "v1", &single()).await;
    stage.upstream.set_down(true).await;
    let (_, pulled) = stage.run(&stage.pull("pull-down", &project, vec![filter("name", "team/a", "")])).await;
    assert_eq!((pulled.status.as_str(), pulled.total), ("Failed", 0));
    let text = &pulled.status_text;
    let expected =
        "failed to fetch artifacts: failed to fetch artifacts: failed to list artifacts of repository team/a: Get ";
    assert!(text.starts_with(expected) && text.ends_with("connection refused"), "{text}");
    assert!(text.contains(&stage.upstream.host()), "{text}");

    let filters = vec![filter("name", &format!("{project}/app"), "")];
    let (_, pushed) = stage.run(&stage.push("push-down", "mirror", filters)).await;
    assert_eq!((pushed.status.as_str(), pushed.failed, pushed.status_text.as_str()), ("Failed", 1, ""));
    let task = stage.client.replication_tasks(pushed.id).await.unwrap().remove(0);
    let log = stage.client.replication_task_log(pushed.id, task.id).await.unwrap();
    let reason = replication_failure(&log).unwrap();
    assert!(reason.contains(&stage.upstream.host()) && reason.ends_with("connection refused"), "{reason}");
    stage.clear().await;
}

#[tokio::test]
async fn a_push_copies_by_labels_and_tags_to_another_registry() {
    let stage = Stage::start().await;
    let project = stage.project("labels", json!({})).await;
    for (name, tag) in [("app", "v1"), ("app", "x1"), ("deep/app", "v2")] {
        stage.push_image(&format!("{project}/{name}"), tag, &single().seed(tag)).await;
    }
    let label = stage.name("approved");
    let (status, answer) = stage.api("POST", "/labels", Some(json!({"name": label, "scope": "g"}))).await;
    assert_eq!(status, 201, "{answer}");
    let (_, labels) = stage.api("GET", &format!("/labels?scope=g&name={label}"), None).await;
    let id = labels[0]["id"].as_i64().unwrap();
    let path = format!("/projects/{project}/repositories/app/artifacts/v1/labels");
    assert_eq!(stage.api("POST", &path, Some(json!({"id": id}))).await.0, 200);

    let labelled = |decoration: &str| ReplicationFilter {
        type_: "label".to_owned(),
        value: FilterValue::List(vec![label.clone()]),
        decoration: decoration.to_owned(),
    };
    let all = filter("name", &format!("{project}/**"), "");
    let cases = [
        ("tagged", vec![all.clone(), filter("tag", "v*", "")], vec!["app:v1", "deep/app:v2"]),
        ("untagged", vec![all.clone(), filter("tag", "v*", "excludes")], vec!["app:x1"]),
        ("labelled", vec![all.clone(), labelled("matches")], vec!["app:v1"]),
        ("unlabelled", vec![all.clone(), labelled("excludes")], vec!["app:x1", "deep/app:v2"]),
    ];
    for (base, filters, expected) in cases {
        let content = ReplicationPolicyContent { dest_namespace_replace_count: 1, ..stage.push(base, base, filters) };
        let (_, execution) = stage.run(&content).await;
        assert_eq!(execution.status, "Succeed", "{base}");
        let tags = ["app", "deep/app"].map(|name| {
            let tags = stage.upstream.tags(&format!("{base}/{name}")).into_keys();
            tags.map(|tag| format!("{name}:{tag}")).collect::<Vec<_>>()
        });
        assert_eq!(tags.concat(), expected, "{base}");
        let tasks = stage.client.replication_tasks(execution.id).await.unwrap();
        assert!(tasks.iter().all(|task| task.resource_type == "artifact"));
    }
    assert_eq!(stage.api("DELETE", &format!("/labels/{id}"), None).await.0, 200);
    stage.clear().await;
}

#[tokio::test]
async fn a_run_can_be_stopped_and_until_then_its_policy_cannot_be_deleted() {
    // Slow enough that the run still goes on when it is stopped.
    let stage = Stage::with(Harbor::builder().speed(5.0)).await;
    stage.upstream.push_image("team/a", "v1", &Image::single("linux", "amd64").layers([4096]));
    let project = stage.name("full");
    let body = json!({"project_name": project, "storage_limit": 1500});
    assert_eq!(stage.api("POST", "/projects", Some(body)).await.0, 201);
    let filters = vec![filter("name", "team/a", "")];
    let content = ReplicationPolicyContent { single_active_replication: true, ..stage.pull("full", &project, filters) };
    let id = stage.client.create_replication_policy(&content).await.unwrap();
    let first = stage.client.start_replication(id).await.unwrap();
    let second = stage.ended(stage.client.start_replication(id).await.unwrap()).await;
    let skipped = "Execution skipped: active replication still in progress.";
    assert_eq!((second.status.as_str(), second.status_text.as_str(), second.total), ("Failed", skipped, 0));
    let refused = stage.client.delete_replication_policy(id).await.unwrap_err().to_string();
    assert_eq!(refused, "contains executions that aren't in final status, stop the execution first");
    stage.client.stop_replication(first).await.unwrap();
    let stopped = stage.ended(first).await;
    assert_eq!(stopped.status, "Stopped");
    stage.client.stop_replication(first).await.expect("what has ended stays as it is");

    // Left alone it fails, for the quota, after five attempts over 30 s; and says why in the log of its task alone.
    let failed = stage.run_again(id).await;
    assert_eq!((failed.status.as_str(), failed.failed, failed.status_text.as_str()), ("Failed", 1, ""));
    let task = stage.client.replication_tasks(failed.id).await.unwrap().remove(0);
    assert_eq!((task.status.as_str(), task.source_repository()), ("Failed", "team/a"));
    let log = stage.client.replication_task_log(failed.id, task.id).await.unwrap();
    let reason = replication_failure(&log).unwrap();
    assert!(reason.starts_with("http status code: 403: adding "), "{reason}");
    assert!(reason.ends_with("will exceed the configured upper limit of 1.5 KiB."), "{reason}");
    assert_eq!(log.matches("(the 5th running)").count(), 1, "{log}");
    stage.client.delete_replication_policy(id).await.unwrap();
    assert_eq!(stage.client.replication_execution(failed.id).await.unwrap(), None, "executions go with their policy");
    stage.clear().await;
}
