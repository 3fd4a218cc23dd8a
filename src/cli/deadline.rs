//! One timeout for everything that a command waits for.

use anyhow::bail;
use clap::Args;

use crate::api::Interval;

/// How long a command may take.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Time limit for all requests to Harbor and the API server together; after it the command ends with an error
    #[arg(long, default_value = "10m", value_name = "TIME")]
    timeout: Interval,
}

impl Arguments {
    /// Awaits the work of a command. Each request has its own deadline; this one limits their sum.
    ///
    /// # Errors
    /// Those of the work, and the timeout.
    pub(super) async fn bound<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        match tokio::time::timeout(self.timeout.duration(), work).await {
            Ok(result) => result,
            Err(_) => {
                bail!("no result within {} (--timeout). Completed changes remain; run the command again", self.timeout)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn bound_ends_many_waits_that_are_short_enough_each() {
        let within = |text: &str| Arguments { timeout: text.parse().unwrap() };
        let work = async |times: u32| {
            for _ in 0..times {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(times)
        };
        assert_eq!(within("1m").bound(work(2)).await.unwrap(), 2);
        let error = within("1s").bound(work(10_000)).await.unwrap_err().to_string();
        assert!(error.contains("1s") && error.contains("--timeout"), "{error}");
    }
}
