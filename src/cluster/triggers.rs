//! What makes a resource be looked at besides its own changes: those of what it refers to, and of what refers to it.

use std::sync::Arc;

use futures::{Stream, stream};
use kube::{
    Api, Client,
    runtime::{
        Controller,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::Notify;

use super::directory::ClusterDirectory;
use crate::{
    api::{ConditionType, HarborInstance, ProxyProject, Registry, ReplicationRule, condition},
    controller::Managed,
};

/// Registries follow their instance; one that waits to be deleted, also the projects and rules that stand in its way.
pub(super) fn registries(
    controller: Controller<Registry>,
    client: &Client,
    directory: &ClusterDirectory,
) -> Controller<Registry> {
    let members =
        of_instance(directory.registries.clone(), |registry: &Registry| registry.spec.harbor_ref.name.clone());
    let may_be_free = |known: Store<Registry>, name: &str| {
        let reference = ObjectRef::<Registry>::new(name);
        let waits = known.get(&reference).is_some_and(|registry| registry.metadata.deletion_timestamp.is_some());
        waits.then_some(reference)
    };
    let (of_projects, of_rules) = (directory.registries.clone(), directory.registries.clone());
    let config = watcher::Config::default;
    controller
        .watches(Api::all(client.clone()), config(), members)
        .watches(Api::all(client.clone()), config(), move |project: ProxyProject| {
            may_be_free(of_projects.clone(), &project.spec.registry_ref.name)
        })
        .watches(Api::all(client.clone()), config(), move |rule: ReplicationRule| {
            may_be_free(of_rules.clone(), rule.registry_name())
        })
}

/// Rules follow their instance and their registry.
pub(super) fn rules(
    controller: Controller<ReplicationRule>,
    client: &Client,
    directory: &ClusterDirectory,
) -> Controller<ReplicationRule> {
    let members = of_instance(directory.rules.clone(), |rule: &ReplicationRule| rule.spec.harbor_ref.name.clone());
    let users = of_registry(directory.rules.clone(), |rule: &ReplicationRule| rule.registry_name().to_owned());
    let config = watcher::Config::default;
    let controller = controller.watches(Api::all(client.clone()), config(), members);
    controller.watches(Api::all(client.clone()), config(), users)
}

/// Projects follow their instance, their registry, and one another where they have the same match.
pub(super) fn projects(
    controller: Controller<ProxyProject>,
    client: &Client,
    directory: &ClusterDirectory,
) -> Controller<ProxyProject> {
    let members =
        of_instance(directory.projects.clone(), |project: &ProxyProject| project.spec.harbor_ref.name.clone());
    let users =
        of_registry(directory.projects.clone(), |project: &ProxyProject| project.spec.registry_ref.name.clone());
    let neighbours = directory.projects.clone();
    let of_neighbour = move |changed: ProxyProject| {
        let others = neighbours.state().into_iter().filter(|other| is_concerned(other, &changed));
        others.map(|other| ObjectRef::from_obj(other.as_ref())).collect::<Vec<_>>()
    };
    let config = watcher::Config::default;
    controller
        .watches(Api::all(client.clone()), config(), members)
        .watches(Api::all(client.clone()), config(), users)
        .watches(Api::all(client.clone()), config(), of_neighbour)
}

/// Whether a project may have a conflict now, or be rid of one, because another one changed.
fn is_concerned(project: &ProxyProject, changed: &ProxyProject) -> bool {
    let matches = |project: &ProxyProject| {
        let rule = project.status.as_ref().and_then(|status| status.rewrite.clone());
        rule.map(|rule| rule.matches).unwrap_or_default()
    };
    let conditions = project.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let own = matches(project);
    project.metadata.name != changed.metadata.name
        && (condition::is_true(conditions, ConditionType::RewriteConflict)
            || matches(changed).iter().any(|matched| own.contains(matched)))
}

/// One item for each time that `wake` is notified.
pub(super) fn whenever(wake: Arc<Notify>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(wake, |wake| async move {
        wake.notified().await;
        Some(((), wake))
    })
}

/// All resources of an instance, when it changes.
fn of_instance<K: Managed>(
    store: Store<K>,
    instance_of: impl Fn(&K) -> String + Copy + Send + Sync + 'static,
) -> impl Fn(HarborInstance) -> Vec<ObjectRef<K>> + Send + Sync + 'static {
    move |instance| naming(&store, instance.metadata.name.as_ref(), instance_of)
}

/// All resources that refer to a Registry, when it changes.
fn of_registry<K: Managed>(
    store: Store<K>,
    registry_of: impl Fn(&K) -> String + Copy + Send + Sync + 'static,
) -> impl Fn(Registry) -> Vec<ObjectRef<K>> + Send + Sync + 'static {
    move |registry| naming(&store, registry.metadata.name.as_ref(), registry_of)
}

/// All resources of which `named` is this name.
fn naming<K: Managed>(store: &Store<K>, name: Option<&String>, named: impl Fn(&K) -> String) -> Vec<ObjectRef<K>> {
    let users = store.state().into_iter().filter(|object| Some(&named(object)) == name);
    users.map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}
