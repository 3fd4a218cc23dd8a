//! Ways to keep images as they are written. None of them binds a policy: they only keep the rules off.

use std::collections::HashSet;

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

/// The names of containers and volumes whose images a Pod keeps.
#[derive(Debug)]
pub(super) enum KeptNames<'p> {
    /// A short annotation, which is read again for each name.
    Few(&'p str),
    /// A long one. It is read once: a Pod may have thousands of containers.
    Many(HashSet<&'p str>),
}

/// Bytes of an annotation that is read again for each name.
const SHORT: usize = 128;

impl<'p> KeptNames<'p> {
    pub(super) fn of(pod: &'p Pod<'_>) -> Self {
        let annotation = pod.annotations().and_then(|annotations| annotations.keep_images.as_deref());
        match annotation.unwrap_or_default() {
            short if short.len() <= SHORT => Self::Few(short),
            long => Self::Many(long.split(',').map(str::trim).collect()),
        }
    }

    /// Whether the name is among them. An empty one never is.
    pub(super) fn contain(&self, name: &str) -> bool {
        !name.is_empty()
            && match self {
                Self::Few(names) => names.split(',').any(|kept| kept.trim() == name),
                Self::Many(names) => names.contains(name),
            }
    }
}
