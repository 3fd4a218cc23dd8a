//! The limit on vulnerabilities of an image, and its evidence.

use std::fmt;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::scans::{NoVerdict, ScanIndex};
use super::violation::PolicyViolation;
use crate::api::image_policy::{MaxSeverity, OnUnscanned, Vulnerability};
use crate::image::ImageRef;

/// The known scans at a moment.
#[derive(Clone, Copy)]
pub struct ScanEvidence<'e> {
    /// The results of scans.
    pub scans: &'e ScanIndex,
    /// The current time.
    pub now: Timestamp,
    /// Returns the name at Harbor of an image that Pods pull from elsewhere: an image that is only mapped, or not rewritten
    /// during an outage.
    pub at_harbor: &'e dyn Fn(&ImageRef) -> Option<ImageRef>,
}

/// The requirements of a policy on scans.
#[derive(Debug)]
pub(super) struct SeverityLimit {
    max_severity: MaxSeverity,
    on_unscanned: OnUnscanned,
    max_age: Duration,
}

impl SeverityLimit {
    pub(super) fn of(spec: Vulnerability) -> Self {
        let Vulnerability { max_severity, on_unscanned, max_age } = spec;
        Self { max_severity, on_unscanned, max_age: max_age.duration() }
    }

    /// Returns the violation, if any. `found` is the evidence, and the image by its name at Harbor.
    pub(super) fn problem(&self, found: Option<(&ScanEvidence<'_>, &ImageRef)>) -> Option<PolicyViolation> {
        let verdict = found.map_or(Err(NoVerdict::NoRecord), |(evidence, image)| {
            let oldest = evidence.now.checked_sub(self.max_age).unwrap_or(Timestamp::MIN);
            evidence.scans.worst(image, oldest, self.max_severity.ceiling())
        });
        match verdict {
            Ok(verdict) if verdict.severity > self.max_severity.ceiling() => {
                Some(PolicyViolation::Vulnerable(verdict, self.max_severity))
            }
            Err(why) if self.on_unscanned != OnUnscanned::Allow => {
                Some(PolicyViolation::Unscanned(why, self.on_unscanned))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for ScanEvidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence").field("scans", &self.scans.len()).field("now", &self.now).finish_non_exhaustive()
    }
}
