//! What a server was asked, kept for the assertions of tests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::Method;
use parking_lot::Mutex;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// Path and query, as they came.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// Who asked, as far as the credentials were right: a user, a robot, `token:NAME`, or `None` for the anonymous.
    pub user: Option<String>,
    /// Bytes of the body that were handed to the connection so far; it grows while a body is streamed.
    pub bytes_sent: u64,
}

impl Request {
    /// Whether this is a write to Harbor's API: neither GET nor HEAD, below `/api/`.
    #[must_use]
    pub fn is_api_write(&self) -> bool {
        self.path.starts_with("/api/") && self.method != Method::GET && self.method != Method::HEAD
    }
}

/// The newest [`Log::CAPACITY`] requests of one server.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Mutex<std::collections::VecDeque<(Request, Arc<AtomicU64>)>>,
}

impl Log {
    /// Older entries are dropped: a double may run for hours.
    const CAPACITY: usize = 20_000;

    pub(crate) fn push(&self, request: Request, sent: Arc<AtomicU64>) {
        let mut entries = self.entries.lock();
        if entries.len() >= Self::CAPACITY {
            entries.pop_front();
        }
        entries.push_back((request, sent));
    }

    pub(crate) fn snapshot(&self) -> Vec<Request> {
        let entries = self.entries.lock();
        entries
            .iter()
            .map(|(request, sent)| Request { bytes_sent: sent.load(Ordering::Relaxed), ..request.clone() })
            .collect()
    }

    pub(crate) fn clear(&self) {
        self.entries.lock().clear();
    }
}
