//! Spans to an OpenTelemetry collector, by OTLP over HTTP. Off unless somebody names a collector.
//!
//! In: spans of this crate. Out: batches from a thread of its own, over a queue that is bounded: what does not fit is dropped, and
//! nobody waits. Events of the log are no part of it, so that what stands in spans is what their fields say.

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

/// Where OpenTelemetry's own tools look for the collector's address.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Where they look for the part of traces that is kept.
pub const RATIO_VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";

/// One export may take that long, and so may the last one when the process ends.
const DEADLINE: Duration = Duration::from_secs(5);
/// Spans that wait; of more the newest are dropped.
const WAITING: usize = 2048;
/// Spans of one request.
const BATCH: usize = 512;
/// Spans wait so long for others at most.
const EVERY: Duration = Duration::from_secs(2);
/// An answer of the collector that is longer is cut off.
const LONGEST_ANSWER: usize = 64 << 10;

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address cannot be used.
    #[error(
        "cannot use the OTLP endpoint `{0}`: write http:// or https://, host and port, such as http://collector:4318"
    )]
    Endpoint(String),
    /// No client for it.
    #[error("no client for the OTLP endpoint: {0}")]
    Client(String),
}

/// Where spans go, and how many.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base address of the collector; `/v1/traces` is added where it is not there.
    pub endpoint: String,
    /// The part of traces that is kept, from 0 to 1.
    pub ratio: f64,
    /// What the process is called: `service.name`.
    pub service: String,
    /// Which one of its replicas it is: `service.instance.id`.
    pub instance: Option<String>,
}

/// Spans on their way to a collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins. To be called within a runtime, which has to live as long.
    ///
    /// # Errors
    /// [`TracesError`] for an address that cannot be used. Nothing is sent by now: a collector that is away is no error.
    pub fn begin(settings: &Settings) -> Result<Self, TracesError> {
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

    /// Sends what is left. Blocks for some seconds at most.
    pub fn end(&self) {
        // What could not be sent was told already.
        self.provider.shutdown_with_timeout(DEADLINE).ok();
    }

    /// Takes spans of this crate, whatever is logged.
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

/// Keeps the ratio of traces, also of those that a caller names and wants to be kept: an API server passes on the
/// `traceparent` of its own clients. What the caller does not keep is not kept.
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

/// Makes the span a part of the caller's trace, where its headers name one (W3C `traceparent`, as an API server sends it that traces).
/// Before the span is entered; a span that nobody takes is left alone.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let caller = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // Where spans go nowhere, there is nothing to be a part of.
    span.set_parent(caller).ok();
}

/// The exporter's requests, made on our runtime: its own thread has none.
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
    /// The last request failed.
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
        // They may hold a token, and no log is to show it.
        request.headers_mut().values_mut().for_each(|value| value.set_sensitive(true));
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move { exchange(&http, request).await }).await?;
        let failed = sent.as_ref().map_or_else(|error| Some(error.to_string()), |answer| refused(answer.status()));
        match (failed, self.silent.load(Ordering::Relaxed)) {
            (Some(why), false) => {
                self.silent.store(true, Ordering::Relaxed);
                tracing::warn!(why, "the collector of traces does not take spans; they are dropped until it does");
            }
            (None, true) => {
                self.silent.store(false, Ordering::Relaxed);
                tracing::info!("the collector of traces takes spans again");
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
    (!status.is_success()).then(|| format!("it answers {status}"))
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

/// Without a password that somebody may have put there.
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
