//! Registries.

use super::{Client, Error, model};

impl Client {
    /// GET /registries, all pages.
    pub async fn registries(&self) -> Result<Vec<model::Registry>, Error> {
        // Without `sort` Harbor lists the last written registry at the end, and pages would shift during the read.
        self.list("registries", &[("sort", "id")]).await
    }

    /// GET /registries whose upstreams failed Harbor's last check.
    pub async fn unhealthy_registries(&self) -> Result<Vec<model::Registry>, Error> {
        // `health` is the name of the column; Harbor would ignore an unknown key and list all registries.
        let found: Vec<model::Registry> = self.list("registries", &[("q", "health=unhealthy"), ("sort", "id")]).await?;
        Ok(found.into_iter().filter(model::Registry::is_unhealthy).collect())
    }

    /// GET /registries with the exact name.
    pub async fn registry_named(&self, name: &str) -> Result<Option<model::Registry>, Error> {
        let found: Vec<model::Registry> = self.list("registries", &[("q", &format!("name={name}"))]).await?;
        Ok(found.into_iter().find(|registry| registry.name == name))
    }

    /// POST /registries. Harbor probes the upstream first. Returns the id.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_unhealthy_registry`] if the probe fails for any reason.
    pub async fn create_registry(&self, registry: &model::NewRegistry) -> Result<i64, Error> {
        if let Some(credential) = &registry.credential {
            self.secrets().learn(&credential.access_key, &credential.access_secret.clone().into());
        }
        self.create("registries", registry).await
    }

    /// PUT /registries/{id}. Harbor probes the upstream first, and clears its status `unhealthy`.
    pub async fn update_registry(&self, id: i64, update: &model::RegistryUpdate) -> Result<(), Error> {
        if let Some(secret) = &update.access_secret {
            self.secrets().learn(update.access_key.as_deref().unwrap_or_default(), &secret.clone().into());
        }
        self.put(&format!("registries/{id}"), update).await
    }

    /// DELETE /registries/{id}. Succeeds if it is already gone.
    ///
    /// # Errors
    /// [`Error::Precondition`] while a proxy project or a replication policy uses it.
    pub async fn delete_registry(&self, id: i64) -> Result<(), Error> {
        self.delete(&format!("registries/{id}")).await
    }

    /// POST /registries/ping: asks Harbor to probe an endpoint without storing it.
    pub async fn ping_registry(&self, ping: &model::RegistryPing) -> Result<(), Error> {
        self.post("registries/ping", ping).await
    }
}
