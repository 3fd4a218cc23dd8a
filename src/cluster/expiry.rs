//! Deletes CachedImages of ours that nothing has asked for in time, and the oldest where there are too many.
//!
//! Nothing goes before everything that names images was listed since, whole; and each goes only as it was then.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::reflector::ObjectRef,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{
    bounded,
    changes::{Change, Changes},
    demand::Demand,
    directory::ClusterDirectory,
    sources::survey,
};
use crate::{
    api::{CachedImage, Interval, RewriteRuleStatus, condition::since},
    controller::cached_image::lifetime_of,
    image::ImageRef,
    prewarm::lifetime::{self, Cause, EXPIRE_AFTER, Record, choose, is_any_due},
    rewrite::Wanted,
    telemetry::controller::{ControllerMetrics, Expired},
};

/// Parts of the shortest lifetime: so often it is looked whether something is to go.
const LOOKS: u32 = 24;
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(600);
/// Rules that change within this time are looked at together.
const TOGETHER: Duration = Duration::from_secs(5);
/// Whoever asked so short a while before its CachedImage went may have relied on it.
const JUST_NOW: Duration = Duration::from_secs(30);

/// What keeps the number of CachedImages small.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) demand: Arc<Demand>,
    pub(super) directory: Arc<ClusterDirectory>,
    /// CachedImages of ours at most.
    pub(super) most: usize,
    /// Told when ProxyProjects changed.
    pub(super) changed: Arc<Notify>,
    pub(super) metrics: ControllerMetrics,
}

impl Keeper {
    /// Goes on until dropped. `changes` are those of the CachedImages.
    pub(super) async fn run(&self, changes: &Changes<CachedImage>) {
        tokio::join!(self.watch_over(), self.bring_back(changes));
    }

    async fn watch_over(&self) {
        let mut rules = self.rules();
        let mut next = Instant::now() + self.pause();
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    self.sweep().await;
                    next = Instant::now() + self.pause();
                }
                () = self.changed.notified() => {
                    sleep(TOGETHER).await;
                    // A lifetime may be shorter now.
                    next = next.min(Instant::now() + self.pause());
                    let now = self.rules();
                    if now == rules {
                        continue;
                    }
                    // What is there may need what it did not need before.
                    match survey(&self.client, &self.demand, &HashSet::new()).await {
                        Ok(_) => rules = now,
                        Err(error) => {
                            tracing::warn!(%error, "images of new rules are looked for again");
                            self.changed.notify_one();
                        }
                    }
                }
            }
        }
    }

    /// Looks once whether something is to go.
    async fn sweep(&self) {
        let records = self.records();
        if !is_any_due(&records, self.most, Timestamp::now()) {
            return;
        }
        let images = records.iter().map(|record| record.image.clone()).collect();
        let in_use = match survey(&self.client, &self.demand, &images).await {
            Ok(in_use) => in_use,
            Err(error) => return tracing::warn!(%error, "nothing expires until it is known what is in use"),
        };
        // What was asked for meanwhile is younger now.
        let records = self.records();
        let chosen = choose(&records, &in_use, self.most, Timestamp::now());
        let (mut unused, mut too_many) = (0, 0);
        for (record, cause) in chosen {
            if self.delete(record, cause).await {
                match cause {
                    Cause::Unused => unused += 1,
                    Cause::TooMany => too_many += 1,
                }
            }
        }
        self.metrics.count_expired(Expired::Unused, unused);
        self.metrics.count_expired(Expired::TooMany, too_many);
        let left = records.len().saturating_sub(unused + too_many);
        tracing::info!(unused, too_many, in_use = in_use.len(), left, most = self.most, "expired CachedImages");
        if left > self.most {
            tracing::warn!(left, most = self.most, "more images are in use than CachedImages are meant to be kept");
        }
    }

    async fn delete(&self, record: &Record, cause: Cause) -> bool {
        let Some(image) = self.demand.images.get(&ObjectRef::new(&record.name)) else { return false };
        if self.record(&image).as_ref() != Some(record) {
            return false;
        }
        let preconditions = Preconditions { uid: image.uid(), resource_version: image.resource_version() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<CachedImage> = Api::all(self.client.clone());
        match bounded("deleting a CachedImage", api.delete(&record.name, &parameters)).await {
            Ok(_) => {
                tracing::info!(name = record.name, image = record.image, last = %record.last, ?cause, "expired");
                true
            }
            Err(error) => {
                // It changed meanwhile, or somebody else deleted it.
                if !error.is_conflict() && !error.is_not_found() {
                    tracing::warn!(%error, name = record.name, "tried again at the next look");
                }
                false
            }
        }
    }

    /// What was asked for while its CachedImage was on its way out is offered anew.
    async fn bring_back(&self, changes: &Changes<CachedImage>) {
        let mut changes = changes.follow().boxed();
        while let Some(change) = changes.next().await {
            let Change::One(image) = change else { continue };
            let gone = self.demand.images.get(&ObjectRef::from_obj(image.as_ref())).is_none();
            if !gone || !lifetime::is_ours(image.metadata.labels.as_ref()) {
                continue;
            }
            let Some(request) = self.demand.asked.last(&image.spec.image) else { continue };
            let age = since(request.at, Timestamp::now());
            let project = image.status.as_ref().and_then(|status| status.proxy_project.as_deref());
            if let (true, Some(project), Ok(parsed)) = (age < JUST_NOW, project, ImageRef::parse(&image.spec.image)) {
                let namespace = request.namespaces.first().map(AsRef::as_ref).unwrap_or_default();
                self.demand.offer(namespace, &[Wanted { image: parsed, proxy_project: project.into() }]).await;
            }
        }
    }

    /// Those that may be deleted.
    fn records(&self) -> Vec<Record> {
        self.demand.images.state().iter().filter_map(|image| self.record(image)).collect()
    }

    fn record(&self, image: &CachedImage) -> Option<Record> {
        lifetime_of(image, self.directory.as_ref(), &self.demand.asked)
    }

    fn pause(&self) -> Duration {
        let projects = self.directory.projects.state();
        let lifetimes = projects.iter().filter_map(|project| project.spec.prewarm.expire_after);
        let shortest = lifetimes.map(Interval::duration).min().unwrap_or(EXPIRE_AFTER);
        (shortest / LOOKS).clamp(OFTEN, SELDOM)
    }

    /// What says which images lie where.
    fn rules(&self) -> Vec<(String, Option<RewriteRuleStatus>)> {
        let mut rules: Vec<_> = self
            .directory
            .projects
            .state()
            .iter()
            .map(|project| (project.name_any(), project.serving_rule().cloned()))
            .collect();
        rules.sort_by(|one, other| one.0.cmp(&other.0));
        rules
    }
}
