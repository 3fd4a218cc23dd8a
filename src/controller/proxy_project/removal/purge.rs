//! Deletes the repositories of a project. Each reconcile deletes what it finds, so a purge continues after an
//! interruption.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt, stream};

use crate::harbor::{Client, Error};

/// Maximum number of concurrent deletions: for each, Harbor checks for immutable tags and deletes artifacts one by one.
const AT_ONCE: usize = 4;
/// Maximum number of repositories deleted in one reconcile; then the progress is reported.
const MOST: usize = 100;
/// Maximum number of refusals in a message.
const TOLD: usize = 3;

/// Progress of a purge.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PurgeProgress {
    /// Number of repositories left for the next reconcile.
    pub(super) left: usize,
    /// Repositories that Harbor does not delete, and why.
    refused: Vec<String>,
}

impl PurgeProgress {
    /// Deletes the repositories of the project, up to the limit of one reconcile.
    pub(super) async fn of(client: &Client, project: &str) -> Result<Self, Error> {
        let repositories = client.repositories(project).await?;
        let gone = AtomicUsize::new(0);
        let gone = &gone;
        let deletions = stream::iter(repositories).map(|repository| async move {
            if gone.load(Ordering::Relaxed) >= MOST {
                return Ok(PurgedRepository::Waits);
            }
            match client.delete_repository(project, &repository).await {
                Ok(()) => {
                    gone.fetch_add(1, Ordering::Relaxed);
                    Ok(PurgedRepository::Gone)
                }
                Err(Error::Precondition { message }) => {
                    Ok(PurgedRepository::Refused(format!("{repository}: {message}")))
                }
                Err(error) => Err(error),
            }
        });
        let mut purge = Self::default();
        let mut fates = deletions.buffer_unordered(AT_ONCE);
        while let Some(fate) = fates.try_next().await? {
            match fate {
                PurgedRepository::Gone => {}
                PurgedRepository::Waits => purge.left += 1,
                PurgedRepository::Refused(why) => purge.refused.push(why),
            }
        }
        purge.refused.sort_unstable();
        Ok(purge)
    }

    /// A message about repositories that Harbor does not delete; `None` when there are none.
    pub(super) fn refusals(&self) -> Option<String> {
        let count = self.refused.len();
        let more = match count.saturating_sub(TOLD) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let first: Vec<&str> = self.refused.iter().take(TOLD).map(String::as_str).collect();
        (count > 0).then(|| format!("still has {count} of its repositories: {}{more}", first.join("; ")))
    }
}

enum PurgedRepository {
    Gone,
    Waits,
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purge_lists_a_few_refusals_and_counts_the_others() {
        let refused = |count: usize| (0..count).map(|at| format!("app-{at}: no")).collect();
        let words = |count| PurgeProgress { left: 0, refused: refused(count) }.refusals();
        assert_eq!(words(0), None);
        assert_eq!(words(2).unwrap(), "still has 2 of its repositories: app-0: no; app-1: no");
        assert_eq!(words(7).unwrap(), "still has 7 of its repositories: app-0: no; app-1: no; app-2: no; and 4 more");
    }
}
