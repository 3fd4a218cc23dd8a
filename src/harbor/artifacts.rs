//! Repositories of a project, and the artifacts in a repository.

use super::{Client, Error, model};

impl Client {
    /// GET /projects/{project}/repositories, all pages: returns their names, without the project's. The project is always a
    /// name here, even if it is a number.
    pub async fn repositories(&self, project: &str) -> Result<Vec<String>, Error> {
        let found: Vec<model::Repository> = self.list(&format!("projects/{project}/repositories"), &[]).await?;
        let within = |name: &str| Some(name.strip_prefix(project)?.strip_prefix('/')?.to_owned());
        Ok(found.into_iter().filter_map(|repository| within(&repository.name)).collect())
    }

    /// DELETE /projects/{project}/repositories/{repository} with everything that is stored in it. Succeeds if it is already
    /// gone.
    ///
    /// # Errors
    /// [`Error::Precondition`] while it has an immutable tag.
    pub async fn delete_repository(&self, project: &str, repository: &str) -> Result<(), Error> {
        self.delete(&format!("projects/{project}/repositories/{}", encoded(repository))).await
    }

    /// GET /projects/{project}/repositories/{repository}/artifacts, all pages: with tags and the results of the last scans,
    /// including the untagged children of indexes (`q=base=*`). Returns none for a repository that Harbor does not have (yet).
    pub async fn scanned_artifacts(&self, project: &str, repository: &str) -> Result<Vec<model::Artifact>, Error> {
        let query = [("with_tag", "true"), ("with_scan_overview", "true"), ("q", "base=*")];
        self.artifacts_by(project, repository, &query).await
    }

    /// Returns the artifacts with one of these digests, children of an index included. Reads only these, however large the
    /// repository is.
    pub async fn artifacts_of(
        &self,
        project: &str,
        repository: &str,
        digests: &[&str],
    ) -> Result<Vec<model::Artifact>, Error> {
        // Without `base` Harbor omits the children of an index.
        let wanted = format!("base=*,digest={{{}}}", digests.join(" "));
        self.artifacts_by(project, repository, &[("q", wanted.as_str()), ("with_tag", "false")]).await
    }

    async fn artifacts_by(
        &self,
        project: &str,
        repository: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<model::Artifact>, Error> {
        let path = format!("projects/{project}/repositories/{}/artifacts", encoded(repository));
        match self.list(&path, query).await {
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// POST /projects/{project}/repositories/{repository}/artifacts/{digest}/scan: requests a scan, which begins some time
    /// later. Until it is done, a project that blocks vulnerable images refuses to serve the manifest.
    ///
    /// # Errors
    /// [`Error::Conflict`] while one is running, [`Error::Precondition`] without a scanner, [`Error::Refused`] (400) for an
    /// artifact that the scanner cannot read.
    pub async fn start_scan(&self, project: &str, repository: &str, digest: &str) -> Result<(), Error> {
        let path = format!("projects/{project}/repositories/{}/artifacts/{digest}/scan", encoded(repository));
        self.post(&path, &model::StartScan::VULNERABILITY).await
    }

    /// GET of one artifact by tag or digest.
    pub async fn artifact(
        &self,
        project: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Option<model::Artifact>, Error> {
        self.artifact_with(project, repository, reference, &[("with_tag", "true")]).await
    }

    /// Like [`Client::artifact`], with the result of its last scan.
    pub async fn scanned_artifact(
        &self,
        project: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Option<model::Artifact>, Error> {
        let query = [("with_tag", "true"), ("with_scan_overview", "true")];
        self.artifact_with(project, repository, reference, &query).await
    }

    async fn artifact_with(
        &self,
        project: &str,
        repository: &str,
        reference: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<model::Artifact>, Error> {
        let path = format!("projects/{project}/repositories/{}/artifacts/{reference}", encoded(repository));
        self.find(&path, query).await
    }
}

/// Harbor requires the slashes of a repository's name to be encoded twice.
fn encoded(repository: &str) -> String {
    repository.replace('/', "%252F")
}
