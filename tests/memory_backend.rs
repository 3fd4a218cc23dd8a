//! The backend of standalone mode keeps resources as an API server does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use harbor_pilot::{
    api::{FINALIZER, Registry, RegistryStatus},
    engine::{Backend, Error, Resources},
    standalone::{ManifestSet, MemoryBackend},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt,
    api::Preconditions,
    runtime::watcher::{Event, Result},
};
use serde_json::{Value, json};

fn registry(name: &str, interval: &str, metadata: Value) -> Registry {
    let mut object = json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "Registry", "metadata": {"name": name},
        "spec": {"type": "docker-registry", "url": "https://registry.example", "interval": interval},
    });
    object["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

fn manifests(registries: &[Registry]) -> ManifestSet {
    ManifestSet { registries: registries.to_vec(), ..ManifestSet::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

/// All that came since the last call, such as `apply a`.
fn seen(watch: &mut (impl StreamExt<Item = Result<Event<Registry>>> + Unpin)) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        events.push(match event.unwrap() {
            Event::Init => "init".to_owned(),
            Event::InitApply(object) => format!("listed {}", object.name_any()),
            Event::InitDone => "complete".to_owned(),
            Event::Apply(object) => format!("apply {}", object.name_any()),
            Event::Delete(object) => format!("delete {}", object.name_any()),
        });
    }
    events
}

fn code(result: std::result::Result<(), Error>) -> u16 {
    match result {
        Ok(()) => 200,
        Err(error) if error.is_not_found() => 404,
        Err(error) if error.is_conflict() => 409,
        Err(error) => panic!("{error}"),
    }
}

/// Generation, whether the resourceVersion grew, whether it is being deleted.
fn state(backend: &MemoryBackend, version: &mut u64) -> Option<(i64, bool, bool)> {
    let object = backend.get::<Registry>("a")?;
    let now: u64 = object.resource_version().unwrap().parse().unwrap();
    let grew = now > std::mem::replace(version, now);
    Some((object.metadata.generation.unwrap(), grew, object.metadata.deletion_timestamp.is_some()))
}

#[tokio::test]
async fn each_write_has_the_effects_that_it_has_at_an_api_server() {
    let backend = MemoryBackend::new(Vec::new());
    let mut watch = backend.watch::<Registry>();
    assert_eq!(seen(&mut watch), ["init", "complete"]);
    let apply = |registries: &[Registry], second| backend.apply(&manifests(registries), at(second));
    let plain = || registry("a", "10m", json!({}));
    let mut version = 0;

    let status = RegistryStatus { id: Some(7), ..RegistryStatus::default() };
    let finalizers = vec!["other/finalizer".to_owned(), FINALIZER.to_owned()];
    type Write<'w> = (&'w str, Box<dyn Fn() + 'w>, Option<(i64, bool, bool)>, &'w [&'w str]);
    let steps: Vec<Write<'_>> = vec![
        ("create", Box::new(|| apply(&[plain()], 1)), Some((1, true, false)), &["apply a"]),
        ("apply the same", Box::new(|| apply(&[plain()], 2)), Some((1, false, false)), &[]),
        (
            "annotate",
            Box::new(|| apply(&[registry("a", "10m", json!({"annotations": {"x": "y"}}))], 3)),
            Some((1, true, false)),
            &["apply a"],
        ),
        (
            "change the spec",
            Box::new(|| apply(&[registry("a", "20m", json!({"annotations": {"x": "y"}}))], 4)),
            Some((2, true, false)),
            &["apply a"],
        ),
        (
            "write the status",
            Box::new(|| backend.set_status::<Registry>("a", status.clone()).unwrap()),
            Some((2, true, false)),
            &["apply a"],
        ),
        (
            "write the same status",
            Box::new(|| backend.set_status::<Registry>("a", status.clone()).unwrap()),
            Some((2, false, false)),
            &[],
        ),
        (
            "write finalizers",
            Box::new(|| drop(backend.set_finalizers::<Registry>("a", None, finalizers.clone()).unwrap())),
            Some((2, true, false)),
            &["apply a"],
        ),
        ("delete", Box::new(|| apply(&[], 5)), Some((3, true, true)), &["apply a"]),
        ("delete again", Box::new(|| apply(&[], 6)), Some((3, false, true)), &[]),
        (
            "remove one finalizer",
            Box::new(|| drop(backend.set_finalizers::<Registry>("a", None, finalizers[..1].to_vec()).unwrap())),
            Some((3, true, true)),
            &["apply a"],
        ),
        (
            "remove the last finalizer",
            Box::new(|| drop(backend.set_finalizers::<Registry>("a", None, Vec::new()).unwrap())),
            None,
            &["delete a"],
        ),
        ("create again", Box::new(|| apply(&[plain()], 7)), Some((1, true, false)), &["apply a"]),
        ("delete without a finalizer", Box::new(|| apply(&[], 8)), None, &["delete a"]),
    ];
    for (step, write, expected, events) in steps {
        write();
        assert_eq!(state(&backend, &mut version), expected, "{step}");
        assert_eq!(seen(&mut watch), events, "{step}");
    }
}

#[tokio::test]
async fn a_deleted_object_keeps_its_identity_status_and_time_of_deletion() {
    let backend = MemoryBackend::new(Vec::new());
    backend.apply(&manifests(&[registry("a", "10m", json!({}))]), at(1));
    let created = backend.get::<Registry>("a").unwrap();
    backend.set_status::<Registry>("a", RegistryStatus { id: Some(7), ..RegistryStatus::default() }).unwrap();
    backend.set_finalizers::<Registry>("a", None, vec![FINALIZER.to_owned()]).unwrap();
    backend.apply(&manifests(&[]), at(9));
    let deleted = backend.get::<Registry>("a").unwrap();
    assert_eq!((deleted.uid(), deleted.creation_timestamp()), (created.uid(), created.creation_timestamp()));
    assert_eq!(deleted.metadata.deletion_timestamp.as_ref().unwrap().0, at(9));
    assert_eq!(deleted.status.as_ref().unwrap().id, Some(7));

    // A file that is back means that the resource stays, with what is known about it.
    backend.apply(&manifests(&[registry("a", "10m", json!({}))]), at(10));
    let back = backend.get::<Registry>("a").unwrap();
    assert!(back.metadata.deletion_timestamp.is_none() && back.finalizers() == [FINALIZER]);
    assert_eq!(back.status.as_ref().unwrap().id, Some(7));
}

#[tokio::test]
async fn a_write_with_an_outdated_version_or_to_what_is_not_there_is_refused() {
    let backend = MemoryBackend::new(Vec::new());
    let create = |name| code(backend.create_object(registry(name, "10m", json!({})), at(1)));
    assert_eq!([create("a"), create("a")], [200, 409]);
    let old = backend.get::<Registry>("a").unwrap();
    backend.set_status::<Registry>("a", RegistryStatus::default()).unwrap();
    let finalizers = |object: &Registry| backend.write_finalizers(object, vec![FINALIZER.to_owned()]).now_or_never();
    assert_eq!(code(finalizers(&old).unwrap().map(drop)), 409);
    let new = backend.get::<Registry>("a").unwrap();
    assert_eq!(finalizers(&new).unwrap().unwrap().finalizers(), [FINALIZER]);
    assert_eq!(code(finalizers(&registry("b", "10m", json!({}))).unwrap().map(drop)), 404);
    assert_eq!(code(backend.set_status::<Registry>("b", RegistryStatus::default())), 404);

    let delete = |name: &str, uid: Option<String>, resource_version: Option<String>| {
        code(backend.delete_object::<Registry>(name, &Preconditions { uid, resource_version }, at(2)))
    };
    let now = backend.get::<Registry>("a").unwrap();
    assert_eq!(delete("a", Some("another".to_owned()), None), 409);
    assert_eq!(delete("a", now.uid(), new.resource_version()), 409);
    assert_eq!(delete("a", now.uid(), now.resource_version()), 200);
    assert_eq!(delete("b", None, None), 404);
    assert!(backend.get::<Registry>("a").unwrap().metadata.deletion_timestamp.is_some());
}

#[tokio::test]
async fn a_watch_that_falls_behind_lists_again_and_changed_secrets_are_named() {
    let backend = MemoryBackend::new(Vec::new());
    let mut watch = backend.watch::<Registry>();
    assert_eq!(seen(&mut watch), ["init", "complete"]);
    for second in 0..3000 {
        backend.apply(&manifests(&[registry("a", if second % 2 == 0 { "10m" } else { "20m" }, json!({}))]), at(second));
    }
    assert_eq!(seen(&mut watch), ["init", "listed a", "complete"]);

    let mut changes = backend.secret_changes();
    let secret = |password: &str| {
        let values = [("username".to_owned(), "admin".to_owned()), ("password".to_owned(), password.to_owned())];
        harbor_pilot::standalone::secret_value(values.into())
    };
    let with = |secrets: &[(&str, &str)]| {
        let secrets = secrets.iter().map(|(name, password)| ((*name).to_owned(), secret(password)));
        backend.apply(&ManifestSet { secrets: secrets.collect(), ..ManifestSet::default() }, at(1));
    };
    let mut changed = async |secrets: &[(&str, &str)]| {
        with(secrets);
        let mut names = Vec::new();
        while let Ok(Ok(name)) = tokio::time::timeout(Duration::from_millis(20), changes.recv()).await {
            names.push(name);
        }
        names
    };
    assert_eq!(changed(&[("a", "1"), ("b", "1")]).await, ["a", "b"]);
    assert!(changed(&[("a", "1"), ("b", "1")]).await.is_empty());
    assert_eq!(changed(&[("a", "2")]).await, ["a", "b"]);
    assert!(backend.secret("a").await.unwrap().is_some() && backend.secret("b").await.unwrap().is_none());
}
