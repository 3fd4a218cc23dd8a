//! One step in the life of one CachedImage: what the controller calls, and what standalone mode calls.
//!
//! Bounded: a pull ends at its deadline and goes on with the next attempt, and nothing waits here for Harbor to store.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;

use super::{
    life::{self, Event, Failure, Next, Setting, Step, Timing},
    puller::{Progress, Puller, WarmError, list},
    scan::Terms,
    scanner::Scans,
    select::takes,
    target::Target,
    verify::{self, Depth, Inventory, LookError, Question, Verdict},
};
use crate::{
    api::{
        CachedImage, CachedImageStatus, ConditionType, Platform, Reason, ScanStatus, cached_image::PlatformStatus,
        condition,
    },
    image::ImageRef,
    registry::{self, Class},
};

/// While nobody has told a platform, or the HarborInstance is not ready: no failure of the image, so no growing pause.
const SOON: Duration = Duration::from_secs(15);

/// What an image needs of the world around it.
pub trait Surroundings: Send + Sync {
    /// Maps `spec.image` to a managed proxy project, from memory.
    ///
    /// # Errors
    /// [`Unresolved`] when that is not possible now.
    fn resolve(&self, image: &str) -> Result<Resolved, Unresolved>;

    /// The platforms of the cluster's nodes; `None` while none is known. Empty means all platforms of an image.
    fn cluster_platforms(&self) -> Option<Vec<Platform>>;

    /// What is wanted of the scans of images of a ProxyProject. Nothing, unless somebody goes by them.
    fn scan_terms(&self, proxy_project: &str) -> Terms {
        let _ = proxy_project;
        Terms::default()
    }

    /// Who is told how the pull of an image comes along.
    fn progress(&self, image: &CachedImage) -> Arc<dyn Progress> {
        let _ = image;
        Arc::new(())
    }
}

/// Where an image is warmed.
#[derive(Clone)]
pub struct Resolved {
    /// The image at Harbor.
    pub image: ImageRef,
    /// Name of the ProxyProject resource.
    pub proxy_project: String,
    /// `spec.prewarm.platforms` of that ProxyProject; empty: those of the cluster.
    pub platforms: Vec<Platform>,
    /// Pulls through the Harbor of that ProxyProject.
    pub puller: Puller,
    /// Lists what that Harbor stores.
    pub inventory: Arc<dyn Inventory>,
}

/// Why an image cannot be warmed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It is no image reference.
    #[error("the image is not valid: {0}")]
    InvalidImage(String),
    /// No rule maps it, and it names no managed proxy project.
    #[error("no ProxyProject that serves maps {0}: create one, or wait for it to be Ready")]
    NotProxied(String),
    /// The Harbor of its ProxyProject cannot be used yet.
    #[error("HarborInstance {0} is not ready")]
    InstanceNotReady(String),
}

/// What does not change from image to image.
#[derive(Clone)]
pub struct Context {
    /// The world around.
    pub surroundings: Arc<dyn Surroundings>,
    /// How long what takes.
    pub timing: Timing,
    /// One attempt to pull may take that long. Default 10 min.
    pub warm_deadline: Duration,
    /// One look at Harbor may take that long. Default 60 s.
    pub look_deadline: Duration,
}

impl Context {
    /// A context with the default bounds.
    pub fn new(surroundings: Arc<dyn Surroundings>) -> Self {
        Self {
            surroundings,
            timing: Timing::default(),
            warm_deadline: Duration::from_secs(600),
            look_deadline: Duration::from_secs(60),
        }
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The whole status; equal to the old one when nothing changed.
    pub status: CachedImageStatus,
    /// Come back after that time, or when the image changes.
    pub requeue: Duration,
    /// What a person should be told, for an Event each.
    pub notes: Vec<Note>,
}

/// Something to tell a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Type `Warning`, else `Normal`.
    pub warning: bool,
    /// The reason that Ready has now.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Does for `cached` what is to be done at `now`.
pub async fn reconcile(cached: &CachedImage, context: &Context, now: Timestamp) -> Outcome {
    let old = cached.status.clone().unwrap_or_default();
    let run = Run { cached, context, now, started: Instant::now() };
    let next = run.step().await;
    let notes = told(&old, &next.status).into_iter().collect();
    Outcome { status: next.status, requeue: next.requeue, notes }
}

/// One step under way.
struct Run<'a> {
    cached: &'a CachedImage,
    context: &'a Context,
    now: Timestamp,
    started: Instant,
}

/// An image that can be warmed.
struct Place {
    resolved: Resolved,
    target: Target,
    platforms: Vec<Platform>,
}

/// Why one cannot, and where it would be.
struct Unplaced {
    failure: Failure,
    resolved: Option<Resolved>,
}

impl Unplaced {
    fn boxed(failure: Failure, resolved: Option<Resolved>) -> Box<Self> {
        Box::new(Self { failure, resolved })
    }
}

/// What a look found.
enum Sight {
    Verdict(Verdict),
    Moved(String),
}

impl Run<'_> {
    async fn step(&self) -> Next {
        let place = match self.place() {
            Ok(place) => place,
            Err(why) => return self.unplaced(&why),
        };
        match life::step(self.cached, place.resolved.image.as_str(), self.now) {
            Step::Idle(pause) => Next { status: self.cached.status.clone().unwrap_or_default(), requeue: pause },
            Step::Begin => {
                let platforms = &place.platforms;
                let wanted = if platforms.is_empty() { "all platforms".to_owned() } else { list(platforms) };
                self.next(&place, Event::Begun(&format!("pulling {} for {wanted}", place.resolved.image)))
            }
            Step::Warm => self.warm(&place).await,
            Step::Look => self.look(&place, false).await,
            Step::Refresh => self.look(&place, true).await,
        }
    }

    fn place(&self) -> Result<Place, Box<Unplaced>> {
        let surroundings = &self.context.surroundings;
        let resolved =
            surroundings.resolve(&self.cached.spec.image).map_err(|why| Unplaced::boxed(unresolved(&why), None))?;
        let target = Target::new(&resolved.image).map_err(|error| {
            let failure = Failure { reason: Reason::InvalidImage, message: error.to_string(), class: Class::Stalled };
            Unplaced::boxed(failure, None)
        })?;
        let own = [&self.cached.spec.platforms, &resolved.platforms].into_iter().find(|list| !list.is_empty());
        match own.cloned().or_else(|| surroundings.cluster_platforms()) {
            Some(platforms) => Ok(Place { resolved, target, platforms }),
            None => {
                let message = "no node has told its platform yet, and neither image nor ProxyProject lists platforms";
                let failure = Failure {
                    reason: Reason::PlatformsUnknown,
                    message: message.to_owned(),
                    class: Class::Wait(Some(SOON)),
                };
                Err(Unplaced::boxed(failure, Some(resolved)))
            }
        }
    }

    /// An image that cannot be warmed keeps its status as long as that is why, until the next attempt is due.
    fn unplaced(&self, unplaced: &Unplaced) -> Next {
        let Unplaced { failure, resolved } = unplaced;
        if let Some(status) = &self.cached.status {
            let same = life::ready_reason(status) == Some(format!("{:?}", failure.reason).as_str())
                && status.observed_generation == self.cached.metadata.generation;
            let pause = status.next_attempt_at.as_ref().map(|next| next.0.duration_since(self.now));
            if let Some(pause) = pause.filter(|pause| same && pause.is_positive()) {
                return Next { status: status.clone(), requeue: Duration::try_from(pause).unwrap_or(SOON) };
            }
        }
        let (image, project) =
            resolved.as_ref().map_or(("", ""), |found| (found.image.as_str(), found.proxy_project.as_str()));
        life::next(self.cached, Event::Failed(failure), &self.setting(image, project, false, &[]))
    }

    async fn warm(&self, place: &Place) -> Next {
        let deadline = self.context.warm_deadline;
        let progress = self.context.surroundings.progress(self.cached);
        let pull = place.resolved.puller.warm(&place.target, &place.platforms, progress.as_ref());
        let pulled = tokio::time::timeout(deadline, pull).await.unwrap_or(Err(WarmError::Deadline(deadline)));
        match pulled {
            Ok(warmed) => self.next(place, Event::Warmed(&warmed)),
            Err(WarmError::Pull(registry::Error::PolicyBlocked { message })) => {
                let why = tokio::time::timeout(self.context.look_deadline, self.refused(place, &message)).await;
                let (message, scan) = why.unwrap_or((message, None));
                self.next(place, Event::Failed(&life::refused(&message, scan.as_ref())))
            }
            Err(error) => {
                let failure = Failure { reason: error.reason(), message: error.to_string(), class: error.class() };
                self.next(place, Event::Failed(&failure))
            }
        }
    }

    /// What the registry says of a pull that it refuses (412), and what is known of the scan that it waits for.
    async fn refused(&self, place: &Place, message: &str) -> (String, Option<ScanStatus>) {
        let client = place.resolved.puller.client();
        // An answer to HEAD has no message.
        let asked = client.manifest(&place.target.path(), place.target.reference()).await;
        let message = match asked {
            Err(registry::Error::PolicyBlocked { message }) => message,
            _ => message.to_owned(),
        };
        let known = self.cached.status.as_ref().map_or(&[][..], |status| &status.platforms);
        let scan = self.scans(place).of_refused(&message, known).await;
        (message, scan)
    }

    async fn look(&self, place: &Place, refresh: bool) -> Next {
        let deadline = self.context.look_deadline;
        let failure = match tokio::time::timeout(deadline, self.see(place, refresh)).await {
            Ok(Ok(Sight::Verdict(verdict))) => return self.next(place, Event::Looked(&verdict)),
            Ok(Ok(Sight::Moved(why))) => {
                let mut next = self.next(place, Event::Begun(&why));
                // What is known of the old image is not known of what the tag points to.
                next.status.digest = None;
                return next;
            }
            Ok(Err(error)) => Failure { reason: error.reason(), message: error.to_string(), class: error.class() },
            Err(_) => Failure {
                reason: Reason::HarborUnreachable,
                message: format!("Harbor did not say within {} s what it has stored", deadline.as_secs()),
                class: Class::Retry,
            },
        };
        self.next(place, Event::LookFailed(&failure))
    }

    async fn see(&self, place: &Place, refresh: bool) -> Result<Sight, LookError> {
        let target = &place.target;
        let status = self.cached.status.clone().unwrap_or_default();
        let digest = status.digest.unwrap_or_default();
        let question = Question {
            digest: &digest,
            tag: target.tag(),
            index_children: status.index_children,
            wanted: &status.platforms,
        };
        let artifacts = place.resolved.inventory.artifacts(target.project(), target.repository()).await?;
        if refresh && let Some(tag) = target.tag() {
            // Without an answer for the tag, what is stored still stands.
            let answered = place.resolved.puller.resolve(target).await.ok();
            if let Some(moved) = answered.filter(|answered| !verify::still_is(&question, answered, &artifacts)) {
                return Ok(Sight::Moved(format!("the tag {tag} moved from {digest} to {moved}")));
            }
        }
        let scans = self.scans(place);
        let blocked = condition::is_true(&status.conditions, ConditionType::PullBlocked);
        let depth = match (refresh, blocked || scans.terms.blocks) {
            (true, _) => Depth::All,
            (false, true) => Depth::Permitted,
            (false, false) => Depth::New,
        };
        let client = place.resolved.puller.client();
        let mut verdict = verify::look(&question, target, client, &artifacts, depth).await?;
        let warmed = status.warmed_at.as_ref().map_or(self.now, |time| time.0);
        verdict.scans = scans.after_look(&status.platforms, &artifacts, &verdict.refused, warmed).await;
        Ok(Sight::Verdict(verdict))
    }

    fn scans<'s>(&'s self, place: &'s Place) -> Scans<'s> {
        Scans {
            inventory: place.resolved.inventory.as_ref(),
            target: &place.target,
            terms: self.context.surroundings.scan_terms(&place.resolved.proxy_project),
            timing: &self.context.timing,
            now: self.now,
        }
    }

    fn next(&self, place: &Place, event: Event<'_>) -> Next {
        let missing = match &self.cached.status {
            Some(status) if status.index_children.is_some() => missing(&place.platforms, &status.platforms),
            _ => Vec::new(),
        };
        let pinned = place.target.tag().is_none();
        let setting = self.setting(place.resolved.image.as_str(), &place.resolved.proxy_project, pinned, &missing);
        life::next(self.cached, event, &setting)
    }

    fn setting<'s>(
        &'s self,
        image: &'s str,
        proxy_project: &'s str,
        pinned: bool,
        missing: &'s [Platform],
    ) -> Setting<'s> {
        // The moment is that of the end of the step: a pull takes its time.
        let now = self.now.checked_add(self.started.elapsed()).unwrap_or(self.now);
        Setting { image, proxy_project, pinned, missing, now, jitter: jitter(), timing: &self.context.timing }
    }
}

fn unresolved(why: &Unresolved) -> Failure {
    let (reason, class) = match why {
        Unresolved::InvalidImage(_) => (Reason::InvalidImage, Class::Stalled),
        Unresolved::NotProxied(_) => (Reason::NotProxied, Class::Wait(Some(SOON * 2))),
        Unresolved::InstanceNotReady(_) => (Reason::InstanceNotReady, Class::Wait(Some(SOON))),
    };
    Failure { reason, message: why.to_string(), class }
}

/// The wanted platforms that none of the pulled manifests is for.
fn missing(wanted: &[Platform], pulled: &[PlatformStatus]) -> Vec<Platform> {
    let serves = |platform: &Platform| {
        let wanted = std::slice::from_ref(platform);
        pulled.iter().any(|child| takes(wanted, child.platform.parse::<Platform>().ok().as_ref()))
    };
    wanted.iter().filter(|platform| !serves(platform)).cloned().collect()
}

/// A note when Ready has another reason than before.
fn told(old: &CachedImageStatus, new: &CachedImageStatus) -> Option<Note> {
    let ready = condition::find(&new.conditions, ConditionType::Ready)?;
    if life::ready_reason(old) == Some(ready.reason.as_str()) {
        return None;
    }
    // What waits for another resource comes by itself.
    let expected = [
        Reason::Warming,
        Reason::Verifying,
        Reason::Warm,
        Reason::NotProxied,
        Reason::InstanceNotReady,
        Reason::PlatformsUnknown,
        Reason::Scanning,
        Reason::NotScanned,
    ];
    let warning = !expected.iter().any(|reason| format!("{reason:?}") == ready.reason);
    Some(Note { warning, reason: ready.reason.clone(), message: ready.message.clone() })
}

/// From 0 to 1, so that images that failed together do not come back together.
fn jitter() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 11;
    random as f64 / (1_u64 << 53) as f64
}
