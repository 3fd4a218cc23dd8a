//! What an admission costs.
//!
//! `mutate`: the bytes of a review in, those of the reply out, in this process. `HTTP/1.1` and `HTTP/2`, which is what
//! API servers speak: the webhook as it is served, over TLS, beside its floor, the same server with a handler that reads
//! the body and sends a fixed reply of the same size; the same client drives both in turns, so that what else the machine
//! does falls on both alike. The ratio is that of their throughputs, the median of all turns. With
//! `HARBOR_PILOT_MIN_RATIO=0.7` a lower ratio over HTTP/1.1 fails the run; that over HTTP/2 hangs more on how two cores share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use criterion::{Criterion, Throughput};
use h2::client::SendRequest;
use harbor_pilot::rewrite::{Namespaces, Rule, Rules};
use harbor_pilot::telemetry::metrics::Metrics;
use harbor_pilot::telemetry::probes::Readiness;
use harbor_pilot::tls::issue::{Authority, Validity};
use harbor_pilot::tls::serve::{Certificate, server_config};
use harbor_pilot::webhook::review::mutate;
use harbor_pilot::webhook::{Admission, Limits, ServeOptions, router, serve};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 16;
/// Each has one HTTP/2 connection.
const API_SERVERS: usize = 2;
const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(200);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    in_process(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` only wants to know that it runs.
    let rounds = if std::env::args().any(|argument| argument == "--test") { 3 } else { ROUNDS };
    // The client is another process in life, so it shares no runtime with the servers.
    let servers = Runtime::new().unwrap();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    client.block_on(over_tls(&servers, rounds));
    servers.shutdown_background();
}

fn in_process(criterion: &mut Criterion) {
    let (rules, namespaces) = (rules(), Namespaces::default());
    let mut group = criterion.benchmark_group("mutate");
    for (name, body) in
        [("create 8 KiB", create()), ("update 16 KiB, labels only", update()), ("create 1 MiB", large())]
    {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| mutate(black_box(&body), black_box(&rules), &namespaces).unwrap().body);
        });
    }
    group.finish();
}

async fn over_tls(servers: &Runtime, rounds: usize) {
    let body = create();
    let reply = Bytes::from(mutate(&body, &rules(), &Namespaces::default()).unwrap().body);
    let authority = Authority::new("bench", validity()).unwrap();
    let ours = start(servers, &authority, ours());
    let floor = start(servers, &authority, floor(reply));

    let request = request(&body);
    let (mut to_ours, mut to_floor) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        to_ours.push(Http1 { stream: connect(&authority, ours, "http/1.1").await, request: request.clone() });
        to_floor.push(Http1 { stream: connect(&authority, floor, "http/1.1").await, request: request.clone() });
    }
    let http1 = compare("HTTP/1.1", to_ours, to_floor, rounds).await;

    let body = Bytes::from(body);
    let (mut to_ours, mut to_floor) = (Vec::new(), Vec::new());
    for _ in 0..API_SERVERS {
        let streams = CONNECTIONS / API_SERVERS;
        to_ours.extend(Http2::connect(connect(&authority, ours, "h2").await, streams, &body).await);
        to_floor.extend(Http2::connect(connect(&authority, floor, "h2").await, streams, &body).await);
    }
    compare("HTTP/2", to_ours, to_floor, rounds).await;

    if let Some(least) = std::env::var("HARBOR_PILOT_MIN_RATIO").ok().and_then(|text| text.parse::<f64>().ok()) {
        assert!(http1 >= least, "the ratio {http1:.3} is below {least}");
    }
}

/// The ratio of the throughputs.
async fn compare<C: Client>(name: &str, mut to_ours: Vec<C>, mut to_floor: Vec<C>, rounds: usize) -> f64 {
    for clients in [&mut to_ours, &mut to_floor] {
        round(clients).await;
    }
    let mut turns = Vec::with_capacity(rounds);
    for turn in 0..rounds {
        // Each goes first every other time.
        let (a, b) = if turn % 2 == 0 {
            let a = round(&mut to_ours).await;
            (a, round(&mut to_floor).await)
        } else {
            let b = round(&mut to_floor).await;
            (round(&mut to_ours).await, b)
        };
        turns.push((a, b));
    }
    let ours = median(turns.iter().map(|(ours, _)| ours.rate));
    let floor = median(turns.iter().map(|(_, floor)| floor.rate));
    let ratio = median(turns.iter().map(|(ours, floor)| ours.rate / floor.rate));
    println!("{name}: ours {ours:.0}/s, floor {floor:.0}/s, {CONNECTIONS} at a time, medians of {rounds} turns");
    let ours = mean(turns.iter().map(|(ours, _)| ours.cpu));
    let floor = mean(turns.iter().map(|(_, floor)| floor.cpu));
    println!("{name}: CPU of a request, client included: ours {ours:.1} µs, floor {floor:.1} µs");
    println!("{name}: ratio {ratio:.3}");
    ratio
}

/// Sends the review and reads the whole answer.
trait Client {
    async fn ask(&mut self);
}

struct Http1 {
    stream: TlsStream<TcpStream>,
    request: Vec<u8>,
}

impl Client for Http1 {
    async fn ask(&mut self) {
        self.stream.write_all(&self.request).await.unwrap();
        self.stream.flush().await.unwrap();
        read_answer(&mut self.stream).await;
    }
}

struct Http2 {
    sender: SendRequest<Bytes>,
    body: Bytes,
}

impl Http2 {
    /// One connection, on which so many ask at a time.
    async fn connect(stream: TlsStream<TcpStream>, streams: usize, body: &Bytes) -> impl Iterator<Item = Self> {
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        std::iter::repeat_n((sender, body.clone()), streams).map(|(sender, body)| Self { sender, body })
    }
}

impl Client for Http2 {
    async fn ask(&mut self) {
        let request = Request::post("https://localhost/mutate?timeout=10s").header(CONTENT_TYPE, "application/json");
        let mut sender = self.sender.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(self.body.clone(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
    }
}

#[derive(Clone, Copy)]
struct Round {
    /// Requests a second.
    rate: f64,
    /// Microseconds of CPU of this process, client and server, a request.
    cpu: f64,
}

/// Drives all clients, each with one request at a time.
async fn round(clients: &mut [impl Client]) -> Round {
    let (start, cpu) = (Instant::now(), cpu_time());
    let end = start + ROUND;
    let one = async |client: &mut _| {
        let mut served = 0_u32;
        while Instant::now() < end {
            Client::ask(client).await;
            served += 1;
        }
        served
    };
    let served = futures::future::join_all(clients.iter_mut().map(one)).await;
    let served = f64::from(served.into_iter().sum::<u32>());
    let cpu = cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6;
    Round { rate: served / start.elapsed().as_secs_f64(), cpu: cpu / served }
}

/// User and system time of this process so far, where Linux tells it, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

async fn read_answer(connection: &mut TlsStream<TcpStream>) {
    let (mut answer, mut have) = ([0; 8 * 1024], 0);
    loop {
        let read = connection.read(&mut answer[have..]).await.unwrap();
        assert!(read > 0, "the server hung up");
        have += read;
        let Some(head) = answer[..have].windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head]).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if have == head + 4 + length.parse::<usize>().unwrap() {
            return;
        }
    }
}

fn start(servers: &Runtime, authority: &Authority, router: Router) -> SocketAddr {
    let leaf = authority.issue(&["localhost".to_owned()], validity()).unwrap();
    let certificate = Certificate::from_pem(leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes()).unwrap();
    let tls = Arc::new(server_config(Arc::new(certificate)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions::default();
    servers.spawn(serve(listener, Some(tls), router, Readiness::new(), options, std::future::pending()));
    address
}

async fn connect(authority: &Authority, address: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.issued().certificate_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

fn ours() -> Router {
    router(Admission {
        rules: Arc::new(ArcSwap::from_pointee(rules())),
        policies: Arc::default(),
        namespaces: Arc::default(),
        offers: Arc::new(|offer| drop(black_box(offer))),
        metrics: Metrics::new().admission,
        readiness: Readiness::new(),
        limits: Limits::default(),
    })
}

fn floor(reply: Bytes) -> Router {
    let echo = async move |body: Bytes| {
        black_box(body);
        ([(CONTENT_TYPE, "application/json")], Body::from(reply))
    };
    Router::new().route("/mutate", post(echo))
}

fn validity() -> Validity {
    Validity::starting(Timestamp::now(), SignedDuration::from_hours(24))
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /mutate?timeout=10s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// 100 rules, of which two match the Pod's images.
fn rules() -> Rules {
    let rule = |name: String, matched: String| Rule {
        name: name.clone(),
        created: 1,
        matches: vec![matched],
        pull_host: "harbor.corp.example".to_owned(),
        project: name,
        ..Rule::default()
    };
    let others = (0..98).map(|index| rule(format!("p{index}"), format!("registry-{index}.example/team-{index}")));
    let used =
        [rule("dockerhub".to_owned(), "docker.io".to_owned()), rule("acme".to_owned(), "ghcr.io/acme".to_owned())];
    Rules::compile(others.chain(used))
}

fn create() -> Vec<u8> {
    review("CREATE", &pod(7 * 1024), &Value::Null)
}

fn update() -> Vec<u8> {
    let old = pod(7 * 1024);
    let mut new = old.clone();
    new["metadata"]["labels"]["version"] = json!("2");
    review("UPDATE", &new, &old)
}

fn large() -> Vec<u8> {
    let mut pod = pod(7 * 1024);
    pod["metadata"]["annotations"]["big"] = json!("x".repeat(1024 * 1024));
    review("CREATE", &pod, &Value::Null)
}

fn review(operation: &str, object: &Value, old: &Value) -> Vec<u8> {
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop", "operation": operation,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": object, "oldObject": old, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    });
    review.to_string().into_bytes()
}

/// A Pod as the API server shows it to webhooks, with three containers of three origins, filled up to about `size`
/// bytes with what Pods are full of: environment, mounts, managed fields.
fn pod(size: usize) -> Value {
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            "env": [],
            "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "token", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let mut pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "generateName": "web-7d4b9c6f5-", "namespace": "shop", "creationTimestamp": null,
            "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"},
            "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c6f5", "uid": "u"}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {}},
            }}],
        },
        "spec": {
            "initContainers": [container("migrate", "ghcr.io/acme/migrate:v2.3.1")],
            "containers": [container("web", "nginx:1.27"), container("log", "registry.other.example/log:5")],
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "restartPolicy": "Always", "serviceAccountName": "default", "schedulerName": "default-scheduler",
        },
        "status": {},
    });
    let mut index = 0;
    while pod.to_string().len() < size {
        let env = pod["spec"]["containers"][index % 2]["env"].as_array_mut().unwrap();
        env.push(
            json!({"name": format!("SETTING_{index}"), "value": format!("https://service-{index}.shop.svc:8443/path")}),
        );
        index += 1;
    }
    pod
}
