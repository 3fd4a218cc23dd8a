//! Harbor as a client of its upstreams: credentials, challenges, the probe, routes. Nothing leaves the loopback interface.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use reqwest::Response;
use url::Url;

use super::{Core, ecr, state::Registry};
use crate::image::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// Why an upstream gave nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No HTTP answer.
    Unreachable,
    /// An answer that is an error, with its body.
    Refused(StatusCode, String),
}

/// What the probe of a registry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    Unhealthy,
    /// No adapter can be made: Harbor answers 500.
    NoAdapter,
}

/// The types that Harbor has an adapter for, listed or not.
const KNOWN: [&str; 14] = [
    "ali-acr",
    "aws-ecr",
    "azure-acr",
    "docker-hub",
    "docker-registry",
    "github-ghcr",
    "google-gcr",
    "harbor",
    "huawei-SWR",
    "jfrog-artifactory",
    "tencent-tcr",
    "volcengine-cr",
    "quay",
    "gitlab",
];

impl Core {
    /// Asks the upstream of a registry. Credentials go along; a `Bearer` challenge is answered.
    pub(crate) async fn ask(&self, method: Method, registry: &Registry, path: &str) -> Result<Response, Failure> {
        self.exchange(method, registry, path, None).await
    }

    /// The same with a body of a media type.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        registry: &Registry,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<Response, Failure> {
        let base = self.resolve(registry).ok_or(Failure::Unreachable)?;
        let api = path.starts_with("/api/").then(|| "application/json".to_owned());
        let accept = api.unwrap_or_else(|| [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", "));
        let request = || {
            let url = format!("{}{path}", base.trim_end_matches('/'));
            let request = self.client.request(method.clone(), url).header(header::ACCEPT, accept.as_str());
            match &body {
                Some((media_type, bytes)) => request.header(header::CONTENT_TYPE, *media_type).body(bytes.clone()),
                None => request,
            }
        };
        let mut first = request();
        if registry.kind == ecr::KIND {
            let (user, password) = self.ecr_login(registry).await?;
            first = first.basic_auth(user, Some(password));
        } else if registry.has_credential() {
            first = first.basic_auth(&registry.access_key, Some(&registry.access_secret));
        }
        let mut answer = first.send().await.map_err(|_| Failure::Unreachable)?;
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(token) = self.answer_challenge(registry, &answer, path).await
        {
            answer = request().bearer_auth(token).send().await.map_err(|_| Failure::Unreachable)?;
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        Err(Failure::Refused(status, answer.text().await.unwrap_or_default()))
    }

    /// What Harbor's health check says, at create, at change and each five minutes.
    pub(crate) async fn probe(&self, registry: &Registry) -> Health {
        if !KNOWN.contains(&registry.kind.as_str()) {
            return Health::NoAdapter;
        }
        // Without keys its adapter crashes.
        if registry.kind == ecr::KIND && !(ecr::is_ecr(&registry.url) && registry.has_credential()) {
            return Health::NoAdapter;
        }
        let asked = tokio::time::timeout(Duration::from_secs(5), self.ask(Method::GET, registry, "/v2/")).await;
        let answer = asked.unwrap_or(Err(Failure::Unreachable));
        match (registry.kind.as_str(), registry.has_credential()) {
            // Its own login, which an upstream that lets anyone in does not have.
            ("docker-hub", true) => {
                let anonymous =
                    Registry { access_key: String::new(), access_secret: String::new(), ..registry.clone() };
                let open = self.ask(Method::GET, &anonymous, "/v2/").await.is_ok();
                if answer.is_ok() && !open { Health::Healthy } else { Health::NoAdapter }
            }
            ("google-gcr" | "azure-acr", false) => Health::Unhealthy,
            // By its own address Harbor takes a registry for itself, and has no secret for that.
            ("harbor", true) if registry.url == self.base => Health::Unhealthy,
            ("harbor", false) if registry.url == self.base => Health::NoAdapter,
            // Whatever is no Harbor has no version.
            ("harbor", _) if self.ask(Method::GET, registry, "/api/version").await.is_err() => Health::Unhealthy,
            // Without credentials any answer will do, that of a web server too.
            (_, false) if !matches!(answer, Err(Failure::Unreachable)) => Health::Healthy,
            _ if answer.is_ok() => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// Where the upstream of a registry listens, if on this machine.
    pub(super) fn resolve(&self, registry: &Registry) -> Option<String> {
        let route = |host: &str| self.settings.routes.iter().find(|(from, _)| from == host).map(|(_, to)| to.clone());
        let url = Url::parse(&registry.url).ok()?;
        let host = url.host_str()?;
        let with_port = url.port().map(|port| format!("{host}:{port}"));
        if registry.kind == "docker-hub"
            && host == "hub.docker.com"
            && let Some(hub) = route("registry-1.docker.io")
        {
            return Some(hub);
        }
        if let Some(routed) = with_port.as_deref().and_then(route).or_else(|| route(host)) {
            return Some(routed);
        }
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        (local && url.scheme() == "http").then(|| registry.url.clone())
    }

    /// Gets a token for a `Bearer` challenge, from where the challenge says, if that is on this machine.
    async fn answer_challenge(&self, registry: &Registry, answer: &Response, path: &str) -> Option<String> {
        let challenge =
            answer.headers().get(header::WWW_AUTHENTICATE)?.to_str().ok()?.strip_prefix("Bearer ")?.to_owned();
        let value = |name: &str| {
            let rest = challenge.split_once(&format!("{name}=\""))?.1;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let mut realm = Url::parse(&value("realm")?).ok()?;
        if !realm.host_str()?.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            return None;
        }
        let repository = path.trim_start_matches("/v2/").split("/manifests/").next()?.split("/blobs/").next()?;
        realm.query_pairs_mut().append_pair("service", &value("service")?);
        realm.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull,push,delete"));
        let mut request = self.client.get(realm);
        if registry.has_credential() {
            request = request.basic_auth(&registry.access_key, Some(&registry.access_secret));
        }
        let token: serde_json::Value = request.send().await.ok()?.error_for_status().ok()?.json().await.ok()?;
        token["token"].as_str().map(ToOwned::to_owned)
    }
}

impl Registry {
    fn has_credential(&self) -> bool {
        !self.access_key.is_empty() || !self.access_secret.is_empty()
    }
}
