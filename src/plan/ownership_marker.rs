//! The owner of an object: a marker in Harbor's own data, which survives the loss of status, a restore and a rebuilt Harbor.

use std::fmt;

use super::Refusal;
use crate::api::{AdoptionPolicy, Reason};

const OPEN: &str = "[harbor-pilot ";

/// The marker of one resource of one installation, such as `[harbor-pilot 7f3c…/Registry/dockerhub]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Identity of the installation: the uid of the cluster's `kube-system` namespace, unless it is configured.
    pub installation: String,
    /// Kind of the resource.
    pub kind: String,
    /// Name of the resource.
    pub name: String,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OPEN}{}/{}/{}]", self.installation, self.kind, self.name)
    }
}

impl Marker {
    /// Parses the marker at the end of a description. Also returns the text before it.
    pub fn split(description: &str) -> (&str, Option<Marker>) {
        let found = || {
            let at = description.rfind(OPEN)?;
            let inner = description.get(at + OPEN.len()..)?.trim_end().strip_suffix(']')?;
            let mut parts = inner.splitn(3, '/');
            let (installation, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
            let marker = Marker { installation: installation.to_owned(), kind: kind.to_owned(), name: name.to_owned() };
            Some((description.get(..at)?.trim_end(), marker))
        };
        match found() {
            Some((text, marker)) => (text, Some(marker)),
            None => (description, None),
        }
    }

    /// Returns a description with the text and this marker.
    pub fn write(&self, text: &str) -> String {
        if text.is_empty() { self.to_string() } else { format!("{text} {self}") }
    }
}

/// The state of another resource of this installation, whose marker an object carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OtherOwner {
    /// It exists, and owns another object, or owns this object with priority.
    #[default]
    Present,
    /// It exists, owns the same object, and is younger than ours.
    Younger,
    /// It was deleted, and its object stayed in Harbor.
    Gone,
}

/// Checks whether we may write to an object of this name that carries `found`. `other` is the state of the resource that such
/// a marker names.
///
/// # Errors
/// A [`Refusal`] when the object has another owner, or has no owner and `adoptionPolicy` does not allow to adopt it.
pub fn may_write(
    ours: &Marker,
    found: Option<&Marker>,
    other: OtherOwner,
    adoption: AdoptionPolicy,
    object: &str,
) -> Result<(), Refusal> {
    let of_another = |found: &Marker| found != ours && found.installation == ours.installation;
    match (found, other) {
        (Some(found), OtherOwner::Younger) if of_another(found) => return Ok(()),
        (Some(found), OtherOwner::Gone) if of_another(found) => {
            return match adoption {
                AdoptionPolicy::IfExists => Ok(()),
                AdoptionPolicy::Never => Err(Refusal {
                    reason: Reason::AdoptionRequired,
                    message: format!(
                        "{object} in Harbor was left behind by the deleted {} {}; set spec.adoptionPolicy: IfExists to adopt it, or another spec.name",
                        found.kind, found.name
                    ),
                }),
            };
        }
        _ => {}
    }
    match found {
        Some(marker) if marker == ours => Ok(()),
        Some(other) if other.installation == ours.installation => Err(Refusal {
            reason: Reason::NameConflict,
            message: format!(
                "{object} in Harbor belongs to {} {} of this cluster; set another spec.name for one of them",
                other.kind, other.name
            ),
        }),
        Some(other) => Err(Refusal {
            reason: Reason::NameConflict,
            message: format!(
                "{object} in Harbor belongs to {} {} of installation {}; set another spec.name, or remove the marker from its description so that it can be adopted",
                other.kind, other.name, other.installation
            ),
        }),
        None if adoption == AdoptionPolicy::IfExists => Ok(()),
        None => Err(Refusal {
            reason: Reason::AdoptionRequired,
            message: format!(
                "{object} exists in Harbor without our marker; set spec.adoptionPolicy: IfExists to adopt it, or another spec.name"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(installation: &str, name: &str) -> Marker {
        Marker { installation: installation.to_owned(), kind: "Registry".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_marker_is_read_back_from_beside_any_text() {
        let ours = marker("7f3c", "dockerhub");
        for text in ["", "Docker Hub", "odd [brackets] / slashes", "[harbor-pilot x"] {
            let description = ours.write(text);
            assert_eq!(Marker::split(&description), (text, Some(ours.clone())), "{description}");
        }
        assert_eq!(Marker::split("manual"), ("manual", None));
        assert_eq!(Marker::split("[harbor-pilot half/way]"), ("[harbor-pilot half/way]", None));
    }

    #[test]
    fn only_what_is_ours_or_may_be_adopted_is_written_to() {
        let ours = marker("a", "x");
        let verdict = |found: Option<&Marker>, other, adoption| may_write(&ours, found, other, adoption, "registry x");
        assert!(verdict(Some(&ours), OtherOwner::Present, AdoptionPolicy::Never).is_ok());
        assert!(verdict(None, OtherOwner::Present, AdoptionPolicy::IfExists).is_ok());
        let reason =
            |found: Option<&Marker>, adoption| verdict(found, OtherOwner::Present, adoption).unwrap_err().reason;
        assert_eq!(reason(None, AdoptionPolicy::Never), Reason::AdoptionRequired);
        assert_eq!(reason(Some(&marker("a", "y")), AdoptionPolicy::IfExists), Reason::NameConflict);
        assert_eq!(reason(Some(&marker("b", "x")), AdoptionPolicy::IfExists), Reason::NameConflict);
    }

    #[test]
    fn marker_of_another_resource_is_respected_unless_that_is_younger_or_deleted() {
        let (ours, theirs, stranger) = (marker("a", "x"), marker("a", "y"), marker("b", "y"));
        let verdict = |found: &Marker, other, adoption| {
            may_write(&ours, Some(found), other, adoption, "registry x").map_err(|refusal| refusal.reason)
        };
        assert_eq!(verdict(&theirs, OtherOwner::Younger, AdoptionPolicy::Never), Ok(()));
        assert_eq!(verdict(&theirs, OtherOwner::Gone, AdoptionPolicy::IfExists), Ok(()));
        assert_eq!(verdict(&theirs, OtherOwner::Gone, AdoptionPolicy::Never), Err(Reason::AdoptionRequired));
        for other in [OtherOwner::Present, OtherOwner::Younger, OtherOwner::Gone] {
            assert_eq!(verdict(&stranger, other, AdoptionPolicy::IfExists), Err(Reason::NameConflict), "{other:?}");
        }
    }
}
