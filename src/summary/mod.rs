//! Summarises the status of a cluster's resources: takes resources, returns a [`Report`]. Pure.

mod report;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{Resource, core::ObjectMeta};

pub(crate) use self::report::{
    ExecutionSummary, ImageSummary, InstanceSummary, NotReadyItem, PolicySummary, ProjectSummary, RegistrySummary,
    ReplicationSummary, Summary, SummaryList, SummaryState, UnreadableKind,
};
use crate::api::{
    CachedImage, CachedImageStatus, ConditionType, HarborInstance, ImagePolicy, ProxyProject, Reason, Registry,
    ReplicationRule, condition,
};

/// The collected state. Each list holds at most `limit` resources.
pub(crate) struct SummaryBuilder {
    limit: usize,
    report: Summary,
}

impl SummaryBuilder {
    /// Starts an empty survey.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, report: Summary::default() }
    }

    pub(crate) fn instance(&mut self, instance: &HarborInstance) {
        let status = instance.status.clone().unwrap_or_default();
        let state = self.state(instance, &status.conditions, status.observed_generation, None);
        let line = InstanceSummary {
            state,
            version: status.version,
            url: instance.spec.url.clone(),
            pull_host: instance.spec.effective_pull_host().to_owned(),
            unhealthy_components: status.unhealthy_components,
        };
        self.report.instances.add(line, self.limit);
    }

    pub(crate) fn registry(&mut self, registry: &Registry) {
        let empty = Vec::new();
        let status = registry.status.as_ref();
        let conditions = status.map_or(&empty, |status| &status.conditions);
        let state = self.state(registry, conditions, status.and_then(|status| status.observed_generation), None);
        let line = RegistrySummary {
            state,
            type_: registry.spec.type_.adapter().to_owned(),
            url: registry.url().into_owned(),
            harbor: registry.spec.harbor_ref.name.clone(),
        };
        self.report.registries.add(line, self.limit);
    }

    pub(crate) fn project(&mut self, project: &ProxyProject) {
        let empty = Vec::new();
        let status = project.status.as_ref();
        let conditions = status.map_or(&empty, |status| &status.conditions);
        let state = self.state(project, conditions, status.and_then(|status| status.observed_generation), None);
        let rule = project.active_rule();
        let line = ProjectSummary {
            state,
            in_force: rule.is_some(),
            matches: rule.map(|rule| rule.matches.clone()).unwrap_or_default(),
            target: rule.map(|rule| rule.target.clone()),
            mode: rule.map(|rule| format!("{:?}", rule.terms.mode)),
            when_unavailable: rule.map(|rule| format!("{:?}", rule.terms.when_unavailable)),
            prewarm: format!("{:?}", project.spec.prewarm.mode),
            harbor: project.spec.harbor_ref.name.clone(),
        };
        self.report.proxy_projects.add(line, self.limit);
    }

    pub(crate) fn replication(&mut self, rule: &ReplicationRule) {
        let status = rule.status.clone().unwrap_or_default();
        let state = self.state(rule, &status.conditions, status.observed_generation, None);
        let last = status.last_execution.map(|last| ExecutionSummary {
            status: last.status,
            trigger: last.trigger,
            started: last.start_time.map(|time| time.0.to_string()),
            total: last.total,
            succeeded: last.succeeded,
            failed: last.failed,
        });
        let line = ReplicationSummary {
            state,
            direction: if rule.spec.source.is_some() { "pull" } else { "push" },
            registry: rule.registry_name().to_owned(),
            trigger: rule.spec.trigger.as_ref().map(|trigger| format!("{:?}", trigger.type_)),
            enabled: rule.spec.enabled,
            blocked_images: status.blocked_images.len(),
            last_execution: last,
        };
        self.report.replication_rules.add(line, self.limit);
    }

    pub(crate) fn policy(&mut self, policy: &ImagePolicy) {
        let line = PolicySummary {
            name: name_of(policy.meta()),
            action: format!("{:?}", policy.spec.action),
            allowed: policy.spec.allowed.iter().map(|allowed| allowed.host.clone()).collect(),
            require_digest: policy.spec.require_digest,
            forbid_latest: policy.spec.forbid_latest,
        };
        self.report.policies.add(line, self.limit);
    }

    pub(crate) fn image(&mut self, image: &CachedImage) {
        let empty = Vec::new();
        let status = image.status.as_ref();
        let conditions = status.map_or(&empty, |status| &status.conditions);
        let observed = status.and_then(|status| status.observed_generation);
        let state = self.state(image, conditions, observed, Some(&image.spec.image));
        let ImageSummary { total, ready, pending, warming, verifying, failed, failed_by_reason, bytes } =
            &mut self.report.images;
        *total += 1;
        *bytes = bytes.saturating_add(status.map_or(0, CachedImageStatus::stored_bytes));
        let reason = state.reason.filter(|reason| reason != NOT_OBSERVED);
        match reason.as_deref().map(str::parse) {
            _ if state.ready == "True" => *ready += 1,
            None => *pending += 1,
            Some(Ok(Reason::Pulling)) => *warming += 1,
            Some(Ok(Reason::Verifying)) => *verifying += 1,
            Some(_) => {
                *failed += 1;
                *failed_by_reason.entry(reason.unwrap_or_default()).or_default() += 1;
            }
        }
    }

    /// Adds a resource that does not match its CRD.
    pub(crate) fn malformed(&mut self, kind: &str, metadata: &ObjectMeta, why: String) {
        self.trouble(NotReadyItem {
            kind: kind.to_owned(),
            name: name_of(metadata),
            image: None,
            condition: "Ready",
            reason: "Malformed".to_owned(),
            message: why,
            since: metadata.creation_timestamp.as_ref().map(|time| time.0),
            stalled: true,
        });
    }

    /// Adds a kind that could not be read.
    pub(crate) fn unreadable(&mut self, what: &str, why: String) {
        self.report.unreadable.push(UnreadableKind { what: what.to_owned(), why });
    }

    /// Returns the report.
    pub(crate) fn report(mut self) -> Summary {
        self.newest_first();
        self.report.ready = self.report.not_ready.total == 0 && self.report.unreadable.is_empty();
        self.report
    }

    /// Reads the state of a resource, and lists the resource if it is not Ready.
    fn state<K: Resource<DynamicType = ()>>(
        &mut self,
        object: &K,
        conditions: &[Condition],
        observed: Option<i64>,
        image: Option<&str>,
    ) -> SummaryState {
        let metadata = object.meta();
        let (kind, name) = (K::kind(&()).into_owned(), name_of(metadata));
        let ready = condition::find(conditions, ConditionType::Ready);
        let stale = observed.is_none() || observed != metadata.generation;
        let state = match ready {
            Some(ready) if !stale => {
                SummaryState { name: name.clone(), ready: ready.status.clone(), reason: Some(ready.reason.clone()) }
            }
            _ => {
                SummaryState { name: name.clone(), ready: "Unknown".to_owned(), reason: Some(NOT_OBSERVED.to_owned()) }
            }
        };
        let trouble = |condition, reason: &str, message: &str, since| NotReadyItem {
            kind: kind.clone(),
            name: name.clone(),
            image: image.map(str::to_owned),
            condition,
            reason: reason.to_owned(),
            message: message.to_owned(),
            since,
            stalled: condition::is_true(conditions, ConditionType::Stalled),
        };
        if state.ready != "True" {
            let trouble = match ready {
                Some(ready) if !stale => {
                    trouble("Ready", &ready.reason, &ready.message, Some(ready.last_transition_time.0))
                }
                _ => {
                    let message = "not reconciled since the last change: check that a controller runs";
                    let created_at = metadata.creation_timestamp.as_ref().map(|time| time.0);
                    trouble("Ready", NOT_OBSERVED, message, created_at.filter(|_| observed.is_none_or(|seen| seen < 1)))
                }
            };
            self.trouble(trouble);
        }
        for kind in [ConditionType::RewriteConflict, ConditionType::DeletionBlocked] {
            if let Some(found) = condition::find(conditions, kind).filter(|found| found.status == "True") {
                let since = Some(found.last_transition_time.0);
                self.trouble(trouble(kind.as_str(), &found.reason, &found.message, since));
            }
        }
        state
    }

    fn trouble(&mut self, trouble: NotReadyItem) {
        self.report.not_ready.total += usize::from(trouble.condition == "Ready");
        self.report.not_ready.items.push(trouble);
        // Bounds the list: with ten thousand failed images, the report needs only the few texts that it shows.
        if self.report.not_ready.items.len() >= self.limit.saturating_mul(2).max(64) {
            self.newest_first();
        }
    }

    fn newest_first(&mut self) {
        let items = &mut self.report.not_ready.items;
        let oldest = Timestamp::MIN;
        items.sort_by(|a, b| {
            let since = |trouble: &NotReadyItem| trouble.since.unwrap_or(oldest);
            since(b).cmp(&since(a)).then_with(|| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)))
        });
        items.truncate(self.limit);
    }
}

/// The reason of a resource without a status condition.
pub(crate) const NOT_OBSERVED: &str = "NotObserved";

fn name_of(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}
