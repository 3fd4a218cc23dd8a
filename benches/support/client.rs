//! A client of the webhook that does what an API server does: it writes each review anew, and reads the answer. Its parts are
//! those of Rust clients of the API server.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{Request, StatusCode, Uri};
use harbor_pilot::tls::issue::Authority;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, version};
use serde_json::Value;

/// One that asks the same again and again, one at a time.
pub struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    mutate: Uri,
    review: Value,
}

impl Client {
    /// With a connection of its own, over HTTP/1.1.
    pub fn http1(authority: &Authority, webhook: SocketAddr, review: &[u8]) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(trusting(authority)).https_only().enable_http1();
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector.wrap_connector(tcp()));
        Self { http, mutate: mutate(webhook), review: parsed(review) }
    }

    /// That many, which share one connection over HTTP/2.
    pub fn http2(authority: &Authority, webhook: SocketAddr, streams: usize, review: &[u8]) -> Vec<Self> {
        let connector = HttpsConnectorBuilder::new().with_tls_config(trusting(authority)).https_only().enable_http2();
        let connector = connector.wrap_connector(tcp());
        let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build(connector);
        let one = || Self { http: http.clone(), mutate: mutate(webhook), review: parsed(review) };
        (0..streams).map(|_| one()).collect()
    }

    /// Sends the review, and answers whether there is a patch.
    pub async fn ask(&self) -> bool {
        let request = Request::post(self.mutate.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(&self.review).unwrap())))
            .unwrap();
        let response = self.http.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["allowed"], true);
        answer["response"]["patch"].is_string()
    }
}

/// Sends what there is at once, as Go's clients do.
fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.enforce_http(false);
    connector
}

fn trusting(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.issued().certificate_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]).unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

fn parsed(review: &[u8]) -> Value {
    serde_json::from_slice(review).unwrap()
}

fn mutate(webhook: SocketAddr) -> Uri {
    format!("https://localhost:{}/mutate?timeout=10s", webhook.port()).parse().unwrap()
}
