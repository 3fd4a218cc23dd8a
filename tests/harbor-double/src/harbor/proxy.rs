//! Pulls through a proxy project: what is asked of the upstream, what comes from the store, and in which dress.

use std::sync::{Arc, atomic::AtomicU64};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, StatusCode, header};

use super::{
    Core,
    cache::{Fetched, HEAD_ONLY},
    http::{Ask, Fault, Outcome, Reply, put, text},
    remote::Failure,
    state::Registry,
    v2::{API_VERSION, CONTENT_DIGEST, Place},
};
use crate::{body, digest::is_digest, image};

/// What Go's server buffers: longer answers without a length come in chunks.
const BUFFERED: u64 = 2048;

impl Core {
    /// The upstream of a place, unless Harbor holds it for unhealthy, or the project is no proxy.
    pub(crate) fn upstream(&self, place: &Place) -> Option<Registry> {
        self.registry(place.project.registry_id?).ok().filter(|registry| registry.healthy)
    }

    pub(crate) async fn manifest(self: &Arc<Self>, ask: &Ask, place: &Place, reference: &str) -> Outcome {
        let Some(registry) = self.upstream(place) else {
            return self.local_manifest(ask, place, reference);
        };
        let by_digest = is_digest(reference);
        let local = self.state.lock().artifact(&place.full, reference).map(|artifact| artifact.digest.clone());
        if by_digest && local.is_some() {
            return self.local_manifest(ask, place, reference);
        }
        let path = format!("/v2/{}/manifests/{reference}", place.remote);
        let digest = match self.ask(Method::HEAD, &registry, &path).await {
            Ok(answer) => header_text(&answer, "docker-content-digest"),
            Err(Failure::Refused(StatusCode::NOT_FOUND, _)) => {
                let kept =
                    place.project.metadata.get("proxy_cache_local_on_not_found").is_some_and(|kept| kept == "true");
                if local.is_some() && kept {
                    return self.local_manifest(ask, place, reference);
                }
                return Err(not_found(place, reference));
            }
            Err(Failure::Refused(StatusCode::TOO_MANY_REQUESTS, body)) if local.is_none() => {
                return Err(Fault::too_many(format!("http status code: 429, body: {body}")));
            }
            Err(_) => return self.local_manifest(ask, place, reference),
        };
        if let Some((media_type, bytes)) = self.index(place, &digest) {
            return Ok(proxied(&media_type, &digest, bytes));
        }
        if local.as_ref() == Some(&digest) {
            return self.local_manifest(ask, place, reference);
        }
        let answer = match self.ask(ask.method.clone(), &registry, &path).await {
            Ok(answer) => answer,
            Err(Failure::Refused(StatusCode::NOT_FOUND, _)) => {
                return Err(not_found(place, reference));
            }
            Err(Failure::Refused(StatusCode::TOO_MANY_REQUESTS, body)) => {
                return Err(Fault::too_many(format!("http status code: 429, body: {body}")));
            }
            Err(_) => return self.local_manifest(ask, place, reference),
        };
        let media_type = header_text(&answer, "content-type");
        if ask.method == Method::HEAD {
            let length = header_text(&answer, "content-length");
            if !by_digest {
                self.remember(
                    place,
                    &registry,
                    Fetched {
                        tag: Some(reference.to_owned()),
                        digest: digest.clone(),
                        media_type: HEAD_ONLY.to_owned(),
                        bytes: Bytes::new(),
                    },
                );
            }
            let mut reply = proxied(&media_type, &digest, Bytes::new());
            put(&mut reply, header::CONTENT_LENGTH, &length);
            return Ok(reply);
        }
        let Ok(bytes) = answer.bytes().await else {
            return self.local_manifest(ask, place, reference);
        };
        // What Harbor cannot parse it does not pass on.
        if serde_json::from_slice::<serde_json::Value>(&bytes).is_err() {
            return self.local_manifest(ask, place, reference);
        }
        let digest = crate::digest::sha256(&bytes);
        let tag = (!by_digest).then(|| reference.to_owned());
        if media_type == image::OCI_INDEX || media_type == image::DOCKER_LIST {
            self.state.lock().indexes.insert((place.full.clone(), digest.clone()), (media_type.clone(), bytes.clone()));
        }
        self.remember(place, &registry, Fetched { tag, digest, media_type: media_type.clone(), bytes: bytes.clone() });
        // Harbor knows the digest only where it was asked for it.
        Ok(proxied(&media_type, if by_digest { reference } else { "" }, bytes))
    }

    pub(crate) async fn blob(self: &Arc<Self>, ask: &Ask, place: &Place, digest: &str) -> Outcome {
        if let Some(reply) = self.local_blob(place, digest) {
            return Ok(reply);
        }
        if ask.method == Method::HEAD {
            return Err(Fault::not_found(format!("blob {digest} not found")));
        }
        let Some(registry) = self.upstream(place) else {
            return Ok(blob_unknown(digest));
        };
        let path = format!("/v2/{}/blobs/{digest}", place.remote);
        let answer = match self.ask(Method::GET, &registry, &path).await {
            Ok(answer) => answer,
            Err(Failure::Unreachable) => return Err(Fault::internal()),
            Err(Failure::Refused(status, body)) => {
                let message = format!("http status code: {}, body: {body}", status.as_u16());
                return Err(match status {
                    StatusCode::NOT_FOUND => Fault::not_found(message),
                    StatusCode::UNAUTHORIZED => Fault::unauthorised(message),
                    StatusCode::FORBIDDEN => Fault::forbidden(message),
                    StatusCode::TOO_MANY_REQUESTS => Fault::too_many(message),
                    _ => Fault::internal(),
                });
            }
        };
        self.fill(place, registry, digest);
        Ok(if self.settings.announces_blobs { announced(answer, digest) } else { streamed(answer).await })
    }

    fn index(&self, place: &Place, digest: &str) -> Option<(String, Bytes)> {
        self.state.lock().indexes.get(&(place.full.clone(), digest.to_owned())).cloned()
    }
}

/// As Harbor's core answers for the upstream: no version, and the digest without quotes.
fn proxied(media_type: &str, digest: &str, bytes: Bytes) -> Reply {
    let mut reply = text(StatusCode::OK, media_type, bytes);
    put(&mut reply, CONTENT_DIGEST, digest);
    put(&mut reply, header::ETAG, digest);
    reply
}

fn not_found(place: &Place, reference: &str) -> Fault {
    let tag = if is_digest(reference) { "" } else { reference };
    Fault::not_found(format!("resource not found: repo {}, tag {tag} not found", place.full))
}

fn blob_unknown(digest: &str) -> Reply {
    let body = format!(
        "{{\"errors\":[{{\"code\":\"BLOB_UNKNOWN\",\"message\":\"blob unknown to registry\",\"detail\":\"{digest}\"}}]}}\n"
    );
    let mut reply = text(StatusCode::NOT_FOUND, "application/json; charset=utf-8", body);
    put(&mut reply, API_VERSION, "registry/2.0");
    reply
}

/// A cold blob: the type is guessed from the first bytes, there is no digest, and a length only where the server buffers
/// all of it. When the upstream breaks off, an error document ends the body: only the digest tells.
async fn streamed(answer: reqwest::Response) -> Reply {
    let length = answer.content_length();
    let mut pieces = answer.bytes_stream();
    let first = pieces.next().await;
    let media_type = sniff(first.as_ref().and_then(|piece| piece.as_ref().ok()));
    let broken = "{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"internal server error\"}]}\n";
    let pieces = stream::iter(first).chain(pieces).scan(false, move |ended, piece| {
        let item = match piece {
            _ if *ended => None,
            Ok(piece) => Some(Ok::<_, std::io::Error>(piece)),
            Err(_) => {
                *ended = true;
                Some(Ok(Bytes::from_static(broken.as_bytes())))
            }
        };
        std::future::ready(item)
    });
    let mut reply = text(StatusCode::OK, media_type, body::tallied(pieces, Arc::new(AtomicU64::new(0))));
    if let Some(length) = length.filter(|length| *length <= BUFFERED) {
        put(&mut reply, header::CONTENT_LENGTH, &length.to_string());
    }
    reply
}

/// A cold blob as Harbor answers it after 2.15: with length and digest. When the upstream breaks off, so does the connection.
fn announced(answer: reqwest::Response, digest: &str) -> Reply {
    let length = answer.content_length();
    let pieces = answer.bytes_stream().map(|piece| piece.map_err(std::io::Error::other));
    let sent = body::tallied(pieces, Arc::new(AtomicU64::new(0)));
    let mut reply = text(StatusCode::OK, "application/x-gzip", sent);
    if let Some(length) = length {
        put(&mut reply, header::CONTENT_LENGTH, &length.to_string());
    }
    put(&mut reply, CONTENT_DIGEST, digest);
    put(&mut reply, header::ETAG, digest);
    reply
}

/// What Go's content sniffing says, of the kinds that images have.
fn sniff(first: Option<&Bytes>) -> &'static str {
    let Some(bytes) = first else {
        return "text/plain; charset=utf-8";
    };
    if bytes.starts_with(&[0x1f, 0x8b, 8]) {
        return "application/x-gzip";
    }
    let binary = |byte: &u8| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31);
    if bytes.iter().take(512).any(binary) { "application/octet-stream" } else { "text/plain; charset=utf-8" }
}

fn header_text(answer: &reqwest::Response, name: &str) -> String {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
