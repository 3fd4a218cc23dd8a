//! The HTTPS server on a real socket: TLS, both versions of HTTP, its bounds, and its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::{Request, StatusCode};
use harbor_pilot::rewrite::{Rule, Rules};
use harbor_pilot::telemetry::metrics::Metrics;
use harbor_pilot::telemetry::probes::Readiness;
use harbor_pilot::tls::certificate::Certificate;
use harbor_pilot::tls::client_verifier::ClientAuthorities;
use harbor_pilot::tls::issue::{Authority, Issued, Validity};
use harbor_pilot::tls::probe;
use harbor_pilot::tls::serve::{server_config, server_config_for};
use harbor_pilot::tls::x509::X509;
use harbor_pilot::webhook::{Admission, BodyLimits, ServeOptions, router, serve};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a test waits for what must happen.
const SOON: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    authority: Authority,
    certificate: Arc<Certificate>,
    readiness: Readiness,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

fn validity() -> Validity {
    Validity::starting(Timestamp::now(), SignedDuration::from_hours(24))
}

fn leaf(authority: &Authority) -> Issued {
    authority.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()], validity()).unwrap()
}

fn admission(readiness: &Readiness) -> Router {
    let rule = Rule {
        name: "hub".to_owned(),
        created: 1,
        matches: vec!["docker.io".to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: "hub".to_owned(),
        ..Rule::default()
    };
    router(Admission {
        rules: Arc::new(ArcSwap::from_pointee(Rules::compile([rule]))),
        policies: Arc::default(),
        scans: Arc::default(),
        namespaces: Arc::default(),
        offers: Arc::new(|_| {}),
        metrics: Metrics::new().admission,
        readiness: readiness.clone(),
        limits: BodyLimits::default(),
    })
}

fn start(options: ServeOptions) -> Server {
    let readiness = Readiness::new();
    let router = admission(&readiness);
    start_with(router, readiness, options)
}

fn start_with(router: Router, readiness: Readiness, options: ServeOptions) -> Server {
    let authority = Authority::new("test", validity()).unwrap();
    let leaf = leaf(&authority);
    let certificate =
        Arc::new(Certificate::from_pem(leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes()).unwrap());
    let tls = Arc::new(server_config(Arc::clone(&certificate)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    readiness.set(true);
    let serving = serve(listener, Some(tls), router, readiness.clone(), options, async move {
        stopped.await.ok();
    });
    let ended = tokio::spawn(async move { serving.await.unwrap() });
    Server { address, authority, certificate, readiness, stop, ended }
}

impl Server {
    fn client(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.authority.issued().certificate_pem.as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([root])
            .resolve("localhost", self.address)
            .timeout(SOON)
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    async fn tls(
        &self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsStream<tokio::net::TcpStream> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.authority.issued().certificate_pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

fn review(uid: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": uid, "operation": "CREATE",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "object": {"metadata": {}, "spec": {"containers": [{"name": "a", "image": "nginx"}]}},
        },
    })
}

fn assert_admits(answer: &Value, uid: &str) {
    assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!(uid), &json!(true)), "{answer}");
    assert!(answer["response"]["patch"].is_string(), "{answer}");
}

#[tokio::test]
async fn reviews_are_answered_over_tls_on_connections_that_are_kept() {
    let server = start(ServeOptions::default());
    let client = server.client();
    for uid in ["1", "2"] {
        let answer = client.post(server.url("/mutate")).json(&review(uid)).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_admits(&answer.json().await.unwrap(), uid);
    }
    let mut large = review("large");
    large["request"]["object"]["metadata"]["annotations"] = json!({"a": "x".repeat(4 * 1024 * 1024)});
    let answer = client.post(server.url("/mutate")).json(&large).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["response"]["uid"], "large");
    let too_large = client.post(server.url("/mutate")).body(vec![b' '; 9 * 1024 * 1024]).send().await;
    // The answer may come while the client is still sending, which some clients take for an error.
    assert!(too_large.is_err() || too_large.is_ok_and(|answer| answer.status() == StatusCode::PAYLOAD_TOO_LARGE));
    assert_eq!(client.get(server.url("/readyz")).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn http2_is_offered_and_serves_many_requests_on_one_connection() {
    let server = start(ServeOptions::default());
    let stream = server.tls(&["h2", "http/1.1"], &[&version::TLS13]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let one = async |uid: usize| {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = Request::post("https://localhost/mutate").body(()).unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(review(&uid.to_string()).to_string().into(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            bytes.extend(chunk.unwrap());
        }
        assert_admits(&serde_json::from_slice(&bytes).unwrap(), &uid.to_string());
    };
    tokio::time::timeout(SOON, futures::future::join_all((0..100).map(one))).await.unwrap();
}

/// An API server passes on what its clients send: `baggage` of 8,192 bytes, and a `tracestate` of 32 entries.
#[tokio::test]
async fn headers_that_a_tenant_can_make_an_api_server_send_are_taken() {
    let server = start(ServeOptions::default());
    let entries: Vec<_> = (0..32).map(|entry| format!("k{entry:02}{}={}", "a".repeat(253), "v".repeat(256))).collect();
    let headers = [("tracestate", entries.join(",")), ("baggage", format!("a={}", "b".repeat(8_190)))];
    assert_eq!(headers.iter().map(|(_, value)| value.len()).sum::<usize>(), 16_447 + 8_192);
    let mut request = server.client().post(server.url("/mutate?timeout=10s")).json(&review("1"));
    for (name, value) in &headers {
        request = request.header(*name, value);
    }
    assert_admits(&request.send().await.unwrap().json().await.unwrap(), "1");

    let stream = server.tls(&["h2"], &[&version::TLS13]).await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post("https://localhost/mutate");
    for (name, value) in &headers {
        request = request.header(*name, value);
    }
    let (answer, mut body) = sender.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(review("2").to_string().into(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = answer.into_body();
    assert_admits(&serde_json::from_slice(&body.data().await.unwrap().unwrap()).unwrap(), "2");
}

#[tokio::test]
async fn a_burst_of_connections_waits_to_be_accepted() {
    let readiness = Readiness::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It is listening, and accepts nothing until it is polled again.
    let mut serving =
        Box::pin(serve(listener, None, Router::new(), readiness, ServeOptions::default(), std::future::pending()));
    assert!(futures::poll!(serving.as_mut()).is_pending());
    let burst = tokio::task::spawn_blocking(move || {
        (0..600).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(500))).collect::<Vec<_>>()
    });
    let burst = burst.await.unwrap();
    assert!(burst.iter().all(Result::is_ok), "{} of 600", burst.iter().filter(|one| one.is_ok()).count());
}

#[tokio::test]
async fn tls_1_3_is_preferred_and_1_2_with_a_safe_suite_is_the_least() {
    let server = start(ServeOptions::default());
    for versions in [&[&version::TLS12][..], &[&version::TLS13], &[&version::TLS12, &version::TLS13]] {
        let stream = server.tls(&["http/1.1"], versions).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(versions[versions.len() - 1].version));
    }
    let address = server.address;
    // Suites by their numbers at IANA; all but the first are without forward secrecy or authenticated encryption.
    let (gcm, weak) =
        ([0xc0, 0x2b], [[0x00, 0x2f], [0x00, 0x9c], [0x00, 0x0a], [0xc0, 0x09], [0xc0, 0x07], [0x00, 0x04]]);
    let answers = tokio::task::spawn_blocking(move || {
        let of_1_2 = std::iter::once(gcm).chain(weak).map(|suite| hello(address, 3, suite)).collect::<Vec<_>>();
        (of_1_2, [0, 1, 2].map(|minor| hello(address, minor, gcm)))
    });
    let (of_1_2, older) = answers.await.unwrap();
    assert_eq!(of_1_2[0][0], 22, "a handshake goes on: {:?}", of_1_2[0]);
    for refused in of_1_2[1..].iter().chain(&older) {
        // A fatal alert: handshake_failure or protocol_version.
        assert_eq!((refused[0], refused[5]), (21, 2), "{refused:?}");
        assert!([40, 70].contains(&refused[6]), "{refused:?}");
    }
}

/// How a ClientHello of SSL 3.0 (`minor` 0) to TLS 1.2 (3) is answered that offers one suite, for ECDSA on P-256.
fn hello(address: SocketAddr, minor: u8, suite: [u8; 2]) -> [u8; 7] {
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.extend([0, 0, 2, suite[0], suite[1], 1, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let mut record = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&record).unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn clients_need_a_certificate_of_an_authority_in_the_file_and_an_allowed_name_where_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    let (first, second) = (client_authority("first"), client_authority("second"));
    std::fs::write(&file, &first.1).unwrap();
    let names = vec!["kube-apiserver".to_owned(), "other".to_owned()];
    let mut authorities = ClientAuthorities::load(&file, names).await.unwrap();

    let authority = Authority::new("test", validity()).unwrap();
    let served = leaf(&authority);
    let certificate = Certificate::from_pem(served.certificate_pem.as_bytes(), served.key_pem.as_bytes()).unwrap();
    let tls = Arc::new(server_config_for(Arc::new(certificate), authorities.clients()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::new();
    let router = admission(&readiness);
    let serving = serve(listener, Some(tls), router, readiness, ServeOptions::default(), std::future::pending());
    tokio::spawn(async move { serving.await.unwrap() });

    let root = reqwest::Certificate::from_pem(authority.issued().certificate_pem.as_bytes()).unwrap();
    let ask = async |identity: Option<String>| {
        let client =
            reqwest::Client::builder().tls_certs_only([root.clone()]).resolve("localhost", address).timeout(SOON);
        let client = match identity {
            Some(pem) => client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap()),
            None => client,
        };
        let url = format!("https://localhost:{}/mutate", address.port());
        client.build().unwrap().post(url).json(&review("u")).send().await.is_ok()
    };
    assert!(ask(Some(client(&first, "kube-apiserver"))).await);
    assert!(!ask(None).await, "no certificate");
    assert!(!ask(Some(client(&first, "somebody"))).await, "a name that is not allowed");
    assert!(!ask(Some(client(&second, "kube-apiserver"))).await, "another CA");
    let shown = probe::served_by(address, "localhost", SOON).await.unwrap();
    assert_eq!(X509::to_pem([&shown]), served.certificate_pem, "what it serves anybody can see");

    std::fs::write(&file, "torn").unwrap();
    assert!(authorities.poll().await.is_err());
    assert!(!authorities.poll().await.unwrap(), "already reported");
    assert!(ask(Some(client(&first, "kube-apiserver"))).await, "the old CAs are in use");
    std::fs::write(&file, &second.1).unwrap();
    assert!(authorities.poll().await.unwrap());
    assert!(ask(Some(client(&second, "kube-apiserver"))).await);
    assert!(!ask(Some(client(&first, "kube-apiserver"))).await);
}

type ClientAuthority = (rcgen::Issuer<'static, rcgen::KeyPair>, String);

fn client_authority(name: &str) -> ClientAuthority {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (rcgen::Issuer::new(params, key), pem)
}

/// Certificate and key, as one PEM text.
fn client((issuer, _): &ClientAuthority, name: &str) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    format!("{}{}", params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn new_certificate_is_served_immediately_and_running_connections_continue() {
    let server = start(ServeOptions::default());
    let before = server.client();
    let ask = async |client: &reqwest::Client| client.post(server.url("/mutate")).json(&review("u")).send().await;
    ask(&before).await.unwrap();

    let other = Authority::new("other", validity()).unwrap();
    let new = leaf(&other);
    assert!(
        server
            .certificate
            .replace(new.certificate_pem.as_bytes(), leaf(&other).key_pem.as_bytes(), Timestamp::now())
            .is_err()
    );
    ask(&server.client()).await.expect("the old certificate is still served after a bad one");
    server.certificate.replace(new.certificate_pem.as_bytes(), new.key_pem.as_bytes(), Timestamp::now()).unwrap();
    ask(&before).await.expect("a kept connection goes on");
    assert!(ask(&server.client()).await.is_err(), "the old authority must not do for a new connection");
}

#[tokio::test]
async fn a_new_client_takes_the_place_of_an_idle_connection() {
    let server = start(ServeOptions { connections: 1, ..ServeOptions::default() });
    let ask = async |client: &reqwest::Client| client.get(server.url("/healthz")).send().await;
    let (first, second) = (server.client(), server.client());
    for _ in 0..3 {
        ask(&first).await.expect("it connects again");
        ask(&second).await.expect("the other one is idle");
    }
    assert!(server.readiness.is_ready());
}

#[tokio::test]
async fn peers_that_say_nothing_are_closed() {
    let short = Duration::from_millis(300);
    let server = start(ServeOptions { handshake: short, head: short, ping: short, ..ServeOptions::default() });
    let mut mute = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut idle = server.tls(&["http/1.1"], &[&version::TLS13]).await;
    let mut half = server.tls(&["http/1.1"], &[&version::TLS13]).await;
    tokio::io::AsyncWriteExt::write_all(&mut half, b"POST /mutate HTTP/1.1\r\nHost: l").await.unwrap();
    let mut bytes = Vec::new();
    for stream in [&mut mute as &mut (dyn tokio::io::AsyncRead + Unpin), &mut idle, &mut half] {
        let end = tokio::io::AsyncReadExt::read_to_end(stream, &mut bytes);
        // Closed in an orderly way or not: closed.
        tokio::time::timeout(SOON, end).await.expect("the connection was left open").ok();
    }
}

#[tokio::test]
async fn a_connection_that_does_not_read_its_answers_is_closed_and_an_idle_one_is_not() {
    let write = Duration::from_millis(600);
    let server = start(ServeOptions { write, ..ServeOptions::default() });
    let ask = async |window: u32| {
        let stream = server.tls(&["h2"], &[&version::TLS13]).await;
        let (sender, connection) =
            h2::client::Builder::new().initial_window_size(window).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::post("https://localhost/mutate").body(()).unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(review("u").to_string().into(), true).unwrap();
        (answer.await.unwrap().into_body(), connection, sender)
    };
    let (mut read, kept, _sender) = ask(65_535).await;
    let (_stalled, stalled, _sender) = ask(0).await;
    let start = Instant::now();
    tokio::time::timeout(SOON, stalled).await.expect("it is still open").unwrap().ok();
    assert!(start.elapsed() > write, "{:?}", start.elapsed());
    assert!(read.data().await.unwrap().is_ok());
    assert!(!kept.is_finished(), "what was written is not held");
}

#[tokio::test]
async fn the_end_is_announced_and_fails_no_request() {
    let shutdown_delay = Duration::from_secs(3);
    let readiness = Readiness::new();
    let slow = axum::routing::get(async || {
        tokio::time::sleep(Duration::from_millis(4500)).await;
        "done"
    });
    let router = admission(&readiness).route("/slow", slow);
    let server = start_with(router, readiness, ServeOptions { shutdown_delay, drain: SOON, ..ServeOptions::default() });
    let (client, mutate, slow) = (server.client(), server.url("/mutate"), server.url("/slow"));
    client.post(&mutate).json(&review("before")).send().await.unwrap();

    server.stop.send(()).unwrap();
    let start = Instant::now();
    while !server.readiness.is_draining() {
        tokio::task::yield_now().await;
    }
    let readyz = format!("https://localhost:{}/readyz", server.address.port());
    assert_eq!(client.get(&readyz).send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    // One that outlives the lingering, and many within it, each on a connection that is then closed.
    let long = tokio::spawn(client.get(&slow).send());
    let mut served = 0;
    // Far from its end, for this machine may do other things, too.
    while start.elapsed() < shutdown_delay / 4 {
        let answer = client.post(&mutate).json(&review("late")).send().await.unwrap();
        assert_eq!(answer.headers()["connection"], "close");
        assert_admits(&answer.json().await.unwrap(), "late");
        served += 1;
    }
    assert!(served > 0);
    assert_eq!(long.await.unwrap().unwrap().text().await.unwrap(), "done");
    tokio::time::timeout(SOON, server.ended).await.unwrap().unwrap();
    assert!(client.get(&readyz).send().await.is_err(), "nobody listens any more");
}

/// What comes until `text`, or until the connection ends.
async fn read_until(stream: &mut TlsStream<tokio::net::TcpStream>, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let byte = tokio::time::timeout(SOON, tokio::io::AsyncReadExt::read_u8(stream)).await.expect("it hangs");
        let Ok(byte) = byte else { break };
        read.push(byte);
    }
    String::from_utf8_lossy(&read).to_lowercase()
}

#[tokio::test]
async fn idle_http1_connections_are_served_after_half_of_the_linger_time_and_then_close() {
    let shutdown_delay = Duration::from_secs(6);
    let server = start(ServeOptions { shutdown_delay, ..ServeOptions::default() });
    let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = server.tls(&["http/1.1"], &[&version::TLS13]).await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.contains("200 ok") && !head.contains("connection: close"), "{head}");
        idle.push(stream);
    }
    let start = Instant::now();
    server.stop.send(()).unwrap();
    for (stream, moment) in idle.iter_mut().zip([shutdown_delay / 6, shutdown_delay * 3 / 5]) {
        tokio::time::sleep(moment.saturating_sub(start.elapsed())).await;
        // Fails on a connection that the server has closed.
        tokio::io::AsyncWriteExt::write_all(stream, request).await.expect("it was closed");
        let head = read_until(stream, "\r\n\r\n").await;
        assert!(head.contains("503") && head.contains("connection: close"), "after {moment:?}: {head:?}");
        read_until(stream, "nothing like this").await;
        assert!(start.elapsed() < shutdown_delay, "the answer closes the connection, and not the end of the server");
    }
    tokio::time::timeout(SOON, server.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn http2_connections_get_a_goaway_while_new_connections_are_served() {
    let shutdown_delay = Duration::from_secs(4);
    let readiness = Readiness::new();
    let slow = axum::routing::get(async || {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        "done"
    });
    let router = admission(&readiness).route("/slow", slow);
    let server = start_with(router, readiness, ServeOptions { shutdown_delay, drain: SOON, ..ServeOptions::default() });
    let stream = server.tls(&["h2"], &[&version::TLS13]).await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get("https://localhost/slow").body(()).unwrap();
    let (client, readyz) = (server.client(), server.url("/readyz"));

    server.stop.send(()).unwrap();
    let start = Instant::now();
    tokio::time::sleep(shutdown_delay / 4).await;
    // Under way while GOAWAY comes.
    let mut sender = sender.ready().await.unwrap();
    let (answer, _) = sender.send_request(request(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    tokio::time::timeout(SOON, connection).await.unwrap().unwrap().unwrap();
    assert!(sender.ready().await.is_err(), "it takes no more requests");
    assert!(start.elapsed() > shutdown_delay / 2, "{:?}", start.elapsed());

    // On a connection that is made now, as long as it lingers, or none at all.
    match client.get(&readyz).send().await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
        Err(_) => assert!(start.elapsed() > shutdown_delay),
    }
    tokio::time::timeout(SOON, server.ended).await.unwrap().unwrap();
    assert!(start.elapsed() >= shutdown_delay, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_connections_and_slow_bodies_does_not_delay_other_clients() {
    let server = start(ServeOptions { connections: 64, ..ServeOptions::default() });
    let stream = server.tls(&["h2"], &[&version::TLS13]).await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let ask = async |uid: &str| {
        let request = Request::post("https://localhost/mutate").body(()).unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(review(uid).to_string().into(), true).unwrap();
        let mut answer = tokio::time::timeout(SOON, response).await.unwrap().unwrap().into_body();
        let mut text = Vec::new();
        while let Some(data) = answer.data().await {
            text.extend_from_slice(&data.unwrap());
        }
        assert_admits(&serde_json::from_slice(&text).unwrap(), uid);
    };
    ask("before").await;

    // More than the memory for large bodies, of which only the heads and some bytes arrive.
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = server.tls(&["http/1.1"], &[&version::TLS13]).await;
        let head = "POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3145728\r\n\r\n{\"request\":";
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // Far more connections than there is room for. What does not fit is closed.
    let mut flood = Vec::new();
    for _ in 0..4_000 {
        if let Ok(stream) = tokio::net::TcpStream::connect(server.address).await {
            flood.push(stream);
        }
    }
    for index in 0..200 {
        ask(&format!("amid {index}")).await;
    }
    let mut closed = 0;
    for stream in &mut flood {
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(stream, &mut byte);
        closed += usize::from(tokio::time::timeout(Duration::from_millis(1), read).await.is_ok());
    }
    assert!(closed > 3_800, "only {closed} of {} were closed", flood.len());
    // Whoever sends slowly is answered, or makes room for others; nobody is left hanging.
    for mut stream in slow {
        let mut answer = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
        tokio::time::timeout(SOON * 3, end).await.expect("a slow body holds its connection").ok();
        let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        assert!(status.is_empty() || status.contains("408") || status.contains("503"), "{status:?}");
    }
}
