//! The backend over an API server: reads resources from there, and writes results back.
//!
//! In: watches of our kinds, of Nodes and Namespaces, of Pods and workloads, and of the Secrets that resources refer to.
//! Out: what the [`engine`](crate::engine) writes: status, finalizers, Events and CachedImages. Also the Lease and the
//! webhook's certificates.

pub mod admitted_namespaces;
pub mod backend;
pub mod certificates;
pub mod events;
pub mod finalizer_removal;
mod image_usage;
pub mod lease;
pub mod nodes;
pub mod run;
pub mod secrets;
mod templates;
mod watch;
mod workload_watch;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::ListParams;

pub use crate::engine::Error;

/// Field manager of all resources that we apply.
pub const FIELD_MANAGER: &str = "harbor-pilot";

/// Timeout of every request to the API server.
pub const DEADLINE: Duration = Duration::from_secs(15);

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
        Err(_) => Err(Error::Timeout { operation, after: DEADLINE }),
    }
}

/// Moves to the next page of a list; `false` after the last one.
pub fn turn(parameters: &mut ListParams, page: ListMeta) -> bool {
    parameters.continue_token = page.continue_.filter(|token| !token.is_empty());
    parameters.continue_token.is_some()
}
