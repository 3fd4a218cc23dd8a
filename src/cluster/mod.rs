//! The Kubernetes side: reads resources from the API server, and writes results back.
//!
//! In: watches of our kinds, of Nodes and Namespaces, of Pods and workloads, and of the Secrets that resources refer to.
//! Out: the [`Directory`](crate::controller::Directory) that reconcilers read, the rewrite rules that the webhook follows,
//! and, for each reconcile, status, finalizer and Events.

pub mod admitted_namespaces;
pub mod certificates;
pub mod collectors;
pub mod create_cached_images;
pub mod events;
mod expiry;
pub mod finalizer_removal;
mod gate;
mod image_usage;
pub mod instruments;
pub mod lease;
mod log_limit;
pub mod nodes;
pub mod page_inputs;
mod quota;
pub mod reconcile_loop;
pub mod resource_store;
pub mod rules;
pub mod run;
pub mod scan_requirements;
pub mod secrets;
mod shared_watch;
mod status_cache;
mod templates;
mod watch;
mod watch_map;
mod watch_mappings;
mod workload_watch;

use std::time::Duration;

use backon::ExponentialBuilder;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{api::ListParams, runtime::watcher};

/// Field manager of all resources that we apply.
pub const FIELD_MANAGER: &str = "harbor-pilot";

/// Timeout of every request to the API server.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Backoff of a failed watch: one second at first, at most eight. A restarted API server refuses a watch up to three times
/// (port not open, storage not ready, resourceVersion too old to resume from), and within half a minute everything has to
/// be known again.
fn backoff() -> watcher::ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(Duration::from_millis(800));
    builder.with_max_delay(Duration::from_secs(4)).with_jitter().without_max_times().into()
}

/// Errors of requests to the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request failed.
    #[error("{operation}: {source}")]
    Api {
        /// The operation that failed.
        operation: &'static str,
        /// The error of the client.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{operation}: the API server did not answer within {} s", DEADLINE.as_secs())]
    Timeout {
        /// The operation that timed out.
        operation: &'static str,
    },
}

/// Awaits a request to the API server with a timeout.
///
/// # Errors
/// [`Error`] with the name of the operation.
pub async fn bounded<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Error::Api { operation, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { operation }),
    }
}

/// Moves to the next page of a list; `false` after the last one.
pub fn turn(parameters: &mut ListParams, page: ListMeta) -> bool {
    parameters.continue_token = page.continue_.filter(|token| !token.is_empty());
    parameters.continue_token.is_some()
}

impl Error {
    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether another client changed the object first.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the API server answered and refused the request.
    pub fn is_api_response(&self) -> bool {
        self.code().is_some()
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_never_waits_longer_than_eight_seconds_and_never_gives_up() {
        let waits: Vec<Duration> = backoff().take(50).collect();
        assert_eq!(waits.len(), 50);
        assert!(waits[0] < Duration::from_secs(2), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(8)), "{waits:?}");
    }
}
