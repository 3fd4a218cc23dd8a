//! The result of each rule for an image, and why other rules do not apply.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use serde::Serialize;

use crate::{
    api::{ProxyProject, RewriteRuleStatus},
    cli::sources::Sources,
    image::ImageRef,
    rewrite::{PodScope, Rule, RuleDecision, Rules, glob::Globs, selector::Selector},
};

/// One rule, and its result for the image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate {
    /// Name of the ProxyProject.
    pub(super) rule: String,
    pub(super) verdict: RuleVerdict,
    /// The matching prefix.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub(super) matched: Option<String>,
    /// One sentence.
    pub(super) why: String,
}

/// Why a rule applies, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum RuleVerdict {
    /// It applies.
    Decides,
    /// It matches, and an older rule has the same match.
    Younger,
    /// It matches, and another rule has a longer match.
    ShorterMatch,
    /// It would apply, but the image is a placeholder, for which no rule is evaluated.
    Placeholder,
    /// It would match, and a glob excludes the image.
    Excluded,
    /// It would match, and its selector does not select the namespace.
    NamespaceSelector,
    /// It would match, and its selector does not select the Pod.
    ObjectSelector,
    /// It would match, and its rule is not active.
    NotServing,
    /// Its host matches, and none of its paths.
    PathDiffers,
    /// None of its hosts matches.
    HostDiffers,
    /// The image is at Harbor, so no rule applies.
    AtHarbor,
}

impl Candidate {
    /// For a placeholder, which an injector replaces: no rule applies.
    pub(super) fn leave_to_injector(&mut self) {
        if self.verdict.decides() {
            self.verdict = RuleVerdict::Placeholder;
            self.why = self.why.replace(", applies", ", but does not apply to a placeholder");
        }
    }
}

impl RuleVerdict {
    pub(super) fn decides(self) -> bool {
        self == Self::Decides
    }
}

/// Returns the results of all rules, the closest first.
pub(super) fn candidates(
    sources: &Sources,
    image: &ImageRef,
    subject: &PodScope<'_>,
    found: &RuleDecision<'_>,
) -> Vec<Candidate> {
    let mut winner = match found {
        RuleDecision::Rewritten { rule, .. }
        | RuleDecision::Mapped { rule, .. }
        | RuleDecision::Unavailable { rule }
        | RuleDecision::TooLong { rule } => Some(Winner { name: rule.name().to_string(), matched: None }),
        RuleDecision::AlreadyAtHarbor { .. } | RuleDecision::NoRule => None,
    };
    if let Some(winner) = &mut winner {
        let project = sources.projects.iter().find(|project| project.name_any() == winner.name);
        let rule = project.and_then(|project| sources.rule(project).ok());
        winner.matched = rule.and_then(|rule| longest(&rule, image));
    }
    let mut all: Vec<Candidate> = sources
        .projects
        .iter()
        .map(|project| {
            let (verdict, matched, why) = match found {
                RuleDecision::AlreadyAtHarbor { rule } => at_harbor(project, rule.map(|rule| &**rule.name())),
                _ => evaluate(sources, project, image, subject, winner.as_ref()),
            };
            Candidate { rule: project.name_any(), verdict, matched, why }
        })
        .collect();
    all.sort_by(|a, b| (a.verdict, &a.rule).cmp(&(b.verdict, &b.rule)));
    all
}

struct Winner {
    name: String,
    matched: Option<String>,
}

type Judged = (RuleVerdict, Option<String>, String);

fn at_harbor(project: &ProxyProject, holder: Option<&str>) -> Judged {
    let name = project.name_any();
    if holder == Some(name.as_str()) {
        return (RuleVerdict::Decides, None, "the image is in this project at Harbor, so no rule applies".to_owned());
    }
    (RuleVerdict::AtHarbor, None, "the image is at Harbor, so no rule applies".to_owned())
}

fn evaluate(
    sources: &Sources,
    project: &ProxyProject,
    image: &ImageRef,
    subject: &PodScope<'_>,
    winner: Option<&Winner>,
) -> Judged {
    let rule = match sources.rule(project) {
        Ok(rule) => rule,
        Err(why) => return (RuleVerdict::NotServing, None, format!("not active: {why}")),
    };
    let Some(matched) = longest(&rule, image) else { return no_match(&rule, image) };
    let fits = |verdict, why: String| (verdict, Some(matched.clone()), format!("matches {matched}, {why}"));
    if winner.is_some_and(|winner| winner.name == project.name_any()) {
        return fits(RuleVerdict::Decides, "applies".to_owned());
    }
    if let Some(glob) =
        Globs::compile(&rule.terms.exclude).ok().and_then(|globs| globs.matching(image).map(str::to_owned))
    {
        return fits(RuleVerdict::Excluded, format!("but excludes {glob}"));
    }
    if !selects(rule.terms.namespace_selector.as_ref(), |key| subject.namespace_label(key)) {
        return fits(
            RuleVerdict::NamespaceSelector,
            format!("but its namespaceSelector does not select {}", namespace(subject)),
        );
    }
    if !selects(rule.terms.object_selector.as_ref(), |key| subject.label(key)) {
        return fits(
            RuleVerdict::ObjectSelector,
            "but its objectSelector does not select the labels of the Pod".to_owned(),
        );
    }
    let Some(Winner { name, matched: Some(longer) }) = winner else {
        return fits(RuleVerdict::NotServing, "but is not active: see the warnings".to_owned());
    };
    if depth(longer) > depth(&matched) {
        return fits(RuleVerdict::ShorterMatch, format!("but {longer} of {name} is longer"));
    }
    fits(RuleVerdict::Younger, format!("but {name} has the same and is older, or first by name"))
}

fn no_match(rule: &RewriteRuleStatus, image: &ImageRef) -> Judged {
    let hosts = rule.matches.iter().map(|matched| matched.split('/').next().unwrap_or_default());
    let all = rule.matches.join(", ");
    let repository = image.repository();
    if hosts.into_iter().any(|host| fits(rule, host, image)) {
        return (
            RuleVerdict::PathDiffers,
            None,
            format!("path differs: {repository} does not begin with the path of {all}"),
        );
    }
    (RuleVerdict::HostDiffers, None, format!("host differs: {} is not that of {all}", image.host()))
}

/// Returns the longest match that is a prefix of the image.
fn longest(rule: &RewriteRuleStatus, image: &ImageRef) -> Option<String> {
    let fitting = rule.matches.iter().filter(|matched| fits(rule, matched, image));
    fitting.max_by_key(|matched| depth(matched)).cloned()
}

/// Returns whether the rules would match the image with this match alone.
fn fits(rule: &RewriteRuleStatus, matched: &str, image: &ImageRef) -> bool {
    let alone = Rule {
        matches: vec![matched.to_owned()],
        pull_host: rule.host.clone(),
        project: rule.project.clone(),
        ..Rule::default()
    };
    let rules = Rules::compile([alone]);
    matches!(rules.find_for_anyone(image), RuleDecision::Rewritten { .. } | RuleDecision::TooLong { .. })
}

/// Number of components of a match.
fn depth(matched: &str) -> usize {
    matched.trim_end_matches('/').split('/').count()
}

fn selects<'l>(selector: Option<&LabelSelector>, label: impl Fn(&str) -> Option<&'l str>) -> bool {
    Selector::compile(selector).is_ok_and(|selector| selector.matches(label))
}

fn namespace(subject: &PodScope<'_>) -> String {
    match subject.namespace {
        "" => "a Pod without a namespace".to_owned(),
        name => format!("namespace {name}"),
    }
}
