//! The two ends of a policy: Harbor's own store, and a registry that is asked over HTTP.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::filters::Deletes;
use crate::{
    digest::sha256,
    harbor::{Core, http::Fault, remote::Failure, state::Registry},
};

/// Longer than any request of a test takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where a policy reads from or writes to.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Local,
    Remote(Box<Registry>),
}

/// A manifest as it was read.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

impl End {
    pub(crate) fn is_harbor(&self) -> bool {
        self.kind() == "harbor"
    }

    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Local => "harbor",
            Self::Remote(registry) => &registry.kind,
        }
    }

    pub(crate) fn url<'a>(&'a self, core: &'a Core) -> &'a str {
        match self {
            Self::Local => &core.base,
            Self::Remote(registry) => &registry.url,
        }
    }

    pub(crate) fn insecure(&self) -> bool {
        match self {
            Self::Local => true,
            Self::Remote(registry) => registry.insecure,
        }
    }

    /// Components that a name needs there.
    pub(crate) fn levels(&self) -> Option<usize> {
        self.is_harbor().then_some(2)
    }
}

impl Core {
    /// The end that a policy names: 0 is Harbor itself, and so is a registry that is gone.
    pub(crate) fn end(&self, registry: i64) -> End {
        self.registry(registry).map_or(End::Local, |registry| End::Remote(Box::new(registry)))
    }

    /// What Harbor asks before it does anything: another Harbor for its version.
    pub(crate) async fn connect(&self, end: &End) -> Result<(), String> {
        match end {
            End::Remote(registry) if end.is_harbor() => {
                self.call(Method::GET, registry, "/api/version", None).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn read_manifest(&self, end: &End, repository: &str, reference: &str) -> Result<Manifest, String> {
        let registry = match end {
            End::Local => {
                return self.local_copy(repository, reference).map_err(|fault| fault.reported());
            }
            End::Remote(registry) => registry,
        };
        let path = format!("/v2/{repository}/manifests/{reference}");
        let answer = self.call(Method::GET, registry, &path, None).await?;
        let media_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
        Ok(Manifest { digest: sha256(&bytes), media_type, bytes })
    }

    /// The digest of a manifest that an end has.
    pub(crate) async fn find_manifest(
        &self,
        end: &End,
        repository: &str,
        reference: &str,
    ) -> Result<Option<String>, String> {
        let registry = match end {
            End::Local => {
                let state = self.state.lock();
                return Ok(state.artifact(repository, reference).map(|artifact| artifact.digest.clone()));
            }
            End::Remote(registry) => registry,
        };
        let path = format!("/v2/{repository}/manifests/{reference}");
        match self.try_call(Method::HEAD, registry, &path, None).await {
            Ok(answer) => {
                let digest = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
                Ok(digest.map(ToOwned::to_owned))
            }
            // A Harbor says 401 of a project that is not there.
            Err(Failure::Refused(StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED, _)) => Ok(None),
            Err(failure) => Err(reported(registry, &path, failure)),
        }
    }

    pub(crate) async fn has_blob(&self, end: &End, repository: &str, digest: &str) -> Result<bool, String> {
        let registry = match end {
            End::Local => return Ok(self.state.lock().blob(repository, digest).is_some()),
            End::Remote(registry) => registry,
        };
        let path = format!("/v2/{repository}/blobs/{digest}");
        match self.try_call(Method::HEAD, registry, &path, None).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(StatusCode::NOT_FOUND, _)) => Ok(false),
            Err(failure) => Err(reported(registry, &path, failure)),
        }
    }

    pub(crate) async fn read_blob(&self, end: &End, repository: &str, digest: &str) -> Result<Bytes, String> {
        let registry = match end {
            End::Local => {
                let found = self.state.lock().blob(repository, digest);
                return found.ok_or_else(|| Fault::not_found(format!("blob {digest} not found")).reported());
            }
            End::Remote(registry) => registry,
        };
        let answer = self.call(Method::GET, registry, &format!("/v2/{repository}/blobs/{digest}"), None).await?;
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
        if sha256(&bytes) == digest { Ok(bytes) } else { Err("content does not match digest".to_owned()) }
    }

    pub(crate) async fn write_blob(
        &self,
        end: &End,
        repository: &str,
        digest: &str,
        bytes: Bytes,
    ) -> Result<(), String> {
        let registry = match end {
            End::Local => return self.accept_blob(repository, digest, bytes).map_err(|fault| fault.reported()),
            End::Remote(registry) => registry,
        };
        let begin = format!("/v2/{repository}/blobs/uploads/");
        let answer =
            self.call(Method::POST, registry, &begin, Some(("application/octet-stream", Bytes::new()))).await?;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let path = match url::Url::parse(location) {
            Ok(url) => format!("{}?{}", url.path(), url.query().unwrap_or_default()),
            Err(_) => location.to_owned(),
        };
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={digest}");
        self.call(Method::PUT, registry, &path, Some(("application/octet-stream", bytes))).await.map(drop)
    }

    pub(crate) async fn write_manifest(
        self: &Arc<Self>,
        end: &End,
        repository: &str,
        reference: &str,
        manifest: Manifest,
    ) -> Result<(), String> {
        let Manifest { media_type, bytes, .. } = manifest;
        match end {
            End::Local => {
                let stored = self.accept_manifest(repository, reference, &media_type, bytes);
                stored.map(drop).map_err(|fault| fault.reported())
            }
            End::Remote(registry) => {
                let path = format!("/v2/{repository}/manifests/{reference}");
                self.call(Method::PUT, registry, &path, Some((&media_type, bytes))).await.map(drop)
            }
        }
    }

    /// Deletes an artifact or a tag; answers whether there was one.
    pub(crate) async fn erase(&self, end: &End, name: &str, reference: &str, what: Deletes) -> Result<bool, String> {
        // Events come from here alone, so what is deleted is elsewhere.
        let End::Remote(registry) = end else {
            return Ok(false);
        };
        if what == Deletes::Tags && !end.is_harbor() {
            return Err("the tag deletion isn't supported".to_owned());
        }
        let Some(digest) = self.find_manifest(end, name, reference).await? else {
            return Ok(false);
        };
        let path = match (what, name.split_once('/')) {
            (Deletes::Tags, Some((project, repository))) => {
                let repository = repository.replace('/', "%252F");
                let artifacts = format!("/api/v2.0/projects/{project}/repositories/{repository}/artifacts");
                format!("{artifacts}/{reference}/tags/{reference}")
            }
            _ => format!("/v2/{name}/manifests/{digest}"),
        };
        self.call(Method::DELETE, registry, &path, None).await.map(|_| true)
    }

    /// A manifest of Harbor itself, if the policy of its project lets it be pulled.
    fn local_copy(&self, repository: &str, reference: &str) -> Result<Manifest, Fault> {
        let missing = || crate::harbor::artifacts::no_artifact(repository, reference);
        let (project, manifest) = {
            let state = self.state.lock();
            let project = state.project_named(repository.split('/').next().unwrap_or_default()).cloned();
            let found = state.artifact(repository, reference).ok_or_else(missing)?;
            let (digest, media_type, bytes) = (found.digest.clone(), found.media_type.clone(), found.bytes.clone());
            (project, Manifest { digest, media_type, bytes })
        };
        self.judge(&project.ok_or_else(missing)?, repository, reference)?;
        Ok(manifest)
    }

    pub(super) async fn call(
        &self,
        method: Method,
        registry: &Registry,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<reqwest::Response, String> {
        self.try_call(method, registry, path, body).await.map_err(|failure| reported(registry, path, failure))
    }

    pub(super) async fn try_call(
        &self,
        method: Method,
        registry: &Registry,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<reqwest::Response, Failure> {
        let asked = self.exchange(method, registry, path, body);
        tokio::time::timeout(DEADLINE, asked).await.unwrap_or(Err(Failure::Unreachable))
    }
}

pub(super) fn reported(registry: &Registry, path: &str, failure: Failure) -> String {
    match failure {
        Failure::Refused(status, body) => format!("http status code: {}, body: {body}", status.as_u16()),
        Failure::Unreachable => {
            let host = registry.url.split("://").last().unwrap_or_default();
            format!("Get \"{}{path}\": dial tcp {host}: connect: connection refused", registry.url)
        }
    }
}
