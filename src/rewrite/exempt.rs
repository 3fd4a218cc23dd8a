//! Ways to keep images as they are written. None of them binds a policy: they only keep the rules off.

use super::pod::Pod;
use super::subject::Subject;

/// Label of a Pod whose images stay as they are if it is `true`, and its namespace has [`ALLOW_EXEMPT`].
pub const EXEMPT: &str = "harbor-pilot.dev/exempt";
/// Label of a namespace whose Pods may use [`EXEMPT`], if it is `true`.
pub const ALLOW_EXEMPT: &str = "harbor-pilot.dev/allow-exempt";
/// Annotation of a Pod with the names of containers and volumes, separated by commas, whose images stay as they are.
pub const KEEP_IMAGES: &str = "harbor-pilot.dev/keep-images";

/// Whether the Pod asks to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exemption {
    /// It does not.
    NotAsked,
    /// It does, and may.
    Granted,
    /// It does, and its namespace does not let it.
    Refused,
}

impl Exemption {
    pub(super) fn of(subject: &Subject<'_>) -> Self {
        if subject.label(EXEMPT) != Some("true") {
            Self::NotAsked
        } else if subject.namespace_label(ALLOW_EXEMPT) == Some("true") {
            Self::Granted
        } else {
            Self::Refused
        }
    }
}

/// Whether the Pod keeps the image of a container or volume.
pub(super) fn keeps(pod: &Pod<'_>, name: &str) -> bool {
    let kept = pod.annotations().and_then(|annotations| annotations.keep_images.as_deref());
    kept.is_some_and(|names| names.split(',').any(|kept| kept.trim() == name))
}
