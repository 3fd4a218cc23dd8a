//! Reports what the controller would do: one comparison of each resource, in order of dependency, without writing.
//!
//! A resource that refers to one that does not exist in Harbor yet is compared as if it existed.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;

use super::{
    ReconcileError, ReconciledKind, Reconcilers, instance, proxy_project,
    registry::{self, ComparePurpose},
    registry_resolver::{PlannedRegistries, PlannedRegistry},
    replication_rule,
    resync::ReadMode,
};
use crate::{
    api::{
        ConditionType, HarborInstance, ManagementPolicy, ProxyProject, Reason, Registry, ReplicationRule, condition,
    },
    harbor::Freshness,
    plan::{Action, Difference, TO_BE_CREATED},
    transport::Redactor,
};

/// Maximum number of resources compared concurrently; an instance has its own limit on requests.
pub const AT_ONCE: usize = 8;

/// The resources to compare.
#[derive(Debug, Clone, Default)]
pub struct PreviewInput {
    /// HarborInstances.
    pub instances: Vec<Arc<HarborInstance>>,
    /// Registries.
    pub registries: Vec<Arc<Registry>>,
    /// ProxyProjects.
    pub projects: Vec<Arc<ProxyProject>>,
    /// ReplicationRules.
    pub rules: Vec<Arc<ReplicationRule>>,
}

/// Result of the comparison of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Kind of the resource.
    pub kind: String,
    /// Name of the resource.
    pub name: String,
    /// The HarborInstance of the resource, or the resource itself.
    pub instance: String,
    /// What the controller would do.
    pub verdict: PreviewResult,
    /// What could not be compared, and why.
    pub remarks: Vec<String>,
}

/// What the controller would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewResult {
    /// Nothing, for this reason: there is nothing to compare.
    Idle(String),
    /// Apply the difference, unless the resource is only observed.
    Compared {
        /// The difference between Harbor and the spec.
        difference: Difference,
        /// Whether `managementPolicy` permits writes.
        writes: bool,
    },
    /// Nothing, until a user acts.
    Refused {
        /// Reason of the condition: the name of a [`Reason`].
        reason: String,
        /// What the user can do.
        message: String,
    },
}

impl Preview {
    /// Redacts the secrets of this Harbor.
    fn conceal(&mut self, secrets: &Redactor) {
        self.remarks.iter_mut().for_each(|remark| *remark = secrets.line(remark));
        match &mut self.verdict {
            PreviewResult::Idle(message) | PreviewResult::Refused { message, .. } => *message = secrets.line(message),
            PreviewResult::Compared { difference, .. } => difference.drift.iter_mut().for_each(|drift| {
                drift.have = secrets.line(beginning(&drift.have));
                drift.want = secrets.line(beginning(&drift.want));
            }),
        }
    }
}

impl PreviewResult {
    /// Whether Harbor differs from the spec.
    pub fn differs(&self) -> bool {
        matches!(self, Self::Compared { difference, .. } if difference.action != Action::Nothing)
    }

    /// Whether a user has to act first.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl From<ReconcileError> for PreviewResult {
    fn from(failure: ReconcileError) -> Self {
        Self::Refused { reason: failure.reason.to_string(), message: failure.message }
    }
}

impl Reconcilers {
    /// Compares all: instances, Registries, ProxyProjects, ReplicationRules. Sends no requests for the resources of an
    /// instance that does not answer.
    pub async fn preview(&self, subjects: &PreviewInput, now: Timestamp) -> Vec<Preview> {
        let mut round = PreviewRun { kinds: self, now, ahead: PlannedRegistries::new(), away: BTreeSet::new() };
        let instances = each(&subjects.instances, |object| round.instance(object)).await;
        round.away = instances.iter().filter(|seen| seen.verdict.is_refused()).map(|seen| seen.name.clone()).collect();
        let registries = each(&subjects.registries, |object| round.registry(object)).await;
        let mut seen = instances;
        for (preview, id) in registries {
            round.expect(&preview, id);
            seen.push(preview);
        }
        seen.extend(each(&subjects.projects, |object| round.project(object)).await);
        seen.extend(each(&subjects.rules, |object| round.rule(object)).await);
        seen.iter_mut().for_each(|preview| preview.conceal(&self.instances.secrets(&preview.instance)));
        seen
    }
}

/// The state of one run.
struct PreviewRun<'a> {
    kinds: &'a Reconcilers,
    now: Timestamp,
    ahead: PlannedRegistries,
    /// Instances that cannot be used.
    away: BTreeSet<String>,
}

impl PreviewRun<'_> {
    async fn instance(&self, object: &HarborInstance) -> Preview {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if object.spec.suspend {
            return preview(object, name, PreviewResult::Idle("spec.suspend is set".to_owned()));
        }
        let outcome = instance::reconcile(self.kinds.directory.as_ref(), &self.kinds.instances, object, self.now).await;
        let ready = condition::find(&outcome.status.conditions, ConditionType::Ready);
        let message = ready.map(|ready| ready.message.clone()).unwrap_or_default();
        let verdict = match ready.filter(|ready| ready.status == "False") {
            None => PreviewResult::Idle(message),
            Some(ready) => PreviewResult::Refused { reason: ready.reason.clone(), message },
        };
        preview(object, name, verdict)
    }

    async fn registry(&self, object: &Registry) -> (Preview, Option<i64>) {
        let instance = &object.spec.harbor_ref.name;
        if let Some(verdict) = self.idle(instance, object.spec.suspend) {
            return (preview(object, instance, verdict), None);
        }
        let remembered = object.status.as_ref().map(registry::LastApplied::of).unwrap_or_default();
        match registry::compare(self.kinds, object, remembered, ComparePurpose::Preview, self.sight().freshness).await {
            Err(failure) => (preview(object, instance, failure.into()), None),
            Ok(look) => {
                let plan = look.plan.map(|plan| plan.difference(registry::object(object)));
                let verdict = compared(plan.map_err(ReconcileError::from), object.spec.management_policy);
                (Preview { remarks: look.remarks, ..preview(object, instance, verdict) }, look.id)
            }
        }
    }

    async fn project(&self, object: &ProxyProject) -> Preview {
        let instance = &object.spec.harbor_ref.name;
        if let Some(verdict) = self.idle(instance, object.spec.suspend) {
            return preview(object, instance, verdict);
        }
        let difference = self.project_difference(object).await;
        preview(object, instance, compared(difference, object.spec.management_policy))
    }

    async fn project_difference(&self, object: &ProxyProject) -> Result<Difference, ReconcileError> {
        let connection = self.kinds.connect(&object.spec.harbor_ref).await?;
        let look = proxy_project::compare(self.kinds, &connection, object, &self.ahead, None, self.sight()).await?;
        Ok(look.plan?.difference(proxy_project::object(object)))
    }

    async fn rule(&self, object: &ReplicationRule) -> Preview {
        let instance = &object.spec.harbor_ref.name;
        if let Some(verdict) = self.idle(instance, object.spec.suspend) {
            return preview(object, instance, verdict);
        }
        let difference = self.rule_difference(object).await;
        preview(object, instance, compared(difference, object.spec.management_policy))
    }

    async fn rule_difference(&self, object: &ReplicationRule) -> Result<Difference, ReconcileError> {
        let connection = self.kinds.connect(&object.spec.harbor_ref).await?;
        let remembered = object.status.as_ref().and_then(|status| status.id);
        let view = &connection.view;
        let look = replication_rule::compare(self.kinds, view, object, &self.ahead, remembered, self.sight()).await?;
        Ok(look.plan?.difference(replication_rule::object(object)))
    }

    /// Reads each list once, and uses only lists.
    fn sight(&self) -> ReadMode {
        ReadMode { now: self.now, freshness: Freshness::Listed(self.now) }
    }

    fn idle(&self, instance: &str, suspended: bool) -> Option<PreviewResult> {
        if suspended {
            return Some(PreviewResult::Idle("spec.suspend is set".to_owned()));
        }
        self.away.contains(instance).then(|| PreviewResult::Refused {
            reason: Reason::InstanceNotReady.to_string(),
            message: format!("HarborInstance {instance} cannot be used; see its own line"),
        })
    }

    /// Records what later resources that refer to this Registry will find.
    fn expect(&mut self, preview: &Preview, id: Option<i64>) {
        let upcoming = match &preview.verdict {
            PreviewResult::Compared { writes: true, .. } => PlannedRegistry::Ours(id.unwrap_or(TO_BE_CREATED)),
            PreviewResult::Refused { reason, message } => PlannedRegistry::Refused(format!("{reason}: {message}")),
            PreviewResult::Compared { writes: false, .. } | PreviewResult::Idle(_) => return,
        };
        self.ahead.insert(preview.name.clone(), upcoming);
    }
}

/// Maximum length of one value in the output, in bytes.
const LONGEST: usize = 8 << 10;

fn beginning(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
}

fn preview<K: ReconciledKind>(object: &K, instance: &str, verdict: PreviewResult) -> Preview {
    let name = object.meta().name.clone().unwrap_or_default();
    Preview { kind: K::kind(&()).into_owned(), name, instance: instance.to_owned(), verdict, remarks: Vec::new() }
}

fn compared(difference: Result<Difference, ReconcileError>, policy: ManagementPolicy) -> PreviewResult {
    match difference {
        Ok(difference) => PreviewResult::Compared { difference, writes: policy == ManagementPolicy::Full },
        Err(failure) => failure.into(),
    }
}

async fn each<'a, K: 'a, T, F: Future<Output = T>>(objects: &'a [Arc<K>], look: impl Fn(&'a K) -> F) -> Vec<T> {
    stream::iter(objects).map(|object| look(object.as_ref())).buffered(AT_ONCE).collect().await
}
