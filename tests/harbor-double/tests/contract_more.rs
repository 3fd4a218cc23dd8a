//! Errors, paging, quotas, labels, retention and odds, as recorded. Each recording is played against a Harbor that has what it
//! takes; ids are those of another life and not compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod replay;

use std::time::Duration;

use harbor_double::{Harbor, Hold, Image};
use replay::World;
use serde_json::json;

async fn nothing(_: &mut World, _: &str) {}

#[tokio::test]
async fn errors_cookies_and_paging_are_as_recorded() {
    let mut world = World::new(100.0).await.with_projects().await;
    let up3 = json!({"name": "up3", "type": "docker-registry", "url": world.shaky.url()});
    assert_eq!(world.harbor.manual_request("POST", "/registries", Some(up3)).await.0, 201);
    for (name, registry, public) in [
        ("app", None, "false"),
        ("byalice", None, "false"),
        ("byrobot", None, "false"),
        ("newproj", None, "false"),
        ("t5", None, "false"),
        ("scan", None, "true"),
        ("pxscan", Some(1), "true"),
        ("pxdown", Some(4), "true"),
    ] {
        let body = json!({"project_name": name, "registry_id": registry, "metadata": {"public": public}});
        assert_eq!(world.harbor.manual_request("POST", "/projects", Some(body)).await.0, 201);
    }
    for name in ["one", "two"] {
        let robot = json!({"name": name, "level": "system", "duration": -1, "permissions": []});
        assert_eq!(world.harbor.manual_request("POST", "/robots", Some(robot)).await.0, 201);
    }
    let skipped = [
        ("/statistics", "statistics are not doubled"),
        ("## wrong password, then the right one", "users other than the administrator are not doubled"),
        ("/replication/policies", "of the many policies of that Harbor"),
        ("q=owner_id", "a project of a user who is not doubled"),
    ];
    world.play("07-errors-paging-rates.md", &skipped, nothing).await;
    world.finish(60);
}

#[tokio::test]
async fn a_stored_manifest_is_not_served_to_who_does_not_accept_it_as_recorded() {
    let mut world = World::new(100.0).await.with_projects().await;
    world.play("03f-containerd-like.md", &[("/_catalog", "only the pull is wanted")], nothing).await;
    world.play("07b-accept-and-rates.md", &[], nothing).await;
    world.finish(20);
}

/// A Harbor whose next project has the number 25, and its quota, and the next retention policy, these numbers.
async fn with_ids(quota: i64, retention: i64) -> World {
    let world = World::new(100.0).await;
    let registry = json!({"name": "up", "type": "docker-registry", "url": world.open.url()});
    assert_eq!(world.harbor.manual_request("POST", "/registries", Some(registry)).await.0, 201);
    for number in 2..25 {
        let name = if number < quota + 1 { format!("p{number}") } else { "library".to_owned() };
        let registry = Some(1).filter(|_| number < retention + 1);
        let body = json!({"project_name": name, "registry_id": registry});
        world.harbor.manual_request("POST", "/projects", Some(body)).await;
    }
    world
}

#[tokio::test]
async fn retention_policies_answer_as_recorded() {
    let mut world = with_ids(23, 13).await;
    let skipped = [("(4558 bytes)", "the recorder did not keep the body of 16 rules")];
    world.play("05a-retention-immutable.md", &skipped, nothing).await;
    world.finish(20);
}

#[tokio::test]
async fn quotas_and_labels_answer_as_recorded() {
    let mut world = with_ids(23, 0).await;
    let t5 = json!({"project_name": "t5"});
    assert_eq!(world.harbor.manual_request("POST", "/projects", Some(t5)).await.0, 201);
    let skipped = [("sort=-hard.storage", "of equals the database gives any")];
    world.play("05b-quota-members-robots.md", &skipped, nothing).await;
    world.finish(18);
}

#[tokio::test]
async fn the_allowlist_of_a_project_answers_as_recorded() {
    let mut world = with_ids(23, 0).await;
    let t5 = json!({"project_name": "t5"});
    assert_eq!(world.harbor.manual_request("POST", "/projects", Some(t5)).await.0, 201);
    world.play("05c-cve-allowlist.md", &[], nothing).await;
    world.finish(7);
}

#[tokio::test]
async fn deletions_and_a_full_quota_are_as_recorded() {
    let mut world = World::new(100.0).await.with_projects().await;
    let metadata = json!({"metadata": {"max_upstream_conn": "-1", "proxy_cache_local_on_not_found": "false", "proxy_speed_kb": "-1"}});
    assert_eq!(world.harbor.manual_request("PUT", "/projects/px", Some(metadata)).await.0, 200);
    let single = Image::single("linux", "amd64").layers([10]);
    let index = Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]).layers([10]);
    world.harbor.store_image("plain/single", "v1", &single);
    for (name, tag, image) in [
        ("single2", "v1", &single),
        ("moving", "v1", &single),
        ("multi-docker", "v1", &index),
        ("movidx", "v1", &index),
        ("single", "v1", &single),
        ("tags", "1.1.0", &single),
        ("tags", "1.2.0", &single),
    ] {
        world.harbor.store_image(&format!("px/app/{name}"), tag, image);
    }
    let big = world.open.push_image("app/big", "v1", &Image::single("linux", "amd64").layers([10, 20]));
    let blobs = &big.children[0].layers;
    world.pair_digest("sha256:e8b46a96e99d5b3f79b52804a1bc15ca47c13f679cfa4151b0fd5d65b911d44e", &blobs[0].digest);
    world.pair_digest("sha256:a3ba6dd64a5bcdd2986d1372867e4f48d816fb81a28e24d66055136ef156ac75", &blobs[1].digest);
    let skipped = [("artifacts/v1/labels", "labels of artifacts are not doubled")];
    world
        .play("08-more.md", &skipped, async |world, note| {
            if note == "t+26s artifacts []" {
                tokio::time::sleep(Duration::from_millis(260)).await;
                assert!(world.harbor.artifacts("pxq/app/big").is_empty());
            }
        })
        .await;
    world.finish(25);
}

#[tokio::test]
async fn unusual_registries_and_robots_are_as_recorded() {
    let mut world = World::new(100.0).await.with_projects().await;
    let up3 = json!({"name": "up3", "type": "docker-registry", "url": world.shaky.url()});
    assert_eq!(world.harbor.manual_request("POST", "/registries", Some(up3)).await.0, 201);
    let pxdown = json!({"project_name": "pxdown", "registry_id": 4, "metadata": {"public": "true"}});
    assert_eq!(world.harbor.manual_request("POST", "/projects", Some(pxdown)).await.0, 201);
    let single = Image::single("linux", "amd64").layers([10, 20]);
    world.shaky.push_image("single", "v1", &single);
    world.harbor.store_image("pxdown/single", "v1", &single);
    world.harbor.store_image("px/app/tags", "1.1.0", &single);
    let access = |resource: &str, actions: &[&str]| -> Vec<serde_json::Value> {
        actions.iter().map(|action| json!({"resource": resource, "action": action})).collect()
    };
    let all = ["create", "read", "update", "delete", "list"];
    let system = [access("registry", &all), access("project", &all), access("quota", &["read", "list"])];
    let system = [system.concat(), access("replication-policy", &all), access("replication", &all)].concat();
    let project = [access("project", &all), access("repository", &all), access("metadata", &all)].concat();
    let permissions = json!([
        {"kind": "system", "namespace": "/", "access": system},
        {"kind": "project", "namespace": "*", "access": project},
    ]);
    let robot = json!({"name": "operator", "level": "system", "duration": -1, "permissions": permissions});
    let (_, made) = world.harbor.manual_request("POST", "/robots", Some(robot)).await;
    world.secrets.insert("robot$operator".to_owned(), made["secret"].as_str().unwrap().to_owned());
    let skipped = [
        ("(3231 bytes)", "the recorder did not keep the body"),
        ("/quotas?reference=project", "of the many projects of that Harbor"),
        ("/members", "members are not doubled"),
        ("/webhook/", "webhooks are not doubled"),
        ("/configurations", "configurations are not doubled"),
        ("/system/gc", "schedules are not doubled"),
        ("/scanners", "scanners are not doubled"),
        ("GET /api/v2.0/users ", "users are not doubled"),
    ];
    world.play("09-odds.md", &skipped, nothing).await;
    world.finish(30);
}

#[tokio::test]
async fn repositories_deleted_whole_and_immutable_tags_are_as_recorded() {
    let mut world = World::new(100.0).await;
    for name in ["imm", "17171"] {
        let body = json!({"project_name": name, "metadata": {"public": "false"}});
        assert_eq!(world.harbor.manual_request("POST", "/projects", Some(body)).await.0, 201);
    }
    for name in ["a/b", "a/b/c", "d", "e"] {
        world.harbor.store_image(&format!("imm/{name}"), "v1", &Image::single("linux", "amd64").layers([10]));
    }
    world.ignore_ids();
    let other = json!({"tag_selectors": [], "scope_selectors": {}});
    assert_eq!(world.harbor.manual_request("POST", "/projects/17171/immutabletagrules", Some(other)).await.0, 201);
    world.play("12-repositories-immutable.md", &[], nothing).await;
    world.finish(19);
}

#[tokio::test]
async fn a_client_is_left_without_an_answer_from_the_request_that_was_named_on() {
    let harbor = Harbor::builder().start().await;
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(200)).build().unwrap();
    let create = async |name: &str| {
        let body = json!({"project_name": name}).to_string();
        let request = http.post(format!("{}/api/v2.0/projects", harbor.url())).basic_auth("admin", Some("Harbor12345"));
        request.header("content-type", "application/json").body(body).send().await.is_ok()
    };
    for (hold, answered, made) in [
        (Some(Hold::Before(1)), [true, false, false], [true, false, false]),
        (Some(Hold::After(1)), [true, false, false], [true, true, false]),
        (None, [true, true, true], [true, true, true]),
    ] {
        harbor.hold(hold);
        for (name, answered) in ["a", "b", "c"].into_iter().zip(answered) {
            assert_eq!(create(name).await, answered, "{hold:?}: {name}");
        }
        if hold.is_some() {
            harbor.until_held().await;
        }
        assert_eq!(harbor.requests_since_hold(), 3);
        for (name, made) in ["a", "b", "c"].into_iter().zip(made) {
            let status = harbor.manual_request("DELETE", &format!("/projects/{name}"), None).await.0;
            assert_eq!(status == 200, made, "{hold:?}: {name}");
        }
    }
}
