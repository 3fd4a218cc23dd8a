//! One step of one CachedImage: the reconcile function of the controller and of standalone mode.
//!
//! Bounded: a pull ends at its deadline and continues with the next attempt, and no step waits for Harbor to store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use tracing::Instrument;

use super::{
    causes::{SOON, answer, gone, missing, unresolved},
    environment::{Environment, Resolved},
    event_message::Note,
    new_platforms::added_platforms,
    puller::{PullError, list},
    scanner::ImageScanner,
    sibling_tags::SiblingTags,
    state_machine::{self, EventContext, ImageAction, ImageEvent, NextStatus, PullFailure},
    target::Target,
    timing::PrewarmTiming,
    verify::{self, Verification, VerifyDepth, VerifyError, VerifyRequest},
};
use crate::{
    api::{
        CachedImage, CachedImageStatus, ConditionType, Interval, Platform, Reason, cached_image::IndexState, condition,
        proxy_project::PullStrategy,
    },
    harbor::model::Artifact,
    jitter,
    registry::{self, RetryClass},
};

/// The inputs that are the same for every image.
#[derive(Clone)]
pub struct PrewarmContext {
    /// The environment of the images.
    pub surroundings: Arc<dyn Environment>,
    /// Durations of waits and pauses.
    pub timing: PrewarmTiming,
    /// Deadline of one attempt to pull. Default 10 min.
    pub warm_deadline: Duration,
    /// Deadline of one check of Harbor. Default 60 s.
    pub look_deadline: Duration,
    /// Wanted tags, which Harbor must see before it caches an index that they share.
    pub siblings: SiblingTags,
}

impl PrewarmContext {
    /// Creates a context with the default bounds.
    pub fn new(surroundings: Arc<dyn Environment>) -> Self {
        Self {
            surroundings,
            timing: PrewarmTiming::default(),
            warm_deadline: Duration::from_secs(600),
            look_deadline: Duration::from_secs(60),
            siblings: SiblingTags::default(),
        }
    }
}

impl PrewarmContext {
    /// Records that an image is wanted, before it is reconciled itself.
    pub fn record_wanted(&self, resolved: &Resolved) {
        let Ok(target) = Target::new(&resolved.image) else { return };
        if let Some(tag) = target.tag() {
            self.siblings.record(&repository(resolved, &target), tag);
        }
    }
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageResult {
    /// The complete status; equal to the old one when nothing changed.
    pub status: CachedImageStatus,
    /// Requeue after this time, or when the image changes.
    pub requeue: Duration,
    /// Events to publish.
    pub notes: Vec<Note>,
}

/// Executes the step that is due for `cached` at `now`.
pub async fn reconcile(cached: &CachedImage, context: &PrewarmContext, now: Timestamp) -> ImageResult {
    let old = cached.status.clone().unwrap_or_default();
    let own = cached.spec.refresh_interval.map(Interval::duration);
    let timing = PrewarmTiming { refresh: own.unwrap_or(context.timing.refresh), ..context.timing };
    let run =
        ImageReconcile { cached, context, timing, now, started: Instant::now(), unanswered: AtomicBool::new(false) };
    let next = run.step().await;
    let notes = Note::of_change(&old, &next.status).into_iter().collect();
    ImageResult { status: next.status, requeue: next.requeue, notes }
}

/// One running step.
struct ImageReconcile<'a> {
    cached: &'a CachedImage,
    context: &'a PrewarmContext,
    timing: PrewarmTiming,
    now: Timestamp,
    started: Instant,
    /// Harbor did not answer.
    unanswered: AtomicBool,
}

/// An image that can be warmed.
struct WarmTarget {
    resolved: Resolved,
    target: Target,
    platforms: Vec<Platform>,
}

/// Why an image cannot be warmed, and where it would be at Harbor.
struct NoWarmTarget {
    failure: PullFailure,
    resolved: Option<Resolved>,
}

impl NoWarmTarget {
    fn boxed(failure: PullFailure, resolved: Option<Resolved>) -> Box<Self> {
        Box::new(Self { failure, resolved })
    }
}

/// The result of a check.
enum ObservedImage {
    Verdict(Verification),
    Moved(String),
    /// Harbor no longer serves the tag, whatever it has stored.
    Gone(PullFailure),
}

impl ImageReconcile<'_> {
    async fn step(&self) -> NextStatus {
        let place = match self.place() {
            Ok(place) => place,
            Err(why) => return self.unplaced(&why),
        };
        self.context.record_wanted(&place.resolved);
        let step = state_machine::step(self.cached, place.resolved.image.as_str(), self.now);
        let newcomers = match &self.cached.status {
            Some(status) if step != ImageAction::Begin => added_platforms(status, &place.platforms),
            _ => Vec::new(),
        };
        if !newcomers.is_empty() {
            let why = format!("pulling {} for {}, requested later", place.resolved.image, list(&newcomers));
            return self.next(&place, ImageEvent::Begun(&why));
        }
        match step {
            ImageAction::Idle(pause) => {
                NextStatus { status: self.cached.status.clone().unwrap_or_default(), requeue: pause }
            }
            ImageAction::Begin => {
                let platforms = &place.platforms;
                let wanted = if platforms.is_empty() { "all platforms".to_owned() } else { list(platforms) };
                self.next(&place, ImageEvent::Begun(&format!("pulling {} for {wanted}", place.resolved.image)))
            }
            step => self.with_harbor(&place, step).await,
        }
    }

    /// Executes a step that needs Harbor, unless Harbor is backed off.
    async fn with_harbor(&self, place: &WarmTarget, step: ImageAction) -> NextStatus {
        if let Some(why) = &place.resolved.away {
            return self.next(place, ImageEvent::Away(why));
        }
        let attempt = match place.resolved.silence.attempt(self.now) {
            Ok(attempt) => attempt,
            Err(until) => {
                let why = format!("Harbor did not answer; retrying after {}", condition::whole_seconds(until));
                return self.next(place, ImageEvent::Away(&why));
            }
        };
        let next = match step {
            ImageAction::Refresh => self.look(place, true).await,
            ImageAction::Look => self.look(place, false).await,
            _ => self.warm(place).await,
        };
        attempt.end(!self.unanswered.load(Ordering::Relaxed), self.later());
        next
    }

    fn place(&self) -> Result<WarmTarget, Box<NoWarmTarget>> {
        let surroundings = &self.context.surroundings;
        let resolved =
            surroundings.resolve(&self.cached.spec.image).map_err(|why| NoWarmTarget::boxed(unresolved(&why), None))?;
        let target = Target::new(&resolved.image).map_err(|error| {
            NoWarmTarget::boxed(PullFailure::new(Reason::InvalidImage, error, RetryClass::Stalled), None)
        })?;
        let own = [&self.cached.spec.platforms, &resolved.platforms].into_iter().find(|list| !list.is_empty());
        match own.cloned().or_else(|| surroundings.cluster_platforms()) {
            Some(platforms) => Ok(WarmTarget { resolved, target, platforms }),
            None => {
                let message =
                    "no node has reported its platform yet, and neither image nor ProxyProject lists platforms";
                let failure = PullFailure::new(Reason::PlatformsUnknown, message, RetryClass::Wait(Some(SOON)));
                Err(NoWarmTarget::boxed(failure, Some(resolved)))
            }
        }
    }

    /// An image that cannot be warmed keeps its status while the cause is the same, until the next attempt is due.
    fn unplaced(&self, unplaced: &NoWarmTarget) -> NextStatus {
        let NoWarmTarget { failure, resolved } = unplaced;
        if let Some(status) = &self.cached.status {
            let same = state_machine::ready_reason(status) == Some(format!("{:?}", failure.reason).as_str())
                && status.observed_generation == self.cached.metadata.generation;
            let pause = status.next_attempt_at.as_ref().map(|next| next.0.duration_since(self.now));
            if let Some(pause) = pause.filter(|pause| same && pause.is_positive()) {
                return NextStatus { status: status.clone(), requeue: Duration::try_from(pause).unwrap_or(SOON) };
            }
        }
        let (image, project) =
            resolved.as_ref().map_or(("", ""), |found| (found.image.as_str(), found.proxy_project.as_str()));
        let timing = &self.timing;
        state_machine::next(self.cached, ImageEvent::Failed(failure), &self.setting(image, project, false, &[], timing))
    }

    async fn warm(&self, place: &WarmTarget) -> NextStatus {
        let deadline = self.context.warm_deadline;
        // An index, and a child for each platform.
        let manifests = u32::try_from(place.platforms.len()).unwrap_or(u32::MAX).saturating_add(1);
        let leave = match place.resolved.allowance.ask(manifests, self.now) {
            Ok(leave) => leave,
            Err(refused) => return self.next(place, ImageEvent::Deferred(&refused)),
        };
        let progress = self.context.surroundings.progress(self.cached);
        let siblings = place.target.tag().map(|tag| {
            self.context.siblings.due_siblings(&repository(&place.resolved, &place.target), tag, self.started)
        });
        let mut puller = place.resolved.puller.clone().with_siblings(siblings.unwrap_or_default());
        // An image that is listed but was found incomplete is checked blob by blob.
        let platforms = self.cached.status.as_ref().map(|status| status.platforms.as_slice()).unwrap_or_default();
        if platforms.iter().all(|child| child.stored) {
            puller = puller.knowing(place.resolved.harbor.clone());
        }
        let span = tracing::debug_span!("pull", image = place.resolved.image.as_str());
        let pull = puller.warm(&place.target, &place.platforms, progress.as_ref()).instrument(span);
        let pulled = tokio::time::timeout(deadline, pull).await.unwrap_or(Err(PullError::Deadline(deadline)));
        progress.ended(pulled.as_ref().err().map(PullError::reason));
        let may_be_harbor = pulled.as_ref().is_err_and(|error| error.may_be_harbor());
        let harbor_answers = self.harbor_answers(place, may_be_harbor).await;
        leave.settle(answer(&pulled, harbor_answers), self.later());
        match pulled {
            Ok(warmed) => {
                let mut next = self.next(place, ImageEvent::Warmed(&warmed));
                next.status.wanted.clone_from(&place.platforms);
                next
            }
            Err(PullError::Pull(registry::Error::PolicyBlocked { message })) => {
                let why = tokio::time::timeout(self.context.look_deadline, self.refused(place)).await;
                self.next(place, ImageEvent::Failed(&why.unwrap_or_else(|_| state_machine::refused(&message, None))))
            }
            Err(error) => {
                let failure = PullFailure::new(error.reason(), &error, error.class());
                let failure = if may_be_harbor { attributed(failure, harbor_answers) } else { failure };
                self.next(place, ImageEvent::Failed(&failure))
            }
        }
    }

    /// Returns whether Harbor itself answers. It is asked only if Harbor may be the cause of a failure; if it does not answer,
    /// no other image is pulled either.
    async fn harbor_answers(&self, place: &WarmTarget, may_be_harbor: bool) -> bool {
        let answers = !may_be_harbor || place.resolved.puller.client().answers().await;
        self.unanswered.store(!answers, Ordering::Relaxed);
        answers
    }

    /// The failure of a pull that the registry refuses (412), from its message and the known status of a pending scan.
    async fn refused(&self, place: &WarmTarget) -> PullFailure {
        let client = place.resolved.puller.client();
        // An answer to HEAD has no message.
        let message = match client.manifest(&place.target.path(), place.target.reference()).await {
            Err(registry::Error::PolicyBlocked { message }) => message,
            Err(error) => return PullFailure::new(error.reason(), &error, error.class()),
            // Its scan finished in the meantime.
            Ok(_) => {
                let message = "Harbor refused to serve a manifest (412), and served it a moment later";
                return PullFailure::new(Reason::PullFailed, message, RetryClass::Retry);
            }
        };
        let known = self.cached.status.as_ref().map_or(&[][..], |status| &status.platforms);
        let scan = self.scans(place).of_refused(&message, known).await;
        state_machine::refused(&message, scan.as_ref())
    }

    async fn look(&self, place: &WarmTarget, refresh: bool) -> NextStatus {
        let deadline = self.context.look_deadline;
        let (failure, may_be_harbor) = match tokio::time::timeout(deadline, self.observe(place, refresh)).await {
            Ok(Ok(ObservedImage::Verdict(verdict))) => return self.next(place, ImageEvent::Looked(&verdict)),
            Ok(Ok(ObservedImage::Moved(why))) => {
                let mut next = self.next(place, ImageEvent::Begun(&why));
                // State of the old image does not apply to the new target of the tag.
                next.status.digest = None;
                return next;
            }
            Ok(Ok(ObservedImage::Gone(failure))) => return self.next(place, ImageEvent::Failed(&failure)),
            Ok(Err(error)) => (PullFailure::new(error.reason(), &error, error.class()), error.may_be_harbor()),
            Err(_) => {
                let message = format!("Harbor did not report within {} s what it has stored", deadline.as_secs());
                (PullFailure::new(Reason::HarborUnreachable, message, RetryClass::Retry), true)
            }
        };
        let harbor_answers = self.harbor_answers(place, may_be_harbor).await;
        let failure = if may_be_harbor { attributed(failure, harbor_answers) } else { failure };
        self.next(place, ImageEvent::LookFailed(&failure))
    }

    async fn observe(&self, place: &WarmTarget, refresh: bool) -> Result<ObservedImage, VerifyError> {
        let target = &place.target;
        let status = self.cached.status.clone().unwrap_or_default();
        let digest = status.digest.unwrap_or_default();
        let question = VerifyRequest {
            digest: &digest,
            tag: target.tag(),
            index_children: status.index_children,
            nested: status.index == Some(IndexState::Nested),
            wanted: &status.platforms,
        };
        let harbor = &place.resolved.harbor;
        let mut artifacts = harbor.scanned_artifacts(target.project(), target.repository()).await?;
        if question.index_children.is_none() && artifacts.iter().all(|artifact| artifact.digest != digest) {
            artifacts.extend(harbor.artifact(target.project(), target.repository(), &digest).await?);
        }
        let allowance = &place.resolved.allowance;
        if refresh
            && !allowance.is_paused(self.now)
            && let Some(tag) = target.tag()
        {
            // Without an answer for the tag, the stored state remains valid. Harbor asks the upstream, which may hang.
            let resolving = tokio::time::timeout(self.context.look_deadline / 3, place.resolved.puller.resolve(target));
            let Ok(answered) = resolving.await else {
                return self.observe_stored(place, &question, &artifacts, refresh).await;
            };
            match &answered {
                Err(registry::Error::RateLimited { retry_after, .. }) => allowance.limited(*retry_after, self.later()),
                Err(error @ registry::Error::NotFound { .. }) => return Ok(ObservedImage::Gone(gone(tag, error))),
                _ => {}
            }
            if let Some(moved) = answered.ok().filter(|answered| !verify::still_is(&question, answered, &artifacts)) {
                return Ok(ObservedImage::Moved(format!("the tag {tag} moved from {digest} to {moved}")));
            }
        }
        self.observe_stored(place, &question, &artifacts, refresh).await
    }

    /// Checks what Harbor has stored, whatever the tag leads to.
    async fn observe_stored(
        &self,
        place: &WarmTarget,
        question: &VerifyRequest<'_>,
        artifacts: &[Artifact],
        refresh: bool,
    ) -> Result<ObservedImage, VerifyError> {
        let status = self.cached.status.as_ref();
        let scans = self.scans(place);
        let blocked = status.is_some_and(|status| condition::is_true(&status.conditions, ConditionType::PullBlocked));
        let depth = match (refresh, blocked || scans.terms.blocks) {
            (true, _) => VerifyDepth::All,
            (false, true) => VerifyDepth::Permitted,
            (false, false) => VerifyDepth::New,
        };
        let client = place.resolved.puller.client();
        let mut verdict = verify::observe(question, &place.target, client, artifacts, depth).await?;
        let warmed = status.and_then(|status| status.warmed_at.as_ref()).map_or(self.now, |time| time.0);
        verdict.scans = scans.after_look(question.wanted, artifacts, &verdict.refused, warmed).await;
        Ok(ObservedImage::Verdict(verdict))
    }

    fn scans<'s>(&'s self, place: &'s WarmTarget) -> ImageScanner<'s> {
        ImageScanner {
            harbor: &place.resolved.harbor,
            target: &place.target,
            terms: self.context.surroundings.scan_terms(&place.resolved.proxy_project),
            timing: &self.context.timing,
            now: self.now,
        }
    }

    fn next(&self, place: &WarmTarget, event: ImageEvent<'_>) -> NextStatus {
        let missing = match &self.cached.status {
            Some(status) if status.index_children.is_some() => missing(&place.platforms, &status.platforms),
            _ => Vec::new(),
        };
        let pinned = place.target.tag().is_none();
        let timing = match place.resolved.puller.strategy() {
            PullStrategy::ManifestsOnly => self.timing.left_to_harbor(),
            PullStrategy::Touch | PullStrategy::Stream => self.timing,
        };
        let (image, proxy_project) = (place.resolved.image.as_str(), &place.resolved.proxy_project);
        state_machine::next(self.cached, event, &self.setting(image, proxy_project, pinned, &missing, &timing))
    }

    fn setting<'s>(
        &'s self,
        image: &'s str,
        proxy_project: &'s str,
        pinned: bool,
        missing: &'s [Platform],
        timing: &'s PrewarmTiming,
    ) -> EventContext<'s> {
        let now = self.later();
        EventContext { image, proxy_project, pinned, missing, now, jitter: jitter::fraction(), timing }
    }

    /// The time at the end of the step: a pull takes time.
    fn later(&self) -> Timestamp {
        self.now.checked_add(self.started.elapsed()).unwrap_or(self.now)
    }
}

/// Attributes a failure that Harbor may have caused: to Harbor if it does not answer; otherwise to the upstream or the single
/// image, which affects no other image.
fn attributed(failure: PullFailure, harbor_answers: bool) -> PullFailure {
    if !harbor_answers {
        let class = if failure.class == RetryClass::Stalled { RetryClass::Retry } else { failure.class };
        return PullFailure { reason: Reason::HarborUnreachable, class, ..failure };
    }
    if failure.reason != Reason::HarborUnreachable {
        return failure;
    }
    let message =
        format!("{}; Harbor itself answers, so the upstream of this image is the likely cause", failure.message);
    PullFailure { reason: Reason::PullFailed, message, ..failure }
}

/// Includes the address of its Harbor.
fn repository(resolved: &Resolved, target: &Target) -> String {
    format!("{}{}", resolved.puller.client().address(), target.path())
}
