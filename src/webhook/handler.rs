//! `POST /mutate` and `POST /validate`: HTTP around [`super::review`], failing open, and [`super::validate`], failing as
//! policies say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use k8s_openapi::jiff::Timestamp;
use tracing::field::debug;

use super::body::BodyReader;
pub use super::body::Limits;
use super::review::{self, NotJson, Reply};
use super::validate;
use crate::policy::{Policies, Scans};
use crate::prewarm::queue::{Fate, Offer, Offers};
use crate::rewrite::{Namespaces, Rules};
use crate::telemetry::metrics::{AdmissionMetrics, DropReason, Operation, Outcome};
use crate::telemetry::probes::{Readiness, probes};
use crate::telemetry::traces;

const OUR_ERROR: &str = "an error of harbor-pilot itself; its log has more";

/// Takes offers for the prewarmer. It is called while a request is answered, and must not block.
pub type OfferSink = Arc<dyn Fn(Offer) + Send + Sync>;

/// Offers to the prewarmer's queue, and counts what it does not take.
pub fn queued(offers: Offers, metrics: &AdmissionMetrics) -> OfferSink {
    let metrics = metrics.clone();
    Arc::new(move |offer| match offers.offer(offer) {
        Fate::Dropped => metrics.count_dropped(DropReason::Full),
        Fate::Limited => metrics.count_dropped(DropReason::NamespaceLimit),
        Fate::Queued | Fate::Duplicate => {}
    })
}

/// What admission needs.
#[derive(Clone)]
pub struct Admission {
    /// The rules in force: loaded once a request, without a lock.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Labels of the namespaces, for selectors.
    pub namespaces: Arc<ArcSwap<Namespaces>>,
    /// The policies in force, as the rules are.
    pub policies: Arc<ArcSwap<Policies>>,
    /// What scans found; asked only while a policy goes by them.
    pub scans: Arc<ArcSwap<Scans>>,
    /// Where wanted images go, after the reply is made; never for a dry run.
    pub offers: OfferSink,
    /// What is counted.
    pub metrics: AdmissionMetrics,
    /// What `/readyz` answers; once it drains, HTTP/1 connections are asked to close.
    pub readiness: Readiness,
    /// How much is read.
    pub limits: Limits,
}

/// `POST /mutate`, `POST /validate`, `/healthz` and `/readyz`.
pub fn router(admission: Admission) -> Router {
    let probes = probes(admission.readiness.clone());
    let reader = BodyReader::new(admission.limits);
    let state = Arc::new(Shared { admission, reader });
    Router::new().route("/mutate", post(mutate)).route("/validate", post(validate)).with_state(state).merge(probes)
}

type Answer = fn(&Admission, &HeaderMap, &[u8]) -> Response;

struct Shared {
    admission: Admission,
    reader: BodyReader,
}

async fn mutate(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.answer(request, Admission::mutate).await
}

async fn validate(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.answer(request, Admission::validate).await
}

impl Shared {
    async fn answer(&self, request: Request, answer: Answer) -> Response {
        let (parts, body) = request.into_parts();
        let admission = &self.admission;
        let mut response = match self.reader.read(&parts, body, |body| answer(admission, &parts.headers, &body)).await {
            Ok(response) => response,
            Err(error) => {
                admission.metrics.count(Operation::Other, Outcome::Refused, std::time::Duration::ZERO);
                (error.status(), format!("{error}\n")).into_response()
            }
        };
        let drains = admission.readiness.is_draining() || response.status() == StatusCode::PAYLOAD_TOO_LARGE;
        if drains && parts.version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Admission {
    fn mutate(&self, headers: &HeaderMap, body: &[u8]) -> Response {
        self.answer(
            headers,
            || review::mutate(body, &self.rules.load(), &self.namespaces.load()),
            || review::admit_unread(body, OUR_ERROR),
        )
    }

    fn validate(&self, headers: &HeaderMap, body: &[u8]) -> Response {
        let policies = self.policies.load();
        let scans = policies.go_by_scans().then(|| (self.scans.load(), Timestamp::now()));
        let scans = scans.as_ref().map(|(scans, now)| (&***scans, *now));
        self.answer(
            headers,
            || validate::validate(body, &self.rules.load(), &self.namespaces.load(), &policies, scans),
            || validate::unread(body, OUR_ERROR, &policies),
        )
    }

    fn answer(
        &self,
        headers: &HeaderMap,
        answer: impl FnOnce() -> Result<Reply, NotJson>,
        otherwise: impl FnOnce() -> Result<Reply, NotJson>,
    ) -> Response {
        let start = Instant::now();
        let empty = tracing::field::Empty;
        let span =
            tracing::debug_span!("admission", uid = empty, namespace = empty, operation = empty, outcome = empty);
        traces::continue_trace(&span, headers);
        let entered = span.enter();
        let (replied, outcome) = guarded(answer, otherwise);
        let Ok(reply) = replied else {
            self.metrics.count(Operation::Other, Outcome::Refused, start.elapsed());
            return (StatusCode::BAD_REQUEST, format!("{NotJson}\n")).into_response();
        };
        let (outcome, took) = (outcome.unwrap_or(reply.verdict.into()), start.elapsed());
        self.metrics.count(reply.operation.into(), outcome, took);
        let Reply { uid, namespace, operation, rewritten, left_alone, dry_run, .. } = &reply;
        if outcome == Outcome::Panicked {
            tracing::error!(
                uid,
                namespace,
                "answering an admission review panicked; it was answered as one that cannot be read"
            );
        }
        if !span.is_disabled() {
            span.record("uid", uid).record("namespace", namespace);
            span.record("operation", debug(operation)).record("outcome", debug(outcome));
        }
        tracing::debug!(uid, namespace, ?operation, ?outcome, rewritten, left_alone, dry_run, ?took, "admission");
        drop(entered);
        self.metrics.images_rewritten.inc_by(reply.rewritten as u64);
        self.metrics.pods_unrewritten.inc_by(reply.unrewritten.into());
        self.metrics.images_left_alone.inc_by(reply.left_alone as u64);
        self.respond(reply)
    }

    fn respond(&self, reply: Reply) -> Response {
        let Reply { body, wanted, namespace, .. } = reply;
        self.metrics.offers.inc_by(wanted.len() as u64);
        // A sink that fails is no reason to fail the reply.
        let offering = catch_unwind(AssertUnwindSafe(|| {
            for wanted in wanted {
                let proxy_project = wanted.proxy_project.to_string();
                (self.offers)(Offer { image: wanted.image, proxy_project, namespace: namespace.clone() });
            }
        }));
        if offering.is_err() {
            tracing::error!("offering images to the prewarmer panicked");
        }
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(body)).into_response()
    }
}

/// The answer, or, after a panic, the other one and the outcome that says so.
fn guarded(
    answer: impl FnOnce() -> Result<Reply, NotJson>,
    otherwise: impl FnOnce() -> Result<Reply, NotJson>,
) -> (Result<Reply, NotJson>, Option<Outcome>) {
    match catch_unwind(AssertUnwindSafe(answer)) {
        Ok(replied) => (replied, None),
        Err(_) => (otherwise(), Some(Outcome::Panicked)),
    }
}

impl From<review::Operation> for Operation {
    fn from(operation: review::Operation) -> Self {
        match operation {
            review::Operation::Create => Self::Create,
            review::Operation::Update => Self::Update,
            review::Operation::Other => Self::Other,
        }
    }
}

impl From<review::Verdict> for Outcome {
    fn from(verdict: review::Verdict) -> Self {
        match verdict {
            review::Verdict::Patched => Self::Patched,
            review::Verdict::Unchanged => Self::Unchanged,
            review::Verdict::Skipped => Self::Skipped,
            review::Verdict::Denied => Self::Denied,
            review::Verdict::Malformed => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prewarm::queue::{Bounds, queue};

    #[test]
    fn a_panic_while_answering_admits_with_a_warning() {
        let body = br#"{"kind":"AdmissionReview","request":{"uid":"u-1"}}"#;
        let (reply, outcome) = guarded(|| panic!("as tests do"), || review::admit_unread(body, "an error"));
        assert_eq!(outcome, Some(Outcome::Panicked));
        let answer: serde_json::Value = serde_json::from_slice(&reply.unwrap().body).unwrap();
        assert_eq!(answer["response"]["uid"], "u-1");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["warnings"][0], "harbor-pilot: admitted as it is: an error");
    }
    #[test]
    fn an_offer_for_which_there_is_no_room_is_counted_as_dropped() {
        let (metrics, bounds) = (crate::telemetry::metrics::Metrics::new(), Bounds { waiting: 1, ..Bounds::default() });
        let (offers, _offered) = queue(bounds);
        let sink = queued(offers, &metrics.admission);
        for image in ["harbor.example.com/hub/a", "harbor.example.com/hub/b", "harbor.example.com/hub/a"] {
            let image = crate::image::ImageRef::parse(image).unwrap();
            sink(Offer { image, proxy_project: "hub".to_owned(), namespace: "shop".to_owned() });
        }
        let text = metrics.encode().unwrap();
        let one = r#"harbor_pilot_admission_offers_dropped_total{reason="Full"} 1"#;
        assert!(text.lines().any(|line| line == one), "a duplicate is not dropped: {text}");
    }
}
