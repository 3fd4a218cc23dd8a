//! Every timeout and interval towards Harbor, with its reason.
//!
//! The times of Harbor's background work, which no request waits for, are in `prewarm/timing.rs`. How long Pods wait before a
//! rule acts on an outage is `OUTAGE_AFTER` in `rewrite/active_rules.rs`.

use std::time::Duration;

/// Pause after Harbor did not answer, between two probes of it: short enough to notice its return within half a minute, long
/// enough to put no load on a Harbor that starts.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// Deadline of the request that only asks whether Harbor answers. It asks no upstream, so a healthy Harbor needs milliseconds.
pub const PING: Duration = Duration::from_secs(10);

/// Pause after a 429 of the API without `Retry-After`: the window of common limits is a minute.
pub const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);
/// Maximum pause after a 429 of the API, whatever `Retry-After` says: the state of Harbor must not become unknown for long.
pub const RATE_LIMIT_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Maximum of `Retry-After`: registries limit pulls for six hours at most.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 3600);

/// Maximum time to read an error's body: the part that arrived by then is enough.
pub const ERROR_BODY: Duration = Duration::from_secs(3);
/// A request of `/v2` that waits this long for its status line returns its slot: Harbor waits for an upstream meanwhile, and
/// requests for other upstreams must not wait with it.
pub const SLOT_HELD: Duration = Duration::from_secs(5);
/// Deadline of a whole document of `/v2`, as a multiple of [`Deadlines::idle`]: small pieces must not keep it open.
pub const DOCUMENT_DEADLINES: u32 = 2;
/// Minimum rate of a blob in bytes a second, in addition to the time for a document: 32 KiB/s is slower than any useful pull.
pub const SLOWEST_BLOB: u64 = 32 << 10;

/// Maximum age of the list of upstreams that Harbor calls unhealthy: below [`PROBE_INTERVAL`], at which resources retry.
pub const UNHEALTHY_LIST_AGE: Duration = Duration::from_secs(25);

/// The deadlines of requests to one Harbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// To connect.
    pub connect: Duration,
    /// For a request of the API, from its first byte to the last of its response. Harbor probes an upstream within POST and PUT
    /// of a registry, and a dead one takes long. With the wait for a slot a request takes twice as long at most.
    pub request: Duration,
    /// For all pages of a list.
    pub list: Duration,
    /// For a response of `/v2` to begin, and then for each further piece of it.
    pub idle: Duration,
}

impl Default for Deadlines {
    /// 5 s, 30 s, 5 min and 60 s.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), request: seconds(30), list: seconds(300), idle: seconds(60) }
    }
}
