//! Version and health of Harbor.

use super::{Client, Error, model};

impl Client {
    /// GET /systeminfo. Harbor sends the version only to authenticated accounts; it answers 401 to wrong credentials.
    pub async fn system_info(&self) -> Result<model::SystemInfo, Error> {
        self.get("systeminfo", &[]).await
    }

    /// GET /health.
    pub async fn health(&self) -> Result<model::Health, Error> {
        self.get("health", &[]).await
    }
}
