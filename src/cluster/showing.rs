//! The content of the status pages.

use std::{cmp::Reverse, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use super::meters::{Meters, Seen};
use crate::{
    api::{CachedImage, CachedImageStatus, ConditionType, condition},
    in_force::InForce,
    rewrite,
    status_page::{self, Content, Image, LIMIT, Rule, Rules},
    survey::{NOT_OBSERVED, Survey},
    telemetry::{logs::LogControl, troubles::Troubles},
};

/// What a page shows besides resources.
#[derive(Clone)]
pub struct About {
    /// Start time of the process.
    pub started: Timestamp,
    /// The log filter.
    pub logs: LogControl,
    /// The last warnings and errors.
    pub troubles: Troubles,
}

/// Builds the status page of the controller.
pub fn of_controller(meters: Meters, about: About) -> axum::Router {
    status_page::router(Arc::new(move || {
        let mut content = about.content("controller");
        let leads = meters.leads();
        content.facts.push(("Leads", if leads { "yes" } else { "no, another replica does" }.to_owned()));
        if let Some(seen) = meters.seen.load_full() {
            fill(&mut content, &seen);
        }
        content
    }))
}

/// Builds the status page of the webhook.
pub fn of_webhook(in_force: InForce, about: About) -> axum::Router {
    status_page::router(Arc::new(move || {
        let mut content = about.content("webhook");
        content.rules = Some(rules(&in_force.rules.load()));
        let policies = in_force.policies.load();
        content.facts.push(("Policies in force", policies.len().to_string()));
        content
    }))
}

impl About {
    fn content(&self, component: &'static str) -> Content {
        let facts = vec![
            ("Version", env!("CARGO_PKG_VERSION").to_owned()),
            ("Running since", self.started.strftime("%Y-%m-%d %H:%M UTC").to_string()),
            ("Logged", self.logs.filter()),
        ];
        Content { component, facts, troubles: self.troubles.newest(), ..Content::default() }
    }
}

fn fill(content: &mut Content, seen: &Seen) {
    let (directory, mut survey) = (&seen.directory, Survey::new(LIMIT));
    directory.instances.state().iter().for_each(|one| survey.instance(one));
    directory.registries.state().iter().for_each(|one| survey.registry(one));
    directory.projects.state().iter().for_each(|one| survey.project(one));
    directory.rules.state().iter().for_each(|one| survey.replication(one));
    let mut images = seen.images.state();
    images.iter().for_each(|one| survey.image(one));
    content.report = Some(survey.report());
    content.rules = Some(rules(&seen.in_force.rules.load()));
    images.sort_by_cached_key(|image| Reverse(warmed(image)));
    content.images = images.iter().take(LIMIT).map(|image| line(image)).collect();
}

fn warmed(image: &CachedImage) -> Option<Timestamp> {
    Some(image.status.as_ref()?.warmed_at.as_ref()?.0)
}

fn line(image: &CachedImage) -> Image {
    let status = image.status.as_ref();
    let conditions = status.map_or(&[][..], |status| &status.conditions);
    let ready = condition::find(conditions, ConditionType::Ready);
    let at_harbor = status.and_then(|status| status.image.as_ref()).unwrap_or(&image.spec.image);
    Image {
        image: at_harbor.clone(),
        ready: ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
        reason: ready.map_or_else(|| NOT_OBSERVED.to_owned(), |ready| ready.reason.clone()),
        bytes: status.map_or(0, CachedImageStatus::stored_bytes),
        offline: (
            condition::is_true(conditions, ConditionType::OfflineByTag),
            condition::is_true(conditions, ConditionType::OfflineByDigest),
        ),
        warmed: warmed(image),
    }
}

fn rules(rules: &rewrite::Rules) -> Rules {
    let items = rules.targets().iter().take(LIMIT).map(|target| Rule {
        name: target.name().to_string(),
        target: format!("{}/{}", target.pull_host(), target.project()),
        mode: format!("{:?}", target.mode()),
        waits: target.waits(),
    });
    let findings = rules.findings().iter().take(LIMIT).map(ToString::to_string);
    Rules { total: rules.len(), items: items.collect(), findings: findings.collect() }
}
