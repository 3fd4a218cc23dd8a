//! Whether this process may write: checked right before each request that changes something, without blocking.
//!
//! Remaining risk: a process that is paused between the check and the send, or bytes that stay in the network longer than
//! the time between the end of one leader and the start of the next. Harbor has no fencing, so this side cannot recall
//! such a request. At the API server, most writes name the version that they change.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

/// How long after the end of the lead a process that is still alive is killed.
const BACKSTOP: Duration = Duration::from_millis(500);

/// This process does not lead yet, or no longer.
const NONE: u64 = 0;

/// The right to write, until a time that each renewal extends. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Leadership(Option<Arc<AtomicU64>>);

impl Leadership {
    /// Leadership without an election: always held.
    pub fn always() -> Self {
        Self(None)
    }

    /// Leadership with an election: not held before [`Leadership::extend`].
    pub fn elected() -> Self {
        Self(Some(Arc::new(AtomicU64::new(NONE))))
    }

    /// Whether this process leads now.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|until| uptime() < Duration::from_nanos(until.load(Ordering::Acquire)))
    }

    /// Extends the lead until then, on the clock of [`uptime`].
    pub fn extend(&self, until: Duration) {
        self.set(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Ends the lead, before a clean shutdown.
    pub fn end(&self) {
        self.set(NONE);
    }

    /// Runs `work` while this process leads. After the loss of the lead it stops and never completes: the process is about
    /// to exit, and errors from that time must not count as faults of Harbor or of the API server.
    pub async fn guard<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| if self.holds() { work.as_mut().poll(cx) } else { Poll::Pending }).await
    }

    /// Calls `end` from a separate thread half a second after the lead expired without a clean end, in case all other
    /// threads are blocked.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn backstop(&self, end: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let Some(until) = self.0.clone() else { return Ok(()) };
        let watch = move || {
            loop {
                let until = until.load(Ordering::Acquire);
                if until == NONE {
                    return;
                }
                match (Duration::from_nanos(until) + BACKSTOP).checked_sub(uptime()) {
                    // When the machine was asleep, a thread sleeps longer than requested.
                    Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_secs(1))),
                    _ => break,
                }
            }
            end();
        };
        std::thread::Builder::new().name("backstop".to_owned()).spawn(watch).map(drop)
    }

    fn set(&self, until: u64) {
        if let Some(shared) = &self.0 {
            shared.store(until, Ordering::Release);
        }
    }
}

/// Time since the machine started. The clock continues while the machine sleeps, where the system has such a clock, and
/// cannot be set.
pub fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default());
    seconds + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;

    #[tokio::test]
    async fn work_goes_on_for_as_long_as_the_lead_lasts_and_then_never() {
        let leadership = Leadership::elected();
        let soon = Duration::from_millis(50);
        let after = |wait| leadership.guard(async move { tokio::time::sleep(wait).await });
        assert!(!leadership.holds());
        assert!(tokio::time::timeout(soon, after(Duration::ZERO)).await.is_err(), "no leader yet");
        leadership.extend(uptime() + Duration::from_millis(500));
        assert!(leadership.holds());
        after(Duration::ZERO).await;
        let long = tokio::time::timeout(Duration::from_secs(1), after(Duration::from_millis(600))).await;
        assert!(long.is_err() && !leadership.holds());
        Leadership::always().guard(async {}).await;
    }

    #[test]
    fn a_lead_that_runs_out_ends_the_process_and_one_that_is_given_up_does_not() {
        let (ended, end) = mpsc::channel();
        let leadership = Leadership::elected();
        leadership.extend(uptime() + Duration::from_millis(200));
        let sent = ended.clone();
        let start = Instant::now();
        leadership.backstop(move || sent.send("late").unwrap()).unwrap();
        assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok("late"));
        assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());

        let given_up = Leadership::elected();
        given_up.extend(uptime() + Duration::from_millis(200));
        given_up.backstop(move || ended.send("given up").unwrap()).unwrap();
        given_up.end();
        // The thread has ended, and with it its end of the channel.
        assert_eq!(end.recv_timeout(Duration::from_secs(20)), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
