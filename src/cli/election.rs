//! Arguments about who leads where several controllers run, and a run under them.

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

/// How long work that runs may take to end. The kubelet gives 30 s for all of the end, unless told otherwise.
const GRACE: Duration = Duration::from_secs(20);

/// Whether and how a leader is elected.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Work only while this process holds the Lease harbor-pilot-controller of its namespace, so that several may run
    #[arg(long)]
    leader_election: bool,
    /// Others lead once they have seen nobody renew the Lease for so long
    #[arg(long, default_value = "15s", hide = true)]
    lease_duration: Interval,
    /// A leader writes nothing any more once its last renewal began so long ago
    #[arg(long, default_value = "10s", hide = true)]
    lease_renew_deadline: Interval,
    /// Time between two tries to renew or to get the Lease
    #[arg(long, default_value = "2s", hide = true)]
    lease_retry_period: Interval,
    /// Name of this process in the Lease
    #[arg(long, env = "POD_NAME", default_value = "controller", hide = true)]
    process_name: String,
}

impl Arguments {
    /// Does `work` with a client whose writes stop with the lead, as soon as this process leads, and until some time after
    /// `shutdown` at most.
    ///
    /// # Errors
    /// When there is no way to the API server, the work fails, or the lead is lost.
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
        let config = config.context("no way to the API server: set KUBECONFIG, or run in a Pod")?;
        let leadership = if self.leader_election { Leadership::elected() } else { Leadership::always() };
        let work = within(&shutdown, work(guarded_client(config.clone(), &leadership)?, leadership.clone()));
        if !self.leader_election {
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
            leadership.backstop(end).context("start a thread")?;
            Ok(work.await?)
        });
        led.await?.unwrap_or(Ok(()))
    }
}

/// Ends a process that was halted, or is so busy that it has not ended by itself. Nobody who reads the log slowly holds it up.
fn end() {
    std::thread::spawn(|| super::output::eprint_line(LeadershipLost::from(LeaseLoss::Late)));
    std::thread::sleep(Duration::from_millis(100));
    std::process::exit(1);
}

/// The result of `work`, which is dropped where it stands when it runs on for too long after `shutdown`.
async fn within<E>(shutdown: &CancellationToken, work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = work => done,
        () = too_long => {
            tracing::warn!(grace = ?GRACE, "not all that ran has ended; the next start goes on with it");
            Ok(())
        }
    }
}
