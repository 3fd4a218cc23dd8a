//! Triggers of a reconcile besides changes of the resource itself: changes of objects it refers to, and of objects that
//! refer to it.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::{
    ResourceExt,
    runtime::{
        Controller,
        reflector::{ObjectRef, Store},
    },
};
use tokio::sync::{
    Notify,
    broadcast::{self, error::RecvError},
};

use super::shared_watch::SharedWatch;
use crate::{
    api::{ConditionType, HarborInstance, HarborRef, ProxyProject, Registry, ReplicationRule, condition},
    controller::{ReconciledKind, Stores},
};

/// The changes of all kinds that others follow, and the existing resources.
pub(super) struct WatchMappings<'a> {
    pub(super) stores: &'a Stores,
    /// The names of Secrets that change.
    pub(super) secrets: broadcast::Receiver<String>,
    pub(super) instances: &'a SharedWatch<HarborInstance>,
    pub(super) registries: &'a SharedWatch<Registry>,
    pub(super) projects: &'a SharedWatch<ProxyProject>,
    pub(super) rules: &'a SharedWatch<ReplicationRule>,
}

impl WatchMappings<'_> {
    /// Reconciles instances when their Secret changes, and when one of their resources finds Harbor unreachable: the other
    /// resources then wait for the instance.
    pub(super) fn of_instances(&self, controller: Controller<HarborInstance>) -> Controller<HarborInstance> {
        let store = &self.stores.instances;
        let own = |instance: &HarborInstance, secret: &str| instance.spec.credentials_secret_ref.name == secret;
        controller
            .reconcile_on(self.of_secret(store, own))
            .reconcile_on(self.registries.concern(store, |registry| unreachable(registry, &registry.spec.harbor_ref)))
            .reconcile_on(self.projects.concern(store, |project| unreachable(project, &project.spec.harbor_ref)))
            .reconcile_on(self.rules.concern(store, |rule| unreachable(rule, &rule.spec.harbor_ref)))
    }

    /// Reconciles Registries when their Secret, their instance or its Secret changes; when its deletion is blocked, also
    /// when the projects and rules that block it change.
    pub(super) fn of_registries(&self, controller: Controller<Registry>) -> Controller<Registry> {
        let store = &self.stores.registries;
        let account = account(self.stores);
        let secret = move |registry: &Registry, secret: &str| {
            let own = registry.spec.credentials_secret_ref.as_ref();
            own.is_some_and(|own| own.name == secret) || account(&registry.spec.harbor_ref, secret)
        };
        let may_be_free = |known: &Store<Registry>, name: &str| {
            let waits = known.get(&ObjectRef::new(name)).filter(|one| one.metadata.deletion_timestamp.is_some());
            waits.iter().map(|registry| ObjectRef::from_obj(registry.as_ref())).collect()
        };
        let (of_projects, of_rules) = (store.clone(), store.clone());
        controller
            .reconcile_on(self.of_secret(store, secret))
            .reconcile_on(self.members(store, |registry| &registry.spec.harbor_ref))
            .reconcile_on(
                self.projects.concern(store, move |project| may_be_free(&of_projects, &project.spec.registry_ref.name)),
            )
            .reconcile_on(self.rules.concern(store, move |rule| may_be_free(&of_rules, rule.registry_name())))
    }

    /// Reconciles rules when their instance, its Secret or their registry changes.
    pub(super) fn of_rules(&self, controller: Controller<ReplicationRule>) -> Controller<ReplicationRule> {
        let store = &self.stores.rules;
        let account = account(self.stores);
        let secret = move |rule: &ReplicationRule, secret: &str| account(&rule.spec.harbor_ref, secret);
        controller
            .reconcile_on(self.of_secret(store, secret))
            .reconcile_on(self.members(store, |rule| &rule.spec.harbor_ref))
            .reconcile_on(self.users(store, ReplicationRule::registry_name))
    }

    /// Reconciles projects when their instance, its Secret, their registry or another project with the same match changes.
    pub(super) fn of_projects(&self, controller: Controller<ProxyProject>) -> Controller<ProxyProject> {
        let store = &self.stores.projects;
        let account = account(self.stores);
        let secret = move |project: &ProxyProject, secret: &str| account(&project.spec.harbor_ref, secret);
        let neighbours = store.clone();
        let of_neighbour = move |changed: &ProxyProject| {
            let others = neighbours.state().into_iter().filter(|other| is_concerned(other, changed));
            others.map(|other| ObjectRef::from_obj(other.as_ref())).collect()
        };
        controller
            .reconcile_on(self.of_secret(store, secret))
            .reconcile_on(self.members(store, |project| &project.spec.harbor_ref))
            .reconcile_on(self.users(store, |project| &project.spec.registry_ref.name))
            .reconcile_on(self.projects.concern(store, of_neighbour))
    }

    /// All resources for which `names` returns that they refer to a Secret, when that Secret changes.
    fn of_secret<K: ReconciledKind>(
        &self,
        store: &Store<K>,
        names: impl Fn(&K, &str) -> bool + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<K>> + Send + 'static {
        let changes = stream::unfold(self.secrets.resubscribe(), |mut changes| async move {
            match changes.recv().await {
                Ok(name) => Some((Some(name), changes)),
                Err(RecvError::Lagged(_)) => Some((None, changes)),
                Err(RecvError::Closed) => None,
            }
        });
        let store = store.clone();
        changes.flat_map(move |secret| {
            let concerned = |object: &K| secret.as_ref().is_none_or(|secret| names(object, secret));
            let objects = store.state().into_iter().filter(|object| concerned(object));
            stream::iter(objects.map(|object| ObjectRef::from_obj(object.as_ref())).collect::<Vec<_>>())
        })
    }

    /// All resources of an instance, when the instance changes.
    fn members<K: ReconciledKind>(
        &self,
        store: &Store<K>,
        harbor_of: impl Fn(&K) -> &HarborRef + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<K>> + Send + 'static {
        let known = store.clone();
        self.instances.concern(store, move |instance| naming(&known, instance, |object| &harbor_of(object).name))
    }

    /// All resources that refer to a Registry, when the Registry changes.
    fn users<K: ReconciledKind>(
        &self,
        store: &Store<K>,
        registry_of: impl Fn(&K) -> &str + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<K>> + Send + 'static {
        let known = store.clone();
        self.registries.concern(store, move |registry| naming(&known, registry, &registry_of))
    }
}

/// Yields one item each time `wake` is notified.
pub(super) fn whenever(wake: Arc<Notify>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(wake, |wake| async move {
        wake.notified().await;
        Some(((), wake))
    })
}

/// Whether the change of another project may have caused or resolved a conflict of this one.
fn is_concerned(project: &ProxyProject, changed: &ProxyProject) -> bool {
    let conditions = project.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let own = matches(project);
    project.metadata.name != changed.metadata.name
        && (condition::is_true(conditions, ConditionType::RewriteConflict)
            || matches(changed).iter().any(|matched| own.contains(matched)))
}

fn matches(project: &ProxyProject) -> &[String] {
    let rule = project.status.as_ref().and_then(|status| status.rewrite.as_ref());
    rule.map_or(&[], |rule| &rule.matches)
}

/// The instance of a resource whose Harbor did not answer.
fn unreachable<K: ReconciledKind>(object: &K, harbor: &HarborRef) -> Vec<ObjectRef<HarborInstance>> {
    let conditions = object.status().map(K::conditions).unwrap_or_default();
    match condition::reason(conditions, ConditionType::Ready) {
        Some(reason) if reason.means_unreachable() => vec![ObjectRef::new(&harbor.name)],
        _ => Vec::new(),
    }
}

/// Whether a Secret holds the account of an instance. An instance that stays Ready does not change when its password does,
/// so resources that Harbor refused with the old password are reconciled because of the Secret.
fn account(stores: &Stores) -> impl Fn(&HarborRef, &str) -> bool + Send + Sync + 'static {
    let instances = stores.instances.clone();
    move |harbor, secret| {
        let instance = instances.get(&ObjectRef::new(&harbor.name));
        instance.is_some_and(|instance| instance.spec.credentials_secret_ref.name == secret)
    }
}

/// All resources for which `named` returns the name of this object.
fn naming<K: ReconciledKind, L: ReconciledKind>(
    store: &Store<K>,
    object: &L,
    named: impl Fn(&K) -> &str,
) -> Vec<ObjectRef<K>> {
    let name = object.name_any();
    let users = store.state().into_iter().filter(|user| named(user) == name);
    users.map(|user| ObjectRef::from_obj(user.as_ref())).collect()
}
