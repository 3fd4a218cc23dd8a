//! How long to wait for Harbor to store a requested blob, estimated from the speed of earlier blobs.

use std::time::Duration;

use parking_lot::Mutex;

/// Assumed bytes a second before the first blob is stored.
const UNKNOWN: f64 = 256.0 * 1024.0;
/// Bounds of the assumed rate, in bytes a second.
const SLOWEST: f64 = 32.0 * 1024.0;
const FASTEST: f64 = 4.0 * 1024.0 * 1024.0;
/// A blob may be this many times slower than the slowest one before it.
const ROOM: f64 = 4.0;
/// Smaller blobs, in bytes, measure latency and not a rate.
const TELLING: u64 = 256 << 10;
/// The longest wait for one blob.
const LONGEST: Duration = Duration::from_secs(3600);
/// Time between two checks of a blob: minimum, maximum, and share of the elapsed time.
const FIRST_LOOK: Duration = Duration::from_millis(40);
const RAREST_LOOK: Duration = Duration::from_secs(5);
const LOOK_SHARE: f64 = 0.15;
/// No check before this share of the expected time: each check costs Harbor, which is busy storing.
const EXPECTED_SHARE: f64 = 0.8;
/// Weight of a new sample in the usual rate.
const NEWEST: f64 = 0.3;

/// The speed of Harbor that one pull has observed.
#[derive(Debug)]
pub(super) struct StoreTimeout {
    grace: Duration,
    seen: Mutex<StoreSample>,
}

#[derive(Debug, Default)]
struct StoreSample {
    /// Bytes a second of the slowest blob.
    rate: Option<f64>,
    /// Bytes a second, as a moving average.
    usual: Option<f64>,
    given_up: bool,
}

impl StoreTimeout {
    /// `grace` is added for each blob, whatever its size.
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, seen: Mutex::default() }
    }

    /// Records that a blob of `size` bytes was stored this long after its request.
    pub(super) fn record_stored(&self, size: u64, after: Duration) {
        if size >= TELLING {
            let rate = size as f64 / after.as_secs_f64().max(0.001);
            let mut seen = self.seen.lock();
            seen.rate = Some(seen.rate.map_or(rate, |slowest| slowest.min(rate)));
            seen.usual = Some(seen.usual.map_or(rate, |usual| usual + NEWEST * (rate - usual)));
        }
    }

    /// Records that a blob did not arrive in time. Harbor stores nothing, as with a full quota, or stores too slowly: the pull
    /// waits for no other blob either.
    pub(super) fn record_timeout(&self) {
        self.seen.lock().given_up = true;
    }

    /// Returns whether a blob of this pull did not arrive in time.
    pub(super) fn has_timed_out(&self) -> bool {
        self.seen.lock().given_up
    }

    /// Returns how long to wait for a blob of `size` bytes.
    pub(super) fn timeout(&self, size: u64) -> Duration {
        let rate = self.seen.lock().rate.map_or(UNKNOWN, |slowest| (slowest / ROOM).clamp(SLOWEST, FASTEST));
        (self.grace + Duration::from_secs_f64(size as f64 / rate).min(LONGEST)).min(LONGEST)
    }

    /// Returns the pause before the next check of a blob of `size` bytes that was requested `waited` ago.
    pub(super) fn pause(&self, size: u64, waited: Duration) -> Duration {
        let expected = self.seen.lock().usual.filter(|_| size >= TELLING).map(|usual| size as f64 / usual.max(SLOWEST));
        let expected = Duration::from_secs_f64(expected.unwrap_or_default() * EXPECTED_SHARE);
        let pause = waited.mul_f64(LOOK_SHARE).max(expected.saturating_sub(waited));
        pause.clamp(FIRST_LOOK, RAREST_LOOK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn patience_grows_with_the_size_and_with_the_slowness_of_the_others() {
        let grace = Duration::from_secs(20);
        let pace = StoreTimeout::new(grace);
        assert_eq!(pace.timeout(0), grace);
        assert_eq!(pace.timeout(25 * MIB), grace + Duration::from_secs(100));
        pace.record_stored(10 * MIB, Duration::from_secs(5));
        assert_eq!(pace.timeout(25 * MIB), grace + Duration::from_secs(50), "a quarter of 2 MiB/s");
        pace.record_stored(100 * MIB, Duration::from_secs(1));
        pace.record_stored(1000, Duration::from_secs(600));
        assert_eq!(pace.timeout(25 * MIB), grace + Duration::from_secs(50), "the slowest known counts");
        pace.record_stored(MIB, Duration::from_secs(3600));
        assert_eq!(pace.timeout(25 * MIB), grace + Duration::from_secs(800), "32 KiB/s at least");
        assert_eq!(pace.timeout(u64::MAX), LONGEST);
    }

    #[test]
    fn of_a_slow_copy_few_looks_are_taken() {
        let pace = StoreTimeout::new(Duration::ZERO);
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        while waited < Duration::from_secs(120) {
            waited += pace.pause(25 * MIB, waited);
            looks += 1;
        }
        assert!((20..80).contains(&looks), "{looks}");
    }

    #[test]
    fn a_blob_is_looked_at_about_when_the_others_say_that_it_is_there() {
        let pace = StoreTimeout::new(Duration::ZERO);
        pace.record_stored(25 * MIB, Duration::from_millis(500));
        assert_eq!(pace.pause(25 * MIB, Duration::ZERO), Duration::from_millis(400));
        assert_eq!(pace.pause(50 * MIB, Duration::from_millis(100)), Duration::from_millis(700));
        assert_eq!(pace.pause(25 * MIB, Duration::from_millis(400)), Duration::from_millis(60));
        assert_eq!(pace.pause(1000, Duration::ZERO), FIRST_LOOK, "a small one takes as long as an answer");
        assert_eq!(pace.pause(u64::MAX, Duration::ZERO), RAREST_LOOK);
        (0..20).for_each(|_| pace.record_stored(25 * MIB, Duration::from_secs(2)));
        let later = pace.pause(25 * MIB, Duration::ZERO);
        assert!(later > Duration::from_millis(1500), "it learns: {later:?}");
    }
}
