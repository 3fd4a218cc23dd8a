//! One compiled policy, and its problems with an image.

use std::fmt;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use super::severity_limit::SeverityLimit;
use super::violation::PolicyViolation;
use crate::api::image_policy::{AllowedRegistry, DuringOutage, Exemption, ImagePolicySpec, PolicyAction};
use crate::image::{DOCKER_HUB, ImageRef, LEGACY_DOCKER_HUB, is_host, is_same_host};
use crate::rewrite::glob::Globs;
use crate::rewrite::limits::steps;
use crate::rewrite::selector::Selectors;
use crate::rewrite::{NAMESPACE_NAME, PodScope};
use crate::text::PrintableText;

/// The longest list of allowed registries in a message, in characters.
const MAX_ALLOWED: usize = 100;

/// A problem of a policy. A policy whose scope is valid stays active, without the invalid part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyWarning {
    /// A selector is invalid: the scope of the policy is unknown, so the policy is skipped.
    #[error("policy {policy} is not active: {problem}")]
    NotActive {
        /// Name of the policy.
        policy: String,
        /// The problem.
        problem: String,
    },
    /// A registry, a project or an exemption is invalid: it allows or exempts nothing.
    #[error("policy {policy}: {problem}; this part of it allows nothing")]
    Part {
        /// Name of the policy.
        policy: String,
        /// The problem.
        problem: String,
    },
    /// While Harbor is unreachable, a rule does not rewrite images, and a policy refuses the originals.
    #[error(
        "policy {policy} would refuse every Pod whose images ProxyProject {rule} leaves as they are while Harbor is \
         unavailable; set duringOutage: Warn in the policy, or whenUnavailable: Rewrite in the project"
    )]
    Outage {
        /// Name of the policy.
        policy: String,
        /// Name of the ProxyProject.
        rule: String,
    },
}

/// One policy.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: Arc<str>,
    pub(super) action: PolicyAction,
    pub(super) during_outage: DuringOutage,
    selectors: Selectors,
    /// `None` allows any registry.
    allowed: Option<Vec<AllowedSource>>,
    /// The text of [`Policy::allowed`] for messages.
    pub(super) allows: String,
    require_digest: bool,
    forbid_latest: bool,
    pub(super) vulnerability: Option<SeverityLimit>,
    exemptions: Vec<PolicyExemption>,
    /// The steps to check whether the policy applies to a Pod.
    pub(super) scope_steps: u64,
    /// The steps to check one image, at most.
    pub(super) image_steps: u64,
}

/// A policy that applies to a Pod.
#[derive(Debug)]
pub(super) struct ApplicablePolicy<'p> {
    pub(super) policy: &'p Policy,
    pub(super) scope: PolicyScope,
    /// The number of images of the Pod that violate it.
    pub(super) violations: usize,
}

/// Whether a policy applies to a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyScope {
    Within,
    /// The labels of the namespace are not known, so the policy may apply.
    Perhaps,
    Without,
}

impl Policy {
    pub(super) fn compile(name: &str, spec: &ImagePolicySpec, findings: &mut Vec<PolicyWarning>) -> Option<Self> {
        let selectors = Selectors::compile(spec.namespace_selector.as_ref(), spec.object_selector.as_ref());
        let selectors = match selectors {
            Ok(selectors) => selectors,
            Err(error) => {
                findings.push(PolicyWarning::NotActive { policy: name.to_owned(), problem: error.to_string() });
                return None;
            }
        };
        let mut part = |problem: String| findings.push(PolicyWarning::Part { policy: name.to_owned(), problem });
        let allowed: Vec<AllowedSource> =
            spec.allowed.iter().filter_map(|allowed| AllowedSource::compile(allowed, &mut part)).collect();
        let exempt = |exemption: &Exemption| PolicyExemption::compile(exemption, &mut part);
        let exemptions: Vec<PolicyExemption> = spec.exemptions.iter().filter_map(exempt).collect();
        let allows = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let globs = exemptions.iter().filter_map(|exempt| exempt.images.as_ref()).map(Globs::len).sum::<usize>()
            + allowed.iter().flat_map(|allowed| &allowed.projects).map(Vec::len).sum::<usize>();
        // Every image needs a lookup of its scan, whatever the result of the policy.
        let compared = allowed.len() + exemptions.len() + if spec.vulnerability.is_some() { 16 } else { 0 };
        Some(Self {
            name: name.into(),
            action: spec.action,
            during_outage: spec.during_outage,
            scope_steps: selectors.steps(0),
            image_steps: steps(compared, 0, globs),
            selectors,
            // A list of only invalid entries does not allow all registries.
            allowed: (!spec.allowed.is_empty()).then_some(allowed),
            allows: PrintableText(if allows.is_empty() { "nothing" } else { &allows }, MAX_ALLOWED).to_string(),
            require_digest: spec.require_digest,
            forbid_latest: spec.forbid_latest,
            vulnerability: spec.vulnerability.map(SeverityLimit::of),
            exemptions,
        })
    }

    pub(super) fn scope(&self, subject: &PodScope<'_>) -> PolicyScope {
        let Selectors { namespaces, objects } = &self.selectors;
        if !objects.matches(|key| subject.label(key)) {
            return PolicyScope::Without;
        }
        let unknown = subject.namespace_labels.is_none() && !namespaces.asks_only_for(NAMESPACE_NAME);
        // A new namespace must not bypass a policy.
        if unknown && self.action == PolicyAction::Enforce {
            return PolicyScope::Perhaps;
        }
        if namespaces.matches(|key| subject.namespace_label(key)) { PolicyScope::Within } else { PolicyScope::Without }
    }

    pub(super) fn exempts(&self, image: Option<&ImageRef>, subject: &PodScope<'_>) -> bool {
        self.exemptions.iter().any(|exempt| {
            let images = exempt.images.as_ref();
            (exempt.namespaces.is_empty()
                || exempt.namespaces.binary_search_by(|name| name.as_str().cmp(subject.namespace)).is_ok())
                && images.is_none_or(|images| image.is_some_and(|image| images.matching(image).is_some()))
        })
    }

    pub(super) fn problems(&self, image: Option<&ImageRef>) -> impl Iterator<Item = PolicyViolation> {
        let problems = match image {
            None => [Some(PolicyViolation::Unreadable), None, None],
            Some(image) => [
                (!self.allows(image)).then_some(PolicyViolation::NotAllowed),
                (self.forbid_latest && is_latest(image)).then_some(PolicyViolation::Latest),
                (self.require_digest && image.digest().is_none()).then_some(PolicyViolation::NoDigest),
            ],
        };
        problems.into_iter().flatten()
    }

    fn allows(&self, image: &ImageRef) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        allowed.iter().any(|allowed| allowed.allows(image))
    }

    pub(super) fn allows_host(&self, host: &str) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        allowed.iter().any(|allowed| is_same_host(&allowed.host, host))
    }
}

/// A registry that a policy allows.
#[derive(Debug)]
struct AllowedSource {
    host: String,
    /// `None` allows all projects.
    projects: Option<Vec<GlobMatcher>>,
}

impl AllowedSource {
    fn compile(allowed: &AllowedRegistry, problem: &mut impl FnMut(String)) -> Option<Self> {
        let host = if allowed.host.eq_ignore_ascii_case(LEGACY_DOCKER_HUB) { DOCKER_HUB } else { &allowed.host };
        if !is_host(host) {
            problem(format!("allowed host {host:?} is not host[:port]"));
            return None;
        }
        let glob = |pattern: &String| match GlobBuilder::new(pattern).literal_separator(true).build() {
            Ok(glob) => Some(glob.compile_matcher()),
            Err(error) => {
                problem(format!("project {pattern:?} of {host}: {}", error.kind()));
                None
            }
        };
        let projects = (!allowed.projects.is_empty()).then(|| allowed.projects.iter().filter_map(glob).collect());
        Some(Self { host: host.to_owned(), projects })
    }

    fn allows(&self, image: &ImageRef) -> bool {
        if !is_same_host(&self.host, image.host()) {
            return false;
        }
        let Some(projects) = &self.projects else { return true };
        let project = image.repository().split_once('/').map(|(project, _)| project);
        project.is_some_and(|project| projects.iter().any(|glob| glob.is_match(project)))
    }
}

impl fmt::Display for AllowedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Option<Vec<&str>> =
            self.projects.as_ref().map(|globs| globs.iter().map(|glob| glob.glob().glob()).collect());
        match names.as_deref() {
            None => f.write_str(&self.host),
            Some([one]) => write!(f, "{}/{one}", self.host),
            Some(names) => write!(f, "{}/{{{}}}", self.host, names.join(",")),
        }
    }
}

/// The exemptions of a policy.
#[derive(Debug)]
struct PolicyExemption {
    /// `None` exempts all images.
    images: Option<Globs>,
    /// Sorted. An empty list exempts all namespaces.
    namespaces: Vec<String>,
}

impl PolicyExemption {
    fn compile(exemption: &Exemption, problem: &mut impl FnMut(String)) -> Option<Self> {
        if exemption.images.is_empty() && exemption.namespaces.is_empty() {
            problem("an exemption has neither images nor namespaces".to_owned());
            return None;
        }
        match Globs::compile(&exemption.images) {
            Ok(images) => {
                let mut namespaces = exemption.namespaces.clone();
                namespaces.sort();
                Some(Self { images: (!exemption.images.is_empty()).then_some(images), namespaces })
            }
            Err(error) => {
                problem(format!("exemption: {error}"));
                None
            }
        }
    }
}

/// A digest identifies the image, whatever the tag.
fn is_latest(image: &ImageRef) -> bool {
    image.digest().is_none() && image.tag().is_none_or(|tag| tag == "latest")
}
