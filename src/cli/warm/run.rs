//! Prewarms each image with the controller's own steps, one after the other, until it is warm or cannot be.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    harbors::{Harbors, ImageTargets},
    images::RequestedImage,
    progress::{FetchTotals, ProgressBoard},
};
use crate::{
    api::{CachedImage, CachedImageStatus, ConditionType, Reason, cached_image::Require, condition},
    prewarm::{Environment as _, Phase, PrewarmContext, reconcile, state_machine},
    text::{size, time},
};

/// Maximum number of attempts of a pull, if a retry can help at all.
const TRIES: u32 = 3;
/// Interval of the lines with the totals.
const TELL: Duration = Duration::from_secs(10);

/// Options of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct WarmOptions {
    /// Whether it ends after the pull.
    pub(super) no_verify: bool,
    /// Replaces the requirement of each image.
    pub(super) require: Option<Require>,
    /// Whether to wait until Harbor's API lists an image.
    pub(super) listed: bool,
    /// Number of images that are pulled concurrently.
    pub(super) concurrency: usize,
    /// Time limit for the run.
    pub(super) deadline: Instant,
}

/// The end of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WarmEnd {
    /// As warm as required.
    Warm,
    /// Pulled, without checking whether Harbor stored it.
    Pulled,
    Failed,
    /// The time limit was reached.
    TimedOut,
    /// A user stopped the command.
    Interrupted,
}

/// The result of an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WarmedImage {
    pub(super) wanted: RequestedImage,
    pub(super) status: CachedImageStatus,
    pub(super) end: WarmEnd,
    /// Why it is not warm.
    pub(super) reason: Option<Reason>,
    pub(super) message: String,
    pub(super) fetched: FetchTotals,
    pub(super) took: Duration,
}

/// The shared state of all images.
pub(super) struct WarmRun {
    pub(super) context: PrewarmContext,
    pub(super) places: Arc<ImageTargets>,
    pub(super) board: Arc<ProgressBoard>,
    pub(super) terms: WarmOptions,
    pub(super) stop: CancellationToken,
    slots: Semaphore,
}

impl WarmRun {
    /// With these options, until `stop`.
    pub(super) fn new(
        context: PrewarmContext,
        places: Arc<ImageTargets>,
        board: Arc<ProgressBoard>,
        terms: WarmOptions,
        stop: CancellationToken,
    ) -> Self {
        Self { context, places, board, terms, stop, slots: Semaphore::new(terms.concurrency.max(1)) }
    }

    /// Prewarms all images, and returns the results in the same order.
    pub(super) async fn run(&self, wanted: Vec<RequestedImage>, harbors: &Harbors) -> anyhow::Result<Vec<WarmedImage>> {
        let images: Vec<_> = wanted
            .into_iter()
            .map(|wanted| {
                let refused = match &wanted.place {
                    Ok(place) => harbors.refusal(place).cloned(),
                    Err(nowhere) => Some(nowhere.clone()),
                };
                self.cached(&wanted).map(|cached| (wanted, cached, refused))
            })
            .collect::<Result<_, _>>()?;
        // All tags are recorded before the first pull: shared manifests get a tag for each of them only then.
        for (wanted, ..) in &images {
            self.note_tag(wanted);
        }
        let concurrent = images.len().max(1);
        let lives = images.into_iter().map(|(wanted, cached, refused)| async move {
            let Some(refused) = refused else { return self.live(wanted, cached).await };
            let done = WarmedImage::not_started(wanted, refused.reason, refused.message);
            self.report(&done, "");
            done
        });
        // All images run concurrently, because most of the time is waiting. Pulls are limited.
        let lives = stream::iter(lives).buffered(concurrent).collect();
        let mut ticks = tokio::time::interval_at(Instant::now() + TELL, TELL);
        let telling = async {
            loop {
                ticks.tick().await;
                self.board.print_totals();
            }
        };
        tokio::select! {
            done = lives => Ok(done),
            () = telling => Ok(Vec::new()),
        }
    }

    fn note_tag(&self, wanted: &RequestedImage) {
        let resolved = wanted.place.as_ref().ok().and_then(|place| self.places.resolve(place.image.as_str()).ok());
        if let Some(resolved) = resolved {
            self.context.record_wanted(&resolved);
        }
    }

    fn cached(&self, wanted: &RequestedImage) -> serde_json::Result<CachedImage> {
        let image = wanted.place.as_ref().map(|place| place.image.to_string()).unwrap_or_default();
        let platforms = self.places.platforms(&image, wanted);
        let require = self.terms.require.unwrap_or(wanted.require);
        let spec = serde_json::from_value(json!({"image": image, "platforms": platforms, "require": require}))?;
        let mut cached = CachedImage::new("image", spec);
        cached.metadata.generation = Some(1);
        Ok(cached)
    }

    async fn live(&self, wanted: RequestedImage, mut cached: CachedImage) -> WarmedImage {
        let begun = Instant::now();
        let image = cached.spec.image.clone();
        let (mut fetched, mut reported) = (FetchTotals::default(), false);
        let end = loop {
            let Some(requeue) = self.step(&mut cached, &mut fetched).await else { break self.cut_short() };
            let status = cached.status.clone().unwrap_or_default();
            if let Some(end) = end(&status, requeue, self.left(), &self.terms) {
                break end;
            }
            self.print_waiting(&image, &status, &mut reported);
            if !requeue.is_zero() && !self.pause(requeue).await {
                break self.cut_short();
            }
        };
        let status = cached.status.unwrap_or_default();
        let reason = condition::reason(&status.conditions, ConditionType::Ready);
        let message = condition::find(&status.conditions, ConditionType::Ready).map(|ready| ready.message.clone());
        let message = message.unwrap_or_default();
        let done = WarmedImage { wanted, status, end, reason, message, fetched, took: begun.elapsed() };
        self.report(&done, &image);
        done
    }

    /// Runs one step; `None` if it was interrupted.
    async fn step(&self, cached: &mut CachedImage, fetched: &mut FetchTotals) -> Option<Duration> {
        let image = cached.spec.image.clone();
        let pulls = state_machine::step(cached, &image, Timestamp::now()) == state_machine::ImageAction::Warm;
        let stopped = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep_until(self.terms.deadline) => {}
            }
        };
        let step = async {
            if !pulls {
                return reconcile(cached, &self.context, Timestamp::now()).await;
            }
            let _slot = self.slots.acquire().await;
            self.board.pulling();
            let begun = Instant::now();
            let outcome = {
                let _pulling = Pulling { board: &self.board, image: &image, fetched };
                reconcile(cached, &self.context, Timestamp::now()).await
            };
            let now = *fetched;
            if Phase::of(&outcome.status) == Phase::Verifying {
                let took = time(begun.elapsed());
                let pulled = match (now.blobs, now.there) {
                    (0, there) => format!("already cached ({}), checked in {took}", size(there)),
                    (_, 0) => format!("pulled {} in {took}", size(now.bytes)),
                    (_, there) => format!("pulled {} in {took}; {} already cached", size(now.bytes), size(there)),
                };
                self.board.print_line(&image, &pulled);
            }
            outcome
        };
        let outcome = tokio::select! {
            outcome = step => outcome,
            () = stopped => return None,
        };
        cached.status = Some(outcome.status);
        Some(outcome.requeue)
    }

    /// Prints once why an image that nodes can pull is waited for.
    fn print_waiting(&self, image: &str, status: &CachedImageStatus, reported: &mut bool) {
        if !*reported && condition::is_true(&status.conditions, ConditionType::Ready) {
            *reported = true;
            self.board.print_line(
                image,
                "nodes can pull it; waiting until Harbor's API lists it (--require online does not)",
            );
        }
    }

    /// Waits; `false` if it was interrupted.
    async fn pause(&self, pause: Duration) -> bool {
        self.board.waiting(true);
        let whole = tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(self.terms.deadline) => false,
            () = tokio::time::sleep(pause) => true,
        };
        self.board.waiting(false);
        whole
    }

    fn left(&self) -> Duration {
        self.terms.deadline.saturating_duration_since(Instant::now())
    }

    fn cut_short(&self) -> WarmEnd {
        if self.stop.is_cancelled() { WarmEnd::Interrupted } else { WarmEnd::TimedOut }
    }

    fn report(&self, done: &WarmedImage, image: &str) {
        let well = matches!(done.end, WarmEnd::Warm | WarmEnd::Pulled);
        self.board.ended(well);
        let image = if image.is_empty() { &done.wanted.named } else { image };
        match done.end {
            WarmEnd::Warm => self.board.print_line(image, &format!("warm after {}", time(done.took))),
            WarmEnd::Failed => self.board.print_line(image, &format!("{}: {}", done.reason_text(), done.message)),
            WarmEnd::Pulled | WarmEnd::TimedOut | WarmEnd::Interrupted => {}
        }
    }
}

impl WarmedImage {
    /// The reason as text; empty without one.
    pub(super) fn reason_text(&self) -> &'static str {
        self.reason.map_or("", Reason::as_str)
    }

    fn not_started(wanted: RequestedImage, reason: Reason, message: String) -> Self {
        Self {
            wanted,
            status: CachedImageStatus::default(),
            end: WarmEnd::Failed,
            reason: Some(reason),
            message,
            fetched: FetchTotals::default(),
            took: Duration::ZERO,
        }
    }
}

/// A running pull: when it ends, its bar is removed and its bytes are counted.
struct Pulling<'a> {
    board: &'a ProgressBoard,
    image: &'a str,
    fetched: &'a mut FetchTotals,
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        *self.fetched = self.board.pulled(self.image).after(*self.fetched);
    }
}

/// Returns the end of the image, if it is reached, from the time until the next step and the remaining time.
fn end(status: &CachedImageStatus, requeue: Duration, left: Duration, terms: &WarmOptions) -> Option<WarmEnd> {
    if condition::is_true(&status.conditions, ConditionType::Ready) {
        return (!terms.listed || is_listed(status)).then_some(WarmEnd::Warm);
    }
    let phase = Phase::of(status);
    let reason = condition::reason(&status.conditions, ConditionType::Ready);
    let gives_up = match phase {
        Phase::BackingOff { attempts, .. } => attempts >= TRIES || requeue > left,
        Phase::Deferred { .. } => requeue > left,
        Phase::Pending | Phase::Pulling | Phase::Verifying | Phase::Settled { .. } => false,
    };
    let is_final = match reason {
        // The credentials were valid at the start. Harbor locks an account for a moment after a wrong password of another
        // client, so the check is retried. A refused pull lacks permissions.
        Some(Reason::HarborUnauthorized) => phase.attempts() > 0,
        // A retry does not fix these.
        Some(
            Reason::ImageNotFound
            | Reason::HarborForbidden
            | Reason::HarborRefused
            | Reason::PullBlocked
            | Reason::NotProxied
            | Reason::InvalidImage
            | Reason::InvalidSpec
            | Reason::PlatformMissing,
        ) => true,
        _ => false,
    };
    if condition::is_true(&status.conditions, ConditionType::Stalled) || is_final || gives_up {
        return Some(WarmEnd::Failed);
    }
    (terms.no_verify && reason == Some(Reason::Verifying)).then_some(WarmEnd::Pulled)
}

/// Returns whether Harbor's API lists the stored image, by tag or by pinned digest, or will never list it.
fn is_listed(status: &CachedImageStatus) -> bool {
    let find = |kind| condition::find(&status.conditions, kind);
    let found = find(ConditionType::OfflineByTag).or_else(|| find(ConditionType::OfflineByDigest));
    found.is_none_or(|found| found.status != "Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Conditions;

    fn status(attempts: Option<u32>, change: impl FnOnce(&mut Conditions)) -> CachedImageStatus {
        let mut conditions = Conditions::from_status(&[], Some(1), Timestamp::UNIX_EPOCH);
        change(&mut conditions);
        CachedImageStatus { attempts, conditions: conditions.into_list(), ..CachedImageStatus::default() }
    }

    #[test]
    fn end_retries_only_reasons_that_a_retry_can_fix() {
        let failed = |reason, attempts| status(attempts, |conditions| conditions.progressing(reason, "why"));
        let ready = status(None, |conditions| conditions.ready(Reason::Warm, "stored"));
        let stalled = status(None, |conditions| conditions.stalled(Reason::IndexDigestChanged, "never"));
        let verifying = failed(Reason::Verifying, None);
        let second = Duration::from_secs(1);
        let table = [
            (&ready, false, Some(WarmEnd::Warm)),
            (&ready, true, Some(WarmEnd::Warm)),
            (&stalled, false, Some(WarmEnd::Failed)),
            (&verifying, false, None),
            (&verifying, true, Some(WarmEnd::Pulled)),
            (&failed(Reason::Pulling, None), true, None),
            (&failed(Reason::ImageNotFound, Some(1)), false, Some(WarmEnd::Failed)),
            (&failed(Reason::PullFailed, Some(1)), false, None),
            (&failed(Reason::PullFailed, Some(3)), false, Some(WarmEnd::Failed)),
            (&failed(Reason::HarborUnauthorized, Some(1)), false, Some(WarmEnd::Failed)),
            (&failed(Reason::HarborUnauthorized, None), false, None),
            (&failed(Reason::HarborUnreachable, None), false, None),
            (&failed(Reason::InstanceNotReady, None), false, None),
            (&failed(Reason::StoreTimeout, Some(2)), false, None),
            (&failed(Reason::StoreTimeout, Some(3)), false, Some(WarmEnd::Failed)),
        ];
        for (status, no_verify, expected) in table {
            let terms = WarmOptions { no_verify, ..terms() };
            assert_eq!(end(status, second, second * 60, &terms), expected, "{status:?}");
        }
        let limited = failed(Reason::RateLimited, Some(1));
        assert_eq!(
            end(&limited, second * 61, second * 60, &terms()),
            Some(WarmEnd::Failed),
            "no wait beyond the time limit"
        );
    }

    #[test]
    fn an_image_that_nodes_can_pull_is_waited_for_until_harbor_lists_it_or_never_will() {
        use ConditionType::{OfflineByDigest, OfflineByTag};
        let ready = |change: &dyn Fn(&mut Conditions)| {
            status(None, |conditions| {
                conditions.ready(Reason::Warm, "stored");
                change(conditions);
            })
        };
        let unknown = |kind| move |conditions: &mut Conditions| conditions.set_unknown(kind, Reason::Verifying, "");
        let table: [(CachedImageStatus, bool, Option<WarmEnd>); 6] = [
            (ready(&unknown(OfflineByTag)), true, None),
            (ready(&unknown(OfflineByTag)), false, Some(WarmEnd::Warm)),
            (ready(&|conditions| conditions.set(OfflineByTag, true, Reason::Tagged, "")), true, Some(WarmEnd::Warm)),
            (
                ready(&|conditions| conditions.set(OfflineByTag, false, Reason::PullByDigest, "")),
                true,
                Some(WarmEnd::Warm),
            ),
            (ready(&unknown(OfflineByDigest)), true, None),
            (
                ready(&|conditions| conditions.set(OfflineByDigest, true, Reason::DigestStored, "")),
                true,
                Some(WarmEnd::Warm),
            ),
        ];
        let second = Duration::from_secs(1);
        for (number, (status, listed, expected)) in table.into_iter().enumerate() {
            let terms = WarmOptions { listed, ..terms() };
            assert_eq!(end(&status, second, second * 60, &terms), expected, "{number}");
        }
    }

    fn terms() -> WarmOptions {
        WarmOptions { no_verify: false, require: None, listed: false, concurrency: 1, deadline: Instant::now() }
    }
}
