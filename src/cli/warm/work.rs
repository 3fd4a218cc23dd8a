//! Each image to its end: the controller's own steps, one after the other, until it is warm or cannot be.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, Fetched},
    harbors::{Harbors, Places},
    images::Wanted,
};
use crate::{
    api::{CachedImage, CachedImageStatus, ConditionType, Reason, cached_image::Require, condition},
    cli::text::{size, time},
    prewarm::{Context, Surroundings as _, life, reconcile},
};

/// A pull is tried that often before it is given up, where trying again can help at all.
const TRIES: u32 = 3;
/// How often lines say how it stands in all.
const TELL: Duration = Duration::from_secs(10);
/// What no second try mends.
const FINAL: [Reason; 9] = [
    Reason::ImageNotFound,
    Reason::HarborUnauthorized,
    Reason::HarborForbidden,
    Reason::HarborRefused,
    Reason::PullRefused,
    Reason::NotProxied,
    Reason::InvalidImage,
    Reason::InvalidSpec,
    Reason::PlatformMissing,
];

/// How far images are brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Whether it ends with the pull.
    pub(super) no_verify: bool,
    /// In the place of what each image requires.
    pub(super) require: Option<Require>,
    /// Whether an image is waited for until Harbor's API lists it.
    pub(super) listed: bool,
    /// Images that are pulled at once.
    pub(super) concurrency: usize,
    /// For all of it.
    pub(super) deadline: Instant,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Warm, as far as is required.
    Warm,
    /// Pulled; nobody looked whether Harbor stored it.
    Pulled,
    Failed,
    /// The time was up.
    TimedOut,
    /// Somebody stopped it.
    Interrupted,
}

/// What came of an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Done {
    pub(super) wanted: Wanted,
    pub(super) status: CachedImageStatus,
    pub(super) end: End,
    /// Why it is not warm.
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) fetched: Fetched,
    pub(super) took: Duration,
}

/// All that images have in common.
pub(super) struct Work {
    pub(super) context: Context,
    pub(super) places: Arc<Places>,
    pub(super) board: Arc<Board>,
    pub(super) terms: Terms,
    pub(super) stop: CancellationToken,
    slots: Semaphore,
}

impl Work {
    /// By these terms, until `stop`.
    pub(super) fn new(
        context: Context,
        places: Arc<Places>,
        board: Arc<Board>,
        terms: Terms,
        stop: CancellationToken,
    ) -> Self {
        Self { context, places, board, terms, stop, slots: Semaphore::new(terms.concurrency.max(1)) }
    }

    /// Warms all, and says what came of each, in their order.
    pub(super) async fn run(&self, wanted: Vec<Wanted>, harbors: &Harbors) -> anyhow::Result<Vec<Done>> {
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
        // All of them before the first pull: what they share is tagged for each only then.
        for (wanted, ..) in &images {
            self.note_tag(wanted);
        }
        let at_once = images.len().max(1);
        let lives = images.into_iter().map(|(wanted, cached, refused)| async move {
            let Some(refused) = refused else { return self.live(wanted, cached).await };
            let done = Done::at_once(wanted, &refused.reason.to_string(), refused.message);
            self.tell(&done, "");
            done
        });
        // All live at once, for most of a life is waiting; pulls take slots.
        let lives = stream::iter(lives).buffered(at_once).collect();
        let mut ticks = tokio::time::interval_at(Instant::now() + TELL, TELL);
        let telling = async {
            loop {
                ticks.tick().await;
                self.board.say_total();
            }
        };
        tokio::select! {
            done = lives => Ok(done),
            () = telling => Ok(Vec::new()),
        }
    }

    fn note_tag(&self, wanted: &Wanted) {
        let resolved = wanted.place.as_ref().ok().and_then(|place| self.places.resolve(place.image.as_str()).ok());
        if let Some(resolved) = resolved {
            self.context.note_wanted(&resolved);
        }
    }

    fn cached(&self, wanted: &Wanted) -> serde_json::Result<CachedImage> {
        let image = wanted.place.as_ref().map(|place| place.image.to_string()).unwrap_or_default();
        let platforms = self.places.platforms(&image, wanted);
        let require = self.terms.require.unwrap_or(wanted.require);
        let spec = serde_json::from_value(json!({"image": image, "platforms": platforms, "require": require}))?;
        let mut cached = CachedImage::new("image", spec);
        cached.metadata.generation = Some(1);
        Ok(cached)
    }

    async fn live(&self, wanted: Wanted, mut cached: CachedImage) -> Done {
        let begun = Instant::now();
        let image = cached.spec.image.clone();
        let (mut fetched, mut told) = (Fetched::default(), false);
        let end = loop {
            let Some(requeue) = self.step(&mut cached, &mut fetched).await else { break self.cut_short() };
            let status = cached.status.clone().unwrap_or_default();
            if let Some(end) = end(&status, requeue, self.left(), &self.terms) {
                break end;
            }
            self.tell_waiting(&image, &status, &mut told);
            if !requeue.is_zero() && !self.pause(requeue).await {
                break self.cut_short();
            }
        };
        let status = cached.status.unwrap_or_default();
        let ready = condition::find(&status.conditions, ConditionType::Ready);
        let (reason, message) = ready.map(|ready| (ready.reason.clone(), ready.message.clone())).unwrap_or_default();
        let done = Done { wanted, status, end, reason, message, fetched, took: begun.elapsed() };
        self.tell(&done, &image);
        done
    }

    /// One step; `None` when it was cut short.
    async fn step(&self, cached: &mut CachedImage, fetched: &mut Fetched) -> Option<Duration> {
        let image = cached.spec.image.clone();
        let pulls = life::step(cached, &image, Timestamp::now()) == life::Step::Warm;
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
            if life::ready_reason(&outcome.status) == Some("Verifying") {
                let took = time(begun.elapsed());
                let pulled = match (now.blobs, now.there) {
                    (0, there) => format!("all of it was there ({}), seen in {took}", size(there)),
                    (_, 0) => format!("pulled {} in {took}", size(now.bytes)),
                    (_, there) => format!("pulled {} in {took}; {} were there", size(now.bytes), size(there)),
                };
                self.board.say(&image, &pulled);
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

    /// Says once why an image that nodes can pull is waited for.
    fn tell_waiting(&self, image: &str, status: &CachedImageStatus, told: &mut bool) {
        if !*told && condition::is_true(&status.conditions, ConditionType::Ready) {
            *told = true;
            self.board.say(image, "nodes can pull it; waiting until Harbor's API lists it (--require online does not)");
        }
    }

    /// Waits; `false` when it was cut short.
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

    fn cut_short(&self) -> End {
        if self.stop.is_cancelled() { End::Interrupted } else { End::TimedOut }
    }

    fn tell(&self, done: &Done, image: &str) {
        let well = matches!(done.end, End::Warm | End::Pulled);
        self.board.ended(well);
        let image = if image.is_empty() { &done.wanted.named } else { image };
        match done.end {
            End::Warm => self.board.say(image, &format!("warm after {}", time(done.took))),
            End::Failed => self.board.say(image, &format!("{}: {}", done.reason, done.message)),
            End::Pulled | End::TimedOut | End::Interrupted => {}
        }
    }
}

impl Done {
    fn at_once(wanted: Wanted, reason: &str, message: String) -> Self {
        Self {
            wanted,
            status: CachedImageStatus::default(),
            end: End::Failed,
            reason: reason.to_owned(),
            message,
            fetched: Fetched::default(),
            took: Duration::ZERO,
        }
    }
}

/// A pull under way: however it ends, its bar goes, and what it fetched is counted.
struct Pulling<'a> {
    board: &'a Board,
    image: &'a str,
    fetched: &'a mut Fetched,
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        *self.fetched = self.board.pulled(self.image).after(*self.fetched);
    }
}

/// Whether that is the end, given the time until the next step and the time that is left.
fn end(status: &CachedImageStatus, requeue: Duration, left: Duration, terms: &Terms) -> Option<End> {
    if condition::is_true(&status.conditions, ConditionType::Ready) {
        return (!terms.listed || is_listed(status)).then_some(End::Warm);
    }
    let reason = life::ready_reason(status).unwrap_or_default();
    // The account was known when it began. Harbor locks it for a moment whenever somebody else mistypes its password, and a
    // look comes again; a pull that is refused lacks the rights.
    let passing = reason == Reason::HarborUnauthorized.to_string() && status.attempts.is_none();
    if condition::is_true(&status.conditions, ConditionType::Stalled)
        || (!passing && FINAL.iter().any(|end| end.to_string() == reason))
        || status.attempts.is_some_and(|attempts| attempts >= TRIES || requeue > left)
    {
        return Some(End::Failed);
    }
    (terms.no_verify && reason == Reason::Verifying.to_string()).then_some(End::Pulled)
}

/// Whether Harbor's API lists what is stored, under its tag or, where it is pinned, under its digest; or never will.
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
    fn what_a_second_try_may_mend_is_tried_again_and_nothing_else() {
        let failed = |reason, attempts| status(attempts, |conditions| conditions.progressing(reason, "why"));
        let ready = status(None, |conditions| conditions.ready(Reason::Warm, "stored"));
        let stalled = status(None, |conditions| conditions.stalled(Reason::IndexRewritten, "never"));
        let verifying = failed(Reason::Verifying, None);
        let second = Duration::from_secs(1);
        let table = [
            (&ready, false, Some(End::Warm)),
            (&ready, true, Some(End::Warm)),
            (&stalled, false, Some(End::Failed)),
            (&verifying, false, None),
            (&verifying, true, Some(End::Pulled)),
            (&failed(Reason::Warming, None), true, None),
            (&failed(Reason::ImageNotFound, Some(1)), false, Some(End::Failed)),
            (&failed(Reason::PullFailed, Some(1)), false, None),
            (&failed(Reason::PullFailed, Some(3)), false, Some(End::Failed)),
            (&failed(Reason::HarborUnauthorized, Some(1)), false, Some(End::Failed)),
            (&failed(Reason::HarborUnauthorized, None), false, None),
            (&failed(Reason::HarborUnreachable, None), false, None),
            (&failed(Reason::InstanceNotReady, None), false, None),
            (&failed(Reason::NotStored, Some(2)), false, None),
            (&failed(Reason::NotStored, Some(3)), false, Some(End::Failed)),
        ];
        for (status, no_verify, expected) in table {
            let terms = Terms { no_verify, ..terms() };
            assert_eq!(end(status, second, second * 60, &terms), expected, "{:?}", life::ready_reason(status));
        }
        let limited = failed(Reason::RateLimited, Some(1));
        assert_eq!(end(&limited, second * 61, second * 60, &terms()), Some(End::Failed), "nobody waits beyond the end");
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
        let table: [(CachedImageStatus, bool, Option<End>); 6] = [
            (ready(&unknown(OfflineByTag)), true, None),
            (ready(&unknown(OfflineByTag)), false, Some(End::Warm)),
            (ready(&|conditions| conditions.set(OfflineByTag, true, Reason::Tagged, "")), true, Some(End::Warm)),
            (ready(&|conditions| conditions.set(OfflineByTag, false, Reason::PullByDigest, "")), true, Some(End::Warm)),
            (ready(&unknown(OfflineByDigest)), true, None),
            (
                ready(&|conditions| conditions.set(OfflineByDigest, true, Reason::DigestStored, "")),
                true,
                Some(End::Warm),
            ),
        ];
        let second = Duration::from_secs(1);
        for (number, (status, listed, expected)) in table.into_iter().enumerate() {
            let terms = Terms { listed, ..terms() };
            assert_eq!(end(&status, second, second * 60, &terms), expected, "{number}");
        }
    }

    fn terms() -> Terms {
        Terms { no_verify: false, require: None, listed: false, concurrency: 1, deadline: Instant::now() }
    }
}
