//! Exemptions: labels and annotations that keep images unchanged. They apply to rules only; policies ignore them.

use std::collections::HashSet;

use super::pod::Pod;
use super::pod_scope::PodScope;

/// Label of a Pod whose images are not modified if it is `true` and the namespace has [`ALLOW_EXEMPT`].
pub const EXEMPT: &str = "harbor-pilot.dev/exempt";
/// Label of a namespace whose Pods may use [`EXEMPT`], if it is `true`.
pub const ALLOW_EXEMPT: &str = "harbor-pilot.dev/allow-exempt";

/// Whether the Pod asks for an exemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OptOut {
    /// The Pod does not ask.
    NotAsked,
    /// The Pod asks, and its namespace allows it.
    Granted,
    /// The Pod asks, and its namespace does not allow it.
    Refused,
}

impl OptOut {
    pub(super) fn of(subject: &PodScope<'_>) -> Self {
        if subject.label(EXEMPT) != Some("true") {
            Self::NotAsked
        } else if subject.namespace_label(ALLOW_EXEMPT) == Some("true") {
            Self::Granted
        } else {
            Self::Refused
        }
    }
}

/// The names of containers and volumes whose images a Pod keeps.
#[derive(Debug)]
pub(super) enum KeptNames<'p> {
    /// A short annotation, which is parsed again for each name.
    Few(&'p str),
    /// A long annotation. It is parsed once, because a Pod may have thousands of containers.
    Many(HashSet<&'p str>),
}

/// The longest annotation, in bytes, that is parsed again for each name.
const SHORT: usize = 128;

impl<'p> KeptNames<'p> {
    pub(super) fn of(pod: &'p Pod<'_>) -> Self {
        let annotation = pod.annotations().and_then(|annotations| annotations.keep_images.as_deref());
        match annotation.unwrap_or_default() {
            short if short.len() <= SHORT => Self::Few(short),
            long => Self::Many(long.split(',').map(str::trim).collect()),
        }
    }

    /// Returns whether the name is in the list. An empty name never is.
    pub(super) fn contain(&self, name: &str) -> bool {
        !name.is_empty()
            && match self {
                Self::Few(names) => names.split(',').any(|kept| kept.trim() == name),
                Self::Many(names) => names.contains(name),
            }
    }
}
