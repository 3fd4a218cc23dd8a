//! CachedImage: finds its ProxyProject, then warms and verifies the image step by step (see [`crate::prewarm`]).

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::{Connections, ReconcileResult, Reconciler, ResourceStore, connections::unreachable};
use crate::{
    api::{CachedImage, CachedImageStatus, ConditionType, FoundSeverity, Interval, Platform, condition},
    image::ImageRef,
    prewarm::{
        self, Environment, PrewarmContext, PrewarmTiming, PullProgress, Resolved, ScanTerms, Unresolved, UsageTracker,
        expiry::{self, EXPIRE_AFTER, ExpiryCandidate, ImageOrigin, coarse, stamp},
        usage_tracker::LastUse,
    },
    rewrite::{RuleDecision, Rules},
};

/// Creates the observer of a CachedImage's pulls.
pub type ProgressObserver = Arc<dyn Fn(&CachedImage) -> Arc<dyn PullProgress> + Send + Sync>;

/// Reconciles CachedImages.
pub struct CachedImageReconciler {
    context: PrewarmContext,
    places: Arc<ImageResolver>,
    asked: Arc<UsageTracker>,
}

/// What is needed to find the ProxyProject and the Harbor of an image.
struct ImageResolver {
    directory: Arc<dyn ResourceStore>,
    instances: Arc<Connections>,
    rules: Arc<ArcSwap<Rules>>,
    watcher: Option<ProgressObserver>,
}

impl CachedImageReconciler {
    /// Creates a reconciler that maps images with these rules, the same as the webhook's.
    pub fn new(
        directory: Arc<dyn ResourceStore>,
        instances: Arc<Connections>,
        rules: Arc<ArcSwap<Rules>>,
        timing: PrewarmTiming,
        watcher: Option<ProgressObserver>,
    ) -> Self {
        let places = Arc::new(ImageResolver { directory, instances, rules, watcher });
        let context = PrewarmContext { timing, ..PrewarmContext::new(places.clone()) };
        Self { context, places, asked: Arc::default() }
    }

    /// The records of which namespaces request which images.
    pub fn usage(&self) -> &Arc<UsageTracker> {
        &self.asked
    }
}

impl Reconciler<CachedImage> for CachedImageReconciler {
    async fn reconcile(&self, object: &CachedImage, now: Timestamp) -> ReconcileResult<CachedImageStatus> {
        // Locating an image reads connections from memory; this call stores the connection there.
        if let Some(instance) = self.places.instance_of(&object.spec.image) {
            self.places.instances.connect(self.places.directory.as_ref(), &instance).await.ok();
        }
        let outcome = prewarm::reconcile(object, &self.context, now).await;
        let image = outcome.status.image.as_deref().unwrap_or(&object.spec.image);
        let project = outcome.status.proxy_project.as_deref().unwrap_or_default();
        let lifetime = expire_after(self.places.directory.as_ref(), project);
        let status = stamp(object, outcome.status.clone(), self.asked.last(image).as_ref(), lifetime);
        ReconcileResult { status, requeue: outcome.requeue.min(coarse(lifetime)), notes: outcome.notes }
    }
}

impl ImageResolver {
    fn instance_of(&self, image: &str) -> Option<String> {
        let (_, project) = self.locate(&ImageRef::parse(image).ok()?)?;
        let project = self.directory.proxy_project(&project)?;
        Some(project.spec.harbor_ref.name.clone())
    }

    /// The image at Harbor, and the ProxyProject that it belongs to.
    fn locate(&self, image: &ImageRef) -> Option<(ImageRef, String)> {
        match self.rules.load().find_for_anyone(image) {
            RuleDecision::Rewritten { image, rule } => Some((image, rule.name().to_string())),
            RuleDecision::AlreadyAtHarbor { rule: Some(rule) } => {
                Some((rule.canonical(image), rule.name().to_string()))
            }
            _ => None,
        }
    }
}

impl Environment for ImageResolver {
    fn resolve(&self, text: &str) -> Result<Resolved, Unresolved> {
        let image = ImageRef::parse(text).map_err(|error| Unresolved::InvalidImage(error.to_string()))?;
        let not_proxied = || Unresolved::NotProxied(text.to_owned());
        let (image, name) = self.locate(&image).ok_or_else(not_proxied)?;
        let project = self.directory.proxy_project(&name).ok_or_else(not_proxied)?;
        let instance = &project.spec.harbor_ref.name;
        let connection =
            self.instances.known(instance).ok_or_else(|| Unresolved::InstanceNotReady(instance.clone()))?;
        let upstream = self.directory.registry(&project.spec.registry_ref.name);
        let allowance = upstream.as_deref().map(|registry| self.instances.allowances.of(registry)).unwrap_or_default();
        let away = self.directory.instance(instance).and_then(|found| unreachable(instance, &found));
        let lane = self.instances.lane(&project, upstream.as_deref());
        Ok(Resolved {
            allowance,
            away,
            image,
            proxy_project: name,
            platforms: project.spec.prewarm.platforms.clone(),
            puller: connection.puller.on(lane, project.spec.prewarm.strategy),
            harbor: connection.client,
        })
    }

    fn cluster_platforms(&self) -> Option<Vec<Platform>> {
        Some(self.directory.node_platforms()).filter(|platforms| !platforms.is_empty())
    }

    fn scan_terms(&self, proxy_project: &str) -> ScanTerms {
        let project = self.directory.proxy_project(proxy_project);
        let vulnerabilities = project.as_ref().and_then(|project| project.spec.vulnerabilities.as_ref());
        let blocks = vulnerabilities.is_some_and(|vulnerabilities| vulnerabilities.prevent);
        let scans = vulnerabilities.is_some_and(|vulnerabilities| vulnerabilities.auto_scan);
        let max_age = self.directory.scan_max_age();
        ScanTerms { wanted: blocks || scans || max_age.is_some(), blocks, max_age }
    }

    fn progress(&self, image: &CachedImage) -> Arc<dyn PullProgress> {
        match &self.watcher {
            Some(watcher) => watcher(image),
            None => Arc::new(()),
        }
    }
}

/// How long CachedImages of a ProxyProject that no user created live after the last request for the image.
pub fn expire_after(directory: &dyn ResourceStore, proxy_project: &str) -> Duration {
    let project = directory.proxy_project(proxy_project);
    project.and_then(|project| project.spec.prewarm.expire_after).map_or(EXPIRE_AFTER, Interval::duration)
}

/// The known lifetime of a CachedImage; `None` for one that a user created.
pub fn lifetime_of(
    image: &CachedImage,
    directory: &dyn ResourceStore,
    asked: &UsageTracker,
) -> Option<ExpiryCandidate> {
    if !expiry::is_ours(image.metadata.labels.as_ref()) {
        return None;
    }
    let status = image.status.as_ref();
    let at_harbor = status.and_then(|status| status.image.as_deref()).unwrap_or(&image.spec.image);
    let written = status.and_then(|status| status.last_requested_at.as_ref()).map(|last| last.0);
    let written = written.or(image.metadata.creation_timestamp.as_ref().map(|created| created.0))?;
    let project = status.and_then(|status| status.proxy_project.as_deref()).unwrap_or_default();
    let lifetime = expire_after(directory, project);
    let remembered = asked.last(at_harbor);
    let at = remembered.as_ref().map(|request| request.at);
    let last = expiry::last_used(written, at, asked.begun(), lifetime);
    let expires = last.checked_add(lifetime).ok()?;
    Some(ExpiryCandidate {
        name: image.metadata.name.clone()?,
        image: at_harbor.to_owned(),
        namespaces: namespaces_of(image, remembered.as_ref()),
        last,
        expires,
        ready: status.is_some_and(|status| condition::is_true(&status.conditions, ConditionType::Ready)),
        refused: is_refused(image, directory.scan_ceiling()),
    })
}

/// The namespace that requested the image first, and the latest ones that did.
fn namespaces_of(image: &CachedImage, remembered: Option<&LastUse>) -> Vec<Arc<str>> {
    let first = image.metadata.annotations.as_ref().and_then(|annotations| annotations.get(expiry::REQUESTED_BY));
    let written = image.status.iter().flat_map(|status| &status.requested_by);
    let mut namespaces: Vec<Arc<str>> = first.into_iter().chain(written).map(|name| name.as_str().into()).collect();
    namespaces.extend(remembered.into_iter().flat_map(|request| request.namespaces.iter().cloned()));
    namespaces.sort();
    namespaces.dedup();
    namespaces
}

/// Whether scans found a severity for which an ImagePolicy refuses the image.
fn is_refused(image: &CachedImage, ceiling: Option<FoundSeverity>) -> bool {
    let Some((ceiling, status)) = ceiling.zip(image.status.as_ref()) else { return false };
    let scans = status.platforms.iter().filter_map(|child| child.scan.as_ref()).chain(&status.scan);
    scans.into_iter().filter_map(|scan| scan.severity.as_deref()).any(|word| FoundSeverity::of(word) > ceiling)
}

/// A CachedImage for an image that a Pod requested.
pub fn cached_image_for(offer: &prewarm::PrewarmRequest, source: ImageOrigin) -> CachedImage {
    let spec = crate::api::CachedImageSpec {
        image: offer.image.to_string(),
        platforms: Vec::new(),
        require: crate::api::cached_image::Require::default(),
        refresh_interval: None,
    };
    let mut image = CachedImage::new(&prewarm::name::cached_image_name(&offer.image), spec);
    let labels = [("app.kubernetes.io/managed-by", "harbor-pilot"), (expiry::SOURCE, source.as_str())];
    let annotations = [(expiry::REQUESTED_BY, offer.namespace.as_str())];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    image.meta_mut().labels = Some(labels.map(owned).into());
    image.meta_mut().annotations = Some(annotations.map(owned).into());
    image
}
