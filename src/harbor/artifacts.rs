//! Repositories of a project, and artifacts: what is stored in a repository.

use super::{Client, Error, model};

impl Client {
    /// GET /projects/{project}/repositories, all pages: their names, without the project's. The project is always taken as a
    /// name here, also where it is a number.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn repositories(&self, project: &str) -> Result<Vec<String>, Error> {
        let found: Vec<model::Repository> = self.list(&format!("projects/{project}/repositories"), &[]).await?;
        let within = |name: &str| Some(name.strip_prefix(project)?.strip_prefix('/')?.to_owned());
        Ok(found.into_iter().filter_map(|repository| within(&repository.name)).collect())
    }

    /// DELETE /projects/{project}/repositories/{repository} with all that is stored in it; one that is gone already is fine.
    ///
    /// # Errors
    /// [`Error::Precondition`] while it has an immutable tag.
    pub async fn delete_repository(&self, project: &str, repository: &str) -> Result<(), Error> {
        self.delete(&format!("projects/{project}/repositories/{}", encoded(repository))).await
    }

    /// GET /projects/{project}/repositories/{repository}/artifacts, all pages: with tags and what their last scans say, the
    /// untagged children of indexes among them (`q=base=*`). A repository that Harbor does not have (yet) has none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn scanned_artifacts(&self, project: &str, repository: &str) -> Result<Vec<model::Artifact>, Error> {
        let query = [("with_tag", "true"), ("with_scan_overview", "true"), ("q", "base=*")];
        self.artifacts_by(project, repository, &query).await
    }

    /// Those of the artifacts that have one of these digests, children of an index included: what is asked for is all that is
    /// read, however large the repository is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn artifacts_of(
        &self,
        project: &str,
        repository: &str,
        digests: &[&str],
    ) -> Result<Vec<model::Artifact>, Error> {
        // Without `base` Harbor leaves the children of an index out.
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

    /// POST /projects/{project}/repositories/{repository}/artifacts/{digest}/scan: asks for a scan, which begins some time
    /// later. Until it is done a project that blocks vulnerable images serves the manifest to nobody.
    ///
    /// # Errors
    /// [`Error::Conflict`] while one is under way, [`Error::Precondition`] without a scanner, [`Error::Refused`] (400) for an
    /// artifact that the scanner cannot read.
    pub async fn start_scan(&self, project: &str, repository: &str, digest: &str) -> Result<(), Error> {
        let path = format!("projects/{project}/repositories/{}/artifacts/{digest}/scan", encoded(repository));
        self.post(&path, &model::StartScan::VULNERABILITY).await
    }

    /// GET of one artifact by tag or digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn artifact(
        &self,
        project: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Option<model::Artifact>, Error> {
        let repository = encoded(repository);
        self.find(&format!("projects/{project}/repositories/{repository}/artifacts/{reference}?with_tag=true")).await
    }

    /// [`Client::artifact`] with what its last scan says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn scanned_artifact(
        &self,
        project: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Option<model::Artifact>, Error> {
        let path = format!("projects/{project}/repositories/{}/artifacts/{reference}", encoded(repository));
        self.find(&format!("{path}?with_tag=true&with_scan_overview=true")).await
    }
}

/// Harbor wants the slashes of a repository's name encoded twice.
fn encoded(repository: &str) -> String {
    repository.replace('/', "%252F")
}
