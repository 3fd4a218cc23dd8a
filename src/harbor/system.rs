//! Harbor itself: version and health.

use super::{Client, Error, model};

impl Client {
    /// GET /systeminfo. The version is told to authenticated accounts only; wrong credentials are refused with 401.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn system_info(&self) -> Result<model::SystemInfo, Error> {
        self.get("systeminfo", &[]).await
    }

    /// GET /health.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn health(&self) -> Result<model::Health, Error> {
        self.get("health", &[]).await
    }
}
