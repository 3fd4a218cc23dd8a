//! The target of a pull: repository and reference at Harbor.

use crate::{image::ImageRef, registry::Digest};

/// An image at Harbor, as a container runtime requests it: by digest if it has one, else by tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    project: String,
    repository: String,
    reference: Reference,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reference {
    Tag(String),
    Digest(Digest),
}

/// The image does not name a repository in a project of Harbor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an image in a project of Harbor: expected host/project/repository[:tag][@digest]")]
pub struct NoTarget(String);

impl Target {
    /// Returns the target of `image`. A tag next to a digest is ignored, as in container runtimes; with neither it is `latest`.
    ///
    /// # Errors
    /// [`NoTarget`] if the repository has no project prefix.
    pub fn new(image: &ImageRef) -> Result<Self, NoTarget> {
        let refuse = || NoTarget(image.to_string());
        let (project, repository) = image.repository().split_once('/').ok_or_else(refuse)?;
        let reference = match image.digest() {
            Some(digest) => Reference::Digest(digest.parse().map_err(|_| refuse())?),
            None => Reference::Tag(image.tag().unwrap_or("latest").to_owned()),
        };
        Ok(Self { project: project.to_owned(), repository: repository.to_owned(), reference })
    }

    /// Returns the project in Harbor.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Returns the repository within the project, as Harbor's API names it.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns `project/repository`, as the distribution API names it.
    pub fn path(&self) -> String {
        format!("{}/{}", self.project, self.repository)
    }

    /// Returns the tag, unless the image is pinned to a digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        }
    }

    /// Returns the digest that the image is pinned to.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.reference {
            Reference::Tag(_) => None,
            Reference::Digest(digest) => Some(digest),
        }
    }

    /// Returns the reference for `manifests/`.
    pub fn reference(&self) -> &str {
        match &self.reference {
            Reference::Tag(tag) => tag,
            Reference::Digest(digest) => digest.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_goes_before_a_tag_and_nothing_means_latest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of = |image: &str| Target::new(&ImageRef::parse(image).unwrap()).unwrap();
        let nginx = of("h.example/hub/library/nginx:1.27");
        assert_eq!((nginx.project(), nginx.repository(), nginx.tag()), ("hub", "library/nginx", Some("1.27")));
        assert_eq!(of("h.example/hub/app").reference(), "latest");
        let pinned = of(&format!("h.example/hub/app:1@{digest}"));
        assert_eq!((pinned.reference(), pinned.tag()), (digest.as_str(), None));
        assert!(Target::new(&ImageRef::parse("h.example/app").unwrap()).is_err());
    }
}
