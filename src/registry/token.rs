//! Pull tokens: requested at the token service of the registry's challenge, if credentials may be sent there.

use std::time::Instant;

use http::{Method, StatusCode};
use secrecy::SecretString;

use super::{
    Client, Error,
    auth::{Challenge, TokenResponse},
};
use crate::transport::Request;

/// Maximum size of a token answer in bytes.
const MAX_TOKEN_ANSWER: usize = 256 << 10;

impl Client {
    /// Fetches a token for pulling from `repository`; `None` if the registry requires none.
    pub(super) async fn fetch_token(&self, repository: &str) -> Result<Option<SecretString>, Error> {
        let Challenge::Bearer { path, service } = self.challenge().await? else { return Ok(None) };
        let scope = format!("repository:{repository}:pull");
        let mut query = vec![("scope", scope.as_str())];
        query.extend(service.as_deref().map(|service| ("service", service)));
        let request = Request { method: Method::GET, path: path.trim_start_matches('/'), query: &query };
        let answer = self.transport.open(&request, None, |http| self.transport.basic_auth(http)).await?;
        let body = self.document(answer.success().await?, MAX_TOKEN_ANSWER).await?;
        // The body holds a token: no part of it may appear in an error.
        let parsed = serde_json::from_slice::<TokenResponse>(&body).ok().and_then(TokenResponse::token);
        let Some((token, life)) = parsed else {
            return Err(Error::Malformed {
                operation: request.to_string(),
                detail: "no token in the response".to_owned(),
            });
        };
        let now = Instant::now();
        self.auth.tokens.put(repository, token.clone(), now + life, now);
        Ok(Some(token))
    }

    /// Refuses every path but that of the token service: credentials go nowhere else.
    fn check_token_path(&self, path: &str) -> Result<(), Error> {
        if *path == *self.token_path {
            return Ok(());
        }
        let shown = self.transport.shared().redactor.message(path.as_bytes(), false, &[]);
        let detail = format!(
            "its challenge has the token service {shown}, and credentials are only sent to {}; if a proxy in front of Harbor \
             has its own token service, set spec.tokenPath of the HarborInstance",
            self.token_path
        );
        Err(Error::Malformed { operation: "GET /v2/".to_owned(), detail })
    }

    async fn challenge(&self) -> Result<Challenge, Error> {
        let mut known = self.auth.challenge.lock().await;
        if let Some(challenge) = &*known {
            return Ok(challenge.clone());
        }
        let answer = self.transport.open(&Request::new(Method::GET, "v2/"), None, |http| http).await?;
        let challenge = if answer.status() == StatusCode::UNAUTHORIZED {
            Challenge::read(answer.headers()).ok_or_else(|| Error::Malformed {
                operation: answer.operation.clone(),
                detail: "401 without a valid challenge: is this a registry?".to_owned(),
            })?
        } else {
            answer.success().await.map(|_| Challenge::Open)?
        };
        if let Challenge::Bearer { path, .. } = &challenge {
            self.check_token_path(path)?;
        }
        *known = Some(challenge.clone());
        Ok(challenge)
    }
}
