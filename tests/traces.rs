//! Spans of admissions at a collector, and what a collector that hangs does to admission: nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use harbor_pilot::tls::issue::{Authority, Validity};
use jiff::{SignedDuration, Timestamp};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A webhook as a process, with the rules of the examples.
struct Webhook {
    process: Child,
    client: reqwest::Client,
    url: String,
    directory: tempfile::TempDir,
}

impl Webhook {
    async fn start(collector: &str) -> Self {
        Self::with(collector, &[], Stdio::null()).await
    }

    /// The same with variables, and standard error elsewhere.
    async fn with(collector: &str, variables: &[(&str, &str)], stderr: Stdio) -> Self {
        harbor_pilot::tls::install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(24));
        let authority = Authority::new("test", validity).unwrap();
        let leaf = authority.issue(&["127.0.0.1".to_owned()], validity).unwrap();
        std::fs::write(directory.path().join("tls.crt"), &leaf.certificate_pem).unwrap();
        std::fs::write(directory.path().join("tls.key"), &leaf.key_pem).unwrap();
        let [address, ops] = free_addresses();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests");
        let process = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"))
            .args(["webhook", "--trace-ratio", "1", "--shutdown-delay", "1s"])
            .args(["--webhook-bind-address", &address.to_string(), "--metrics-bind-address", &ops.to_string()])
            .args(["--otlp-endpoint", collector])
            .arg("--rules")
            .arg(rules)
            .arg("--tls-dir")
            .arg(directory.path())
            .envs(variables.iter().copied())
            .stderr(stderr)
            .spawn()
            .unwrap();
        std::fs::write(directory.path().join("ca.crt"), &authority.issued().certificate_pem).unwrap();
        let root = reqwest::Certificate::from_pem(authority.issued().certificate_pem.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).timeout(SOON).build().unwrap();
        let ready = format!("http://{ops}/readyz");
        let end = Instant::now() + SOON;
        while !client.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(Instant::now() < end, "the webhook is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { process, client, url: format!("https://{address}/mutate"), directory }
    }

    /// How long an admission took.
    async fn admit(&self, uid: &str) -> Duration {
        self.admit_in(uid, None).await
    }

    /// As the API server sends it that traces itself.
    async fn admit_in(&self, uid: &str, traceparent: Option<&str>) -> Duration {
        let object = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "nginx"}]}});
        let request = json!({"uid": uid, "operation": "CREATE", "namespace": "shop", "object": object,
                             "kind": {"group": "", "version": "v1", "kind": "Pod"}});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let begin = Instant::now();
        let mut asked = self.client.post(&self.url).json(&review);
        if let Some(traceparent) = traceparent {
            asked = asked.header("traceparent", traceparent);
        }
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["response"]["uid"], uid, "{answer}");
        begin.elapsed()
    }

    /// Ends it as the kubelet does, and says how long that took.
    async fn end(mut self) -> Duration {
        let begin = Instant::now();
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        while self.process.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < SOON, "the webhook does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begin.elapsed()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    match value.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        other => Some(format!("{other:?}")),
    }
}

#[tokio::test]
async fn an_admission_is_a_span_with_what_came_of_it_and_a_part_of_the_trace_of_its_caller() {
    let received: Arc<Mutex<Vec<ResourceSpans>>> = Arc::default();
    let take = async |State(received): State<Arc<Mutex<Vec<ResourceSpans>>>>, body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        received.lock().unwrap().extend(request.resource_spans);
    };
    let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });

    let webhook = Webhook::start(&collector).await;
    webhook.admit("uid-1").await;
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    webhook.admit_in("uid-2", Some(&format!("00-{trace}-{span}-01"))).await;
    // Whoever decided that its trace is not kept decided it for us, too; what cannot be read is no trace.
    webhook.admit_in("uid-3", Some(&format!("00-{trace}-{span}-00"))).await;
    webhook.admit_in("uid-4", Some("00-zz-zz-01")).await;
    let count = || {
        let received = received.lock().unwrap();
        received.iter().flat_map(|of| &of.scope_spans).map(|of| of.spans.len()).sum::<usize>()
    };
    let end = Instant::now() + SOON;
    while count() < 3 {
        assert!(Instant::now() < end, "{} spans came", count());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let received = received.lock().unwrap();
    let resource = received[0].resource.as_ref().unwrap();
    assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("harbor-pilot-webhook"));
    let spans: Vec<_> = received.iter().flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).collect();
    let found: Vec<_> = spans
        .iter()
        .map(|span| (span.name.as_str(), text(&span.attributes, "uid"), text(&span.attributes, "outcome")))
        .collect();
    let expected =
        ["uid-1", "uid-2", "uid-4"].map(|uid| ("admission", Some(uid.to_owned()), Some("Patched".to_owned())));
    assert_eq!(found, expected);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of_caller = |at: usize| (hex(&spans[at].trace_id) == trace, hex(&spans[at].parent_span_id) == span);
    assert_eq!([0, 1, 2].map(of_caller), [(false, false), (true, true), (false, false)]);
    assert!(spans.iter().all(|span| span.end_time_unix_nano > span.start_time_unix_nano), "{spans:?}");
}

#[tokio::test]
async fn collector_that_hangs_or_is_unreachable_delays_neither_admission_nor_shutdown() {
    // It takes connections and answers nothing.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let [unreachable] = free_addresses();
    let mut last = None;
    // More than the queue holds.
    for (collector, admissions) in [(unreachable, 50), (hanging.local_addr().unwrap(), 2500)] {
        let webhook = Webhook::start(&format!("http://{collector}")).await;
        let mut longest = Duration::ZERO;
        for number in 0..admissions {
            longest = longest.max(webhook.admit(&number.to_string()).await);
        }
        assert!(longest < Duration::from_secs(3), "{collector}: an admission took {longest:?}");
        last = Some(webhook);
    }
    let took = last.unwrap().end().await;
    assert!(took < Duration::from_secs(20), "the end took {took:?}");
}

#[tokio::test]
async fn headers_for_the_collector_are_in_no_line_however_much_is_logged() {
    const CANARY: &str = "c4nary-of-the-collector";
    // It is asked over TLS, and logs what it is asked for.
    let seen = tempfile::NamedTempFile::new().unwrap();
    let trace = [("HARBOR_PILOT_LOG", "trace"), ("RUST_LOG", "trace")];
    let other = Webhook::with("http://127.0.0.1:9", &trace, seen.reopen().unwrap().into()).await;
    let secure = other.url.trim_end_matches("/mutate").to_owned();
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", plain.local_addr().unwrap());
    let received: Arc<Mutex<Vec<String>>> = Arc::default();
    let take = async |State(received): State<Arc<Mutex<Vec<String>>>>, headers: HeaderMap| {
        received.lock().unwrap().push(format!("{headers:?}"));
    };
    let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
    tokio::spawn(async move { axum::serve(plain, router).await });
    let root = other.directory.path().join("ca.crt");
    let (basic, key) = (format!("authorization=Basic%20{CANARY}"), format!("x-key={CANARY}"));
    for collector in [address, secure] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let headers = format!("{basic},{key}");
        let variables = [
            ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()),
            ("SSL_CERT_FILE", root.to_str().unwrap()),
            trace[0],
            trace[1],
        ];
        let webhook = Webhook::with(&collector, &variables, log.reopen().unwrap().into()).await;
        webhook.admit("uid-1").await;
        let end = Instant::now() + SOON;
        let text = || std::fs::read_to_string(log.path()).unwrap();
        while !text().contains("put; add idle connection") {
            assert!(Instant::now() < end, "{collector}: nothing was exported: {}", text());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        webhook.end().await;
        let text = text();
        assert!(text.contains("TRACE"), "{collector}: it logs all");
        let line = text.lines().find(|line| line.contains(CANARY));
        assert_eq!(line, None, "{collector}");
    }
    let received = received.lock().unwrap();
    assert!(received.iter().any(|headers| headers.contains(CANARY)), "{received:?}");
    let seen = std::fs::read_to_string(seen.path()).unwrap();
    assert!(seen.contains("TRACE") && !seen.contains(CANARY), "the receiver logs no header");
}
