//! `/v2`: who may, what is asked, and the answers that need no upstream.

use http::{HeaderName, Method, StatusCode, header};
use serde_json::json;

use super::{
    Core,
    artifacts::no_artifact,
    auth::Who,
    http::{Ask, Fault, Outcome, Reply, json_reply, put, text},
    state::Project,
};
use crate::{
    digest::is_digest,
    image::{OCI_INDEX, OCI_MANIFEST},
};

/// What a path of a repository asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target<'a> {
    Manifest(&'a str),
    Blob(&'a str),
    /// With the session, empty at its beginning.
    Upload(&'a str),
    Tags,
}

/// A repository in a project.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) project: Project,
    /// With the project.
    pub(crate) full: String,
    /// Without it: the name at the upstream.
    pub(crate) remote: String,
}

impl Core {
    pub(crate) async fn v2(self: &std::sync::Arc<Self>, ask: &Ask) -> Outcome {
        let given = ask.headers.contains_key(header::AUTHORIZATION);
        if ask.path == "/v2/" || ask.path == "/v2" {
            return self.base_end_point(ask, given);
        }
        if ask.path == "/v2/_catalog" {
            return self.catalog(ask);
        }
        let Some((name, target)) = ask.path.strip_prefix("/v2/").and_then(parse) else {
            let message = format!("un-recognized request: {} {}", ask.method, ask.path);
            return Err(unauthorised(&message, ""));
        };
        if !name.contains('/') {
            return Err(Fault::bad(format!("bad request: invalid repository name: {name}")));
        }
        let action = match ask.method {
            Method::GET | Method::HEAD => "pull",
            Method::DELETE => "delete",
            _ => "push",
        };
        if !given {
            let realm = format!("{},scope=\"repository:{name}:{action}\"", self.challenge());
            return Err(unauthorised("authorize header needed to send HEAD to repository", &realm));
        }
        let (first, remote) = name.split_once('/').unwrap_or_default();
        let Some(project) = self.state.lock().project_named(first).cloned() else {
            return Err(unauthorised(&format!("project {first} not found"), ""));
        };
        if !ask.who.may_on_repository(&project, name, action) {
            let message = format!("unauthorized to access repository: {name}, action: {action}");
            return Err(unauthorised(&message, "Basic realm=\"harbor\""));
        }
        let place = Place { project, full: name.to_owned(), remote: remote.to_owned() };
        self.repository(ask, &place, &target, action).await
    }

    async fn repository(
        self: &std::sync::Arc<Self>,
        ask: &Ask,
        place: &Place,
        target: &Target<'_>,
        action: &str,
    ) -> Outcome {
        if action == "push" {
            if place.project.registry_id.is_some() {
                let name = &place.project.name;
                return Err(Fault::denied(format!("denied: can not push artifact to a proxy project: {name}")));
            }
            return match target {
                Target::Upload(session) => self.upload(ask, place, session),
                Target::Manifest(reference) => self.put_manifest(ask, place, reference),
                _ => Err(Fault::not_allowed("this is not pushed")),
            };
        }
        if action == "delete" {
            return match target {
                Target::Manifest(reference) if self.erase_artifact(&place.full, reference) => {
                    Ok(super::http::empty(StatusCode::ACCEPTED))
                }
                Target::Manifest(reference) => Err(no_artifact(&place.full, reference)),
                _ => Err(Fault::not_allowed("the double deletes manifests alone")),
            };
        }
        if matches!(target, Target::Manifest(_) | Target::Blob(_))
            && let Some(reply) = self.library(ask, place)
        {
            return Ok(reply);
        }
        match target {
            Target::Manifest(reference) => self.manifest(ask, place, reference).await,
            Target::Blob(digest) => self.blob(ask, place, digest).await,
            Target::Tags => self.tags(ask, place).await,
            Target::Upload(_) => Err(Fault::not_allowed("the double does not tell how far an upload has got")),
        }
    }

    fn base_end_point(&self, ask: &Ask, given: bool) -> Outcome {
        match ask.who {
            Who::Anonymous if given => Err(unauthorised("unauthorized", "Basic realm=\"harbor\"")),
            Who::Anonymous => Err(unauthorised("unauthorized", &self.challenge())),
            _ => {
                let mut reply = text(StatusCode::OK, "application/json; charset=utf-8", "{}");
                put(&mut reply, API_VERSION, "registry/2.0");
                Ok(reply)
            }
        }
    }

    fn challenge(&self) -> String {
        format!("Bearer realm=\"{}/service/token\",service=\"harbor-registry\"", self.base)
    }

    /// Repositories with a tag.
    fn catalog(&self, ask: &Ask) -> Outcome {
        if !matches!(ask.who, Who::Admin(_)) && !ask.who.may("catalog", "read") {
            return Err(unauthorised("unauthorized to list catalog", "Basic realm=\"harbor\""));
        }
        let state = self.state.lock();
        let tagged =
            state.repositories.iter().filter(|(_, repository)| repository.artifacts.iter().any(|a| !a.tags.is_empty()));
        let names: Vec<&String> = tagged.map(|(name, _)| name).collect();
        Ok(charset(json_reply(&json!({"repositories": names}))))
    }

    /// Docker Hub's images of one name live in `library/`.
    fn library(&self, ask: &Ask, place: &Place) -> Option<Reply> {
        let registry = self.registry(place.project.registry_id?).ok()?;
        if registry.kind != "docker-hub" || place.remote.contains('/') {
            return None;
        }
        let rest = ask.path.strip_prefix(&format!("/v2/{}/", place.full))?;
        let target = format!("/v2/{}/library/{}/{rest}", place.project.name, place.remote);
        let body = format!("<a href=\"{target}\">Moved Permanently</a>.\n\n");
        let mut reply = text(StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", body);
        put(&mut reply, header::LOCATION, &target);
        Some(reply)
    }

    /// A manifest of the registry behind Harbor.
    pub(crate) fn local_manifest(&self, ask: &Ask, place: &Place, reference: &str) -> Outcome {
        self.judge(&place.project, &place.full, reference)?;
        let state = self.state.lock();
        let Some(artifact) = state.artifact(&place.full, reference) else {
            if !is_digest(reference) && !state.repositories.contains_key(&place.full) {
                return Err(Fault::not_found(format!("repository {} not found", place.full)));
            }
            return Err(no_artifact(&place.full, reference));
        };
        let accept: Vec<&str> =
            ask.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let accepts = |media_type: &str| {
            accept
                .iter()
                .flat_map(|value| value.split(','))
                .any(|each| each.split(';').next().unwrap_or("").trim() == media_type)
        };
        if artifact.media_type == OCI_MANIFEST && !accepts(OCI_MANIFEST) {
            let message = "OCI manifest found, but accept header does not support OCI manifests";
            return Err(Fault::manifest_unknown(message));
        }
        if artifact.media_type == OCI_INDEX && !accepts(OCI_INDEX) {
            let message = "OCI index found, but accept header does not support OCI indexes";
            return Err(Fault::manifest_unknown(message));
        }
        Ok(stored(&artifact.media_type, &artifact.digest, artifact.bytes.clone()))
    }

    /// A blob of the registry behind Harbor.
    pub(crate) fn local_blob(&self, place: &Place, digest: &str) -> Option<Reply> {
        let bytes = self.state.lock().blob(&place.full, digest)?;
        Some(stored("application/octet-stream", digest, bytes))
    }

    async fn tags(&self, ask: &Ask, place: &Place) -> Outcome {
        let mut tags: Vec<String> = {
            let state = self.state.lock();
            let repository = state.repositories.get(&place.full);
            repository.iter().flat_map(|r| &r.artifacts).flat_map(|a| &a.tags).map(|tag| tag.name.clone()).collect()
        };
        match self.upstream(place) {
            Some(registry) => {
                let path = format!("/v2/{}/tags/list", place.remote);
                if let Ok(answer) = self.ask(Method::GET, &registry, &path).await {
                    let remote: serde_json::Value = answer.json().await.unwrap_or_default();
                    let names = remote["tags"].as_array().into_iter().flatten();
                    tags.extend(names.filter_map(|tag| tag.as_str().map(ToOwned::to_owned)));
                }
            }
            None if !self.state.lock().repositories.contains_key(&place.full) => {
                return Err(Fault::not_found(format!("repository {} not found", place.full)));
            }
            None => {}
        }
        tags.sort();
        tags.dedup();
        if let Some(last) = ask.param("last") {
            tags.retain(|tag| tag.as_str() > last);
        }
        let most = ask.param("n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
        let more = tags.len() > most;
        tags.truncate(most);
        let mut reply = charset(json_reply(&json!({"name": place.full, "tags": tags})));
        if let Some(last) = tags.last().filter(|_| more) {
            put(&mut reply, header::LINK, &format!("<{}?last={last}&n={most}>; rel=\"next\"", ask.path));
        }
        Ok(reply)
    }
}

pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// As the registry behind Harbor answers: with its version, and the digest in quotes as the entity tag.
fn stored(media_type: &str, digest: &str, bytes: bytes::Bytes) -> Reply {
    let mut reply = text(StatusCode::OK, media_type, bytes);
    put(&mut reply, CONTENT_DIGEST, digest);
    put(&mut reply, API_VERSION, "registry/2.0");
    put(&mut reply, header::ETAG, &format!("\"{digest}\""));
    reply
}

/// 401 with a challenge; the message comes twice.
fn unauthorised(message: &str, challenge: &str) -> Fault {
    Fault::unauthorised(format!("{message}: {message}"))
        .with("www-authenticate", challenge)
        .with("docker-distribution-api-version", "registry/2.0")
}

fn charset(mut reply: Reply) -> Reply {
    put(&mut reply, header::CONTENT_TYPE, "application/json; charset=utf-8");
    reply
}

/// Repository and target of a path below `/v2/`, if the name is one.
fn parse(path: &str) -> Option<(&str, Target<'_>)> {
    let (name, target) = if let Some(name) = path.strip_suffix("/tags/list") {
        (name, Target::Tags)
    } else if let Some((name, session)) = path.split_once("/blobs/uploads") {
        (name, Target::Upload(session.trim_matches('/')))
    } else if let Some((name, reference)) = path.rsplit_once("/manifests/") {
        (name, Target::Manifest(reference))
    } else {
        let (name, digest) = path.rsplit_once("/blobs/")?;
        (name, Target::Blob(digest))
    };
    is_repository(name).then_some((name, target))
}

/// Whether a text is the name of a repository, of one component or more.
pub(crate) fn is_repository(name: &str) -> bool {
    let component = |part: &str| {
        part.split(['.', '_', '-'])
            .all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
            && part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.ends_with(|last: char| last.is_ascii_alphanumeric())
    };
    name.split('/').all(component)
}
