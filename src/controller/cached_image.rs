//! CachedImage: resolved to its ProxyProject, and warmed and verified step by step (see [`crate::prewarm`]).

use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::{Directory, Instances, Note, Outcome, Reconciler};
use crate::{
    api::{CachedImage, CachedImageStatus, Platform},
    image::ImageRef,
    prewarm::{self, Context, Progress, Resolved, ScanTerms, Surroundings, Timing, Unresolved},
    rewrite::{Decision, Rules},
};

/// Who watches the pulls, if anybody does.
pub type Watcher = Arc<dyn Fn(&CachedImage) -> Arc<dyn Progress> + Send + Sync>;

/// Reconciles CachedImages.
pub struct Images {
    context: Context,
    places: Arc<Places>,
}

/// What images are resolved with.
struct Places {
    directory: Arc<dyn Directory>,
    instances: Arc<Instances>,
    rules: Arc<ArcSwap<Rules>>,
    watcher: Option<Watcher>,
}

impl Images {
    /// Resolves with these rules, which are those of the webhook.
    pub fn new(
        directory: Arc<dyn Directory>,
        instances: Arc<Instances>,
        rules: Arc<ArcSwap<Rules>>,
        timing: Timing,
        watcher: Option<Watcher>,
    ) -> Self {
        let places = Arc::new(Places { directory, instances, rules, watcher });
        Self { context: Context { timing, ..Context::new(places.clone()) }, places }
    }
}

impl Reconciler<CachedImage> for Images {
    async fn reconcile(&self, object: &CachedImage, now: Timestamp) -> Outcome<CachedImageStatus> {
        // Resolving reads connections from memory; this is what puts them there.
        if let Some(instance) = self.places.instance_of(&object.spec.image) {
            self.places.instances.connect(self.places.directory.as_ref(), &instance).await.ok();
        }
        let outcome = prewarm::reconcile(object, &self.context, now).await;
        let notes = outcome.notes.into_iter();
        let notes = notes.map(|note| Note { warning: note.warning, reason: note.reason, message: note.message });
        Outcome { status: outcome.status, requeue: outcome.requeue, notes: notes.collect() }
    }
}

impl Places {
    fn instance_of(&self, image: &str) -> Option<String> {
        let (_, project) = self.locate(&ImageRef::parse(image).ok()?)?;
        let project = self.directory.proxy_project(&project)?;
        Some(project.spec.harbor_ref.name.clone())
    }

    /// The image at Harbor, and the ProxyProject that it belongs to.
    fn locate(&self, image: &ImageRef) -> Option<(ImageRef, String)> {
        match self.rules.load().find_for_anyone(image) {
            Decision::Rewritten { image, rule } => Some((image, rule.name().to_string())),
            Decision::AlreadyAtHarbor { rule: Some(rule) } => Some((image.clone(), rule.name().to_string())),
            _ => None,
        }
    }
}

impl Surroundings for Places {
    fn resolve(&self, text: &str) -> Result<Resolved, Unresolved> {
        let image = ImageRef::parse(text).map_err(|error| Unresolved::InvalidImage(error.to_string()))?;
        let not_proxied = || Unresolved::NotProxied(text.to_owned());
        let (image, name) = self.locate(&image).ok_or_else(not_proxied)?;
        let project = self.directory.proxy_project(&name).ok_or_else(not_proxied)?;
        let instance = &project.spec.harbor_ref.name;
        let connection =
            self.instances.known(instance).ok_or_else(|| Unresolved::InstanceNotReady(instance.clone()))?;
        Ok(Resolved {
            image,
            proxy_project: name,
            platforms: project.spec.prewarm.platforms.clone(),
            puller: connection.puller,
            inventory: Arc::new(connection.client),
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

    fn progress(&self, image: &CachedImage) -> Arc<dyn Progress> {
        match &self.watcher {
            Some(watcher) => watcher(image),
            None => Arc::new(()),
        }
    }
}

/// A CachedImage for an image that a Pod asked for.
pub fn offered(offer: &prewarm::Offer) -> CachedImage {
    let spec = crate::api::CachedImageSpec {
        image: offer.image.to_string(),
        platforms: Vec::new(),
        require: crate::api::cached_image::Require::default(),
    };
    let mut image = CachedImage::new(&prewarm::name::cached_image_name(&offer.image), spec);
    let labels = [("app.kubernetes.io/managed-by", "harbor-pilot"), ("harbor-pilot.dev/source", "admission")];
    let annotations = [("harbor-pilot.dev/requested-by", offer.namespace.as_str())];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    image.meta_mut().labels = Some(labels.map(owned).into());
    image.meta_mut().annotations = Some(annotations.map(owned).into());
    image
}

/// Whether images of this ProxyProject are warmed because Pods ask for them.
pub fn wants_offers(directory: &dyn Directory, proxy_project: &str) -> bool {
    use crate::api::proxy_project::PrewarmMode;
    directory.proxy_project(proxy_project).is_some_and(|project| project.spec.prewarm.mode == PrewarmMode::OnAdmission)
}
