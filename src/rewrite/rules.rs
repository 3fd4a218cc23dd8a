//! Rules, compiled: which image goes where, at a cost that does not grow with their number.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::image::{DOCKER_HUB, ImagePrefix, ImageRef, ImageRefError, is_host, is_path, reads_as_host};

/// One rule as a ProxyProject states it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// All rules in force: immutable, swapped whole when one changes.
#[derive(Debug, Default)]
pub struct Rules {
    targets: Vec<Target>,
    /// By lower-case host of the images to rewrite.
    sources: HashMap<Box<str>, Source>,
    /// By lower-case pull host: the managed projects there.
    harbors: HashMap<Box<str>, HashMap<Box<str>, usize>>,
    findings: Vec<Finding>,
}

/// Where a rule sends images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    name: Arc<str>,
    prefix: ImagePrefix,
}

/// What the rules say of one image.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'r> {
    /// The image comes from Harbor instead.
    Rewritten {
        /// The image at Harbor: the same repository, tag and digest below host and project.
        image: ImageRef,
        /// The rule that says so.
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

impl Rules {
    /// Compiles rules, given in any order. What cannot be used is left out and listed in [`Rules::findings`].
    pub fn compile(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut rules: Vec<Rule> = rules.into_iter().collect();
        rules.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));

        let mut compiled = Self::default();
        let mut usable = Vec::with_capacity(rules.len());
        for rule in &rules {
            match ImagePrefix::new(&rule.pull_host, &rule.project) {
                Ok(prefix) => {
                    compiled.add_target(rule, prefix);
                    usable.push(rule);
                }
                Err(error) => compiled.findings.push(Finding::BadTarget {
                    rule: rule.name.clone(),
                    host: rule.pull_host.clone(),
                    project: rule.project.clone(),
                    error,
                }),
            }
        }
        for (index, rule) in usable.into_iter().enumerate() {
            for matched in &rule.matches {
                compiled.add_match(index, rule, matched);
            }
        }
        compiled
    }

    /// What to do with an image: the rule with the longest match decides, by whole components of host and path.
    ///
    /// Hosts are compared without regard to case, as DNS does; only `docker.io` must stand as it is, for no runtime
    /// knows it by another spelling.
    pub fn find(&self, image: &ImageRef) -> Decision<'_> {
        let host = lower(image.host());
        if matches!(host, Cow::Owned(_)) && host == DOCKER_HUB {
            return Decision::NoRule;
        }
        let repository = image.repository();
        if let Some(projects) = self.harbors.get(&*host) {
            let project = repository.split('/').next().unwrap_or_default();
            return Decision::AlreadyAtHarbor {
                rule: projects.get(project).and_then(|&index| self.targets.get(index)),
            };
        }
        let found = self.sources.get(&*host).and_then(|source| source.longest(repository));
        let Some(rule) = found.and_then(|index| self.targets.get(index)) else {
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

    /// How many rules are in force.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no rule: then every image is left alone.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn add_target(&mut self, rule: &Rule, prefix: ImagePrefix) {
        let projects = self.harbors.entry(lower(prefix.host()).into()).or_default();
        projects.entry(prefix.path().into()).or_insert(self.targets.len());
        self.targets.push(Target { name: rule.name.as_str().into(), prefix });
    }

    fn add_match(&mut self, index: usize, rule: &Rule, matched: &str) {
        let (name, text) = (rule.name.clone(), matched.to_owned());
        let Some((host, path)) = read_match(matched) else {
            self.findings.push(Finding::BadMatch { rule: name, matched: text });
            return;
        };
        if self.harbors.contains_key(&*host) {
            self.findings.push(Finding::AtHarbor { rule: name, matched: text });
            return;
        }
        let holder = self.sources.entry(host.into()).or_default().claim(path, index);
        if let Some(winner) = self.targets.get(holder)
            && holder != index
        {
            self.findings.push(Finding::Conflict { rule: name, matched: text, winner: winner.name().to_string() });
        }
    }
}

impl Target {
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

/// The matches at one host.
#[derive(Debug, Default)]
struct Source {
    whole_host: Option<usize>,
    paths: HashMap<Box<str>, usize>,
    /// Components of the longest path, so that a lookup tries no longer ones.
    depth: usize,
}

impl Source {
    /// Takes a path unless it is taken, and says who has it.
    fn claim(&mut self, path: &str, index: usize) -> usize {
        if path.is_empty() {
            return *self.whole_host.get_or_insert(index);
        }
        self.depth = self.depth.max(path.split('/').count());
        *self.paths.entry(path.into()).or_insert(index)
    }

    fn longest(&self, repository: &str) -> Option<usize> {
        if self.depth > 0 {
            let end = repository.match_indices('/').nth(self.depth - 1).map_or(repository.len(), |(at, _)| at);
            let mut prefix = repository.get(..end);
            while let Some(path) = prefix {
                if let Some(&index) = self.paths.get(path) {
                    return Some(index);
                }
                prefix = path.rsplit_once('/').map(|(shorter, _)| shorter);
            }
        }
        self.whole_host
    }
}

/// Host in lower case and path; `None` when no image can match.
fn read_match(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.trim_end_matches('/');
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    if !is_host(host) || !reads_as_host(host) || !(path.is_empty() || is_path(path)) {
        return None;
    }
    let host = lower(host);
    Some((if host == "index.docker.io" { Cow::Borrowed(DOCKER_HUB) } else { host }, path))
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
