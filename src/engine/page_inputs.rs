//! The content of the status pages.

use std::{cmp::Reverse, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use super::instruments::Instruments;
use crate::{
    active_config::ActiveConfig,
    api::{CachedImage, CachedImageStatus, ConditionType, condition},
    rewrite,
    status_page::{self, LIMIT, PageContent, PageImage, PageRule, PageRules},
    summary::{NOT_OBSERVED, SummaryBuilder},
    telemetry::{logs::LogControl, recent_errors::RecentErrors},
};

/// What a page shows besides resources.
#[derive(Clone)]
pub struct PageInputs {
    /// Start time of the process.
    pub started: Timestamp,
    /// The log filter.
    pub logs: LogControl,
    /// The last warnings and errors.
    pub troubles: RecentErrors,
}

/// Builds the status page of the controller.
pub fn of_controller(meters: Instruments, about: PageInputs) -> axum::Router {
    status_page::router(Arc::new(move || {
        let mut content = about.content("controller");
        let leads = meters.leads();
        content.facts.push(("Leads", if leads { "yes" } else { "no, another replica leads" }.to_owned()));
        add_controller(&mut content, &meters);
        content
    }))
}

/// Builds the status page of the webhook.
pub fn of_webhook(in_force: ActiveConfig, about: PageInputs) -> axum::Router {
    status_page::router(Arc::new(move || {
        let mut content = about.content("webhook");
        add_webhook(&mut content, &in_force);
        content
    }))
}

/// Builds the status page of a process that is controller and webhook.
pub fn of_standalone(meters: Instruments, in_force: ActiveConfig, about: PageInputs) -> axum::Router {
    status_page::router(Arc::new(move || {
        let mut content = about.content("standalone");
        add_controller(&mut content, &meters);
        add_webhook(&mut content, &in_force);
        content
    }))
}

impl PageInputs {
    fn content(&self, component: &'static str) -> PageContent {
        let facts = vec![
            ("Version", env!("CARGO_PKG_VERSION").to_owned()),
            ("Running since", self.started.strftime("%Y-%m-%d %H:%M UTC").to_string()),
            ("Logged", self.logs.filter()),
        ];
        PageContent { component, facts, troubles: self.troubles.newest(), ..PageContent::default() }
    }
}

fn add_webhook(content: &mut PageContent, in_force: &ActiveConfig) {
    content.rules = Some(rules(&in_force.rules.load()));
    let policies = in_force.policies.load();
    content.facts.push(("Active policies", policies.len().to_string()));
}

fn add_controller(content: &mut PageContent, meters: &Instruments) {
    let Some(seen) = meters.seen.load_full() else { return };
    let (stores, mut survey) = (&seen.stores, SummaryBuilder::new(LIMIT));
    stores.instances.state().iter().for_each(|one| survey.instance(one));
    stores.registries.state().iter().for_each(|one| survey.registry(one));
    stores.projects.state().iter().for_each(|one| survey.project(one));
    stores.rules.state().iter().for_each(|one| survey.replication(one));
    let mut images = stores.images.state();
    images.iter().for_each(|one| survey.image(one));
    content.report = Some(survey.report());
    content.rules = Some(rules(&seen.in_force.rules.load()));
    images.sort_by_cached_key(|image| Reverse(warmed(image)));
    content.images = images.iter().take(LIMIT).map(|image| line(image)).collect();
}

fn warmed(image: &CachedImage) -> Option<Timestamp> {
    Some(image.status.as_ref()?.warmed_at.as_ref()?.0)
}

fn line(image: &CachedImage) -> PageImage {
    let status = image.status.as_ref();
    let conditions = status.map_or(&[][..], |status| &status.conditions);
    let ready = condition::find(conditions, ConditionType::Ready);
    let at_harbor = status.and_then(|status| status.image.as_ref()).unwrap_or(&image.spec.image);
    PageImage {
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

fn rules(rules: &rewrite::Rules) -> PageRules {
    let items = rules.targets().iter().take(LIMIT).map(|target| PageRule {
        name: target.name().to_string(),
        target: format!("{}/{}", target.pull_host(), target.project()),
        mode: format!("{:?}", target.mode()),
        waits: target.waits(),
    });
    let findings = rules.findings().iter().take(LIMIT).map(ToString::to_string);
    PageRules { total: rules.len(), items: items.collect(), findings: findings.collect() }
}
