//! `POST /mutate` and `POST /validate`: HTTP around [`super::review`], which fails open, and [`super::validate`], which fails
//! as the policies say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use k8s_openapi::jiff::Timestamp;
use tracing::Span;
use tracing::field::debug;

use super::beginning::Beginning;
pub use super::body::BodyLimits;
use super::body::{BodyError, BodyReader, RequestBody, SMALL, Unread, first, peer};
use super::connection::Connection;
use super::request::{PartialRequest, RequestInfo};
use super::review::{self, NotJson, ReviewReply};
use super::seldom::Seldom;
use super::validate;
use super::workers::{DeadlineExceeded, Workers};
use crate::policy::{Policies, ScanIndex};
use crate::prewarm::queue::{EnqueueResult, PrewarmQueue, PrewarmRequest};
use crate::rewrite::{Namespaces, Rules, limits::MAX_WARMED};
use crate::telemetry::metrics::{AdmissionMetrics, AdmissionOutcome, DropReason, OperationLabel};
use crate::telemetry::probes::{Readiness, probes};
use crate::telemetry::traces;

const OUR_ERROR: &str = "an internal error of harbor-pilot; see its log";
const TOO_LONG: &str = "the review took too long";
/// The shortest time between two log lines for reviews that were not read.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The longest name of a namespace (RFC 1123 label), in bytes.
const MAX_NAMESPACE: usize = 63;

/// Receives prewarm requests. It is called while a request is answered, and must not block.
pub type PrewarmSink = Arc<dyn Fn(PrewarmRequest) + Send + Sync>;

/// Sends prewarm requests to the queue, and counts those that the queue refuses.
pub fn queued(offers: PrewarmQueue, metrics: &AdmissionMetrics) -> PrewarmSink {
    let metrics = metrics.clone();
    Arc::new(move |offer| match offers.try_enqueue(offer) {
        EnqueueResult::Dropped => metrics.count_dropped(DropReason::Full),
        EnqueueResult::Limited => metrics.count_dropped(DropReason::NamespaceLimit),
        EnqueueResult::Queued | EnqueueResult::Duplicate => {}
    })
}

/// The state that admission needs.
#[derive(Clone)]
pub struct Admission {
    /// The active rules: loaded once per request, without a lock.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Labels of the namespaces, for selectors.
    pub namespaces: Arc<ArcSwap<Namespaces>>,
    /// The active policies, loaded as the rules are.
    pub policies: Arc<ArcSwap<Policies>>,
    /// Results of scans; read only while a policy needs them.
    pub scans: Arc<ArcSwap<ScanIndex>>,
    /// Receives prewarm requests after the reply is computed; never for a dry run.
    pub offers: PrewarmSink,
    /// The metrics of admission.
    pub metrics: AdmissionMetrics,
    /// The state that `/readyz` reports.
    pub readiness: Readiness,
    /// The limits of request bodies.
    pub limits: BodyLimits,
}

/// Serves `POST /mutate`, `POST /validate`, `/healthz` and `/readyz`.
pub fn router(admission: Admission) -> Router {
    let probes = probes(admission.readiness.clone());
    let reader = BodyReader::new(admission.limits);
    let state =
        Arc::new(HandlerState { admission, reader, workers: Workers::default(), unread: Seldom::new(LOG_EVERY) });
    Router::new().route("/mutate", post(mutate)).route("/validate", post(validate)).with_state(state).merge(probes)
}

/// One of the two endpoints, as functions of the request.
#[derive(Clone, Copy)]
struct ReviewEndpoint {
    judge: fn(&Admission, &HeaderMap, &[u8]) -> ReviewResult,
    /// Answers a review of which only these fields were read.
    unread: fn(&Admission, RequestInfo<'_>, &PartialRequest, &str) -> ReviewReply,
}

const MUTATE: ReviewEndpoint =
    ReviewEndpoint { judge: Admission::mutate, unread: |_, about, rest, problem| review::admit(about, rest, problem) };
const VALIDATE: ReviewEndpoint = ReviewEndpoint {
    judge: Admission::validate,
    unread: |admission, about, rest, problem| validate::decide_unread(about, rest, problem, &admission.policies.load()),
};

/// The result of a review, before it is counted and sent.
struct ReviewResult {
    replied: Result<ReviewReply, NotJson>,
    /// Replaces the outcome of the reply.
    outcome: Option<AdmissionOutcome>,
    start: Instant,
    span: Span,
}

struct HandlerState {
    admission: Admission,
    reader: BodyReader,
    workers: Workers,
    unread: Seldom,
}

async fn mutate(State(shared): State<Arc<HandlerState>>, request: Request) -> Response {
    shared.answer(request, MUTATE).await
}

async fn validate(State(shared): State<Arc<HandlerState>>, request: Request) -> Response {
    shared.answer(request, VALIDATE).await
}

impl HandlerState {
    async fn answer(self: Arc<Self>, request: Request, endpoint: ReviewEndpoint) -> Response {
        let ((parts, body), since) = (request.into_parts(), tokio::time::Instant::now());
        let read = match self.reader.read(&parts, body).await {
            Ok(read) => read,
            Err(unread) => return self.answer_unread(unread, &parts, endpoint),
        };
        let connection = parts.extensions.get::<Arc<Connection>>();
        let _working = connection.map(|connection| connection.work(tokio::time::Instant::now()));
        if read.bytes().len() <= SMALL {
            return self.admission.conclude((endpoint.judge)(&self.admission, &parts.headers, read.bytes()));
        }
        let (budget, peer, read) = (self.reader.review_budget(&parts, since), peer(&parts), Arc::new(read));
        let job = {
            let (shared, read, headers) = (Arc::clone(&self), Arc::clone(&read), parts.headers);
            move || (endpoint.judge)(&shared.admission, &headers, read.bytes())
        };
        match self.workers.run(peer, budget, job).await {
            Ok(judged) => self.admission.conclude(judged),
            Err(DeadlineExceeded) => self.expire(read, endpoint).await,
        }
    }

    /// Answers as if the review could not be read. In a large review that does not begin with its uid, the search for it
    /// takes time, too.
    async fn expire(self: Arc<Self>, read: Arc<RequestBody>, endpoint: ReviewEndpoint) -> Response {
        let start = Instant::now();
        let judged = move |replied| ReviewResult {
            replied,
            outcome: Some(AdmissionOutcome::Expired),
            start,
            span: Span::none(),
        };
        if let Some(beginning) = Beginning::read(first(read.bytes())) {
            let (about, rest) = (beginning.about(), beginning.rest());
            return self.admission.conclude(judged(Ok((endpoint.unread)(&self.admission, about, &rest, TOO_LONG))));
        }
        let answer = move || {
            let replied = PartialRequest::read(read.bytes());
            let replied = replied.map(|rest| (endpoint.unread)(&self.admission, rest.about(), &rest, TOO_LONG));
            self.admission.conclude(judged(replied))
        };
        tokio::task::spawn_blocking(answer).await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }

    /// Answers as if the review could not be read, as soon as its uid is known. The API server would take an HTTP error for a
    /// failed webhook, and its `failurePolicy` would admit an object that a tenant has made too large to review.
    fn answer_unread(&self, mut unread: Unread, parts: &Parts, endpoint: ReviewEndpoint) -> Response {
        let (error, start) = (unread.error, Instant::now());
        let bytes = std::mem::take(&mut unread.beginning);
        let beginning = Beginning::read(&bytes).filter(|_| error != BodyError::Broken);
        unread.drain(parts.version, self.reader.read_timeout(parts));
        let mut response = match beginning {
            Some(beginning) => {
                let about = beginning.about();
                self.unread.log(start, |times| {
                    let (uid, namespace) = (about.uid, about.namespace);
                    tracing::warn!(uid, namespace, %error, times, "cannot read an admission review; answered as malformed");
                });
                let replied = Ok((endpoint.unread)(&self.admission, about, &beginning.rest(), &error.to_string()));
                self.admission.conclude(ReviewResult {
                    replied,
                    outcome: Some(AdmissionOutcome::Unread),
                    start,
                    span: Span::none(),
                })
            }
            None => {
                self.admission.metrics.count(OperationLabel::Other, AdmissionOutcome::Refused, Duration::ZERO);
                (error.status(), format!("{error}\n")).into_response()
            }
        };
        if error == BodyError::TooLarge && parts.version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Admission {
    fn mutate(&self, headers: &HeaderMap, body: &[u8]) -> ReviewResult {
        review(
            headers,
            || review::mutate(body, &self.rules.load(), &self.namespaces.load()),
            || review::admit_unread(body, OUR_ERROR),
        )
    }

    fn validate(&self, headers: &HeaderMap, body: &[u8]) -> ReviewResult {
        let policies = self.policies.load();
        let scans = policies.use_scans().then(|| (self.scans.load(), Timestamp::now()));
        let scans = scans.as_ref().map(|(scans, now)| (&***scans, *now));
        review(
            headers,
            || validate::validate(body, &self.rules.load(), &self.namespaces.load(), &policies, scans),
            || validate::unread(body, OUR_ERROR, &self.policies.load()),
        )
    }

    /// Counts and logs the result of a review, and builds the response.
    fn conclude(&self, judged: ReviewResult) -> Response {
        let ReviewResult { replied, outcome, start, span } = judged;
        let entered = span.enter();
        let Ok(reply) = replied else {
            self.metrics.count(OperationLabel::Other, AdmissionOutcome::Refused, start.elapsed());
            return (StatusCode::BAD_REQUEST, format!("{NotJson}\n")).into_response();
        };
        let (outcome, took) = (outcome.unwrap_or(reply.verdict.into()), start.elapsed());
        self.metrics.count(reply.operation.into(), outcome, took);
        let ReviewReply { uid, namespace, operation, rewritten, skipped_images, dry_run, .. } = &reply;
        let namespace = if namespace.len() > MAX_NAMESPACE { "" } else { namespace };
        match outcome {
            AdmissionOutcome::Panicked => {
                tracing::error!(uid, namespace, "panic in an admission review; answered as malformed");
            }
            AdmissionOutcome::Expired => {
                tracing::warn!(uid, namespace, "an admission review took too long; answered as malformed");
            }
            _ => {}
        }
        if !span.is_disabled() {
            span.record("uid", uid).record("namespace", namespace);
            span.record("operation", debug(operation)).record("outcome", debug(outcome));
        }
        tracing::debug!(uid, namespace, ?operation, ?outcome, rewritten, skipped_images, dry_run, ?took, "admission");
        drop(entered);
        self.metrics.images_rewritten.inc_by(reply.rewritten as u64);
        self.metrics.unmutated_pods.inc_by(reply.unrewritten.into());
        self.metrics.images_skipped.inc_by(reply.skipped_images as u64);
        self.respond(reply)
    }

    fn respond(&self, reply: ReviewReply) -> Response {
        let ReviewReply { body, mut wanted, namespace, .. } = reply;
        if namespace.len() > MAX_NAMESPACE {
            // No namespace has such a name, and each prewarm request would keep it.
            wanted.clear();
        }
        wanted.truncate(MAX_WARMED);
        self.metrics.offers.inc_by(wanted.len() as u64);
        // A panic of the sink must not fail the reply.
        let offering = catch_unwind(AssertUnwindSafe(|| {
            for wanted in wanted {
                let proxy_project = wanted.proxy_project.to_string();
                (self.offers)(PrewarmRequest { image: wanted.image, proxy_project, namespace: namespace.clone() });
            }
        }));
        if offering.is_err() {
            tracing::error!("panic while enqueuing images for prewarming");
        }
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(body)).into_response()
    }
}

fn review(
    headers: &HeaderMap,
    answer: impl FnOnce() -> Result<ReviewReply, NotJson>,
    otherwise: impl FnOnce() -> Result<ReviewReply, NotJson>,
) -> ReviewResult {
    let start = Instant::now();
    let empty = tracing::field::Empty;
    let span = tracing::debug_span!("admission", uid = empty, namespace = empty, operation = empty, outcome = empty);
    traces::continue_trace(&span, headers);
    let (replied, outcome) = span.in_scope(|| guarded(answer, otherwise));
    ReviewResult { replied, outcome, start, span }
}

/// Returns the answer of the first function; after a panic, that of the second with [`Outcome::Panicked`].
fn guarded(
    answer: impl FnOnce() -> Result<ReviewReply, NotJson>,
    otherwise: impl FnOnce() -> Result<ReviewReply, NotJson>,
) -> (Result<ReviewReply, NotJson>, Option<AdmissionOutcome>) {
    match catch_unwind(AssertUnwindSafe(answer)) {
        Ok(replied) => (replied, None),
        Err(_) => (otherwise(), Some(AdmissionOutcome::Panicked)),
    }
}

impl From<review::Operation> for OperationLabel {
    fn from(operation: review::Operation) -> Self {
        match operation {
            review::Operation::Create => Self::Create,
            review::Operation::Update => Self::Update,
            review::Operation::Other => Self::Other,
        }
    }
}

impl From<review::ReviewOutcome> for AdmissionOutcome {
    fn from(verdict: review::ReviewOutcome) -> Self {
        match verdict {
            review::ReviewOutcome::Patched => Self::Patched,
            review::ReviewOutcome::Unchanged => Self::Unchanged,
            review::ReviewOutcome::Skipped => Self::Skipped,
            review::ReviewOutcome::Denied => Self::Denied,
            review::ReviewOutcome::Malformed => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prewarm::queue::{QueueBounds, queue};

    #[test]
    fn a_panic_while_answering_admits_with_a_warning() {
        let body = br#"{"kind":"AdmissionReview","request":{"uid":"u-1"}}"#;
        let (reply, outcome) = guarded(|| panic!("as tests do"), || review::admit_unread(body, "an error"));
        assert_eq!(outcome, Some(AdmissionOutcome::Panicked));
        let answer: serde_json::Value = serde_json::from_slice(&reply.unwrap().body).unwrap();
        assert_eq!(answer["response"]["uid"], "u-1");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["warnings"][0], "harbor-pilot: admitted without changes: an error");
    }
    #[test]
    fn an_offer_for_which_there_is_no_room_is_counted_as_dropped() {
        let (metrics, bounds) =
            (crate::telemetry::metrics::Metrics::new(), QueueBounds { waiting: 1, ..QueueBounds::default() });
        let (offers, _offered) = queue(bounds);
        let sink = queued(offers, &metrics.admission);
        for image in ["harbor.example.com/hub/a", "harbor.example.com/hub/b", "harbor.example.com/hub/a"] {
            let image = crate::image::ImageRef::parse(image).unwrap();
            sink(PrewarmRequest { image, proxy_project: "hub".to_owned(), namespace: "shop".to_owned() });
        }
        let text = metrics.encode().unwrap();
        let one = r#"harbor_pilot_prewarm_requests_dropped_total{reason="full"} 1"#;
        assert!(text.lines().any(|line| line == one), "a duplicate is not dropped: {text}");
    }
}
