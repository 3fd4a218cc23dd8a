//! A registry that answers as it is told.
#![allow(dead_code, reason = "each test program uses its part of this")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use harbor_pilot::{
    image::ImageRef,
    prewarm::{Puller, Target, puller::PullLimits},
    registry::{Client, Descriptor, Digest},
    transport::{Credentials, Deadlines, Endpoint},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

pub const CANARY: &str = "canary-8c1f0e";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

type Handler = Box<dyn Fn() -> Response + Send + Sync>;

/// A registry that answers as it is told, and remembers what it was asked.
#[derive(Clone)]
pub struct Fake {
    pub url: String,
    pub inner: Arc<Inner>,
}

pub struct Inner {
    realm: String,
    answers: Mutex<HashMap<String, Handler>>,
    log: Mutex<Vec<(String, HeaderMap)>>,
    heads: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    pub peak: AtomicUsize,
    /// Of these, blobs by GET.
    fetches: AtomicUsize,
    pub most_fetches: AtomicUsize,
    /// Tokens with a lower number are refused.
    pub good_from: AtomicUsize,
    tokens: AtomicUsize,
}

impl Fake {
    /// A registry with a token service at `realm`; by default at its own address, as Harbor.
    pub async fn start(realm: Option<String>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            realm: realm.unwrap_or_else(|| format!("{url}/service/token")),
            answers: Mutex::default(),
            log: Mutex::default(),
            heads: Mutex::default(),
            under_way: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
            most_fetches: AtomicUsize::new(0),
            good_from: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(serve).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inner }
    }

    pub fn answer(&self, path: &str, answer: impl Fn() -> Response + Send + Sync + 'static) {
        self.inner.answers.lock().unwrap().insert(path.to_owned(), Box::new(answer));
    }

    /// Serves a document as manifest by its digest.
    pub fn manifest(&self, kind: &'static str, document: &Value) -> Digest {
        let body = Bytes::from(document.to_string());
        let digest = Digest::of(&body);
        self.answer(&format!("/v2/p/app/manifests/{digest}"), move || {
            ([(header::CONTENT_TYPE, kind)], body.clone()).into_response()
        });
        digest
    }

    pub fn endpoint(&self) -> Endpoint {
        let credentials = Credentials { username: "robot$pilot".to_owned(), password: CANARY.to_owned().into() };
        Endpoint {
            credentials: Some(credentials),
            deadlines: Deadlines { idle: Duration::from_millis(400), ..Deadlines::default() },
            ..Endpoint::new(self.url.clone())
        }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.endpoint()).unwrap()
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.inner.log.lock().unwrap().iter().filter(|(seen, _)| seen.split('?').next() == Some(path)).count()
    }

    /// How often a blob was asked for by HEAD.
    pub fn heads(&self, blob: &Descriptor) -> usize {
        self.inner.heads.lock().unwrap().iter().filter(|path| **path == blob_path(blob)).count()
    }

    pub fn log(&self) -> Vec<(String, HeaderMap)> {
        self.inner.log.lock().unwrap().clone()
    }
}

async fn serve(State(fake): State<Arc<Inner>>, request: Request) -> Response {
    let path = request.uri().to_string();
    fake.log.lock().unwrap().push((path.clone(), request.headers().clone()));
    let plain = path.split('?').next().unwrap().to_owned();
    if request.method() == http::Method::HEAD {
        fake.heads.lock().unwrap().push(plain.clone());
    }
    if plain == "/v2/" {
        let challenge = format!(r#"Bearer realm="{}",service="harbor-registry""#, fake.realm);
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if plain == "/service/token" {
        let number = fake.tokens.fetch_add(1, Ordering::Relaxed);
        let body = json!({"token": format!("t{number}"), "access_token": "", "expires_in": 1800}).to_string();
        return ([(header::SET_COOKIE, "sid=1; Path=/; HttpOnly")], body).into_response();
    }
    let authorization = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let token = authorization.as_deref().and_then(|text| text.strip_prefix("Bearer t"));
    if token.and_then(|number| number.parse().ok()) < Some(fake.good_from.load(Ordering::Relaxed)) {
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized to access repository"}]}"#;
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, r#"Basic realm="harbor""#)], body)
            .into_response();
    }
    let now = fake.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    fake.peak.fetch_max(now, Ordering::SeqCst);
    if now > 1 || plain.contains("/blobs/") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let fetches = request.method() == http::Method::GET && plain.contains("/blobs/");
    if fetches {
        let now = fake.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        fake.most_fetches.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = fake.answers.lock().unwrap().get(&format!("{} {plain}", request.method())).map(|answer| answer());
    let answer = answer.or_else(|| fake.answers.lock().unwrap().get(&plain).map(|answer| answer()));
    fake.fetches.fetch_sub(usize::from(fetches), Ordering::SeqCst);
    fake.under_way.fetch_sub(1, Ordering::SeqCst);
    answer.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

/// A body of pieces without a length, for ever; counts what is taken.
pub fn endless(taken: &Arc<AtomicU64>) -> Body {
    let taken = Arc::clone(taken);
    let piece = Bytes::from(vec![b' '; 64 << 10]);
    Body::from_stream(stream::repeat_with(move || {
        taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, std::io::Error>(piece.clone())
    }))
}

pub fn descriptor(content: &[u8]) -> Descriptor {
    Descriptor { digest: Digest::of(content), size: content.len() as u64 }
}

pub fn blob_path(blob: &Descriptor) -> String {
    format!("/v2/p/app/blobs/{}", blob.digest)
}

pub fn puller(fake: &Fake) -> Puller {
    Puller::new(fake.client(), PullLimits { pause: Duration::from_millis(10), ..PullLimits::default() })
}

pub fn target(tag: &str) -> Target {
    Target::new(&ImageRef::parse(&format!("h.example/p/app:{tag}")).unwrap()).unwrap()
}

pub fn pinned(digest: &Digest) -> Target {
    Target::new(&ImageRef::parse(&format!("h.example/p/app@{digest}")).unwrap()).unwrap()
}
