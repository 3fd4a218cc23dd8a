//! Sends requests to one API of a Harbor, and reads bounded responses.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::Instrument;
use url::Url;

use super::{
    Api, CircuitBreaker, Deadlines, Error, Redactor, Refusal, RequestObserver, RequestResult, Response, address,
    call::Call,
    timings::{PING, RATE_LIMIT_PAUSE, RATE_LIMIT_PAUSE_MAX, SLOT_HELD},
};
use crate::leadership::Leadership;

/// The credentials of a user or a robot account of Harbor.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name, or `robot$name`.
    pub username: String,
    /// Password or secret.
    pub password: SecretString,
}

/// Address, trust and limits of a Harbor.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://` or `https://`, host and port.
    pub url: String,
    /// PEM certificates to trust in addition to the system's.
    pub ca_bundle: Option<String>,
    /// Credentials; `None` is anonymous.
    pub credentials: Option<Credentials>,
    /// Maximum number of requests in flight to each of the two APIs, at least 1; a streamed blob counts until its end.
    pub max_concurrent_requests: u16,
    /// Deadlines of requests.
    pub deadlines: Deadlines,
}

impl Endpoint {
    /// Creates an anonymous endpoint with the default bounds: four requests at once, and [`Deadlines::default`].
    pub fn new(url: impl Into<String>) -> Self {
        let deadlines = Deadlines::default();
        Self { url: url.into(), ca_bundle: None, credentials: None, max_concurrent_requests: 4, deadlines }
    }
}

/// What all clients of one Harbor share. The default has no observer and always holds the leadership.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// The secrets that no text about this Harbor may contain.
    pub redactor: Redactor,
    /// Whether this Harbor is unreachable.
    pub breaker: CircuitBreaker,
    /// Is notified of each request.
    pub observer: Option<Arc<dyn RequestObserver>>,
    /// While it does not hold, nothing is sent, and no response is waited for.
    pub leadership: Leadership,
}

/// A client of one API of a Harbor. Clones share the connections and the limit on concurrent requests.
#[derive(Debug, Clone)]
pub struct Client(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) api: Api,
    base: Url,
    http: reqwest::Client,
    credentials: Option<Credentials>,
    deadlines: Deadlines,
    slots: Semaphore,
    /// End of the pause after a 429 of the API: for all clones, because Harbor counts their requests together.
    paused_until: Mutex<Option<Instant>>,
    pub(super) shared: Shared,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// HTTP method.
    pub method: Method,
    /// Path below the API, without a `/` at its beginning.
    pub path: &'a str,
    /// Keys and values of the query.
    pub query: &'a [(&'a str, &'a str)],
}

impl<'a> Request<'a> {
    /// Creates a request without a query.
    pub fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, query: &[] }
    }
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} /{}", self.method, self.path)
    }
}

impl Client {
    /// Creates a client of one API of the endpoint. Sends nothing.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for a URL or a CA bundle that cannot be used.
    pub fn new(endpoint: &Endpoint, api: Api, shared: Shared) -> Result<Self, Error> {
        let base = address::base(&endpoint.url).map_err(Error::Endpoint)?;
        let deadlines = endpoint.deadlines;
        let http = address::builder(endpoint.ca_bundle.as_deref()).map_err(Error::Endpoint)?;
        let http = http.connect_timeout(deadlines.connect);
        let http = match api {
            Api::Management => http.timeout(deadlines.request),
            // HTTP/1.1 only: closing the connection ends the transfer of one blob and disturbs no other.
            Api::Registry => http.http1_only().read_timeout(deadlines.idle),
        };
        let http = http.build().map_err(|error| Error::Endpoint(error.to_string()))?;
        if let Some(own) = &endpoint.credentials {
            shared.redactor.learn(&own.username, &own.password);
        }
        let slots = Semaphore::new(usize::from(endpoint.max_concurrent_requests.max(1)));
        let (credentials, paused_until) = (endpoint.credentials.clone(), Mutex::default());
        Ok(Self(Arc::new(Inner { api, base, http, credentials, deadlines, slots, paused_until, shared })))
    }

    /// Returns scheme, host and port.
    pub fn address(&self) -> String {
        self.0.base.origin().ascii_serialization()
    }

    /// Returns the credentials; `None` is anonymous.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.0.credentials.as_ref()
    }

    /// Returns the deadlines.
    pub fn deadlines(&self) -> Deadlines {
        self.0.deadlines
    }

    /// Returns what this client shares with the others of its Harbor.
    pub fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Adds the credentials to a request, if there are any.
    pub fn basic_auth(&self, http: RequestBuilder) -> RequestBuilder {
        match &self.0.credentials {
            Some(own) => http.basic_auth(&own.username, Some(own.password.expose_secret())),
            None => http,
        }
    }

    /// Sends a request of the API with the credentials, and reads its whole response of at most `limit` bytes. The wait for a
    /// slot counts: a caller needs its result in time, whatever the reason. After a 429 it sends nothing for a while.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn fetch(
        &self,
        request: &Request<'_>,
        limit: usize,
        prepare: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<(HeaderMap, Vec<u8>), Error> {
        let deadline = self.0.deadlines.request * 2;
        let work = async {
            let slot = self.0.slots.acquire().await.ok();
            self.check_pause(request)?;
            let call = Call::begin(self, request);
            let exchange = async {
                let http = prepare(self.basic_auth(self.builder(request)));
                let mut response =
                    self.response(request, self.head(request, http).await?, None, slot).success().await?;
                let body = response.body(limit).await?;
                Ok((std::mem::take(response.http.headers_mut()), body))
            };
            let result = exchange.instrument(call.span.clone()).await;
            call.end(result.as_ref().map(|_| StatusCode::OK));
            if let Err(Error::Refused(refusal)) = &result
                && refusal.status == StatusCode::TOO_MANY_REQUESTS
            {
                let pause = refusal.retry_after.unwrap_or(RATE_LIMIT_PAUSE).min(RATE_LIMIT_PAUSE_MAX);
                *self.0.paused_until.lock() = Some(Instant::now() + pause);
            }
            result
        };
        let late = || Error::Timeout { operation: request.to_string(), deadline };
        timeout(deadline, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Sends a request, and returns its response when its head arrived, whatever its status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(
        &self,
        request: &Request<'_>,
        token: Option<&SecretString>,
        prepare: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response<'_>, Error> {
        let mut slot = self.0.slots.acquire().await.ok();
        let http = prepare(self.builder(request));
        let http = if let Some(token) = token { http.bearer_auth(token.expose_secret()) } else { http };
        let call = Call::begin(self, request);
        let mut sending = pin!(self.head(request, http).instrument(call.span.clone()));
        let result = match timeout(SLOT_HELD, &mut sending).await {
            Ok(result) => result,
            Err(_) => {
                slot.take();
                sending.await
            }
        };
        call.end(result.as_ref().map(reqwest::Response::status));
        Ok(self.response(request, result?, token.cloned(), slot))
    }

    /// Returns whether Harbor itself answers, whatever its upstreams do: `GET /v2/` asks no upstream. It takes no slot:
    /// requests that an upstream delays may hold all of them.
    pub async fn ping(&self) -> bool {
        let request = Request::new(Method::GET, "v2/");
        let call = Call::begin(self, &request);
        let result = self.head(&request, self.builder(&request).timeout(PING)).await;
        !call.end(result.as_ref().map(reqwest::Response::status)).is_some_and(RequestResult::is_unanswered)
    }

    /// Reports the retry of a failed request.
    pub fn record_retry(&self) {
        if let Some(observer) = &self.0.shared.observer {
            observer.repeated();
        }
    }

    fn builder(&self, request: &Request<'_>) -> RequestBuilder {
        let below = match self.0.api {
            Api::Management => "/api/v2.0/",
            Api::Registry => "/",
        };
        let mut url = self.0.base.clone();
        url.set_path(&format!("{below}{}", request.path));
        url.set_query(None);
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(request.query);
        }
        self.0.http.request(request.method.clone(), url)
    }

    async fn head(&self, request: &Request<'_>, http: RequestBuilder) -> Result<reqwest::Response, Error> {
        let sent = self.0.shared.leadership.guard(http.send()).await;
        sent.map_err(|error| self.error(request.to_string(), error, false))
    }

    fn response<'c>(
        &'c self,
        request: &Request<'_>,
        http: reqwest::Response,
        token: Option<SecretString>,
        slot: Option<SemaphorePermit<'c>>,
    ) -> Response<'c> {
        Response { client: self, http, operation: request.to_string(), token, _slot: slot }
    }

    /// Answers as the last 429 did until its pause is over.
    fn check_pause(&self, request: &Request<'_>) -> Result<(), Error> {
        let until = *self.0.paused_until.lock();
        let Some(left) = until.and_then(|until| until.checked_duration_since(Instant::now())) else { return Ok(()) };
        Err(Error::Refused(Box::new(Refusal {
            operation: request.to_string(),
            status: StatusCode::TOO_MANY_REQUESTS.as_u16(),
            retry_after: Some(Duration::from_secs(left.as_secs() + 1)),
            rate_limited: true,
            no_challenge: false,
            message: "nothing is sent before the end of Retry-After".to_owned(),
        })))
    }

    pub(super) fn error(&self, operation: String, error: reqwest::Error, response_began: bool) -> Error {
        let deadline = match self.0.api {
            Api::Management => self.0.deadlines.request,
            Api::Registry => self.0.deadlines.idle,
        };
        if error.is_timeout() && !error.is_connect() {
            // A deadline of the API is for the whole response, and one of `/v2` for its next piece.
            if response_began && self.0.api == Api::Registry {
                let detail = format!("no data within {} s", deadline.as_secs_f32());
                return Error::BrokenOff { operation, detail };
            }
            return Error::Timeout { operation, deadline };
        }
        // The last cause helps a reader; the URL of a token request does not.
        let error = error.without_url();
        let mut detail = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            detail = cause.to_string();
            source = cause.source();
        }
        let detail = self.0.shared.redactor.message(detail.as_bytes(), false, &[]);
        if response_began {
            return Error::BrokenOff { operation, detail };
        }
        Error::Unreachable { url: self.address(), detail }
    }
}
