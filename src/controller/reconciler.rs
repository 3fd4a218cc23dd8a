//! The kinds that are reconciled and their reconcilers, the same for a cluster and for files.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Connections, FinalizeResult, Installation, ReconcileError, ReconcileResult, ResourceStore, connections::Connection,
    instance, proxy_project, registry, replication_rule,
};
use crate::api::{
    CachedImage, CachedImageStatus, DeletionPolicy, HarborInstance, HarborInstanceStatus, HarborRef, ManagementPolicy,
    ProxyProject, ProxyProjectStatus, Registry, RegistryStatus, ReplicationRule, ReplicationRuleStatus,
};

/// A kind that this project reconciles.
pub trait ReconciledKind:
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
pub trait Reconciler<K: ReconciledKind>: Send + Sync + 'static {
    /// Reconciles the resource once.
    fn reconcile(&self, object: &K, now: Timestamp) -> impl Future<Output = ReconcileResult<K::Status>> + Send;

    /// Tries once to delete the object that the resource created in Harbor.
    fn finalize(&self, _object: &K, _now: Timestamp) -> impl Future<Output = FinalizeResult<K::Status>> + Send {
        std::future::ready(FinalizeResult::Done(Vec::new()))
    }
}

/// Shared parts of the reconcilers of objects in Harbor.
pub struct Reconcilers {
    /// The resources that others refer to.
    pub directory: Arc<dyn ResourceStore>,
    /// Clients of the instances.
    pub instances: Arc<Connections>,
    /// The identity of this installation.
    pub installation: Installation,
}

impl Reconcilers {
    /// The connection to the instance that a resource refers to.
    pub(super) async fn connect(&self, harbor: &HarborRef) -> Result<Connection, ReconcileError> {
        self.instances.connect(self.directory.as_ref(), &harbor.name).await
    }
}

/// Whether the object in Harbor is deleted with its resource.
fn deletes_in_harbor(deletion: DeletionPolicy, management: ManagementPolicy) -> bool {
    deletion != DeletionPolicy::Retain && management == ManagementPolicy::Full
}

macro_rules! managed {
    ($kind:ty, $status:ty $(, finalizer: $wants:expr)?) => {
        impl ReconciledKind for $kind {
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
    deletes_in_harbor(registry.spec.deletion_policy, registry.spec.management_policy)
});
managed!(ProxyProject, ProxyProjectStatus, finalizer: |project| {
    deletes_in_harbor(project.spec.deletion_policy, project.spec.management_policy)
});
managed!(ReplicationRule, ReplicationRuleStatus, finalizer: |rule| {
    deletes_in_harbor(rule.spec.deletion_policy, rule.spec.management_policy)
});

impl Reconciler<HarborInstance> for Reconcilers {
    async fn reconcile(&self, object: &HarborInstance, now: Timestamp) -> ReconcileResult<HarborInstanceStatus> {
        instance::reconcile(self.directory.as_ref(), &self.instances, object, now).await
    }
}

impl Reconciler<Registry> for Reconcilers {
    async fn reconcile(&self, object: &Registry, now: Timestamp) -> ReconcileResult<RegistryStatus> {
        registry::reconcile(self, object, now).await
    }

    async fn finalize(&self, object: &Registry, now: Timestamp) -> FinalizeResult<RegistryStatus> {
        registry::finalize(self, object, now).await
    }
}

impl Reconciler<ProxyProject> for Reconcilers {
    async fn reconcile(&self, object: &ProxyProject, now: Timestamp) -> ReconcileResult<ProxyProjectStatus> {
        proxy_project::reconcile(self, object, now).await
    }

    async fn finalize(&self, object: &ProxyProject, now: Timestamp) -> FinalizeResult<ProxyProjectStatus> {
        proxy_project::finalize(self, object, now).await
    }
}

impl Reconciler<ReplicationRule> for Reconcilers {
    async fn reconcile(&self, object: &ReplicationRule, now: Timestamp) -> ReconcileResult<ReplicationRuleStatus> {
        replication_rule::reconcile(self, object, now).await
    }

    async fn finalize(&self, object: &ReplicationRule, now: Timestamp) -> FinalizeResult<ReplicationRuleStatus> {
        replication_rule::finalize(self, object, now).await
    }
}

impl<K: ReconciledKind, R: Reconciler<K>> Reconciler<K> for Arc<R> {
    async fn reconcile(&self, object: &K, now: Timestamp) -> ReconcileResult<K::Status> {
        self.as_ref().reconcile(object, now).await
    }

    async fn finalize(&self, object: &K, now: Timestamp) -> FinalizeResult<K::Status> {
        self.as_ref().finalize(object, now).await
    }
}
