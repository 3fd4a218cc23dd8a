//! Policies: how they read back, what is refused, lists.

use harbor_pilot::harbor::{
    Error,
    model::{FilterValue, RegistryReference, ReplicationFilter, ReplicationPolicyContent, ReplicationTrigger},
};
use serde_json::{Value, json};

use crate::stage::{Stage, filter, trigger};

#[tokio::test]
async fn a_policy_reads_back_as_it_was_written_and_a_write_replaces_it_whole() {
    let stage = Stage::start().await;
    let full = ReplicationPolicyContent {
        description: "nightly [marker a/b/c]".to_owned(),
        dest_namespace_replace_count: 1,
        filters: vec![
            filter("name", "production/**", ""),
            filter("tag", "v*", "matches"),
            ReplicationFilter {
                type_: "label".to_owned(),
                value: FilterValue::List(vec!["approved".to_owned()]),
                decoration: "excludes".to_owned(),
            },
            filter("resource", "image", ""),
        ],
        trigger: trigger(ReplicationTrigger::SCHEDULED, "0 0 2 * * *"),
        deletion: true,
        speed: 1024,
        copy_by_chunk: true,
        single_active_replication: true,
        ..stage.pull("full", "mirror", Vec::new())
    };
    let id = stage.client.create_replication_policy(&full).await.unwrap();
    assert_eq!(stage.client.replication_policy(id).await.unwrap().unwrap().content, full);

    let least = ReplicationPolicyContent {
        name: full.name.clone(),
        src_registry: full.src_registry,
        speed: -1,
        ..Default::default()
    };
    stage.client.update_replication_policy(id, &least).await.unwrap();
    let read = stage.client.replication_policy_named(&full.name).await.unwrap().unwrap();
    assert_eq!(read.content, ReplicationPolicyContent { speed: 0, ..least });
    assert_eq!(read.id, id);
    assert!(stage.client.replication_policies().await.unwrap().contains(&read));

    let other = ReplicationPolicyContent {
        dest_registry: RegistryReference { id: stage.registry },
        src_registry: RegistryReference::LOCAL,
        trigger: trigger(ReplicationTrigger::EVENT_BASED, ""),
        // Without a filter it would run for the pushes of other tests.
        ..stage.pull("other", "", vec![filter("name", "nobody/**", "")])
    };
    let other_id = stage.client.create_replication_policy(&other).await.unwrap();
    assert_eq!(stage.client.replication_policy(other_id).await.unwrap().unwrap().content, other);
    let taken = ReplicationPolicyContent { name: full.name.clone(), ..other };
    let refused = stage.client.update_replication_policy(other_id, &taken).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused}");

    let refused = stage.client.delete_registry(stage.registry).await.unwrap_err();
    let expected = format!("the registry {} is referenced by replication policies, cannot delete it", stage.registry);
    assert_eq!(refused.to_string(), expected);
    for id in [id, other_id] {
        stage.client.delete_replication_policy(id).await.unwrap();
        stage.client.delete_replication_policy(id).await.expect("gone is fine");
        assert_eq!(stage.client.replication_policy(id).await.unwrap(), None);
    }
    stage.clear().await;
}

#[tokio::test]
async fn policy_errors_are_as_recorded() {
    let stage = Stage::start().await;
    let up = stage.registry;
    let wrong = |body: Value| {
        let mut whole = json!({"name": stage.name("wrong"), "src_registry": {"id": up}, "enabled": true});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        whole
    };
    let cron = |cron: &str| wrong(json!({"trigger": {"type": "scheduled", "trigger_settings": {"cron": cron}}}));
    let filters = |filter: Value| wrong(json!({"filters": [filter]}));
    let either = "either src_registry or dest_registry should be empty and the other one shouldn't be empty";
    let no_strings = "the type of label filter value isn't string slice";
    let cases = [
        (wrong(json!({"name": ""})), 400, "empty name"),
        (wrong(json!({"name": "x".repeat(257)})), 500, "internal server error"),
        (wrong(json!({"src_registry": null})), 400, either),
        (wrong(json!({"dest_registry": {"id": up}})), 400, either),
        (wrong(json!({"src_registry": {"id": 999_999}})), 404, "registry 999999 not found"),
        (wrong(json!({"trigger": {"type": "weekly"}})), 400, "invalid trigger type"),
        (wrong(json!({"dest_namespace": "Bad NS"})), 400, "invalid destination namespace: Bad NS"),
        (filters(json!({"type": "nonsense", "value": "x"})), 400, "invalid filter type"),
        (filters(json!({"type": "name", "value": 5})), 400, "the type of filter value isn't string"),
        (filters(json!({"type": "resource", "value": "chart"})), 400, "invalid resource filter: chart"),
        (filters(json!({"type": "tag", "value": "v", "decoration": "nope"})), 400, "invalid filter decoration, :nope"),
        (filters(json!({"type": "label", "value": "l1"})), 400, no_strings),
        (filters(json!({"type": "label", "value": [1]})), 400, no_strings),
        (
            filters(json!({"type": "name", "value": "x", "decoration": "excludes"})),
            400,
            "only tag and label filter support decoration",
        ),
        (cron("0 2 * * *"), 400, "invalid cron string for scheduled trigger: 0 2 * * *"),
        (cron("@daily"), 400, "invalid cron string for scheduled trigger: @daily"),
        (cron("0 0 2 * * 7"), 400, "invalid cron string for scheduled trigger: 0 0 2 * * 7"),
        (cron("30 0 2 * * *"), 400, "the 1st field (indicating Seconds of time) of the cron setting must be 0"),
        (cron("0 * * * * *"), 400, "* is not allowed for the Minutes field of the cron setting of replication policy"),
        (cron(""), 400, "the cron string cannot be empty when the trigger type is scheduled"),
        (
            json!({"name": stage.name("wrong"), "dest_registry": {"id": up}, "trigger": {"type": "event_based"},
                "single_active_replication": true}),
            500,
            "internal server error",
        ),
        (
            wrong(json!({"speed": "a"})),
            422,
            "json: cannot unmarshal string into Go struct field ReplicationPolicy.speed of type int32",
        ),
        (
            wrong(json!({"dest_namespace_replace_count": 200})),
            422,
            "cannot unmarshal number 200 into Go struct field ReplicationPolicy.dest_namespace_replace_count of type int8",
        ),
        (wrong(json!({"filters": "a"})), 422, "of type []*models.ReplicationFilter"),
        (wrong(json!({"src_registry": 72})), 422, "of type models.Registry"),
    ];
    let id = stage.client.create_replication_policy(&stage.pull("good", "x", Vec::new())).await.unwrap();
    for (body, status, message) in cases {
        for (method, path) in
            [("POST", "/replication/policies".to_owned()), ("PUT", format!("/replication/policies/{id}"))]
        {
            let (found, answer) = stage.api(method, &path, Some(body.clone())).await;
            let reported = answer["errors"][0]["message"].as_str().unwrap_or_default();
            assert_eq!(found, status, "{method} {body}: {answer}");
            let fits = if status == 422 { reported.ends_with(message) } else { reported == message };
            assert!(fits, "{method} {body}: {reported}");
        }
    }
    let (status, _) = stage.api("PUT", "/replication/policies/999999", Some(wrong(json!({})))).await;
    assert_eq!(status, 404);
    stage.clear().await;
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged_as_seen() {
    let stage = Stage::start().await;
    let names = ["list-a", "list-b", "list-c"].map(|base| stage.name(base));
    for name in &names {
        let policy = ReplicationPolicyContent { name: name.clone(), ..stage.pull("", "x", Vec::new()) };
        stage.client.create_replication_policy(&policy).await.unwrap();
    }
    let list = async |query: &str| {
        let (status, found) = stage.api("GET", &format!("/replication/policies?{query}"), None).await;
        assert_eq!(status, 200, "{query}");
        let name = |policy: &Value| policy["name"].as_str().unwrap().to_owned();
        found.as_array().unwrap().iter().map(name).filter(|name| names.contains(name)).collect::<Vec<_>>()
    };
    let [a, b, c] = names.clone();
    let ours = stage.name("");
    assert_eq!(list("page_size=100").await, [c.clone(), b.clone(), a.clone()], "the newest first");
    assert_eq!(list(&format!("q=name%3D{a}")).await, std::slice::from_ref(&a));
    assert_eq!(list(&format!("q=name%3D~{ours}&sort=name")).await, [a.clone(), b.clone(), c.clone()]);
    assert_eq!(list(&format!("name={ours}&sort=-name")).await, [c.clone(), b.clone(), a.clone()]);
    assert_eq!(list(&format!("name={ours}&page_size=2&page=2")).await, std::slice::from_ref(&a));
    assert_eq!(list(&format!("q=src_registry_id%3D{}&page_size=100", stage.registry)).await.len(), 3);
    assert_eq!(list(&format!("q=dest_registry_id%3D{}&page_size=100", stage.registry)).await.len(), 0);
    assert_eq!(list("q=nonsense%3D1&page_size=100").await.len(), 3, "a key that Harbor does not know");
    assert_eq!(stage.api("GET", "/replication/policies?page_size=101", None).await.0, 422);
    assert_eq!(stage.api("GET", "/replication/executions?policy_id=abc", None).await.0, 422);
    assert_eq!(stage.client.replication_executions(999_999, 5).await.unwrap(), []);
    assert_eq!(stage.client.replication_execution(999_999).await.unwrap(), None);
    stage.clear().await;
}
