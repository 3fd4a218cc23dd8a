//! The kinds that are reconciled and their reconcilers, the same for a cluster and for files.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Directory, Finalized, Installation, Instances, Outcome, instance,
    instances::{Connection, Unusable},
    proxy_project, registry, replication_rule,
};
use crate::api::{
    CachedImage, CachedImageStatus, DeletionPolicy, HarborInstance, HarborInstanceStatus, HarborRef, ManagementPolicy,
    ProxyProject, ProxyProjectStatus, Registry, RegistryStatus, ReplicationRule, ReplicationRuleStatus,
};

/// A kind that this project reconciles.
pub trait Managed:
    Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Type of its status.
    type Status: Serialize + PartialEq + Clone + Send + Sync + 'static;

    /// Kind in the Kubernetes API, such as `Registry`.
    const KIND: &'static str;

    /// The status of the resource.
    fn status(&self) -> Option<&Self::Status>;

    /// The conditions of a status.
    fn conditions(status: &Self::Status) -> &[Condition];

    /// Copies the resource with another status.
    fn with_status(&self, status: Self::Status) -> Self;

    /// Whether its deletion has to change Harbor.
    fn wants_finalizer(&self) -> bool {
        false
    }
}

/// Reconciles one kind, independent of where it is stored.
pub trait Reconciler<K: Managed>: Send + Sync + 'static {
    /// Reconciles the resource once.
    fn reconcile(&self, object: &K, now: Timestamp) -> impl Future<Output = Outcome<K::Status>> + Send;

    /// Tries once to delete the object that the resource created in Harbor.
    fn finalize(&self, _object: &K, _now: Timestamp) -> impl Future<Output = Finalized<K::Status>> + Send {
        std::future::ready(Finalized::Done(Vec::new()))
    }
}

/// Shared parts of the reconcilers of objects in Harbor.
pub struct Kinds {
    /// The resources that others refer to.
    pub directory: Arc<dyn Directory>,
    /// Clients of the instances.
    pub instances: Arc<Instances>,
    /// The identity of this installation.
    pub installation: Installation,
}

impl Kinds {
    /// The connection to the instance that a resource refers to.
    pub(super) async fn connect(&self, harbor: &HarborRef) -> Result<Connection, Unusable> {
        self.instances.connect(self.directory.as_ref(), &harbor.name).await
    }
}

/// Whether the object in Harbor is deleted with its resource.
fn goes_too(deletion: DeletionPolicy, management: ManagementPolicy) -> bool {
    deletion != DeletionPolicy::Retain && management == ManagementPolicy::Full
}

macro_rules! managed {
    ($kind:ty, $status:ty $(, finalizer: $wants:expr)?) => {
        impl Managed for $kind {
            type Status = $status;

            const KIND: &'static str = stringify!($kind);

            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }

            fn conditions(status: &$status) -> &[Condition] {
                &status.conditions
            }

            fn with_status(&self, status: $status) -> Self {
                Self { status: Some(status), ..self.clone() }
            }

            $(fn wants_finalizer(&self) -> bool {
                let wants: fn(&$kind) -> bool = $wants;
                wants(self)
            })?
        }
    };
}

managed!(HarborInstance, HarborInstanceStatus);
managed!(CachedImage, CachedImageStatus);
managed!(Registry, RegistryStatus, finalizer: |registry| {
    goes_too(registry.spec.deletion_policy, registry.spec.management_policy)
});
managed!(ProxyProject, ProxyProjectStatus, finalizer: |project| {
    goes_too(project.spec.deletion_policy, project.spec.management_policy)
});
managed!(ReplicationRule, ReplicationRuleStatus, finalizer: |rule| {
    goes_too(rule.spec.deletion_policy, rule.spec.management_policy)
});

impl Reconciler<HarborInstance> for Kinds {
    async fn reconcile(&self, object: &HarborInstance, now: Timestamp) -> Outcome<HarborInstanceStatus> {
        instance::reconcile(self.directory.as_ref(), &self.instances, object, now).await
    }
}

impl Reconciler<Registry> for Kinds {
    async fn reconcile(&self, object: &Registry, now: Timestamp) -> Outcome<RegistryStatus> {
        registry::reconcile(self, object, now).await
    }

    async fn finalize(&self, object: &Registry, now: Timestamp) -> Finalized<RegistryStatus> {
        registry::finalize(self, object, now).await
    }
}

impl Reconciler<ProxyProject> for Kinds {
    async fn reconcile(&self, object: &ProxyProject, now: Timestamp) -> Outcome<ProxyProjectStatus> {
        proxy_project::reconcile(self, object, now).await
    }

    async fn finalize(&self, object: &ProxyProject, now: Timestamp) -> Finalized<ProxyProjectStatus> {
        proxy_project::finalize(self, object, now).await
    }
}

impl Reconciler<ReplicationRule> for Kinds {
    async fn reconcile(&self, object: &ReplicationRule, now: Timestamp) -> Outcome<ReplicationRuleStatus> {
        replication_rule::reconcile(self, object, now).await
    }

    async fn finalize(&self, object: &ReplicationRule, now: Timestamp) -> Finalized<ReplicationRuleStatus> {
        replication_rule::finalize(self, object, now).await
    }
}

impl<K: Managed, R: Reconciler<K>> Reconciler<K> for Arc<R> {
    async fn reconcile(&self, object: &K, now: Timestamp) -> Outcome<K::Status> {
        self.as_ref().reconcile(object, now).await
    }

    async fn finalize(&self, object: &K, now: Timestamp) -> Finalized<K::Status> {
        self.as_ref().finalize(object, now).await
    }
}
