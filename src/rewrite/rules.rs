//! Rules, compiled: which image goes where, at a cost that does not grow with their number.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::glob::Globs;
use super::selector::Selector;
use super::subject::Subject;
use crate::api::proxy_project::{RewriteMode, RewriteTerms, WhenUnavailable};
use crate::image::{DOCKER_HUB, ImagePrefix, ImageRef, ImageRefError, is_host, is_path, reads_as_host};

/// One rule as a ProxyProject states it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Name of the ProxyProject.
    pub name: String,
    /// Its creation, in seconds since 1970-01-01 UTC: of two rules with the same match the older one wins, then the name.
    pub created: i64,
    /// Hosts, or hosts and leading path, of the images to rewrite: `docker.io`, `ghcr.io/acme`, `host:5000/team/app`.
    pub matches: Vec<String>,
    /// Harbor's `host[:port]` as it is to stand in image references.
    pub pull_host: String,
    /// The proxy-cache project in Harbor.
    pub project: String,
    /// Which of these images, for whom and when.
    pub terms: RewriteTerms,
    /// Whether Harbor is unavailable now.
    pub unavailable: bool,
}

/// Keys are of rules, which administrators write: no stranger can make them collide.
type Map<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// All rules in force: immutable, swapped whole when one changes.
#[derive(Debug, Default)]
pub struct Rules {
    targets: Vec<Target>,
    /// By lower-case host: one lookup says whether an image is at Harbor, or where from its rules are.
    hosts: Map<Host>,
    findings: Vec<Finding>,
}

/// Where a rule sends images.
#[derive(Debug)]
pub struct Target {
    name: Arc<str>,
    prefix: ImagePrefix,
    exclude: Globs,
    namespaces: Selector,
    objects: Selector,
    mode: RewriteMode,
    /// Harbor is unavailable, and images stay as they are.
    waits: bool,
    pull_secret: Option<Arc<str>>,
}

/// What the rules say of one image.
#[derive(Debug)]
pub enum Decision<'r> {
    /// The image comes from Harbor instead.
    Rewritten {
        /// The image at Harbor: the same repository, tag and digest below host and project.
        image: ImageRef,
        /// The rule that says so.
        rule: &'r Target,
    },
    /// The image stays as it is: the rule only says what it is at Harbor (`rewrite.mode: Disabled`).
    Mapped {
        /// The image at Harbor.
        image: ImageRef,
        /// The rule that says so.
        rule: &'r Target,
    },
    /// A rule matches, but Harbor is unavailable, and the rule leaves images as they are then.
    Unavailable {
        /// The rule that matches.
        rule: &'r Target,
    },
    /// The image names Harbor already and stays as it is.
    AlreadyAtHarbor {
        /// The rule whose project the image lies in, if it is a managed one.
        rule: Option<&'r Target>,
    },
    /// A rule matches, but the repository would be longer than a reference may be. The image stays as it is.
    TooLong {
        /// The rule that matches.
        rule: &'r Target,
    },
    /// No rule speaks of the image.
    NoRule,
}

/// What was wrong with a rule, or with two of them. The rest of the rule holds nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Two rules have the same match, and the older one has it.
    #[error("{rule}: match {matched} belongs to the older {winner}; remove it from one of them")]
    Conflict {
        /// The rule that lost the match.
        rule: String,
        /// The match.
        matched: String,
        /// The rule that has it.
        winner: String,
    },
    /// The match can never be the beginning of an image reference.
    #[error("{rule}: match {matched} is not host[:port] or host[:port]/path; the host needs a dot or a port")]
    BadMatch {
        /// The rule.
        rule: String,
        /// The match.
        matched: String,
    },
    /// The match lies at a pull host, and images there are never rewritten.
    #[error("{rule}: match {matched} is at Harbor itself and never applies; remove it")]
    AtHarbor {
        /// The rule.
        rule: String,
        /// The match.
        matched: String,
    },
    /// A selector or a glob cannot be read: the whole rule is left out, for without it too much would be rewritten.
    #[error("{rule}: {problem}; no image is rewritten until that is mended")]
    BadScope {
        /// The rule.
        rule: String,
        /// What is wrong.
        problem: String,
    },
    /// Pull host and project make no image reference: the whole rule is left out.
    #[error("{rule}: no image can be named {host}/{project}/…: {error}; the host needs a dot or a port")]
    BadTarget {
        /// The rule.
        rule: String,
        /// Its pull host.
        host: String,
        /// Its project.
        project: String,
        /// What is wrong with them.
        error: ImageRefError,
    },
}

impl Finding {
    /// Whether the rule can do nothing, or not what it says, by itself; the others are about its neighbours.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Conflict { .. } | Self::AtHarbor { .. })
    }

    /// The rule that it is about.
    pub fn rule(&self) -> &str {
        match self {
            Self::Conflict { rule, .. }
            | Self::BadMatch { rule, .. }
            | Self::AtHarbor { rule, .. }
            | Self::BadScope { rule, .. }
            | Self::BadTarget { rule, .. } => rule,
        }
    }
}

impl Rules {
    /// Compiles rules, given in any order. What cannot be used is left out and listed in [`Rules::findings`].
    pub fn compile(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut rules: Vec<Rule> = rules.into_iter().collect();
        rules.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));

        let mut compiled = Self::default();
        let mut usable = Vec::with_capacity(rules.len());
        for rule in &rules {
            match Target::compile(rule) {
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

    /// What to do with an image of a Pod: of the rules that speak of both, the one with the longest match decides, by
    /// whole components of host and path.
    ///
    /// Hosts are compared without regard to case, as DNS does; only `docker.io` must stand as it is, for no runtime
    /// knows it by another spelling.
    pub fn find(&self, image: &ImageRef, subject: &Subject<'_>) -> Decision<'_> {
        match self.search(image, |target, image| target.speaks_of(image, subject)) {
            Decision::Rewritten { rule, .. } if rule.waits => Decision::Unavailable { rule },
            Decision::Rewritten { image, rule } if rule.mode == RewriteMode::Disabled => {
                Decision::Mapped { image, rule }
            }
            decision => decision,
        }
    }

    /// Where an image is at Harbor, whoever asks and whatever Harbor's state: no selector and no mode plays a part, and
    /// the decision is never [`Decision::Mapped`] or [`Decision::Unavailable`].
    pub fn find_for_anyone(&self, image: &ImageRef) -> Decision<'_> {
        self.search(image, |target, image| target.exclude.matching(image).is_none())
    }

    fn search(&self, image: &ImageRef, speaks_of: impl Fn(&Target, &ImageRef) -> bool) -> Decision<'_> {
        let host = lower(image.host());
        if matches!(host, Cow::Owned(_)) && host == DOCKER_HUB {
            return Decision::NoRule;
        }
        if let Some(hub) = docker_hub_image(&host, image) {
            return self.search(&hub, speaks_of);
        }
        let repository = image.repository();
        let source = match self.hosts.get(&*host) {
            None => return Decision::NoRule,
            Some(Host::Source(source)) => source,
            Some(Host::Harbor(projects)) => {
                let project = repository.split('/').next().unwrap_or_default();
                let rule = projects.get(project).and_then(|&index| self.targets.get(index));
                return Decision::AlreadyAtHarbor { rule };
            }
        };
        let usable = |index: &usize| self.targets.get(*index).filter(|target| speaks_of(target, image));
        let Some(rule) = source.longest(repository, usable) else {
            return Decision::NoRule;
        };
        match image.moved_under(&rule.prefix) {
            Ok(image) => Decision::Rewritten { image, rule },
            Err(_) => Decision::TooLong { rule },
        }
    }

    /// What is wrong with the rules: conflicts, and matches and targets that no image can have.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The rules in force, the older ones first.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// How many rules are in force.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no rule: then every image is left alone.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn add_target(&mut self, target: Target) {
        let host = self.hosts.entry(lower(target.prefix.host()).into());
        if let Host::Harbor(projects) = host.or_insert_with(|| Host::Harbor(Map::default())) {
            projects.entry(target.prefix.path().into()).or_insert(self.targets.len());
        }
        self.targets.push(target);
    }

    fn add_match(&mut self, index: usize, rule: &Rule, matched: &str) {
        let (name, text) = (rule.name.clone(), matched.to_owned());
        let Some((host, path)) = read_match(matched) else {
            self.findings.push(Finding::BadMatch { rule: name, matched: text });
            return;
        };
        let Host::Source(source) = self.hosts.entry(host.into()).or_insert_with(|| Host::Source(Source::default()))
        else {
            self.findings.push(Finding::AtHarbor { rule: name, matched: text });
            return;
        };
        let holders = source.claim(path, index);
        // An older rule leaves room only if there is something that it does not speak of, and this one might.
        let shadows = |older: &&Target| {
            let younger = self.targets.get(index);
            let same = |younger: &Target| older.namespaces == younger.namespaces && older.objects == younger.objects;
            older.speaks_of_everything() || younger.is_some_and(same)
        };
        let older = holders.iter().filter(|holder| **holder != index).filter_map(|holder| self.targets.get(*holder));
        if let Some(winner) = older.filter(|older| older.exclude.is_empty()).find(shadows) {
            let winner = winner.name().to_string();
            self.findings.push(Finding::Conflict { rule: name, matched: text, winner });
        }
    }
}

impl Target {
    fn compile(rule: &Rule) -> Result<Self, Finding> {
        let prefix = ImagePrefix::new(&rule.pull_host, &rule.project).map_err(|error| Finding::BadTarget {
            rule: rule.name.clone(),
            host: rule.pull_host.clone(),
            project: rule.project.clone(),
            error,
        })?;
        let terms = &rule.terms;
        let scope = |problem: String| Finding::BadScope { rule: rule.name.clone(), problem };
        let selector = |field: &str, selector: &Option<LabelSelector>| {
            Selector::compile(selector.as_ref()).map_err(|error| scope(format!("{field}: {error}")))
        };
        Ok(Self {
            name: rule.name.as_str().into(),
            prefix,
            exclude: Globs::compile(&terms.exclude).map_err(|error| scope(format!("exclude: {error}")))?,
            namespaces: selector("namespaceSelector", &terms.namespace_selector)?,
            objects: selector("objectSelector", &terms.object_selector)?,
            mode: terms.mode,
            waits: rule.unavailable && terms.when_unavailable == WhenUnavailable::Original,
            pull_secret: terms.pull_secret_name.as_deref().map(Arc::from),
        })
    }

    /// Whether the rule is about this image of this Pod, given that a match of it is the image's prefix.
    pub fn speaks_of(&self, image: &ImageRef, subject: &Subject<'_>) -> bool {
        self.namespaces.matches(|key| subject.namespace_label(key))
            && self.objects.matches(|key| subject.label(key))
            && self.exclude.matching(image).is_none()
    }

    /// Whether there are no selectors.
    fn speaks_of_everything(&self) -> bool {
        self.namespaces.is_everything() && self.objects.is_everything()
    }

    /// Images that the rule does not speak of.
    pub fn exclude(&self) -> &Globs {
        &self.exclude
    }

    /// Namespaces whose Pods the rule speaks of.
    pub fn namespaces(&self) -> &Selector {
        &self.namespaces
    }

    /// Pods that the rule speaks of.
    pub fn objects(&self) -> &Selector {
        &self.objects
    }

    /// Whether images are rewritten, or only mapped.
    pub fn mode(&self) -> RewriteMode {
        self.mode
    }

    /// Whether images stay as they are because Harbor is unavailable.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The Secret that Pods with rewritten images need.
    pub fn pull_secret(&self) -> Option<&Arc<str>> {
        self.pull_secret.as_ref()
    }

    /// Name of the ProxyProject.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Harbor's host.
    pub fn pull_host(&self) -> &str {
        self.prefix.host()
    }

    /// The project in Harbor.
    pub fn project(&self) -> &str {
        self.prefix.path()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pull_host(), self.project())
    }
}

/// What is at a host.
#[derive(Debug)]
enum Host {
    /// Harbor: its managed projects.
    Harbor(Map<usize>),
    /// Images to rewrite.
    Source(Source),
}

/// The matches at one host, each with the rules that have it, the older ones first.
#[derive(Debug, Default)]
struct Source {
    whole_host: Vec<usize>,
    paths: Map<Vec<usize>>,
    /// Components of the longest path, so that a lookup tries no longer ones.
    depth: usize,
}

impl Source {
    /// Adds a rule to those that have a path, and says who they are.
    fn claim(&mut self, path: &str, index: usize) -> &[usize] {
        let holders = if path.is_empty() {
            &mut self.whole_host
        } else {
            self.depth = self.depth.max(path.split('/').count());
            self.paths.entry(path.into()).or_default()
        };
        if !holders.contains(&index) {
            holders.push(index);
        }
        holders
    }

    /// The first rule that is usable, from the longest path to the whole host.
    fn longest<'t>(&self, repository: &str, usable: impl Fn(&usize) -> Option<&'t Target>) -> Option<&'t Target> {
        if self.depth > 0 {
            let end = repository.match_indices('/').nth(self.depth - 1).map_or(repository.len(), |(at, _)| at);
            let mut prefix = repository.get(..end);
            while let Some(path) = prefix {
                if let Some(target) = self.paths.get(path).and_then(|holders| holders.iter().find_map(&usable)) {
                    return Some(target);
                }
                prefix = path.rsplit_once('/').map(|(shorter, _)| shorter);
            }
        }
        self.whole_host.iter().find_map(usable)
    }
}

/// An image at another name of Docker Hub, as it is at `docker.io`.
fn docker_hub_image(host: &str, image: &ImageRef) -> Option<ImageRef> {
    if !matches!(host, "registry-1.docker.io" | "registry.hub.docker.com") {
        return None;
    }
    let rest = image.as_str().get(host.len() + 1..)?;
    ImageRef::parse(&format!("{DOCKER_HUB}/{rest}")).ok()
}

/// Host in lower case and path; `None` when no image can match.
fn read_match(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.trim_end_matches('/');
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    if !is_host(host) || !reads_as_host(host) || !(path.is_empty() || is_path(path)) {
        return None;
    }
    let host = lower(host);
    let is_hub = matches!(&*host, "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com");
    Some((if is_hub { Cow::Borrowed(DOCKER_HUB) } else { host }, path))
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests;
