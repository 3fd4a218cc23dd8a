//! What the controller would do, told before it does it: one look at each resource, in order of dependency, nothing written.
//!
//! A resource that refers to one that is yet to be created is compared as if that were there.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;

use super::{
    Kinds, Managed, instance, proxy_project,
    registry::{self, Purpose},
    replication_rule,
    report::Failure,
    sight::Sight,
    upstream::{Ahead, Upcoming},
};
use crate::{
    api::{
        ConditionType, HarborInstance, ManagementPolicy, ProxyProject, Reason, Registry, ReplicationRule, condition,
    },
    harbor::{Freshness, Secrets},
    plan::{Action, Difference, TO_BE_CREATED},
};

/// Resources under way at once; an instance has a bound of its own on requests.
pub const AT_ONCE: usize = 8;

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct Subjects {
    /// HarborInstances.
    pub instances: Vec<Arc<HarborInstance>>,
    /// Registries.
    pub registries: Vec<Arc<Registry>>,
    /// ProxyProjects.
    pub projects: Vec<Arc<ProxyProject>>,
    /// ReplicationRules.
    pub rules: Vec<Arc<ReplicationRule>>,
}

/// What a look at one resource came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Kind of the resource.
    pub kind: String,
    /// Name of the resource.
    pub name: String,
    /// The HarborInstance that it is of, or is.
    pub instance: String,
    /// What would be done.
    pub verdict: Verdict,
    /// What could not be compared, and why.
    pub remarks: Vec<String>,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, for this reason: there is nothing to compare.
    Idle(String),
    /// This, and it is written to Harbor unless the resource is to be observed only.
    Compared {
        /// Harbor against the spec.
        difference: Difference,
        /// Whether `managementPolicy` lets us write.
        writes: bool,
    },
    /// Nothing, until somebody acts.
    Refused {
        /// As in the condition: the name of a [`Reason`].
        reason: String,
        /// What can be done.
        message: String,
    },
}

impl Preview {
    /// Takes out what is a secret at this Harbor.
    fn conceal(&mut self, secrets: &Secrets) {
        self.remarks.iter_mut().for_each(|remark| *remark = secrets.line(remark));
        match &mut self.verdict {
            Verdict::Idle(message) | Verdict::Refused { message, .. } => *message = secrets.line(message),
            Verdict::Compared { difference, .. } => difference.drift.iter_mut().for_each(|drift| {
                drift.have = secrets.line(beginning(&drift.have));
                drift.want = secrets.line(beginning(&drift.want));
            }),
        }
    }
}

impl Verdict {
    /// Whether Harbor is not as specified.
    pub fn differs(&self) -> bool {
        matches!(self, Self::Compared { difference, .. } if difference.action != Action::Nothing)
    }

    /// Whether somebody has to act first.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        let (reason, message) = failure.into_words();
        Self::Refused { reason: reason.to_string(), message }
    }
}

impl Kinds {
    /// Looks at all: instances, Registries, ProxyProjects, ReplicationRules. Where an instance does not answer, what is of it
    /// is not asked for.
    pub async fn preview(&self, subjects: &Subjects, now: Timestamp) -> Vec<Preview> {
        let mut round = Round { kinds: self, now, ahead: Ahead::new(), away: BTreeSet::new() };
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

/// What is known while it goes on.
struct Round<'a> {
    kinds: &'a Kinds,
    now: Timestamp,
    ahead: Ahead,
    /// Instances that are of no use.
    away: BTreeSet<String>,
}

impl Round<'_> {
    async fn instance(&self, object: &HarborInstance) -> Preview {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if object.spec.suspend {
            return preview(object, name, Verdict::Idle("spec.suspend is set".to_owned()));
        }
        let outcome = instance::reconcile(self.kinds.directory.as_ref(), &self.kinds.instances, object, self.now).await;
        let ready = condition::find(&outcome.status.conditions, ConditionType::Ready);
        let message = ready.map(|ready| ready.message.clone()).unwrap_or_default();
        let verdict = match ready.filter(|ready| ready.status == "False") {
            None => Verdict::Idle(message),
            Some(ready) => Verdict::Refused { reason: ready.reason.clone(), message },
        };
        preview(object, name, verdict)
    }

    async fn registry(&self, object: &Registry) -> (Preview, Option<i64>) {
        let instance = &object.spec.harbor_ref.name;
        if let Some(verdict) = self.idle(instance, object.spec.suspend) {
            return (preview(object, instance, verdict), None);
        }
        let remembered = object.status.as_ref().map(registry::Remembered::of).unwrap_or_default();
        match registry::look(self.kinds, object, remembered, Purpose::Preview, self.sight().freshness).await {
            Err(failure) => (preview(object, instance, failure.into()), None),
            Ok(look) => {
                let plan = look.plan.map(|plan| plan.difference(registry::object(object)));
                let verdict = compared(plan.map_err(Failure::from), object.spec.management_policy);
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

    async fn project_difference(&self, object: &ProxyProject) -> Result<Difference, Failure> {
        let connection = self.kinds.connect(&object.spec.harbor_ref).await?;
        let look = proxy_project::look(self.kinds, &connection, object, &self.ahead, None, self.sight()).await?;
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

    async fn rule_difference(&self, object: &ReplicationRule) -> Result<Difference, Failure> {
        let connection = self.kinds.connect(&object.spec.harbor_ref).await?;
        let remembered = object.status.as_ref().and_then(|status| status.id);
        let view = &connection.view;
        let look = replication_rule::look(self.kinds, view, object, &self.ahead, remembered, self.sight()).await?;
        Ok(look.plan?.difference(replication_rule::object(object)))
    }

    /// All is read by lists, and once.
    fn sight(&self) -> Sight {
        Sight { now: self.now, freshness: Freshness::Listed(self.now) }
    }

    fn idle(&self, instance: &str, suspended: bool) -> Option<Verdict> {
        if suspended {
            return Some(Verdict::Idle("spec.suspend is set".to_owned()));
        }
        self.away.contains(instance).then(|| Verdict::Refused {
            reason: Reason::InstanceNotReady.to_string(),
            message: format!("HarborInstance {instance} is not usable; see its own line"),
        })
    }

    /// What others that refer to a Registry will find.
    fn expect(&mut self, preview: &Preview, id: Option<i64>) {
        let upcoming = match &preview.verdict {
            Verdict::Compared { writes: true, .. } => Upcoming::Ours(id.unwrap_or(TO_BE_CREATED)),
            Verdict::Refused { reason, message } => Upcoming::Refused(format!("{reason}: {message}")),
            Verdict::Compared { writes: false, .. } | Verdict::Idle(_) => return,
        };
        self.ahead.insert(preview.name.clone(), upcoming);
    }
}

/// Nobody reads more of one value, in bytes.
const LONGEST: usize = 8 << 10;

fn beginning(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
}

fn preview<K: Managed>(object: &K, instance: &str, verdict: Verdict) -> Preview {
    let name = object.meta().name.clone().unwrap_or_default();
    Preview { kind: K::kind(&()).into_owned(), name, instance: instance.to_owned(), verdict, remarks: Vec::new() }
}

fn compared(difference: Result<Difference, Failure>, policy: ManagementPolicy) -> Verdict {
    match difference {
        Ok(difference) => Verdict::Compared { difference, writes: policy == ManagementPolicy::Full },
        Err(failure) => failure.into(),
    }
}

async fn each<'a, K: 'a, T, F: Future<Output = T>>(objects: &'a [Arc<K>], look: impl Fn(&'a K) -> F) -> Vec<T> {
    stream::iter(objects).map(|object| look(object.as_ref())).buffered(AT_ONCE).collect().await
}
