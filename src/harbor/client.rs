//! Requests, paging and errors, the same for every operation.

use http::{HeaderMap, Method, header};
use k8s_openapi::jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use super::Error;
use crate::transport::{self, Api, Endpoint, Redactor, Request, Shared};

/// Maximum bytes of an answer.
const MAX_BODY: usize = 8 << 20;

/// A client of one Harbor's API. Clones share the connection pool and the bound on concurrent requests.
#[derive(Debug, Clone)]
pub struct Client {
    transport: transport::Client,
}

impl Client {
    /// Creates a client for the endpoint. Sends nothing.
    ///
    /// # Errors
    /// [`transport::Error::Endpoint`] for a URL or a CA bundle that cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::sharing(endpoint, Shared::default())
    }

    /// Like [`Client::new`], with what all clients of this Harbor share.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn sharing(endpoint: &Endpoint, shared: Shared) -> Result<Self, Error> {
        Ok(Self { transport: transport::Client::new(endpoint, Api::Management, shared)? })
    }

    /// Returns whether the account is a user: each request of a user costs Harbor about 100 ms of CPU for the password hash.
    pub fn is_user_account(&self) -> bool {
        self.transport.credentials().is_some_and(|credentials| !credentials.username.starts_with("robot$"))
    }

    /// Returns the secrets that no text about this Harbor may contain.
    pub fn secrets(&self) -> &Redactor {
        &self.transport.shared().redactor
    }

    /// Returns the HTTP transport.
    pub fn transport(&self) -> &transport::Client {
        &self.transport
    }

    /// Runs a read, unless Harbor is unreachable.
    pub(super) async fn admitted<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let admitted = self.transport.shared().breaker.admit(Timestamp::now());
        let _probe = admitted.map_err(|open| transport::Error::CircuitOpen(open.why))?;
        read.await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Error> {
        let request = Request { method: Method::GET, path, query };
        self.decode(&request, &self.send(&request, None::<&()>).await?.1)
    }

    /// Sends GET; `None` for 404.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<T>, Error> {
        match self.get(path, query).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends GET for plain text.
    pub(super) async fn text(&self, path: &str) -> Result<String, Error> {
        let (_, body) = self.send(&Request::new(Method::GET, path), None::<&()>).await?;
        Ok(self.secrets().redact(&String::from_utf8_lossy(&body)))
    }

    /// Parses a body as JSON. Secrets are removed from the parser's message, because it may quote the body.
    pub(super) fn decode<T: DeserializeOwned>(&self, request: &Request<'_>, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| {
            let detail = self.secrets().message(error.to_string().as_bytes(), false, &[]);
            Error::Malformed { operation: request.to_string(), detail }
        })
    }

    /// Sends POST for a new object; returns the id at the end of `Location`.
    pub(super) async fn create(&self, path: &str, body: &impl Serialize) -> Result<i64, Error> {
        let request = Request::new(Method::POST, path);
        let (headers, _) = self.send(&request, Some(body)).await?;
        let id =
            headers.get(header::LOCATION).and_then(|location| location.to_str().ok()?.rsplit('/').next()?.parse().ok());
        let detail = "no id in Location".to_owned();
        id.ok_or_else(|| Error::Malformed { operation: request.to_string(), detail })
    }

    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(&Request::new(Method::POST, path), Some(body)).await.map(drop)
    }

    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(&Request::new(Method::PUT, path), Some(body)).await.map(drop)
    }

    /// Sends DELETE; an object that is already gone is no error.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Error> {
        match self.send(&Request::new(Method::DELETE, path), None::<&()>).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn send(
        &self,
        request: &Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<(HeaderMap, Vec<u8>), Error> {
        let fetched = self.transport.fetch(request, MAX_BODY, |http| match body {
            Some(body) => http.json(body),
            None => http,
        });
        Ok(fetched.await?)
    }
}
