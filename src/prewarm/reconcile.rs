//! One step of one CachedImage: the reconcile function of the controller and of standalone mode.
//!
//! Bounded: a pull ends at its deadline and continues with the next attempt, and no step waits for Harbor to store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use tracing::Instrument;

use super::{
    causes::{SOON, answer, gone, missing, unresolved},
    environment::{Environment, Resolved},
    new_platforms::added_platforms,
    phase::Phase,
    puller::{PullError, list},
    scanner::ImageScanner,
    sibling_tags::SiblingTags,
    state_machine::{self, EventContext, ImageAction, ImageEvent},
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
    reconcile::{ReconcileError, ReconcileResult},
    registry,
    transport::RetryClass,
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

type ImageResult = ReconcileResult<CachedImageStatus>;

/// Executes the step that is due for `cached` at `now`.
pub async fn reconcile(
    cached: &CachedImage,
    context: &PrewarmContext,
    now: Timestamp,
) -> ReconcileResult<CachedImageStatus> {
    let own = cached.spec.refresh_interval.map(Interval::duration);
    let timing = PrewarmTiming { refresh: own.unwrap_or(context.timing.refresh), ..context.timing };
    let run = ImageReconcile { cached, context, timing, now, started: Instant::now() };
    run.step().await
}

/// One running step.
struct ImageReconcile<'a> {
    cached: &'a CachedImage,
    context: &'a PrewarmContext,
    timing: PrewarmTiming,
    now: Timestamp,
    started: Instant,
}

/// An image that can be warmed.
struct WarmTarget {
    resolved: Resolved,
    target: Target,
    platforms: Vec<Platform>,
}

/// Why an image cannot be warmed, and where it would be at Harbor.
struct NoWarmTarget {
    failure: ReconcileError,
    resolved: Option<Resolved>,
}

impl NoWarmTarget {
    fn boxed(failure: ReconcileError, resolved: Option<Resolved>) -> Box<Self> {
        Box::new(Self { failure, resolved })
    }
}

/// The result of a check.
enum ObservedImage {
    Verdict(Verification),
    Moved(String),
    /// Harbor no longer serves the tag, whatever it has stored.
    Gone(ReconcileError),
}

impl ImageReconcile<'_> {
    async fn step(&self) -> ImageResult {
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
            ImageAction::Idle(pause) => self.unchanged(pause),
            ImageAction::Begin => {
                let platforms = &place.platforms;
                let wanted = if platforms.is_empty() { "all platforms".to_owned() } else { list(platforms) };
                self.next(&place, ImageEvent::Begun(&format!("pulling {} for {wanted}", place.resolved.image)))
            }
            step @ (ImageAction::Warm | ImageAction::Look | ImageAction::Refresh) => {
                self.with_harbor(&place, step).await
            }
        }
    }

    /// Executes a step that needs Harbor, unless Harbor is backed off.
    async fn with_harbor(&self, place: &WarmTarget, step: ImageAction) -> ImageResult {
        if let Some(why) = &place.resolved.away {
            return self.next(place, ImageEvent::Away(why));
        }
        let probe = match place.resolved.puller.client().transport().shared().breaker.admit(self.now) {
            Ok(probe) => probe,
            Err(open) => {
                let until = condition::whole_seconds(open.until);
                let why = format!("Harbor did not answer; it is asked again after {until}");
                return self.next(place, ImageEvent::Away(&why));
            }
        };
        let next = match step {
            ImageAction::Refresh => self.look(place, true).await,
            ImageAction::Look => self.look(place, false).await,
            _ => self.warm(place).await,
        };
        probe.end(self.later());
        next
    }

    fn place(&self) -> Result<WarmTarget, Box<NoWarmTarget>> {
        let surroundings = &self.context.surroundings;
        let resolved =
            surroundings.resolve(&self.cached.spec.image).map_err(|why| NoWarmTarget::boxed(unresolved(&why), None))?;
        let target = Target::new(&resolved.image)
            .map_err(|error| NoWarmTarget::boxed(ReconcileError::stalled(Reason::InvalidImage, error), None))?;
        let own = [&self.cached.spec.platforms, &resolved.platforms].into_iter().find(|list| !list.is_empty());
        match own.cloned().or_else(|| surroundings.cluster_platforms()) {
            Some(platforms) => Ok(WarmTarget { resolved, target, platforms }),
            None => {
                let message =
                    "no node has reported its platform yet, and neither image nor ProxyProject lists platforms";
                let failure = ReconcileError::new(Reason::PlatformsUnknown, message, RetryClass::Wait(Some(SOON)));
                Err(NoWarmTarget::boxed(failure, Some(resolved)))
            }
        }
    }

    /// An image that cannot be warmed keeps its status while the cause is the same, until the next attempt is due.
    fn unplaced(&self, unplaced: &NoWarmTarget) -> ImageResult {
        let NoWarmTarget { failure, resolved } = unplaced;
        if let Some(status) = &self.cached.status {
            let is_same = condition::reason(&status.conditions, ConditionType::Ready) == Some(failure.reason)
                && status.observed_generation == self.cached.metadata.generation;
            let pause = Phase::of(status).until().map_or(Duration::ZERO, |until| condition::since(self.now, until));
            if is_same && !pause.is_zero() {
                return self.unchanged(pause);
            }
        }
        let (image, project) =
            resolved.as_ref().map_or(("", ""), |found| (found.image.as_str(), found.proxy_project.as_str()));
        let timing = &self.timing;
        state_machine::next(self.cached, ImageEvent::Failed(failure), &self.setting(image, project, false, &[], timing))
    }

    async fn warm(&self, place: &WarmTarget) -> ImageResult {
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
        let harbor_answers = harbor_answers(place, may_be_harbor).await;
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
                let failure = ReconcileError::new(error.reason(), &error, error.class());
                let failure = if may_be_harbor { attributed(failure, harbor_answers) } else { failure };
                self.next(place, ImageEvent::Failed(&failure))
            }
        }
    }

    /// The failure of a pull that the registry refuses (412), from its message and the known status of a pending scan.
    async fn refused(&self, place: &WarmTarget) -> ReconcileError {
        let client = place.resolved.puller.client();
        // An answer to HEAD has no message.
        let message = match client.manifest(&place.target.path(), place.target.reference()).await {
            Err(registry::Error::PolicyBlocked { message }) => message,
            Err(error) => return ReconcileError::new(error.reason(), &error, error.class()),
            // Its scan finished in the meantime.
            Ok(_) => {
                let message = "Harbor refused to serve a manifest (412), and served it a moment later";
                return ReconcileError::new(Reason::PullFailed, message, RetryClass::Retry);
            }
        };
        let known = self.cached.status.as_ref().map_or(&[][..], |status| &status.platforms);
        let scan = self.scans(place).of_refused(&message, known).await;
        state_machine::refused(&message, scan.as_ref())
    }

    async fn look(&self, place: &WarmTarget, refresh: bool) -> ImageResult {
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
            Ok(Err(error)) => (ReconcileError::new(error.reason(), &error, error.class()), error.may_be_harbor()),
            Err(_) => {
                let message = format!("Harbor did not report within {} s what it has stored", deadline.as_secs());
                (ReconcileError::new(Reason::HarborUnreachable, message, RetryClass::Retry), true)
            }
        };
        let harbor_answers = harbor_answers(place, may_be_harbor).await;
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

    fn next(&self, place: &WarmTarget, event: ImageEvent<'_>) -> ImageResult {
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

    fn unchanged(&self, requeue: Duration) -> ImageResult {
        ReconcileResult { status: self.cached.status.clone().unwrap_or_default(), requeue, notes: Vec::new() }
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

/// Returns whether Harbor itself answers. It is asked only if Harbor may be the cause of a failure; if it does not answer, the
/// circuit breaker opens, and no other image is pulled either.
async fn harbor_answers(place: &WarmTarget, may_be_harbor: bool) -> bool {
    !may_be_harbor || place.resolved.puller.client().transport().ping().await
}

/// Attributes a failure that Harbor may have caused: to Harbor if it does not answer; otherwise to the upstream or the single
/// image, which affects no other image.
fn attributed(failure: ReconcileError, harbor_answers: bool) -> ReconcileError {
    if !harbor_answers {
        let class = if failure.class == RetryClass::Stalled { RetryClass::Retry } else { failure.class };
        return ReconcileError { reason: Reason::HarborUnreachable, class, ..failure };
    }
    if failure.reason != Reason::HarborUnreachable {
        return failure;
    }
    let message =
        format!("{}; Harbor itself answers, so the upstream of this image is the likely cause", failure.message);
    ReconcileError { reason: Reason::PullFailed, message, ..failure }
}

/// Includes the address of its Harbor.
fn repository(resolved: &Resolved, target: &Target) -> String {
    format!("{}/{}", resolved.puller.client().transport().address(), target.path())
}
