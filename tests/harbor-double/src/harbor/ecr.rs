//! Harbor's adapter for a private registry of Amazon: keys buy a login, and a repository is made before it is pushed to.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::header;
use serde_json::{Value, json};

use super::{Core, remote::Failure, state::Registry};
use crate::upstream::{TARGET, signed};

/// The type of the adapter.
pub(crate) const KIND: &str = "aws-ecr";

impl Core {
    /// User and password for the registry itself.
    pub(crate) async fn ecr_login(&self, registry: &Registry) -> Result<(String, String), Failure> {
        let answer = self.ecr_call(registry, "GetAuthorizationToken", &json!({})).await?;
        let login = answer["authorizationData"][0]["authorizationToken"].as_str().unwrap_or_default();
        let login = STANDARD.decode(login).ok().and_then(|login| String::from_utf8(login).ok()).unwrap_or_default();
        let (user, password) = login.split_once(':').ok_or(Failure::Unreachable)?;
        Ok((user.to_owned(), password.to_owned()))
    }

    /// Makes a repository, unless it is there.
    pub(crate) async fn ecr_repository(&self, registry: &Registry, name: &str) -> Result<(), Failure> {
        match self.ecr_call(registry, "DescribeRepositories", &json!({"repositoryNames": [name]})).await {
            Err(Failure::Refused(_, body)) if body.contains("RepositoryNotFoundException") => {
                self.ecr_call(registry, "CreateRepository", &json!({"repositoryName": name})).await.map(drop)
            }
            described => described.map(drop),
        }
    }

    /// The API has a host of its own, which the double finds where it finds the registry.
    async fn ecr_call(&self, registry: &Registry, operation: &str, body: &Value) -> Result<Value, Failure> {
        let base = self.resolve(registry).ok_or(Failure::Unreachable)?;
        let body = body.to_string();
        let answer = self
            .client
            .post(format!("{}/", base.trim_end_matches('/')))
            .header(TARGET.0, format!("{}{operation}", TARGET.1))
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
            .header(header::AUTHORIZATION, signed(&registry.access_key, &registry.access_secret, body.as_bytes()))
            .body(body)
            .send()
            .await
            .map_err(|_| Failure::Unreachable)?;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        if !status.is_success() {
            return Err(Failure::Refused(status, text));
        }
        serde_json::from_str(&text).map_err(|_| Failure::Unreachable)
    }
}

/// Whether the adapter finds a region in the URL: of a registry (`ACCOUNT.dkr.ecr.REGION…`) or of the API (`api.ecr.REGION…`).
pub(crate) fn is_ecr(url: &str) -> bool {
    let Some(host) = url.strip_prefix("https://") else {
        return false;
    };
    let host = host.split('/').next().unwrap_or_default();
    let (whose, rest) = host.split_once(".ecr").unwrap_or_default();
    let account = whose.strip_suffix(".dkr").unwrap_or_default();
    let numbered = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest.strip_prefix("-fips").or_else(|| rest.strip_prefix("-public")).unwrap_or(rest);
    let Some((region, domain)) = rest.strip_prefix('.').and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let domains = ["amazonaws.com", "amazonaws.com.cn", "sc2s.sgov.gov", "c2s.ic.gov"];
    (numbered || whose == "api") && !region.is_empty() && domains.contains(&domain)
}
