//! A histogram of durations without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

const BUCKETS: usize = 16;
/// Upper bound of the first bucket. Each next one is twice as wide; the last but one is 163.84 ms.
const FIRST: Duration = Duration::from_nanos(FIRST_NANOSECONDS);
const FIRST_NANOSECONDS: u64 = 10_000;

/// Durations in buckets from 10 µs upwards. Clones share the counts. A scrape may see an observation in the sum before it
/// sees it in its bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct DurationHistogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl DurationHistogram {
    /// Counts one duration.
    pub(super) fn observe(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // The bounds double, so the index is the number of bits of the excess over the first bound.
        let beyond = nanoseconds.div_ceil(FIRST_NANOSECONDS).saturating_sub(1);
        let index = (u64::BITS - beyond.leading_zeros()) as usize;
        if let Some(bucket) = self.0.buckets.get(index.min(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let bounds = (0..BUCKETS).map(|index| bound(index).map_or(f64::INFINITY, |bound| bound.as_secs_f64()));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

/// The last bucket has no bound.
fn bound(index: usize) -> Option<Duration> {
    let exponent = u32::try_from(index).ok().filter(|_| index + 1 < BUCKETS)?;
    FIRST.checked_mul(2_u32.checked_pow(exponent)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_is_in_the_first_bucket_that_holds_it(nanoseconds in 0..400_000_000_u64, round: bool) {
            let took = Duration::from_nanos(if round { nanoseconds / 10_000 * 10_000 } else { nanoseconds });
            let histogram = DurationHistogram::default();
            histogram.observe(took);
            let filled = histogram.0.buckets.iter().position(|bucket| bucket.load(Ordering::Relaxed) == 1);
            let fits = (0..BUCKETS).find(|index| bound(*index).is_none_or(|bound| took <= bound));
            prop_assert_eq!(filled, fits);
        }
    }
}
