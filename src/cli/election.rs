//! Arguments for leader election, and work as the leader.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Interval,
    cluster::lease::{LeadershipLost, LeaseCandidate, guarded_client},
    leadership::Leadership,
    lease::{LeaseLoss, LeaseTiming},
};

/// How long running work may take to end after a signal. By default the kubelet sends SIGKILL after 30 s.
const GRACE: Duration = Duration::from_secs(20);

/// Whether and how a leader is elected.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Works only while this process holds the Lease harbor-pilot-controller of its namespace, so that several replicas may run
    #[arg(long)]
    leader_elect: bool,
    /// Other replicas take the Lease if it was not renewed for this time
    #[arg(long, default_value = "15s", hide = true)]
    lease_duration: Interval,
    /// A leader stops writing if its last renewal started before this time
    #[arg(long, default_value = "10s", hide = true)]
    lease_renew_deadline: Interval,
    /// Time between two attempts to renew or acquire the Lease
    #[arg(long, default_value = "2s", hide = true)]
    lease_retry_period: Interval,
    /// Name of this process in the Lease
    #[arg(long, env = "POD_NAME", default_value = "controller", hide = true)]
    process_name: String,
}

impl Arguments {
    /// Runs `work` once this process is the leader, with a client that stops writing when leadership is lost. After `shutdown`,
    /// the work may continue for a limited time.
    ///
    /// # Errors
    /// If the API server cannot be reached, the work fails, or leadership is lost.
    pub(super) async fn run<W, E>(
        &self,
        namespace: &str,
        shutdown: CancellationToken,
        work: impl FnOnce(kube::Client, Leadership) -> W,
    ) -> anyhow::Result<()>
    where
        W: Future<Output = Result<(), E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let config = kube::Config::infer().await;
        let config = config.context("cannot connect to the API server: set KUBECONFIG, or run in a Pod")?;
        let leadership = if self.leader_elect { Leadership::elected() } else { Leadership::always() };
        let work = within(&shutdown, work(guarded_client(config.clone(), &leadership)?, leadership.clone()));
        if !self.leader_elect {
            return Ok(work.await?);
        }
        let timing = LeaseTiming {
            lease: self.lease_duration.duration(),
            renew: self.lease_renew_deadline.duration(),
            retry: self.lease_retry_period.duration(),
        };
        let client = kube::Client::try_from(config)?;
        let candidate = LeaseCandidate::new(client, namespace, &self.process_name, timing.check()?, leadership.clone());
        let led = candidate.lead(&shutdown, async {
            leadership.backstop(end).context("cannot start a thread")?;
            Ok(work.await?)
        });
        led.await?.unwrap_or(Ok(()))
    }
}

/// Ends a process that hangs or is too busy to end itself. It writes no log, so a slow reader of the log cannot delay it.
fn end() {
    std::thread::spawn(|| super::output::eprint_line(LeadershipLost::from(LeaseLoss::Late)));
    std::thread::sleep(Duration::from_millis(100));
    std::process::exit(1);
}

/// Returns the result of `work`, which is dropped if it runs too long after `shutdown`.
async fn within<E>(shutdown: &CancellationToken, work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = work => done,
        () = too_long => {
            tracing::warn!(grace = ?GRACE, "shutdown timed out; the next start continues the unfinished work");
            Ok(())
        }
    }
}
