//! Sends spans to an OpenTelemetry collector, by OTLP over HTTP. Off unless a collector is configured.
//!
//! In: spans of this crate. Out: batches from a separate thread, over a bounded queue: excess spans are dropped, and no
//! caller waits. Log events are not exported, so spans hold only their own fields.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingResult, SdkTracerProvider, ShouldSample,
};
use tokio::runtime::Handle;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

/// The standard OpenTelemetry variable for the address of the collector.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The standard OpenTelemetry variable for the sampling ratio.
pub const RATIO_VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The timeout of one export, and of the last export when the process ends.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most spans in the queue; when it is full, new spans are dropped.
const WAITING: usize = 2048;
/// The most spans of one request.
const BATCH: usize = 512;
/// The longest wait of a span for a full batch.
const EVERY: Duration = Duration::from_secs(2);
/// The longest answer of the collector, in bytes; the rest is cut.
const LONGEST_ANSWER: usize = 64 << 10;

/// The reason why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address is invalid.
    #[error(
        "cannot use the OTLP endpoint `{0}`: write http:// or https://, host and port, such as http://collector:4318"
    )]
    Endpoint(String),
    /// The HTTP client could not be created.
    #[error("cannot create the client of the OTLP endpoint: {0}")]
    Client(String),
}

/// The target and sampling of spans.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// Base address of the collector; `/v1/traces` is added if it is absent.
    pub endpoint: String,
    /// The sampling ratio, from 0 to 1.
    pub ratio: f64,
    /// The name of the service: `service.name`.
    pub service: String,
    /// The replica: `service.instance.id`.
    pub instance: Option<String>,
}

/// The export of spans to a collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts the export. Call it in a runtime that lives as long as the result.
    ///
    /// # Errors
    /// [`TracesError`] for an invalid address. No span is sent yet: an unreachable collector is not an error.
    pub fn begin(settings: &TraceOptions) -> Result<Self, TracesError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("harbor-pilot/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(DEADLINE)
            .timeout(DEADLINE)
            .build()
            .map_err(|error| TracesError::Client(error.to_string()))?;
        let client = Sender { http, runtime: Handle::current(), silent: Arc::default() };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(address(&settings.endpoint)?)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(DEADLINE)
            .build()
            .map_err(|error| TracesError::Client(error.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EVERY)
            .build();
        let mut resource = Resource::builder()
            .with_service_name(settings.service.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if let Some(instance) = &settings.instance {
            resource = resource.with_attribute(KeyValue::new("service.instance.id", instance.clone()));
        }
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Bounded::new(settings.ratio))
            .with_resource(resource.build())
            .build();
        Ok(Self { provider })
    }

    /// Sends the remaining spans. Blocks for at most some seconds.
    pub fn end(&self) {
        // Failed exports were already logged.
        self.provider.shutdown_with_timeout(DEADLINE).ok();
    }

    /// Returns a layer that takes the spans of this crate, whatever the log filter.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.provider.tracer("harbor-pilot");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        let layer = layer.with_target(false).with_tracked_inactivity(false);
        layer.with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("harbor_pilot")))
    }
}

/// Applies the sampling ratio also to traces that a caller has sampled: an API server passes on the `traceparent` of its own
/// clients. A trace that the caller has not sampled is dropped.
#[derive(Debug, Clone)]
struct Bounded {
    ratio: Sampler,
    by_parent: Sampler,
}

impl Bounded {
    fn new(ratio: f64) -> Self {
        let ratio = Sampler::TraceIdRatioBased(ratio);
        Self { by_parent: Sampler::ParentBased(Box::new(ratio.clone())), ratio }
    }
}

impl ShouldSample for Bounded {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let remote = parent.is_some_and(|parent| {
            let parent = parent.span().span_context().clone();
            parent.is_valid() && parent.is_remote() && parent.is_sampled()
        });
        let sampler = if remote { &self.ratio } else { &self.by_parent };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// Makes the span a part of the caller's trace, if its headers name one (W3C `traceparent`; an API server with tracing sends
/// it). Call it before the span is entered. A span that no layer takes is not modified.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let caller = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // Without an export there is no trace to join.
    span.set_parent(caller).ok();
}

/// Sends the exporter's requests on our runtime: its own thread has none.
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
    /// Whether the last request failed.
    silent: Arc<AtomicBool>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // They may hold a token, which must not appear in a log.
        request.headers_mut().values_mut().for_each(|value| value.set_sensitive(true));
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move { exchange(&http, request).await }).await?;
        let failed = sent.as_ref().map_or_else(|error| Some(error.to_string()), |answer| refused(answer.status()));
        match (failed, self.silent.load(Ordering::Relaxed)) {
            (Some(why), false) => {
                self.silent.store(true, Ordering::Relaxed);
                tracing::warn!(why, "cannot send spans to the collector; spans are dropped");
            }
            (None, true) => {
                self.silent.store(false, Ordering::Relaxed);
                tracing::info!("sending spans to the collector again");
            }
            _ => {}
        }
        Ok(sent?)
    }
}

async fn exchange(http: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
    let mut answer = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST_ANSWER {
            break;
        }
    }
    let empty = Response::new(Bytes::new());
    Ok(response.body(body.into()).unwrap_or(empty))
}

fn refused(status: http::StatusCode) -> Option<String> {
    (!status.is_success()).then(|| format!("status {status}"))
}

fn address(endpoint: &str) -> Result<String, TracesError> {
    const PATH: &str = "/v1/traces";
    let wrong = || TracesError::Endpoint(Url::parse(endpoint).map_or_else(|_| endpoint.to_owned(), shown));
    let mut url = Url::parse(endpoint.trim()).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with(PATH) {
        url.set_path(&(path + PATH));
    }
    Ok(url.into())
}

/// Returns the URL without a password.
fn shown(url: Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_keeps_no_more_of_traces_that_a_caller_names_than_of_others() {
        use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
        use opentelemetry_sdk::trace::SamplingDecision;
        let kept = |ratio: f64, trace: u128, flags: TraceFlags| {
            let (trace, span) = (TraceId::from_bytes(trace.to_be_bytes()), SpanId::from_bytes([1; 8]));
            let caller = SpanContext::new(trace, span, flags, true, TraceState::default());
            let caller = Context::new().with_remote_span_context(caller);
            let result = Bounded::new(ratio).should_sample(Some(&caller), trace, "a", &SpanKind::Internal, &[], &[]);
            result.decision == SamplingDecision::RecordAndSample
        };
        let (low, high) = (1, u128::from(u64::MAX));
        for (ratio, flags, expected) in [
            (0.0, TraceFlags::SAMPLED, [false, false]),
            (0.1, TraceFlags::SAMPLED, [true, false]),
            (1.0, TraceFlags::SAMPLED, [true, true]),
            (1.0, TraceFlags::NOT_SAMPLED, [false, false]),
        ] {
            assert_eq!([low, high].map(|trace| kept(ratio, trace, flags)), expected, "{ratio} {flags:?}");
        }
    }

    #[test]
    fn the_path_of_traces_is_added_where_it_is_missing() {
        for (endpoint, expected) in [
            ("http://collector:4318", Some("http://collector:4318/v1/traces")),
            ("https://collector/otlp/", Some("https://collector/otlp/v1/traces")),
            ("http://collector:4318/v1/traces", Some("http://collector:4318/v1/traces")),
            ("collector:4318", None),
            ("", None),
            ("ftp://user:secret@collector", None),
        ] {
            let found = address(endpoint);
            assert_eq!(found.as_deref().ok(), expected, "{endpoint}");
            assert!(!found.is_err_and(|error| error.to_string().contains("secret")), "{endpoint}");
        }
    }
}
