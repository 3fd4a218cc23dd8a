//! Arguments for prewarming, shared by all commands that prewarm.

use clap::Args;

use crate::{
    api::{Interval, StorageLimit},
    prewarm::PrewarmTiming,
};

/// How images are prewarmed.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// How long Harbor takes to list an image after a pull; all waiting times for Harbor scale with it. A default Harbor checks
    /// every 20 s
    #[arg(long, default_value = "20s")]
    store_delay: Interval,
    /// Maximum bytes of layers that Harbor fetches at the same time, for all pulls together; -1 is unlimited. A larger layer is
    /// fetched alone
    #[arg(long, default_value = "1Gi", allow_hyphen_values = true)]
    max_inflight_bytes: StorageLimit,
}

impl Arguments {
    /// Returns the timings for this delay.
    pub(super) fn timing(&self) -> PrewarmTiming {
        PrewarmTiming::paced(self.store_delay.duration())
    }

    /// Returns the limit in bytes.
    pub(super) fn max_inflight_bytes(&self) -> u64 {
        u64::try_from(self.max_inflight_bytes.bytes()).unwrap_or(u64::MAX)
    }
}
