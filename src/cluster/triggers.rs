//! What makes a resource be looked at besides its own changes: those of what it refers to, and of what refers to it.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Client,
    runtime::{
        Controller,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::{Notify, broadcast::error::RecvError};

use super::directory::ClusterDirectory;
use crate::{
    api::{ConditionType, HarborInstance, HarborRef, ProxyProject, Registry, ReplicationRule, condition},
    controller::Managed,
};

/// Instances follow their Secret.
pub(super) fn instances(
    controller: Controller<HarborInstance>,
    directory: &ClusterDirectory,
) -> Controller<HarborInstance> {
    let own = |instance: &HarborInstance, secret: &str| instance.spec.credentials_secret_ref.name == secret;
    controller.reconcile_on(of_secret(directory, directory.instances.clone(), own))
}

/// Registries follow their Secret and that of their instance, and their instance; one that waits to be deleted, also the projects and rules that stand in its way.
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
    let account = account(directory);
    let secret = move |registry: &Registry, secret: &str| {
        let own = registry.spec.credentials_secret_ref.as_ref();
        own.is_some_and(|own| own.name == secret) || account(&registry.spec.harbor_ref, secret)
    };
    let config = watcher::Config::default;
    controller
        .reconcile_on(of_secret(directory, directory.registries.clone(), secret))
        .watches(Api::all(client.clone()), config(), members)
        .watches(Api::all(client.clone()), config(), move |project: ProxyProject| {
            may_be_free(of_projects.clone(), &project.spec.registry_ref.name)
        })
        .watches(Api::all(client.clone()), config(), move |rule: ReplicationRule| {
            may_be_free(of_rules.clone(), rule.registry_name())
        })
}

/// Rules follow their instance and its Secret, and their registry.
pub(super) fn rules(
    controller: Controller<ReplicationRule>,
    client: &Client,
    directory: &ClusterDirectory,
) -> Controller<ReplicationRule> {
    let members = of_instance(directory.rules.clone(), |rule: &ReplicationRule| rule.spec.harbor_ref.name.clone());
    let users = of_registry(directory.rules.clone(), |rule: &ReplicationRule| rule.registry_name().to_owned());
    let account = account(directory);
    let secret = move |rule: &ReplicationRule, secret: &str| account(&rule.spec.harbor_ref, secret);
    let config = watcher::Config::default;
    let controller = controller.reconcile_on(of_secret(directory, directory.rules.clone(), secret)).watches(
        Api::all(client.clone()),
        config(),
        members,
    );
    controller.watches(Api::all(client.clone()), config(), users)
}

/// Projects follow their instance and its Secret, their registry, and one another where they have the same match.
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
    let account = account(directory);
    let secret = move |project: &ProxyProject, secret: &str| account(&project.spec.harbor_ref, secret);
    let config = watcher::Config::default;
    controller
        .reconcile_on(of_secret(directory, directory.projects.clone(), secret))
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

/// All resources of which `names` says that they name a Secret, when it changes.
fn of_secret<K: Managed>(
    directory: &ClusterDirectory,
    store: Store<K>,
    names: impl Fn(&K, &str) -> bool + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static {
    let changes = stream::unfold(directory.secrets.changes(), |mut changes| async move {
        match changes.recv().await {
            Ok(name) => Some((Some(name), changes)),
            // So many changed that their names were lost.
            Err(RecvError::Lagged(_)) => Some((None, changes)),
            Err(RecvError::Closed) => None,
        }
    });
    changes.flat_map(move |changed| {
        let concerned = |object: &K| changed.as_deref().is_none_or(|secret| names(object, secret));
        let objects = store.state().into_iter().filter(|object| concerned(object));
        stream::iter(objects.map(|object| ObjectRef::from_obj(object.as_ref())).collect::<Vec<_>>())
    })
}

/// Whether the account of an instance lies in a Secret. An instance that stays Ready does not change with its password; what
/// Harbor refused the old one is looked at even so.
fn account(directory: &ClusterDirectory) -> impl Fn(&HarborRef, &str) -> bool + Send + Sync + 'static {
    let instances = directory.instances.clone();
    move |harbor, secret| {
        let instance = instances.get(&ObjectRef::new(&harbor.name));
        instance.is_some_and(|instance| instance.spec.credentials_secret_ref.name == secret)
    }
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
