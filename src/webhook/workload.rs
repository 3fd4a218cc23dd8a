//! What of a workload matters for policies: the template of its Pods.

use serde::Deserialize;

use crate::rewrite::pod::Pod;

/// A Deployment, StatefulSet, DaemonSet, ReplicaSet or Job, with `spec.template`; or a CronJob, with
/// `spec.jobTemplate.spec.template`.
#[derive(Default, Deserialize)]
pub(super) struct Workload<'a> {
    #[serde(default, borrow)]
    spec: Option<Spec<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(default, borrow)]
    template: Option<Pod<'a>>,
    #[serde(default, borrow)]
    job_template: Option<JobTemplate<'a>>,
}

#[derive(Default, Deserialize)]
struct JobTemplate<'a> {
    #[serde(default, borrow)]
    spec: Option<JobSpec<'a>>,
}

#[derive(Default, Deserialize)]
struct JobSpec<'a> {
    #[serde(default, borrow)]
    template: Option<Pod<'a>>,
}

impl<'a> Workload<'a> {
    /// The Pods that it makes.
    pub(super) fn template(&self) -> Option<&Pod<'a>> {
        let spec = self.spec.as_ref()?;
        let of_job = || spec.job_template.as_ref()?.spec.as_ref()?.template.as_ref();
        spec.template.as_ref().or_else(of_job)
    }
}

/// Whether objects of this kind have a template that is looked at.
pub(super) fn is_workload(group: &str, kind: &str) -> bool {
    match group {
        "apps" => matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet"),
        "batch" => matches!(kind, "Job" | "CronJob"),
        _ => false,
    }
}
