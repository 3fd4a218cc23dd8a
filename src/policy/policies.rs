//! Compiled policies.

use std::cell::OnceCell;

use super::compiled::{ApplicablePolicy, Policy, PolicyScope, PolicyWarning};
use super::evaluate::{JudgedImage, PolicyResult};
use super::severity_limit::ScanEvidence;
use crate::api::image_policy::{DuringOutage, PolicyAction};
use crate::api::proxy_project::{RewriteMode, WhenUnavailable};
use crate::api::{ImagePolicy, RewriteRuleStatus};
use crate::rewrite::image_decision::parse;
use crate::rewrite::{BudgetExhausted, PodScope, StepBudget};

/// All active policies, sorted by name: immutable, swapped as a whole when one changes.
#[derive(Debug, Default)]
pub struct Policies {
    policies: Vec<Policy>,
    findings: Vec<PolicyWarning>,
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

fn leaves_originals(rule: &RewriteRuleStatus) -> bool {
    rule.terms.mode == RewriteMode::Enabled && rule.terms.when_unavailable == WhenUnavailable::Original
}
