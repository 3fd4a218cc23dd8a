//! One compiled rule.

use std::fmt;
use std::sync::Arc;

use super::host::read_match;
use super::{Rule, RuleWarning};
use crate::api::proxy_project::{RewriteMode, WhenUnavailable};
use crate::image::{ImagePrefix, ImageRef};
use crate::rewrite::glob::Globs;
use crate::rewrite::pod_scope::PodScope;
use crate::rewrite::selector::Selectors;

/// The target of a rule.
#[derive(Debug)]
pub struct RewriteTarget {
    name: Arc<str>,
    pub(super) prefix: ImagePrefix,
    /// Names of this project at other Harbors: hosts in lower case, and paths.
    replaces: Vec<(Box<str>, Box<str>)>,
    /// Whether Harbor serves a repository of one component from `library/`.
    docker_hub: bool,
    exclude: Globs,
    selectors: Selectors,
    mode: RewriteMode,
    /// Whether Harbor is unavailable and the rule does not rewrite images then.
    waits: bool,
    pull_secret: Option<Arc<str>>,
    /// The steps to check whether the rule matches an image.
    steps: u64,
}

impl RewriteTarget {
    /// Compiles a rule without its matches.
    pub(super) fn compile(rule: &Rule) -> Result<Self, RuleWarning> {
        let prefix = ImagePrefix::new(&rule.pull_host, &rule.project).map_err(|error| RuleWarning::BadTarget {
            rule: rule.name.clone(),
            host: rule.pull_host.clone(),
            project: rule.project.clone(),
            error,
        })?;
        let terms = &rule.terms;
        let scope = |problem: String| RuleWarning::BadScope { rule: rule.name.clone(), problem };
        let selectors = Selectors::compile(terms.namespace_selector.as_ref(), terms.object_selector.as_ref());
        let selectors = selectors.map_err(|error| scope(error.to_string()))?;
        let exclude = Globs::compile(&terms.exclude).map_err(|error| scope(format!("exclude: {error}")))?;
        Ok(Self {
            name: rule.name.as_str().into(),
            prefix,
            replaces: rule
                .replaces
                .iter()
                .filter_map(|text| read_match(text))
                .map(|(host, path)| (host.into(), path.into()))
                .collect(),
            steps: selectors.steps(exclude.len() + rule.replaces.len()),
            docker_hub: rule.docker_hub,
            exclude,
            selectors,
            mode: terms.mode,
            waits: rule.unavailable && terms.when_unavailable == WhenUnavailable::Original,
            pull_secret: terms.pull_secret_name.as_deref().map(Arc::from),
        })
    }

    /// Returns an image of this project at another Harbor, without the path of the project there.
    pub(super) fn replaced(&self, host: &str, image: &ImageRef) -> Option<ImageRef> {
        let mut own = self.replaces.iter().filter(|(other, _)| **other == *host);
        own.find_map(|(_, path)| image.without_path(path))
    }

    /// Returns the canonical reference of an image that names this project of Harbor: the host as the rule writes it, and for
    /// Docker Hub the `library/` that Harbor adds (it redirects `project/nginx` to `project/library/nginx`).
    pub fn canonical(&self, image: &ImageRef) -> ImageRef {
        let below = image.repository().strip_prefix(self.project()).and_then(|rest| rest.strip_prefix('/'));
        let Some(below) = below else { return image.clone() };
        let library = if self.docker_hub && !below.contains('/') { "library/" } else { "" };
        if library.is_empty() && image.host() == self.pull_host() {
            return image.clone();
        }
        let rest = image.as_str().get(image.name().len() - below.len()..).unwrap_or_default();
        // An image that becomes too long is not an image that Harbor can serve.
        ImageRef::parse(&format!("{}/{library}{rest}", self.prefix)).unwrap_or_else(|_| image.clone())
    }

    /// Returns whether the rule applies to this image of this Pod, given that one of its matches is a prefix of the image.
    pub fn covers(&self, image: &ImageRef, subject: &PodScope<'_>) -> bool {
        self.selectors.matches(subject) && self.exclude.matching(image).is_none()
    }

    /// Returns the steps to check whether the rule matches an image.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns whether a younger rule with a match of this one never gets an image through it. The younger rule gets images
    /// only if this rule excludes some that the younger one may match.
    pub(super) fn leaves_nothing_to(&self, younger: &Self) -> bool {
        self.exclude.is_empty() && (self.selectors.is_everything() || self.selectors == younger.selectors)
    }

    /// Returns the images that the rule excludes.
    pub fn exclude(&self) -> &Globs {
        &self.exclude
    }

    /// Returns the Pods that the rule selects.
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// Returns whether images are rewritten, or only mapped.
    pub fn mode(&self) -> RewriteMode {
        self.mode
    }

    /// Returns whether images are not modified because Harbor is unavailable.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Returns the Secret that Pods with rewritten images need.
    pub fn pull_secret(&self) -> Option<&Arc<str>> {
        self.pull_secret.as_ref()
    }

    /// Returns the name of the ProxyProject.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the host of Harbor.
    pub fn pull_host(&self) -> &str {
        self.prefix.host()
    }

    /// Returns the project in Harbor.
    pub fn project(&self) -> &str {
        self.prefix.path()
    }
}

impl fmt::Display for RewriteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pull_host(), self.project())
    }
}

#[cfg(test)]
mod tests {
    use RewriteMode::{Disabled, Enabled};
    use WhenUnavailable::{Original, Rewrite};

    use super::*;
    use crate::api::proxy_project::RewriteTerms;
    use crate::rewrite::rules::{
        RuleDecision, Rules,
        tests::{reported, rule, scoped},
    };

    /// Returns the rule that rewrites an image of a Pod labelled `app=web`, in namespace `shop` labelled `team=shop`.
    fn chosen(rules: &Rules, image: &str) -> String {
        let namespace = [("team".to_owned(), "shop".to_owned())].into();
        let text = r#"{"metadata": {"labels": {"app": "web"}}}"#;
        let pod: crate::rewrite::pod::Pod<'_> = crate::json_scan::read(text.as_bytes()).unwrap();
        let subject = PodScope { namespace: "shop", namespace_labels: Some(&namespace), labels: pod.labels() };
        match rules.find(&ImageRef::parse(image).unwrap(), &subject) {
            RuleDecision::Rewritten { rule, .. } => rule.name().to_string(),
            RuleDecision::Mapped { image, rule } => format!("{} maps to {image}", rule.name()),
            RuleDecision::Unavailable { rule } => format!("{} waits", rule.name()),
            _ => "-".to_owned(),
        }
    }

    #[test]
    fn a_rule_that_does_not_speak_of_the_pod_or_the_image_leaves_room_for_the_next_one() {
        let team = |team: &str| serde_json::json!({"namespaces": {"matchLabels": {"team": team}}});
        let named =
            |name: &str| serde_json::json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
        let app = |app: &str| serde_json::json!({"objects": {"matchLabels": {"app": app}}});
        let exclude = |glob: &str| serde_json::json!({"exclude": [glob]});
        let everything = serde_json::json!({});
        let table = [
            (vec![("a", "docker.io", team("shop"))], "a"),
            (vec![("a", "docker.io", team("bank"))], "-"),
            (vec![("a", "docker.io", named("shop"))], "a"),
            (vec![("a", "docker.io", app("web"))], "a"),
            (vec![("a", "docker.io", app("db"))], "-"),
            (vec![("a", "docker.io", exclude("docker.io/library/nginx"))], "-"),
            (vec![("a", "docker.io", exclude("docker.io/library/redis"))], "a"),
            // The longest match wins, then the older rule.
            (vec![("a", "docker.io", everything.clone()), ("b", "docker.io/library", team("bank"))], "a"),
            (vec![("a", "docker.io", everything.clone()), ("b", "docker.io/library", team("shop"))], "b"),
            (vec![("a", "docker.io", team("bank")), ("b", "docker.io", team("shop"))], "b"),
            (vec![("a", "docker.io", team("shop")), ("b", "docker.io", app("web"))], "a"),
            (vec![("a", "docker.io/library", exclude("**/nginx")), ("b", "docker.io", everything)], "b"),
        ];
        for (rules, expected) in table {
            let compiled =
                rules.iter().zip(0..).map(|((name, matched, scope), age)| scoped(name, age, matched, scope.clone()));
            let compiled = Rules::compile(compiled);
            assert_eq!(compiled.findings(), [], "{rules:?}");
            assert_eq!(chosen(&compiled, "nginx"), expected, "{rules:?}");
        }
    }

    #[test]
    fn disabled_rules_map_and_unavailable_ones_wait_unless_they_rewrite_nevertheless() {
        let rule = |unavailable, mode, when_unavailable| Rule {
            unavailable,
            terms: RewriteTerms { mode, when_unavailable, ..RewriteTerms::default() },
            ..rule("hub", 1, &["docker.io"], "hub")
        };
        let table = [
            (rule(false, Disabled, Original), "hub maps to harbor.corp/hub/library/nginx"),
            (rule(true, Enabled, Original), "hub waits"),
            (rule(true, Enabled, Rewrite), "hub"),
            (rule(false, Enabled, Original), "hub"),
            (rule(true, Disabled, Rewrite), "hub maps to harbor.corp/hub/library/nginx"),
        ];
        for (rule, expected) in table {
            let compiled = Rules::compile([rule.clone()]);
            assert_eq!(chosen(&compiled, "nginx"), expected, "{rule:?}");
            assert_eq!(reported(&compiled, "nginx"), "harbor.corp/hub/library/nginx", "for any Pod: {rule:?}");
        }
    }
}
