//! Compiled policies.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use super::evaluate::{JudgedImage, PolicyResult};
use super::scans::{NoVerdict, ScanVerdict};
use super::severity_limit::{ScanEvidence, SeverityLimit};
use crate::api::image_policy::{
    AllowedRegistry, DuringOutage, Exemption, ImagePolicySpec, MaxSeverity, OnUnscanned, PolicyAction,
};
use crate::api::proxy_project::{RewriteMode, WhenUnavailable};
use crate::api::{ImagePolicy, RewriteRuleStatus};
use crate::image::{DOCKER_HUB, ImageRef, LEGACY_DOCKER_HUB, is_host, is_same_host};
use crate::rewrite::glob::Globs;
use crate::rewrite::image_decision::parse;
use crate::rewrite::limits::steps;
use crate::rewrite::selector::Selectors;
use crate::rewrite::{BudgetExhausted, NAMESPACE_NAME, PodScope, StepBudget};

/// The longest list of allowed registries in a message, in characters.
const MAX_ALLOWED: usize = 100;

/// All active policies, sorted by name: immutable, swapped as a whole when one changes.
#[derive(Debug, Default)]
pub struct Policies {
    policies: Vec<Policy>,
    findings: Vec<PolicyWarning>,
}

/// A problem of a policy. A policy whose scope is valid stays active, without the invalid part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyWarning {
    /// A selector is invalid: the scope of the policy is unknown, so the policy is skipped.
    #[error("policy {policy} is not active: {problem}")]
    NotInForce {
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
        "policy {policy} would reject every Pod whose images ProxyProject {rule} does not rewrite while Harbor is \
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
    vulnerability: Option<SeverityLimit>,
    exemptions: Vec<PolicyExemption>,
    /// The steps to check whether the policy applies to a Pod.
    scope_steps: u64,
    /// The steps to check one image, at most.
    image_steps: u64,
}

/// A policy that applies to a Pod.
#[derive(Debug)]
pub(super) struct ApplicablePolicy<'p> {
    pub(super) policy: &'p Policy,
    pub(super) scope: PolicyScope,
    /// The number of images of the Pod that violate it.
    pub(super) violations: usize,
}

/// The violation of a policy by an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyViolation {
    Unreadable,
    NotAllowed,
    Latest,
    NoDigest,
    Vulnerable(ScanVerdict, MaxSeverity),
    Unscanned(NoVerdict, OnUnscanned),
}

/// Whether a policy applies to a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyScope {
    Within,
    /// The labels of the namespace are not known, so the policy may apply.
    Perhaps,
    Without,
}

impl Policies {
    /// Compiles policies, given in any order. [`Policies::findings`] lists the invalid ones.
    pub fn compile<'p>(policies: impl IntoIterator<Item = &'p ImagePolicy>) -> Self {
        let mut given: Vec<&ImagePolicy> = policies.into_iter().collect();
        given.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut compiled = Self::default();
        for policy in given.into_iter().filter(|policy| policy.metadata.deletion_timestamp.is_none()) {
            let name = policy.metadata.name.clone().unwrap_or_default();
            if let Some(policy) = Policy::compile(&name, &policy.spec, &mut compiled.findings) {
                compiled.policies.push(policy);
            }
        }
        compiled
    }

    /// Checks the images of one Pod, or of one Pod template, without a budget: for commands. Without `evidence` no scan is
    /// known.
    pub fn evaluate<'i>(
        &self,
        subject: &PodScope<'_>,
        images: impl IntoIterator<Item = JudgedImage<'i>>,
        evidence: Option<&ScanEvidence<'_>>,
    ) -> PolicyResult {
        self.judgement(subject, images, evidence, &StepBudget::unlimited())
    }

    /// The same within a budget.
    ///
    /// # Errors
    /// When there are too many images and policies for the budget. Then the images have no result.
    pub fn evaluate_within<'i>(
        &self,
        subject: &PodScope<'_>,
        images: impl IntoIterator<Item = JudgedImage<'i>>,
        evidence: Option<&ScanEvidence<'_>>,
        budget: &StepBudget,
    ) -> Result<PolicyResult, BudgetExhausted> {
        let judgement = self.judgement(subject, images, evidence, budget);
        budget.check().map(|()| judgement)
    }

    fn judgement<'i>(
        &self,
        subject: &PodScope<'_>,
        images: impl IntoIterator<Item = JudgedImage<'i>>,
        evidence: Option<&ScanEvidence<'_>>,
        budget: &StepBudget,
    ) -> PolicyResult {
        let scoped = |policy: &&Policy| budget.spend(policy.scope_steps);
        let mut applying: Vec<ApplicablePolicy<'_>> = self
            .policies
            .iter()
            .take_while(scoped)
            .map(|policy| ApplicablePolicy { policy, scope: policy.scope(subject), violations: 0 })
            .filter(|applying| applying.scope != PolicyScope::Without)
            .collect();
        let mut judgement = PolicyResult::default();
        if applying.is_empty() {
            return judgement;
        }
        'images: for judged in images {
            let image = parse(judged.image).ok();
            let at_harbor = OnceCell::new();
            for applying in &mut applying {
                let policy = applying.policy;
                if !budget.spend(policy.image_steps) {
                    break 'images;
                }
                if policy.exempts(image.as_ref(), subject) {
                    continue;
                }
                let scanned = image.as_ref().zip(policy.vulnerability.as_ref()).and_then(|(image, ceiling)| {
                    let found = evidence.map(|evidence| {
                        let at_harbor = at_harbor.get_or_init(|| (evidence.at_harbor)(image));
                        (evidence, at_harbor.as_ref().unwrap_or(image))
                    });
                    ceiling.problem(found)
                });
                for problem in policy.problems(image.as_ref()).chain(scanned) {
                    judgement.add(&judged, applying, problem);
                }
            }
        }
        judgement.count(&applying);
        judgement
    }

    /// Returns the problems of the policies.
    pub fn findings(&self) -> &[PolicyWarning] {
        &self.findings
    }

    /// Returns what an outage of Harbor would break with these rules: pairs of a rule that does not rewrite images then, and
    /// a policy that still refuses the originals. `rules` come with the names of their ProxyProjects.
    pub fn outage_findings<'r>(
        &self,
        rules: impl IntoIterator<Item = (&'r str, &'r RewriteRuleStatus)>,
    ) -> Vec<PolicyWarning> {
        let mut findings = Vec::new();
        for (name, rule) in rules.into_iter().filter(|(_, rule)| leaves_originals(rule)) {
            let refuses = |policy: &&Policy| {
                let refused = |matched: &String| !policy.allows_host(matched.split('/').next().unwrap_or_default());
                policy.action == PolicyAction::Enforce
                    && policy.during_outage == DuringOutage::Enforce
                    && rule.matches.iter().any(refused)
            };
            findings.extend(
                self.policies
                    .iter()
                    .filter(refuses)
                    .map(|policy| PolicyWarning::Outage { policy: policy.name.to_string(), rule: name.to_owned() }),
            );
        }
        findings
    }

    /// Returns whether a policy checks scans. Without one, no evidence is needed.
    pub fn use_scans(&self) -> bool {
        self.policies.iter().any(|policy| policy.vulnerability.is_some())
    }

    /// Returns whether a policy refuses Pods. If so, Pods that cannot be read are refused, too.
    pub fn enforces(&self) -> bool {
        self.policies.iter().any(|policy| policy.action == PolicyAction::Enforce)
    }

    /// Returns the number of active policies.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Returns whether no policy is active.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}

impl Policy {
    fn compile(name: &str, spec: &ImagePolicySpec, findings: &mut Vec<PolicyWarning>) -> Option<Self> {
        let selectors = Selectors::compile(spec.namespace_selector.as_ref(), spec.object_selector.as_ref());
        let selectors = match selectors {
            Ok(selectors) => selectors,
            Err(error) => {
                findings.push(PolicyWarning::NotInForce { policy: name.to_owned(), problem: error.to_string() });
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
            allows: super::text::PrintableText(if allows.is_empty() { "nothing" } else { &allows }, MAX_ALLOWED)
                .to_string(),
            require_digest: spec.require_digest,
            forbid_latest: spec.forbid_latest,
            vulnerability: spec.vulnerability.map(SeverityLimit::of),
            exemptions,
        })
    }

    fn scope(&self, subject: &PodScope<'_>) -> PolicyScope {
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

    fn exempts(&self, image: Option<&ImageRef>, subject: &PodScope<'_>) -> bool {
        self.exemptions.iter().any(|exempt| {
            let images = exempt.images.as_ref();
            (exempt.namespaces.is_empty()
                || exempt.namespaces.binary_search_by(|name| name.as_str().cmp(subject.namespace)).is_ok())
                && images.is_none_or(|images| image.is_some_and(|image| images.matching(image).is_some()))
        })
    }

    fn problems(&self, image: Option<&ImageRef>) -> impl Iterator<Item = PolicyViolation> {
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

    fn allows_host(&self, host: &str) -> bool {
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

fn leaves_originals(rule: &RewriteRuleStatus) -> bool {
    rule.terms.mode == RewriteMode::Enabled && rule.terms.when_unavailable == WhenUnavailable::Original
}
