//! Pushes into hosted projects: blobs by upload, then manifests; and what Harbor does of itself after each.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use rand::Rng as _;

use super::{
    Core,
    http::{Ask, Fault, Outcome, empty, put},
    state::{Project, State},
    v2::{API_VERSION, CONTENT_DIGEST, Place},
};
use crate::digest::{is_digest, sha256};

impl Core {
    /// POST begins an upload, PATCH adds to it, PUT ends it. `session` is what follows `/blobs/uploads/`.
    pub(crate) fn upload(&self, ask: &Ask, place: &Place, session: &str) -> Outcome {
        if ask.method == Method::POST {
            return self.begin_upload(ask, place);
        }
        let mut state = self.state.lock();
        let Some(mut bytes) = state.uploads.remove(session) else {
            return Err(Fault::unknown_upload());
        };
        bytes.extend_from_slice(&ask.body);
        if ask.method == Method::PATCH {
            let length = bytes.len();
            state.uploads.insert(session.to_owned(), bytes);
            let mut reply = self.accepted(place, session);
            put(&mut reply, header::RANGE, &format!("0-{}", length.saturating_sub(1)));
            return Ok(reply);
        }
        let digest = ask.param("digest").unwrap_or_default().to_owned();
        drop(state);
        self.accept_blob(&place.full, &digest, Bytes::from(bytes))?;
        Ok(self.stored_at(place, "blobs", &digest))
    }

    pub(crate) fn put_manifest(self: &Arc<Self>, ask: &Ask, place: &Place, reference: &str) -> Outcome {
        let media_type = ask.header("content-type").unwrap_or_default().to_owned();
        let digest = self.accept_manifest(&place.full, reference, &media_type, ask.body.clone())?;
        Ok(self.stored_at(place, "manifests", &digest))
    }

    /// Stores a pushed blob.
    ///
    /// # Errors
    /// A full quota, or bytes that are others.
    pub(crate) fn accept_blob(&self, repository: &str, digest: &str, bytes: Bytes) -> Result<(), Fault> {
        if sha256(&bytes) != digest {
            return Err(Fault::wrong_digest());
        }
        let mut state = self.state.lock();
        if state.blob(repository, digest).is_none() {
            room(&state, repository, bytes.len())?;
            state.store_blob(repository, digest, bytes);
        }
        Ok(())
    }

    /// Stores a pushed manifest, tags it if the reference is a tag, and lets Harbor do what follows. Answers the digest.
    ///
    /// # Errors
    /// A full quota, or a digest that is another's.
    pub(crate) fn accept_manifest(
        self: &Arc<Self>,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<String, Fault> {
        let digest = sha256(&bytes);
        let tag = (!is_digest(reference)).then_some(reference);
        if tag.is_none() && reference != digest {
            return Err(Fault::wrong_digest());
        }
        {
            let mut state = self.state.lock();
            if state.artifact(repository, &digest).is_none() {
                room(&state, repository, bytes.len())?;
            }
            state.store_manifest(repository, media_type, bytes, tag);
        }
        self.pushed(repository, &digest, tag);
        self.scan_after_push(repository, &digest);
        Ok(digest)
    }

    /// A mount of what another repository has is done at once; what it does not have is uploaded.
    fn begin_upload(&self, ask: &Ask, place: &Place) -> Outcome {
        if let (Some(digest), Some(from)) = (ask.param("mount"), ask.param("from")) {
            let found = self.state.lock().blob(from, digest);
            if let Some(bytes) = found {
                self.accept_blob(&place.full, digest, bytes)?;
                return Ok(self.stored_at(place, "blobs", digest));
            }
        }
        let session = format!("{:032x}", rand::rng().random::<u128>());
        self.state.lock().uploads.insert(session.clone(), Vec::new());
        Ok(self.accepted(place, &session))
    }

    fn accepted(&self, place: &Place, session: &str) -> super::http::Reply {
        let mut reply = empty(StatusCode::ACCEPTED);
        let location = format!("{}/v2/{}/blobs/uploads/{session}?_state=double", self.base, place.full);
        put(&mut reply, header::LOCATION, &location);
        put(&mut reply, API_VERSION, "registry/2.0");
        put(&mut reply, HeaderName::from_static("docker-upload-uuid"), session);
        reply
    }

    fn stored_at(&self, place: &Place, what: &str, digest: &str) -> super::http::Reply {
        let mut reply = empty(StatusCode::CREATED);
        put(&mut reply, header::LOCATION, &format!("{}/v2/{}/{what}/{digest}", self.base, place.full));
        put(&mut reply, CONTENT_DIGEST, digest);
        put(&mut reply, API_VERSION, "registry/2.0");
        reply
    }
}

/// Whether the quota of the project has room for so many bytes more.
fn room(state: &State, repository: &str, more: usize) -> Result<(), Fault> {
    let Some(project) = state.project_named(repository.split('/').next().unwrap_or_default()) else {
        return Err(Fault::not_found(format!("project of {repository} not found")));
    };
    if state.has_room(repository, more) { Ok(()) } else { Err(full(state, project, more)) }
}

fn full(state: &State, project: &Project, more: usize) -> Fault {
    Fault::denied(format!(
        "adding {} of storage resource, which when updated to current usage of {} will exceed the configured upper limit of \
         {}.",
        size(i64::try_from(more).unwrap_or(i64::MAX)),
        size(state.used(project)),
        size(project.quota.limit)
    ))
}

/// As Harbor writes sizes: `123 B`, `430.0 KiB`.
fn size(bytes: i64) -> String {
    let mut number = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if number < 1024.0 {
            break;
        }
        number /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{number:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_written_as_recorded() {
        for (bytes, text) in [(123, "123 B"), (440_320, "430.0 KiB"), (302_241, "295.2 KiB")] {
            assert_eq!(super::size(bytes), text);
        }
    }
}
