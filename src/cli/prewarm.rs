//! Arguments about warming, the same for every command that warms.

use clap::Args;

use crate::{api::Interval, prewarm::Timing};

/// How images are warmed.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// How long Harbor takes to list an image after it was pulled; all waiting for Harbor is scaled by it. A stock Harbor
    /// looks every 20 s
    #[arg(long, default_value = "20s")]
    harbor_pace: Interval,
}

impl Arguments {
    /// The timing that this pace means.
    pub(super) fn timing(&self) -> Timing {
        Timing::paced(self.harbor_pace.duration())
    }
}
