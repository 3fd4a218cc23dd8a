//! A few threads for reviews that take long, so that the threads that serve connections never wait for one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// Each runs one review at a time, so that this also bounds the memory of what is read out of reviews.
const THREADS: usize = 2;
/// Reviews that wait. The memory for bodies bounds them, too.
const QUEUE: usize = 256;
/// What waits for the network goes first.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// The threads; started with the first review that needs one.
#[derive(Debug, Default)]
pub(super) struct Workers(OnceLock<Option<SyncSender<Job>>>);

/// The result was not there in time. What makes it may still run, or never will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired;

impl Workers {
    /// Runs `job` on one of the threads, and waits for at most `budget`, of which the queue takes its part.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        budget: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Expired> {
        let queue = self.0.get_or_init(start).as_ref().ok_or(Expired)?;
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody waits for it any more.
            if !sender.is_closed() {
                sender.send(job()).ok();
            }
        });
        queue.try_send(job).map_err(|_| Expired)?;
        timeout(budget, result).await.map_err(|_| Expired)?.map_err(|_| Expired)
    }
}

/// `None` where no thread can be started.
fn start() -> Option<SyncSender<Job>> {
    let (sender, jobs) = sync_channel::<Job>(QUEUE);
    let jobs = Arc::new(Mutex::new(jobs));
    let started = (0..THREADS).filter(|index| {
        let jobs = Arc::clone(&jobs);
        let thread = std::thread::Builder::new().name(format!("review-{index}"));
        thread.spawn(move || work(&jobs)).inspect_err(|error| tracing::error!(%error, "no thread for reviews")).is_ok()
    });
    (started.count() > 0).then_some(sender)
}

/// Until the other end of the queue is gone.
fn work(jobs: &Mutex<Receiver<Job>>) {
    #[cfg(target_os = "linux")]
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE).ok();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The one who waits sees that the result will not come.
        catch_unwind(AssertUnwindSafe(job)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_job_that_takes_too_long_is_not_waited_for_and_the_others_are_run() {
        let workers = Workers::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocked = workers.run(Duration::from_millis(50), move || released.recv().ok()).await;
        assert_eq!(blocked, Err(Expired));
        assert_eq!(workers.run(SOON, || 7).await, Ok(7));
        let panics: Result<(), Expired> = workers.run(SOON, || panic!("as tests do")).await;
        assert_eq!(panics, Err(Expired));
        assert_eq!(workers.run(SOON, || 8).await, Ok(8));
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_any_more_is_not_run() {
        let workers = Workers::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..THREADS {
            let released = Arc::clone(&released);
            let wait = move || released.lock().unwrap().recv().unwrap();
            assert_eq!(workers.run(Duration::from_millis(20), wait).await, Err(Expired));
        }
        let ran = Arc::new(OnceLock::new());
        let late = Arc::clone(&ran);
        assert!(workers.run(Duration::from_millis(20), move || late.set(()).unwrap()).await.is_err());
        for _ in 0..THREADS {
            release.send(()).unwrap();
        }
        workers.run(SOON, || ()).await.unwrap();
        assert!(ran.get().is_none());
    }
}
