//! Violations of policies.

use super::scans::{NoVerdict, ScanVerdict};
use crate::api::image_policy::{MaxSeverity, OnUnscanned};

/// The violation of a policy by an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyViolation {
    Unreadable,
    NotAllowed,
    Latest,
    NoDigest,
    Vulnerable(ScanVerdict, MaxSeverity),
    Unscanned(NoVerdict, OnUnscanned),
}
