//! Arguments about warming, the same for every command that warms.

use clap::Args;

use crate::{
    api::{Interval, StorageLimit},
    prewarm::PrewarmTiming,
};

/// How images are warmed.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// How long Harbor takes to list an image after it was pulled; all waiting for Harbor is scaled by it. A stock Harbor
    /// looks every 20 s
    #[arg(long, default_value = "20s")]
    store_delay: Interval,
    /// Bytes of layers that Harbor is brought to fetch at once, in all pulls together; -1 is no bound. A larger layer goes alone
    #[arg(long, default_value = "1Gi", allow_hyphen_values = true)]
    max_inflight_bytes: StorageLimit,
}

impl Arguments {
    /// The timing that this pace means.
    pub(super) fn timing(&self) -> PrewarmTiming {
        PrewarmTiming::paced(self.store_delay.duration())
    }

    /// The budget in bytes.
    pub(super) fn max_inflight_bytes(&self) -> u64 {
        u64::try_from(self.max_inflight_bytes.bytes()).unwrap_or(u64::MAX)
    }
}
