//! `/log` on the ops port: shows the log filter, and changes it for clients on the same machine.
//!
//! `kubectl port-forward` connects from the same machine, and needs a permission in the Pod's namespace. Browsers are
//! refused, because a web page may find a forwarded port.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::ORIGIN;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};

use super::logs::LogControl;

/// The longest filter, in bytes.
const LONGEST: usize = 4 << 10;
/// The longest time for a temporary filter.
const LONGEST_TIME: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, serde::Deserialize)]
struct Options {
    /// Seconds after which the initial filter applies again.
    seconds: Option<u64>,
}

/// Serves `GET /log` and `PUT /log`. PUT takes the filter as its body, and `?seconds=` after which it ends.
pub fn log_level(control: LogControl) -> Router {
    let write = put(change).layer(DefaultBodyLimit::max(LONGEST)).layer(middleware::from_fn(only_from_here));
    Router::new().route("/log", get(show).merge(write)).with_state(control)
}

async fn show(State(control): State<LogControl>) -> String {
    control.filter() + "\n"
}

async fn change(State(control): State<LogControl>, Query(options): Query<Options>, body: Bytes) -> Response {
    let refused = |why: String| (StatusCode::BAD_REQUEST, why + "\n").into_response();
    let Ok(filter) = std::str::from_utf8(&body) else { return refused("the filter is not UTF-8".to_owned()) };
    match control.set(filter) {
        Ok(change) => {
            if let Some(seconds) = options.seconds {
                let time = Duration::from_secs(seconds).min(LONGEST_TIME);
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    control.fall_back(change);
                });
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refused(error.to_string()),
    }
}

async fn only_from_here(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
    if request.headers().contains_key(ORIGIN) || !peer.is_some_and(|peer| peer.is_loopback()) {
        let why =
            "only from the same machine: kubectl port-forward POD 8081, then curl -X PUT -d debug localhost:8081/log\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    next.run(request).await
}
