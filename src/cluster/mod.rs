//! The Kubernetes side: what lives in the API server, and what is written back to it.
//!
//! In: watches of our kinds, of Nodes, of Pods and of the Secrets that resources name. Out: the
//! [`Directory`](crate::controller::Directory) that reconcilers read, the rewrite rules that the webhook follows, and, for each
//! reconcile, status, finalizer and Events.

mod changes;
pub mod controllers;
pub mod directory;
pub mod driver;
pub mod events;
mod follow;
pub mod nodes;
pub mod pods;
pub mod release;
pub mod rules;
pub mod secrets;
pub mod sink;
mod triggers;

use std::time::Duration;

/// Field manager of everything that we apply.
pub const FIELD_MANAGER: &str = "harbor-pilot";

/// No request to the API server takes longer.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// What can go wrong with the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request failed.
    #[error("{operation}: {source}")]
    Api {
        /// What was being done.
        operation: &'static str,
        /// What the client said.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{operation}: the API server did not answer within {} s", DEADLINE.as_secs())]
    Timeout {
        /// What was being done.
        operation: &'static str,
    },
}

/// Awaits a request to the API server, bounded.
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

impl Error {
    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
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
