//! Compiled rules: they decide where an image goes, at a cost that does not grow with the number of rules.

mod host;
mod overlap;
mod rule_warning;
mod target;

use std::borrow::Cow;
use std::collections::HashMap;

use self::host::{HostMatches, HostRules, docker_hub_image, read_match};
use super::limits::StepBudget;
use super::pod_scope::PodScope;
use crate::api::proxy_project::{RewriteMode, RewriteTerms};
use crate::image::{DOCKER_HUB, ImageRef, canonical_host as lower};

pub(super) use self::overlap::Reach;
pub use self::rule_warning::RuleWarning;
pub use self::target::RewriteTarget;

/// The rule of a ProxyProject.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Name of the ProxyProject.
    pub name: String,
    /// Creation time, in seconds since 1970-01-01 UTC: of two rules with the same match the older one wins, then the name.
    pub created: i64,
    /// Hosts, or hosts and leading path, of the images to rewrite: `docker.io`, `ghcr.io/acme`, `host:5000/team/app`.
    pub matches: Vec<String>,
    /// Those of `matches` that name this project at another Harbor: the rule replaces host and path, and drops the path.
    pub replaces: Vec<String>,
    /// Whether the upstream is Docker Hub: Harbor serves a repository of one component from `library/`.
    pub docker_hub: bool,
    /// Harbor's `host[:port]` in image references.
    pub pull_host: String,
    /// The proxy-cache project in Harbor.
    pub project: String,
    /// Which images are rewritten, for which Pods and when.
    pub terms: RewriteTerms,
    /// Whether Harbor is unavailable now.
    pub unavailable: bool,
}

/// Keys come from rules, which administrators write, so no tenant can make them collide.
type RuleMap<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// All active rules: immutable, swapped as a whole when one changes.
#[derive(Debug, Default)]
pub struct Rules {
    targets: Vec<RewriteTarget>,
    /// By lower-case host: one lookup finds whether an image is at Harbor, or the rules for its host.
    hosts: RuleMap<HostRules>,
    findings: Vec<RuleWarning>,
}

/// The decision of the rules on one image.
#[derive(Debug)]
pub enum RuleDecision<'r> {
    /// The image is pulled from Harbor instead.
    Rewritten {
        /// The image at Harbor: the same repository, tag and digest under host and project.
        image: ImageRef,
        /// The rule that decides.
        rule: &'r RewriteTarget,
    },
    /// The image is not modified: the rule only maps it to its name at Harbor (`rewrite.mode: Disabled`).
    Mapped {
        /// The image at Harbor.
        image: ImageRef,
        /// The rule that decides.
        rule: &'r RewriteTarget,
    },
    /// A rule matches, but Harbor is unavailable, and the rule does not rewrite images then.
    Unavailable {
        /// The rule that matches.
        rule: &'r RewriteTarget,
    },
    /// The image already names Harbor and is not modified.
    AlreadyAtHarbor {
        /// The rule for the image's project, if it is a managed project.
        rule: Option<&'r RewriteTarget>,
    },
    /// A rule matches, but the rewritten repository is too long for a reference. The image is not modified.
    TooLong {
        /// The rule that matches.
        rule: &'r RewriteTarget,
    },
    /// No rule matches the image.
    NoRule,
}

impl Rules {
    /// Compiles rules, given in any order. Skips invalid parts and lists them in [`Rules::findings`].
    pub fn compile(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut rules: Vec<Rule> = rules.into_iter().collect();
        rules.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));

        let mut compiled = Self::default();
        let mut usable = Vec::with_capacity(rules.len());
        for rule in &rules {
            match RewriteTarget::compile(rule) {
                Ok(target) => {
                    compiled.add_target(target);
                    usable.push(rule);
                }
                Err(finding) => compiled.findings.push(finding),
            }
        }
        for (index, rule) in usable.into_iter().enumerate() {
            for matched in &rule.matches {
                compiled.add_match(index, rule, matched);
            }
        }
        compiled
    }

    /// Decides on an image of a Pod: of the rules that match both, the one with the longest match wins, by whole components
    /// of host and path.
    ///
    /// Hosts are compared without regard to case, as DNS does; only `docker.io` must be in lower case, because no runtime
    /// knows another spelling.
    pub fn find(&self, image: &ImageRef, subject: &PodScope<'_>) -> RuleDecision<'_> {
        self.find_within(image, subject, &StepBudget::unlimited())
    }

    /// The same within a budget. After the budget is exhausted no rule matches any image.
    pub fn find_within(&self, image: &ImageRef, subject: &PodScope<'_>, budget: &StepBudget) -> RuleDecision<'_> {
        let speaks_of = |target: &RewriteTarget, image: &ImageRef| target.covers(image, subject);
        match self.search(image, budget, speaks_of) {
            RuleDecision::Rewritten { rule, .. } if rule.waits() => RuleDecision::Unavailable { rule },
            RuleDecision::Rewritten { image, rule } if rule.mode() == RewriteMode::Disabled => {
                RuleDecision::Mapped { image, rule }
            }
            decision => decision,
        }
    }

    /// Returns where an image is at Harbor, for any Pod and any state of Harbor: ignores selectors and modes, and never
    /// returns [`RuleDecision::Mapped`] or [`RuleDecision::Unavailable`].
    pub fn find_for_anyone(&self, image: &ImageRef) -> RuleDecision<'_> {
        self.find_for_anyone_within(image, &StepBudget::unlimited())
    }

    /// The same within a budget. After the budget is exhausted no rule matches any image.
    pub fn find_for_anyone_within(&self, image: &ImageRef, budget: &StepBudget) -> RuleDecision<'_> {
        self.search(image, budget, |target, image| target.exclude().matching(image).is_none())
    }

    /// Returns the canonical reference of an image at Harbor, for any Pod and any spelling: the result of a rule, or
    /// [`RewriteTarget::canonical`] for an image that names a managed project. `None` for any other image.
    pub fn canonical_for_anyone(&self, image: &ImageRef) -> Option<ImageRef> {
        self.canonical_for_anyone_within(image, &StepBudget::unlimited())
    }

    /// The same within a budget. After the budget is exhausted the result is `None`.
    pub fn canonical_for_anyone_within(&self, image: &ImageRef, budget: &StepBudget) -> Option<ImageRef> {
        match self.find_for_anyone_within(image, budget) {
            RuleDecision::Rewritten { image, .. } => Some(image),
            RuleDecision::AlreadyAtHarbor { rule: Some(rule) } => Some(rule.canonical(image)),
            _ => None,
        }
    }

    /// Returns the rewritten image for any Pod; `None` for an image that is already at Harbor, or that no rule rewrites.
    pub fn rewritten_for_anyone(&self, image: &ImageRef) -> Option<ImageRef> {
        self.rewritten_for_anyone_within(image, &StepBudget::unlimited())
    }

    /// The same within a budget. After the budget is exhausted the result is `None`.
    pub fn rewritten_for_anyone_within(&self, image: &ImageRef, budget: &StepBudget) -> Option<ImageRef> {
        match self.find_for_anyone_within(image, budget) {
            RuleDecision::Rewritten { image, .. } => Some(image),
            _ => None,
        }
    }

    fn search(
        &self,
        image: &ImageRef,
        budget: &StepBudget,
        speaks_of: impl Fn(&RewriteTarget, &ImageRef) -> bool,
    ) -> RuleDecision<'_> {
        let host = lower(image.host());
        if matches!(host, Cow::Owned(_)) && host == DOCKER_HUB {
            return RuleDecision::NoRule;
        }
        if host.len() < image.host().len() {
            return image
                .without_default_port()
                .map_or(RuleDecision::NoRule, |image| self.search(&image, budget, speaks_of));
        }
        if let Some(hub) = docker_hub_image(&host, image) {
            return self.search(&hub, budget, speaks_of);
        }
        let repository = image.repository();
        let source = match self.hosts.get(&*host) {
            None => return RuleDecision::NoRule,
            Some(HostRules::Source(source)) => source,
            Some(HostRules::Harbor(projects)) => {
                let project = repository.split('/').next().unwrap_or_default();
                let rule = projects.get(project).and_then(|&index| self.targets.get(index));
                return RuleDecision::AlreadyAtHarbor { rule };
            }
        };
        let speaks = |target: &&RewriteTarget| budget.spend(target.steps()) && speaks_of(target, image);
        let usable = |index: &usize| self.targets.get(*index).filter(speaks);
        let Some(rule) = source.longest(repository, usable) else {
            return RuleDecision::NoRule;
        };
        let own = rule.replaced(&host, image);
        match own.as_ref().unwrap_or(image).moved_under(&rule.prefix) {
            Ok(image) if own.is_some() => RuleDecision::Rewritten { image: rule.canonical(&image), rule },
            Ok(image) => RuleDecision::Rewritten { image, rule },
            Err(_) => RuleDecision::TooLong { rule },
        }
    }

    /// Returns the problems of the rules: conflicts, and matches and targets that no image can have.
    pub fn findings(&self) -> &[RuleWarning] {
        &self.findings
    }

    /// Returns the active rules, oldest first.
    pub fn targets(&self) -> &[RewriteTarget] {
        &self.targets
    }

    /// Returns the number of active rules.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Returns whether there is no rule. Then no image is modified.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn add_target(&mut self, target: RewriteTarget) {
        let host = self.hosts.entry(lower(target.prefix.host()).into());
        if let HostRules::Harbor(projects) = host.or_insert_with(|| HostRules::Harbor(RuleMap::default())) {
            projects.entry(target.prefix.path().into()).or_insert(self.targets.len());
        }
        self.targets.push(target);
    }

    fn add_match(&mut self, index: usize, rule: &Rule, matched: &str) {
        let (name, text) = (rule.name.clone(), matched.to_owned());
        let Some((host, path)) = read_match(matched) else {
            self.findings.push(RuleWarning::BadMatch { rule: name, matched: text });
            return;
        };
        let HostRules::Source(source) =
            self.hosts.entry(host.into()).or_insert_with(|| HostRules::Source(HostMatches::default()))
        else {
            self.findings.push(RuleWarning::AtHarbor { rule: name, matched: text });
            return;
        };
        let holders = source.claim(path, index);
        let younger = self.targets.get(index);
        let mut older =
            holders.iter().filter(|holder| **holder != index).filter_map(|holder| self.targets.get(*holder));
        let winner = older.find(|older| younger.is_some_and(|younger| older.leaves_nothing_to(younger)));
        if let Some(winner) = winner {
            let winner = winner.name().to_string();
            self.findings.push(RuleWarning::Conflict { rule: name, matched: text, winner });
        }
    }
}

#[cfg(test)]
mod tests;
