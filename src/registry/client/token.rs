//! Pull tokens: requested at the token service of the registry's challenge, if credentials may be sent there.

use std::time::Instant;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};

use super::Client;
use crate::registry::{
    auth::{Challenge, TokenResponse},
    error::Error,
};

/// Maximum size of a token answer in bytes; a longer one is malformed.
const MAX_TOKEN_ANSWER: usize = 256 << 10;

impl Client {
    /// Fetches a token for pulling from `repository`; `None` if the registry requires none.
    pub(super) async fn fetch_token(&self, repository: &str) -> Result<Option<SecretString>, Error> {
        let Challenge::Bearer { path, service } = self.challenge().await? else { return Ok(None) };
        let scope = format!("repository:{repository}:pull");
        let mut request = self.inner.http.get(self.url(&path)).query(&[("scope", scope.as_str())]);
        if let Some(service) = service {
            request = request.query(&[("service", service.as_str())]);
        }
        if let Some(own) = &self.inner.credentials {
            request = request.basic_auth(&own.username, Some(own.password.expose_secret()));
        }
        let operation = format!("GET {path}");
        let answer = self.execute(request, operation.clone()).await?.successful().await?;
        let body = self.body(answer, MAX_TOKEN_ANSWER).await?;
        // The body holds a token: no part of it may appear in an error.
        let parsed = serde_json::from_slice::<TokenResponse>(&body).ok().and_then(TokenResponse::token);
        let Some((token, life)) = parsed else {
            return Err(Error::Malformed { operation, detail: "no token in the response".to_owned() });
        };
        let now = Instant::now();
        self.inner.tokens.put(repository, token.clone(), now + life, now);
        Ok(Some(token))
    }

    /// Refuses every path but that of the token service: credentials go nowhere else.
    fn check_token_path(&self, path: &str) -> Result<(), Error> {
        if *path == *self.token_path {
            return Ok(());
        }
        let shown = self.secrets.message(path.as_bytes(), false, &[]);
        let detail = format!(
            "its challenge has the token service {shown}, and credentials are only sent to {}; if a proxy in front of Harbor \
             has its own token service, set spec.tokenPath of the HarborInstance",
            self.token_path
        );
        Err(Error::Malformed { operation: "GET /v2/".to_owned(), detail })
    }

    async fn challenge(&self) -> Result<Challenge, Error> {
        let mut known = self.inner.challenge.lock().await;
        if let Some(challenge) = &*known {
            return Ok(challenge.clone());
        }
        let answer = self.execute(self.inner.http.get(self.url("/v2/")), "GET /v2/".to_owned()).await?;
        let challenge = if answer.response.status() == StatusCode::UNAUTHORIZED {
            Challenge::read(answer.response.headers()).ok_or_else(|| Error::Malformed {
                operation: answer.operation.clone(),
                detail: "401 without a valid challenge: is this a registry?".to_owned(),
            })?
        } else {
            answer.successful().await.map(|_| Challenge::Open)?
        };
        if let Challenge::Bearer { path, .. } = &challenge {
            self.check_token_path(path)?;
        }
        *known = Some(challenge.clone());
        Ok(challenge)
    }
}
