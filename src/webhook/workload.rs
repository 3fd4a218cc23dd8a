//! The fields of a workload that policies need: its Pod template.

use crate::json_scan::{Fields, Scanner, Unread};
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

impl<'a> Fields<'a> for Workload<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        match name {
            b"spec" => scanner.field(&mut self.spec),
            b"template" => scanner.field(&mut self.template),
            _ => scanner.skip(),
        }
    }
}

impl<'a> Fields<'a> for Spec<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        match name {
            b"template" => scanner.field(&mut self.template),
            b"jobTemplate" => scanner.field(&mut self.job_template),
            _ => scanner.skip(),
        }
    }
}

impl<'a> Fields<'a> for JobTemplate<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        if name == b"spec" { scanner.field(&mut self.spec) } else { scanner.skip() }
    }
}

impl<'a> Fields<'a> for JobSpec<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        if name == b"template" { scanner.field(&mut self.template) } else { scanner.skip() }
    }
}

/// Whether objects of this kind have a template that policies check.
pub(super) fn is_workload(group: &str, kind: &str) -> bool {
    match group {
        "" => matches!(kind, "ReplicationController" | "PodTemplate"),
        "apps" => matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet"),
        "batch" => matches!(kind, "Job" | "CronJob"),
        _ => false,
    }
}
