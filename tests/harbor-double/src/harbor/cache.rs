//! What Harbor does after a pull, by itself: fills its store, waits for what belongs together, tags.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::{Core, artifacts::manifest_blobs, state::Registry, v2::Place};
use crate::{
    image::{DOCKER_LIST, OCI_INDEX},
    index,
};

/// Harbor's own intervals and counts, in its own seconds.
const LOOK: f64 = 20.0;
const LOOKS_AT_BLOBS: u32 = 10;
const LOOKS_AT_CHILDREN: u32 = 20;
const TAG: f64 = 10.0;
const TRIES_TO_TAG: u32 = 60;
/// Longer than any blob of a test takes.
const DEADLINE: Duration = Duration::from_secs(300);

/// Marks a [`Fetched`] of which only the head is known.
pub(crate) const HEAD_ONLY: &str = "";

/// A manifest that went through.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// By which it was asked for, if not by digest.
    pub(crate) tag: Option<String>,
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

impl Core {
    /// Starts the job that a proxied manifest leads to, unless it runs.
    pub(crate) fn remember(self: &Arc<Self>, place: &Place, registry: &Registry, fetched: Fetched) {
        let head = if fetched.media_type == HEAD_ONLY { "head:" } else { "" };
        let tag = format!("{head}{}", fetched.tag.as_deref().unwrap_or_default());
        let key = (place.full.clone(), fetched.digest.clone(), tag);
        if !self.state.lock().pending.insert(key.clone()) {
            return;
        }
        let (core, place, registry) = (self.clone(), place.clone(), registry.clone());
        self.spawn(async move {
            match fetched.media_type.as_str() {
                HEAD_ONLY => core.ensure_tag(&place, &fetched).await,
                OCI_INDEX | DOCKER_LIST => core.keep_index(&place, &fetched).await,
                _ => core.keep_manifest(&place, &registry, &fetched).await,
            }
            core.state.lock().pending.remove(&key);
        });
    }

    /// Fills the store with a blob, beside what a client gets.
    pub(crate) fn fill(self: &Arc<Self>, place: &Place, registry: Registry, digest: &str) {
        let (core, place, digest) = (self.clone(), place.clone(), digest.to_owned());
        self.spawn(async move {
            core.store(&place, &registry, &digest).await;
        });
    }

    /// Waits for the end of the `count`th interval, in Harbor's own seconds. Counted from the start, so that the order of
    /// what happens at the same second stays that of the requests.
    async fn wait(&self, start: Instant, seconds: f64, count: u32) {
        let after = Duration::from_secs_f64(seconds / self.settings.speed) * count;
        tokio::time::sleep_until(start + after).await;
    }

    async fn keep_manifest(self: &Arc<Self>, place: &Place, registry: &Registry, fetched: &Fetched) {
        let blobs = manifest_blobs(&fetched.bytes);
        let mut missing = Vec::new();
        let start = Instant::now();
        for look in 1..=LOOKS_AT_BLOBS {
            self.wait(start, LOOK, look).await;
            let state = self.state.lock();
            missing = blobs.iter().filter(|(digest, _)| state.blob(&place.full, digest).is_none()).collect();
            if missing.is_empty() {
                break;
            }
        }
        for (digest, _) in missing {
            if !self.store(place, registry, digest).await {
                return;
            }
        }
        let mut state = self.state.lock();
        state.store_manifest(&place.full, &fetched.media_type, fetched.bytes.clone(), fetched.tag.as_deref());
        drop(state);
        self.scan_after_push(&place.full, &fetched.digest);
    }

    async fn keep_index(&self, place: &Place, fetched: &Fetched) {
        let children = index::children(&fetched.bytes);
        let start = Instant::now();
        for look in 1..=LOOKS_AT_CHILDREN {
            self.wait(start, LOOK, look).await;
            let state = self.state.lock();
            if children.iter().all(|child| state.artifact(&place.full, &child.digest).is_some()) {
                break;
            }
        }
        let mut state = self.state.lock();
        let stored = index::trimmed(&children, |digest| state.artifact(&place.full, digest).is_some());
        let Some((media_type, bytes)) = stored else {
            return;
        };
        if fetched.tag.is_none() {
            let key = (place.full.clone(), fetched.digest.clone());
            state.trimmed.insert(key, crate::digest::sha256(&bytes));
        }
        // By its own digest, whatever was asked for: no tag.
        state.store_manifest(&place.full, media_type, bytes, None);
    }

    async fn ensure_tag(&self, place: &Place, fetched: &Fetched) {
        let Some(tag) = &fetched.tag else { return };
        let start = Instant::now();
        for attempt in 1..=TRIES_TO_TAG {
            self.wait(start, TAG, attempt).await;
            let mut state = self.state.lock();
            let key = (place.full.clone(), fetched.digest.clone());
            let digest = state.trimmed.get(&key).cloned().unwrap_or_else(|| fetched.digest.clone());
            if state.tag(&place.full, &digest, tag) {
                return;
            }
        }
    }

    /// Fetches a blob into the store. Answers whether it is there now; the registry checks the digest.
    async fn store(&self, place: &Place, registry: &Registry, digest: &str) -> bool {
        let path = format!("/v2/{}/blobs/{digest}", place.remote);
        let fetch = async {
            let answer = self.ask(Method::GET, registry, &path).await.ok()?;
            answer.bytes().await.ok()
        };
        let Ok(Some(bytes)) = tokio::time::timeout(DEADLINE, fetch).await else {
            return false;
        };
        if crate::digest::sha256(&bytes) != digest {
            return false;
        }
        let mut state = self.state.lock();
        state.store_blob(&place.full, digest, bytes);
        state.blob(&place.full, digest).is_some()
    }
}
