//! Pushes to the upstream: blobs by upload, manifests, deletions; and its catalogue.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, Method, Response, StatusCode, header, request::Parts};
use rand::Rng as _;
use serde_json::json;

use super::{
    Auth, Inner,
    serve::{error, plain, put},
};
use crate::digest::{is_digest, sha256};

impl Inner {
    /// Answers what is no read.
    pub(super) fn write(&self, parts: &Parts, rest: &str, body: Bytes) -> Response<Body> {
        let repository = rest.split("/blobs/").next().and_then(|rest| rest.split("/manifests/").next());
        if let (Auth::Amazon(..), Some(repository)) = (&self.auth, repository)
            && let Some(answer) = self.unmade(repository)
        {
            return answer;
        }
        if let Some((repository, session)) = rest.split_once("/blobs/uploads/") {
            return self.upload(parts, repository, session, &body);
        }
        match rest.rsplit_once("/manifests/") {
            Some((repository, reference)) if parts.method == Method::PUT => {
                let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
                self.put_manifest(repository, reference, media_type.unwrap_or_default(), body)
            }
            Some((repository, digest)) if parts.method == Method::DELETE => self.delete(repository, digest),
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "The operation is unsupported.", None),
        }
    }

    /// Repositories with a tag.
    pub(super) fn catalog(&self) -> Response<Body> {
        let store = self.store.lock();
        let mut names: Vec<&String> = store.tags.keys().map(|(repository, _)| repository).collect();
        names.dedup();
        let body = json!({"repositories": names});
        plain(StatusCode::OK, "application/json", Body::from(body.to_string()))
    }

    fn upload(&self, parts: &Parts, repository: &str, session: &str, body: &[u8]) -> Response<Body> {
        let mut store = self.store.lock();
        if parts.method == Method::POST {
            let session = format!("{:032x}", rand::rng().random::<u128>());
            store.uploads.insert(session.clone(), Vec::new());
            return accepted(parts, repository, &session, 0);
        }
        let Some(mut bytes) = store.uploads.remove(session) else {
            return error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", None);
        };
        bytes.extend_from_slice(body);
        if parts.method == Method::PATCH {
            let length = bytes.len();
            store.uploads.insert(session.to_owned(), bytes);
            return accepted(parts, repository, session, length);
        }
        let query = parts.uri.query().unwrap_or_default();
        let digest = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "digest");
        let digest = digest.map(|(_, digest)| digest.into_owned()).unwrap_or_default();
        if sha256(&bytes) != digest {
            return wrong_digest();
        }
        store.blobs.insert((repository.to_owned(), digest.clone()), bytes.into());
        created(repository, "blobs", &digest)
    }

    fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: Bytes) -> Response<Body> {
        let digest = sha256(&bytes);
        if is_digest(reference) && reference != digest {
            return wrong_digest();
        }
        let mut store = self.store.lock();
        store.manifests.insert((repository.to_owned(), digest.clone()), (media_type.to_owned(), bytes));
        if !is_digest(reference) {
            store.tags.insert((repository.to_owned(), reference.to_owned()), digest.clone());
        }
        created(repository, "manifests", &digest)
    }

    fn delete(&self, repository: &str, digest: &str) -> Response<Body> {
        let mut store = self.store.lock();
        store.tags.retain(|(name, _), target| name != repository || target != digest);
        match store.manifests.remove(&(repository.to_owned(), digest.to_owned())) {
            Some(_) => plain(StatusCode::ACCEPTED, "application/json", Body::empty()),
            None => error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown", None),
        }
    }
}

fn accepted(parts: &Parts, repository: &str, session: &str, length: usize) -> Response<Body> {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut answer = plain(StatusCode::ACCEPTED, "text/plain", Body::empty());
    put(&mut answer, header::LOCATION, &format!("http://{host}/v2/{repository}/blobs/uploads/{session}?_state=double"));
    put(&mut answer, header::RANGE, &format!("0-{}", length.saturating_sub(1)));
    put(&mut answer, HeaderName::from_static("docker-upload-uuid"), session);
    answer
}

fn created(repository: &str, what: &str, digest: &str) -> Response<Body> {
    let mut answer = plain(StatusCode::CREATED, "text/plain", Body::empty());
    put(&mut answer, header::LOCATION, &format!("/v2/{repository}/{what}/{digest}"));
    put(&mut answer, HeaderName::from_static("docker-content-digest"), digest);
    answer
}

fn wrong_digest() -> Response<Body> {
    let message = "provided digest did not match uploaded content";
    error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message, None)
}
