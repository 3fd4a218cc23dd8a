//! Limits of warming for each upstream, by the name of its Registry.

use std::collections::HashMap;

use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    api::Registry,
    prewarm::{RateLimiter, rate_limiter::RateLimitState},
};

/// Capacity of the channel of changed names. A lost name is found at the next reconcile of its Registry, within half a
/// minute.
const NEWS: usize = 64;

/// One allowance per Registry.
#[derive(Debug)]
pub struct RateLimits {
    known: Mutex<HashMap<String, RateLimiter>>,
    news: broadcast::Sender<String>,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { known: Mutex::default(), news: broadcast::Sender::new(NEWS) }
    }
}

impl RateLimits {
    /// Returns the allowance of an upstream. It starts with what the Registry's status remembers.
    pub fn of(&self, registry: &Registry) -> RateLimiter {
        let name = registry.metadata.name.clone().unwrap_or_default();
        let limit = registry.spec.pull_limit;
        let mut known = self.known.lock();
        let allowance = known.entry(name.clone()).or_insert_with(|| {
            let pulls = registry.status.as_ref().and_then(|status| status.pulls.as_ref());
            let news = self.news.clone();
            // There may be no receiver.
            RateLimiter::new(RateLimitState::from_status(limit, pulls), move || drop(news.send(name.clone())))
        });
        allowance.limit(limit);
        allowance.clone()
    }

    /// Streams the names of Registries whose status has to store something new.
    pub fn news(&self) -> impl Stream<Item = String> + Send + use<> {
        stream::unfold(self.news.subscribe(), |mut news| async move {
            loop {
                match news.recv().await {
                    Ok(name) => return Some((name, news)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
    }
}
