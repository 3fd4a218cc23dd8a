//! A few threads for long reviews, so that the threads that serve connections never wait for one.
//!
//! Peers take turns, so that a peer with many long reviews delays only its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::peer_slots::Peer;
use crate::fair::{Fair, Pushed};

/// Each thread runs one review at a time, so this also limits the memory of parsed reviews.
const THREADS: usize = 2;
/// The most reviews that wait, of all peers. The memory for bodies limits them, too.
const QUEUE: usize = 512;
/// The most reviews of one peer that wait. An API server has 200 concurrent mutating requests by default.
const QUEUE_OF_PEER: usize = 256;
/// Lower priority: the threads that serve the network run first.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// The threads; they start with the first long review.
#[derive(Default)]
pub(super) struct Workers {
    queue: Arc<Queue>,
    started: OnceLock<bool>,
}

/// The result was not ready in time. The job may still run, or may never run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeadlineExceeded;

impl Workers {
    /// Runs `job` on one of the threads, and waits for at most `budget`, including the time in the queue.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        peer: Peer,
        budget: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DeadlineExceeded> {
        if budget.is_zero() || !self.started.get_or_init(|| start(&self.queue)) {
            return Err(DeadlineExceeded);
        }
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // The request may have ended already.
            if !sender.is_closed() {
                sender.send(job()).ok();
            }
        });
        self.queue.push(peer, job)?;
        timeout(budget, result).await.map_err(|_| DeadlineExceeded)?.map_err(|_| DeadlineExceeded)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.waiting.lock().ended = true;
        self.queue.arrived.notify_all();
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<PeerQueues>,
    arrived: Condvar,
}

impl Queue {
    fn push(&self, peer: Peer, job: Job) -> Result<(), DeadlineExceeded> {
        // Dropped after the lock is released, because it may be large.
        let _dropped = self.waiting.lock().push(peer, job)?;
        self.arrived.notify_one();
        Ok(())
    }

    /// Returns the next job; `None` at shutdown.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(job) = waiting.jobs.take(|_| true) {
                return Some(job);
            }
            if waiting.ended {
                return None;
            }
            self.arrived.wait(&mut waiting);
        }
    }
}

/// Jobs by peer.
struct PeerQueues {
    jobs: Fair<Peer, Job>,
    ended: bool,
}

impl Default for PeerQueues {
    fn default() -> Self {
        Self { jobs: Fair::new(QUEUE), ended: false }
    }
}

impl PeerQueues {
    /// Adds a job. Returns the job that made room for it, if the queue was full.
    fn push(&mut self, peer: Peer, job: Job) -> Result<Option<Job>, DeadlineExceeded> {
        if self.jobs.count(&peer) >= QUEUE_OF_PEER {
            return Err(DeadlineExceeded);
        }
        match self.jobs.push(peer, job) {
            Pushed::Queued => Ok(None),
            Pushed::Displaced(job) => Ok(Some(job)),
            Pushed::Full(_) => Err(DeadlineExceeded),
        }
    }
}

/// Starts the threads. Returns whether at least one started.
fn start(queue: &Arc<Queue>) -> bool {
    let started = (0..THREADS).filter(|index| {
        let queue = Arc::clone(queue);
        let thread = std::thread::Builder::new().name(format!("review-{index}"));
        thread
            .spawn(move || work(&queue))
            .inspect_err(|error| tracing::error!(%error, "cannot start a thread for reviews"))
            .is_ok()
    });
    started.count() > 0
}

fn work(queue: &Queue) {
    #[cfg(target_os = "linux")]
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE).ok();
    while let Some(job) = queue.next() {
        // The request that waits sees that no result will arrive.
        catch_unwind(AssertUnwindSafe(job)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn peer(last: u8) -> Peer {
        Peer::of([10, 0, 0, last].into())
    }

    #[tokio::test]
    async fn a_job_that_takes_too_long_is_not_waited_for_and_the_others_are_run() {
        let workers = Workers::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocked = workers.run(peer(1), Duration::from_millis(50), move || released.recv().ok()).await;
        assert_eq!(blocked, Err(DeadlineExceeded));
        assert_eq!(workers.run(peer(1), SOON, || 7).await, Ok(7));
        let panics: Result<(), DeadlineExceeded> = workers.run(peer(1), SOON, || panic!("as tests do")).await;
        assert_eq!(panics, Err(DeadlineExceeded));
        assert_eq!(workers.run(peer(1), SOON, || 8).await, Ok(8));
        assert_eq!(workers.run(peer(1), Duration::ZERO, || 9).await, Err(DeadlineExceeded), "without time");
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn a_job_that_no_request_waits_for_is_not_run() {
        let workers = Workers::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..THREADS {
            let released = Arc::clone(&released);
            let wait = move || released.lock().recv().unwrap();
            assert_eq!(workers.run(peer(1), Duration::from_millis(20), wait).await, Err(DeadlineExceeded));
        }
        let ran = Arc::new(OnceLock::new());
        let late = Arc::clone(&ran);
        assert!(workers.run(peer(1), Duration::from_millis(20), move || late.set(()).unwrap()).await.is_err());
        for _ in 0..THREADS {
            release.send(()).unwrap();
        }
        workers.run(peer(1), SOON, || ()).await.unwrap();
        assert!(ran.get().is_none());
    }

    /// Pushes jobs that write their peer, and returns the text after all have run.
    fn run_all(pushed: impl IntoIterator<Item = u8>) -> (Vec<u8>, usize) {
        let (mut waiting, mut refused) = (PeerQueues::default(), 0);
        let (sender, ran) = std::sync::mpsc::channel();
        for of in pushed {
            let sender = sender.clone();
            refused += usize::from(waiting.push(peer(of), Box::new(move || sender.send(of).unwrap())).is_err());
        }
        while let Some(job) = waiting.jobs.take(|_| true) {
            job();
        }
        assert!(waiting.jobs.is_empty());
        (ran.try_iter().collect(), refused)
    }

    #[test]
    fn peers_take_turns_whatever_one_of_them_has_sent_before() {
        assert_eq!(run_all([1, 1, 1, 1, 2, 3, 2]), (vec![1, 2, 3, 1, 2, 1, 1], 0));
    }

    #[test]
    fn a_peer_that_queues_too_much_loses_its_own_jobs_and_others_lose_none() {
        let flood = std::iter::repeat_n(1, QUEUE).chain(std::iter::repeat_n(2, QUEUE));
        let (ran, refused) = run_all(flood.chain([3, 4]));
        assert_eq!(refused, 2 * (QUEUE - QUEUE_OF_PEER));
        assert_eq!(ran.len(), QUEUE);
        assert_eq!(ran.get(..4), Some(&[1, 2, 3, 4][..]), "a light peer is next in turn");
    }
}
