//! The status page on the ops port: the state of the process for users without `kubectl`. Read-only and self-contained: no
//! script, no external resource, and the Content-Security-Policy allows its style by hash.
//!
//! In: a [`Content`] for each request. Out: HTML in which all external input is escaped text.

mod page;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::summary::Summary;
use crate::telemetry::recent_errors::LoggedError;

/// The most resources that each list shows; the page counts the rest.
pub(crate) const LIMIT: usize = 50;

const STYLE: &str = include_str!("style.css");

/// The data of the page.
#[derive(Debug, Default)]
pub(crate) struct PageContent {
    /// The component: `controller` or `webhook`.
    pub(crate) component: &'static str,
    /// Short facts, each with its name.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// Rules that admission uses; `None` for a process without admission.
    pub(crate) rules: Option<PageRules>,
    /// The state of resources; `None` for a process that does not watch them.
    pub(crate) report: Option<Summary>,
    /// Images, the last warmed first; at most [`LIMIT`].
    pub(crate) images: Vec<PageImage>,
    /// The last warnings and errors, newest first.
    pub(crate) troubles: Vec<LoggedError>,
}

/// Active rules.
#[derive(Debug, Default)]
pub(crate) struct PageRules {
    /// The number of rules.
    pub(crate) total: usize,
    /// At most [`LIMIT`] of the rules.
    pub(crate) items: Vec<PageRule>,
    /// Invalid or shadowed rules, at most [`LIMIT`].
    pub(crate) findings: Vec<String>,
}

/// An active rule.
#[derive(Debug)]
pub(crate) struct PageRule {
    /// Its ProxyProject.
    pub(crate) name: String,
    /// The host and project that the rule rewrites to.
    pub(crate) target: String,
    /// The mode, such as `Rewrite`.
    pub(crate) mode: String,
    /// Whether Harbor is unavailable, so that images are not rewritten.
    pub(crate) waits: bool,
}

/// A CachedImage.
#[derive(Debug)]
pub(crate) struct PageImage {
    /// The image at Harbor.
    pub(crate) image: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) ready: String,
    /// The reason of the Ready condition.
    pub(crate) reason: String,
    /// Bytes that Harbor stores for the image.
    pub(crate) bytes: u64,
    /// Whether the tag, and whether the digest, can be pulled while the upstream is down.
    pub(crate) offline: (bool, bool),
    /// The last time the image became warm.
    pub(crate) warmed: Option<Timestamp>,
}

/// Serves `GET /` with the current `content`.
pub(crate) fn router(content: Arc<dyn Fn() -> PageContent + Send + Sync>) -> Router {
    Router::new().route("/", get(async move || show(&content())))
}

fn show(content: &PageContent) -> Response {
    let html = page::html(content, STYLE, Timestamp::now());
    let headers: [(HeaderName, &str); 5] = [
        (CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(html)).into_response()
}

/// The page may load and send nothing; browsers apply only its own style.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    // The icon is an empty `data:` URL: without it, browsers request one.
    let allowed = format!("default-src 'none'; style-src 'sha256-{hash}'; img-src data:");
    allowed + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
});

#[cfg(test)]
mod tests;
