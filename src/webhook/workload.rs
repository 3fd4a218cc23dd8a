//! The fields of a workload that policies need: its Pod template.

use crate::json_scan::fields;
use crate::rewrite::pod::Pod;

/// A Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController or Job, with `spec.template`; a CronJob, with
/// `spec.jobTemplate.spec.template`; or a PodTemplate, with `template`.
#[derive(Default)]
pub(super) struct Workload<'a> {
    spec: Option<Spec<'a>>,
    template: Option<Pod<'a>>,
}

#[derive(Default)]
struct Spec<'a> {
    template: Option<Pod<'a>>,
    job_template: Option<JobTemplate<'a>>,
}

#[derive(Default)]
struct JobTemplate<'a> {
    spec: Option<JobSpec<'a>>,
}

#[derive(Default)]
struct JobSpec<'a> {
    template: Option<Pod<'a>>,
}

impl<'a> Workload<'a> {
    /// Returns the Pod template.
    pub(super) fn template(&self) -> Option<&Pod<'a>> {
        let spec = self.spec.as_ref();
        let of_spec = || spec?.template.as_ref();
        let of_job = || spec?.job_template.as_ref()?.spec.as_ref()?.template.as_ref();
        self.template.as_ref().or_else(of_spec).or_else(of_job)
    }
}

fields!(Workload<'a> { b"spec" => spec, b"template" => template });
fields!(Spec<'a> { b"template" => template, b"jobTemplate" => job_template });
fields!(JobTemplate<'a> { b"spec" => spec });
fields!(JobSpec<'a> { b"template" => template });

/// Whether objects of this kind have a template that policies check.
pub(super) fn is_workload(group: &str, kind: &str) -> bool {
    match group {
        "" => matches!(kind, "ReplicationController" | "PodTemplate"),
        "apps" => matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet"),
        "batch" => matches!(kind, "Job" | "CronJob"),
        _ => false,
    }
}
