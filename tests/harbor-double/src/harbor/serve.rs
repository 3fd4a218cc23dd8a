//! The door of Harbor: reads a request, finds out who asks, hands it on, and dresses and logs the answer.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use rand::Rng as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

use super::{
    Core,
    api::{guard, no_page},
    auth::{Who, identify},
    hold::Turn,
    http::{Ask, Fault, Reply, put},
};
use crate::{body, log, net::Handler};

/// The largest body that is read.
const MOST: usize = 16 << 20;

impl Handler for Core {
    async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        if !self.settings.distance.is_zero() {
            tokio::time::sleep(self.settings.distance).await;
        }
        let (parts, body) = request.into_parts();
        let turn = if parts.uri.path().starts_with("/api/") { self.holds.turn() } else { Turn::Serve };
        if turn == Turn::Ignore {
            self.holds.wait().await;
        }
        let path = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let method = parts.method.clone();
        let body = axum::body::to_bytes(body, MOST).await.unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default();
        let ask = Ask {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            who: identify(&self, &parts.headers),
            headers: parts.headers,
            body,
        };
        let mut reply = self.dress(&ask, query).await;
        let request_id = ask.headers.get("x-request-id").cloned();
        let request_id = request_id.or_else(|| HeaderValue::from_str(&hex_id()).ok());
        reply.headers_mut().extend(request_id.map(|id| (HeaderName::from_static("x-request-id"), id)));
        let sent = Arc::new(AtomicU64::new(0));
        let (status, user) = (reply.status().as_u16(), ask.who.name());
        self.log.push(log::Request { method, path, status, user, bytes_sent: 0 }, sent.clone());
        if turn == Turn::ServeSilently {
            self.holds.wait().await;
        }
        counted(reply, sent)
    }
}

impl Core {
    pub(super) async fn manual_request(
        self: &Arc<Self>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-is-resource-name", HeaderValue::from_static("true"));
        let ask = Ask {
            method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET),
            path: format!("/api/v2.0{path}"),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers,
            body: body.map(|body| body.to_string().into()).unwrap_or_default(),
            who: Who::Admin(self.settings.admin.0.clone()),
        };
        let reply = self.api(&ask).await.unwrap_or_else(Fault::reply);
        let status = reply.status().as_u16();
        let body = axum::body::to_bytes(reply.into_body(), MOST).await.unwrap_or_default();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The answer with its cookies.
    async fn dress(self: &Arc<Self>, ask: &Ask, query: &str) -> Reply {
        if query.contains(';') {
            return Fault::bad("invalid semicolon separator in query").reply();
        }
        let session =
            ask.header("cookie").is_some_and(|cookies| cookies.split(';').any(|each| each.trim().starts_with("sid=")));
        let ours =
            ["/api/", "/v2/", "/service/"].iter().any(|prefix| ask.path.starts_with(prefix)) || ask.path == "/v2";
        let reads = matches!(ask.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if session || !ours {
            let answer = if reads { Some(self.route(ask).await) } else { None };
            return guard(ask, answer);
        }
        let mut reply = self.route(ask).await.unwrap_or_else(Fault::reply);
        // Refused before there is a session.
        let early = reply.status() == StatusCode::BAD_REQUEST && ask.path.starts_with("/v2/");
        if !early {
            put(&mut reply, header::SET_COOKIE, &format!("sid={}; Path=/; HttpOnly", hex_id()));
        }
        reply
    }

    async fn route(self: &Arc<Self>, ask: &Ask) -> super::http::Outcome {
        if ask.path.starts_with("/api/") {
            return self.api(ask).await;
        }
        if ask.path == "/service/token" {
            return self.token(ask);
        }
        if ask.path.starts_with("/v2/") || ask.path == "/v2" {
            return self.v2(ask).await;
        }
        Ok(no_page())
    }
}

/// Reads certificates and key.
pub(super) fn acceptor(certificates: &str, key: &str) -> io::Result<TlsAcceptor> {
    let invalid = |error: rustls::pki_types::pem::Error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
    let chain =
        CertificateDer::pem_slice_iter(certificates.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(invalid)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn counted(reply: Reply, sent: Arc<AtomicU64>) -> Response<Body> {
    use axum::body::HttpBody as _;
    let (mut parts, inner) = reply.into_parts();
    if let Some(length) = inner.size_hint().exact()
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
    {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, body::tallied(inner.into_data_stream(), sent))
}

fn hex_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
