//! The status page on the ops port: how everything is, for whoever has no `kubectl` at hand. Read-only, and of one piece: no
//! script, nothing from elsewhere, and its style by its hash.
//!
//! In: a [`Content`] for each look. Out: HTML in which everything that comes from outside is text.

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

use crate::survey::Report;
use crate::telemetry::troubles::Trouble;

/// Resources that each list shows at most; what there is beyond is counted.
pub(crate) const LIMIT: usize = 50;

const STYLE: &str = include_str!("style.css");

/// What there is to show.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// What the process is: `controller` or `webhook`.
    pub(crate) component: &'static str,
    /// Short facts, each with its name.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// Rules that admission follows; `None` for a process that follows none.
    pub(crate) rules: Option<Rules>,
    /// Resources, as they say themselves; `None` for a process that does not know them.
    pub(crate) report: Option<Report>,
    /// Images, those that became warm last first; of them at most [`LIMIT`].
    pub(crate) images: Vec<Image>,
    /// The last warnings and errors, the newest first.
    pub(crate) troubles: Vec<Trouble>,
}

/// Rules in force.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// How many there are.
    pub(crate) total: usize,
    /// At most [`LIMIT`] of them.
    pub(crate) items: Vec<Rule>,
    /// What is odd about them, at most [`LIMIT`].
    pub(crate) findings: Vec<String>,
}

/// A rule in force.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Its ProxyProject.
    pub(crate) name: String,
    /// Host and project that it rewrites to.
    pub(crate) target: String,
    /// `Rewrite`, or another word of its mode.
    pub(crate) mode: String,
    /// Harbor is unavailable, and images stay as they are.
    pub(crate) waits: bool,
}

/// A CachedImage.
#[derive(Debug)]
pub(crate) struct Image {
    /// The image at Harbor.
    pub(crate) image: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) ready: String,
    /// Why.
    pub(crate) reason: String,
    /// What Harbor has stored of it.
    pub(crate) bytes: u64,
    /// Whether its tag, and whether its digest, can be pulled while the upstream is down.
    pub(crate) offline: (bool, bool),
    /// When it became warm last.
    pub(crate) warmed: Option<Timestamp>,
}

/// `GET /`: what `content` says at that moment.
pub(crate) fn router(content: Arc<dyn Fn() -> Content + Send + Sync>) -> Router {
    Router::new().route("/", get(async move || show(&content())))
}

fn show(content: &Content) -> Response {
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

/// Nothing may be loaded or sent, and of styles only ours is followed.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    // The icon is an empty `data:` address, or browsers would ask for one.
    let allowed = format!("default-src 'none'; style-src 'sha256-{hash}'; img-src data:");
    allowed + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
});

#[cfg(test)]
mod tests;
