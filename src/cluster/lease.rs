//! Leads while the Lease is held, and never longer: [`crate::lease`] decides, this module sends the requests to the API
//! server.

use std::{pin::pin, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client, Config,
    api::PostParams,
    client::{Body, ClientBuilder},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, layer::layer_fn};

use super::FIELD_MANAGER;
use crate::{
    jitter,
    leadership::{Leadership, uptime},
    lease::{Election, ElectionAction, LeaseLoss, LeaseTiming},
};

/// The Lease of the controller, in the operator's own namespace.
pub const NAME: &str = "harbor-pilot-controller";

/// Maximum time that the end of a process waits for the Lease to be released.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// The process no longer leads. It has to exit and be restarted.
#[derive(Debug, thiserror::Error)]
#[error("lost the Lease {NAME}: {0}; exiting, to restart as a candidate")]
pub struct LeadershipLost(#[from] LeaseLoss);

/// A candidate for the Lease, with its client.
pub struct LeaseCandidate {
    api: Api<Lease>,
    election: Election,
    identity: String,
    timing: LeaseTiming,
    leadership: Leadership,
}

/// Creates a client whose writes stop when the process loses the lead.
///
/// # Errors
/// When the configuration is not usable.
pub fn guarded_client(config: Config, leadership: &Leadership) -> Result<Client, kube::Error> {
    let guard = layer_fn(|inner| WriteGuard { inner, leadership: leadership.clone() });
    Ok(ClientBuilder::try_from(config)?.with_layer(&guard).build())
}

impl LeaseCandidate {
    /// Creates a candidate in this namespace. `process` is the name of the Pod or the machine. Do not share the client:
    /// requests of others must not delay a renewal.
    pub fn new(client: Client, namespace: &str, process: &str, timing: LeaseTiming, leadership: Leadership) -> Self {
        // No two processes have the same identity, not even successive processes of one Pod.
        let identity = format!("{process}_{:016x}", jitter::number());
        let election = Election::new(namespace, NAME, &identity, timing);
        Self { api: Api::namespaced(client, namespace), election, identity, timing, leadership }
    }

    /// Waits until it leads, does `work` while it leads, and releases the Lease when the work is done. Returns `None` when
    /// `shutdown` came before it led. The work must end by itself after `shutdown`; the Lease is held until then.
    ///
    /// # Errors
    /// [`LeadershipLost`] when it no longer leads; the work is dropped at that point.
    pub async fn lead<T>(
        mut self,
        shutdown: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, LeadershipLost> {
        tracing::info!(identity = self.identity, lease = NAME, "waiting for the Lease");
        if !self.acquire(shutdown).await? {
            return Ok(None);
        }
        tracing::info!(identity = self.identity, lease = NAME, "leading");
        let done = {
            let mut work = pin!(work);
            tokio::select! {
                // Check the loss first: when both branches are ready, no further work may run.
                biased;
                lost = self.renew_until_lost() => return Err(lost),
                done = &mut work => done,
            }
        };
        self.leadership.end();
        match tokio::time::timeout(RELEASE_DEADLINE, self.release()).await {
            Ok(true) => tracing::info!(identity = self.identity, lease = NAME, "released the Lease"),
            _ => tracing::warn!(lease = NAME, "cannot release the Lease: the next leader waits until it expires"),
        }
        Ok(Some(done))
    }

    /// Waits until it leads; `false` on shutdown.
    async fn acquire(&mut self, shutdown: &CancellationToken) -> Result<bool, LeadershipLost> {
        let mut logged = String::new();
        while !shutdown.is_cancelled() {
            let step = self.election.next(uptime(), Timestamp::now());
            let pause = self.step(step).await?;
            if self.election.until().is_some() {
                return Ok(true);
            }
            let leader = self.election.holder();
            if leader != logged && !leader.is_empty() && leader != self.identity {
                tracing::info!(leader, lease = NAME, "another replica leads");
                leader.clone_into(&mut logged);
            }
            if let Some(pause) = pause {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
        Ok(false)
    }

    /// Renews until it loses the lead.
    async fn renew_until_lost(&mut self) -> LeadershipLost {
        tokio::time::sleep(self.timing.pause(jitter::fraction())).await;
        loop {
            let step = self.election.next(uptime(), Timestamp::now());
            match self.step(step).await {
                Ok(Some(pause)) => tokio::time::sleep(pause.min(self.left())).await,
                Ok(None) => {}
                Err(lost) => {
                    self.leadership.end();
                    return lost;
                }
            }
        }
    }

    /// Takes one step. Returns how long to wait before the next one; `None` means no wait.
    async fn step(&mut self, step: ElectionAction) -> Result<Option<Duration>, LeadershipLost> {
        let started = uptime();
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let deadline = (self.timing.renew / 2).min(self.left());
        let bounded = |request: BoxFuture<'static, Result<Option<Lease>, kube::Error>>| {
            tokio::time::timeout(deadline, request).map(Result::ok)
        };
        let (api, pause) = (self.api.clone(), self.timing.pause(jitter::fraction()));
        let answer = match step {
            ElectionAction::Lost(loss) => return Err(LeadershipLost(loss)),
            ElectionAction::Wait => {
                self.election.stale();
                return Ok(Some(pause));
            }
            ElectionAction::Read => match bounded(async move { api.get_opt(NAME).await }.boxed()).await {
                Some(Ok(found)) => {
                    self.election.read(found, uptime());
                    return Ok(None);
                }
                answer => answer,
            },
            ElectionAction::Create(lease) => {
                bounded(async move { api.create(&parameters, &lease).await.map(Some) }.boxed()).await
            }
            ElectionAction::Replace(lease) => {
                bounded(async move { api.replace(NAME, &parameters, &lease).await.map(Some) }.boxed()).await
            }
        };
        match answer {
            Some(Ok(lease)) => {
                self.election.written(lease.unwrap_or_default(), started, uptime());
                self.moved_on();
                return Ok(Some(pause));
            }
            Some(Err(error)) => tracing::warn!(%error, lease = NAME, "the Lease"),
            None => tracing::warn!(?deadline, lease = NAME, "timeout of a request for the Lease"),
        }
        self.election.stale();
        // The request took its whole deadline without an answer: do not wait longer.
        Ok((uptime().saturating_sub(started) < deadline).then_some(pause))
    }

    fn moved_on(&self) {
        if let Some(until) = self.election.until() {
            self.leadership.extend(until);
        }
    }

    /// Remaining time of the lead; unlimited for a follower.
    fn left(&self) -> Duration {
        self.election.until().map_or(Duration::MAX, |until| until.saturating_sub(uptime()))
    }

    async fn release(&mut self) -> bool {
        loop {
            let Some(lease) = self.election.released(Timestamp::now()) else { return false };
            match self.api.replace(NAME, &PostParams::default(), &lease).await {
                Ok(_) => return true,
                // The last renewal was stored, although its answer never arrived.
                Err(kube::Error::Api(status)) if status.code == 409 => match self.api.get_opt(NAME).await {
                    Ok(found) => self.election.read(found, uptime()),
                    Err(_) => return false,
                },
                Err(_) => return false,
            }
        }
    }
}

/// Sends requests that change something only while this process leads.
#[derive(Clone)]
struct WriteGuard<S> {
    inner: S,
    leadership: Leadership,
}

impl<S> Service<http::Request<Body>> for WriteGuard<S>
where
    S: Service<http::Request<Body>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if matches!(*request.method(), http::Method::GET | http::Method::HEAD) {
            return self.inner.call(request).boxed();
        }
        if !self.leadership.holds() {
            return std::future::pending().boxed();
        }
        let (answer, leadership) = (self.inner.call(request), self.leadership.clone());
        async move { leadership.guard(answer).await }.boxed()
    }
}
