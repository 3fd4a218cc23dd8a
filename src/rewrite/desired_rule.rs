//! The rule that a ProxyProject's spec states, before Harbor has the project.

use std::collections::HashMap;

use super::active_rules::rule_of;
use super::rules::{RuleWarning, Rules};
use crate::api::{HarborInstance, ProxyProject, Registry, RegistryType, RewriteRuleStatus};
use crate::image::{DOCKER_HUB, is_same_host};

/// Names of Docker Hub.
const DOCKER_HUBS: [&str; 4] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// The reason why a ProxyProject states no usable rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DesiredRuleError {
    /// The URL of Amazon's API is not a registry host; the registry host contains the account.
    #[error("the Registry's url has no account; set spec.rewrite.matches to ACCOUNT.dkr.ecr.REGION.amazonaws.com")]
    EcrApi,
    /// Harbor supports no proxy project on a registry of this type.
    #[error("{}", not_proxied(.0))]
    NotProxied(&'static str),
    /// A problem that the compiler of rules found.
    #[error("spec.rewrite: {0}")]
    Rule(RuleWarning),
    /// The referenced resource does not exist.
    #[error("{project}: the manifests have no {kind} {name}; add it")]
    Missing {
        /// Name of the ProxyProject.
        project: String,
        /// Kind of the resource.
        kind: &'static str,
        /// Its name.
        name: String,
    },
}

fn not_proxied(adapter: &str) -> String {
    let way_out = match adapter {
        "quay" => "use a Registry of type quay-io, or of type docker-registry with the url of your Quay",
        _ => "use a Registry of type docker-registry with the same url, if that registry supports the distribution API",
    };
    format!("Harbor cannot proxy a registry of type {adapter}, only replicate with it: {way_out}")
}

/// Returns the rule that `project` states, given its Registry and the host of image references.
///
/// # Errors
/// When the rule can match or name no image.
pub fn desired_rule(
    project: &ProxyProject,
    registry: &Registry,
    pull_host: &str,
) -> Result<RewriteRuleStatus, DesiredRuleError> {
    if !registry.spec.type_.is_proxied() {
        return Err(DesiredRuleError::NotProxied(registry.spec.type_.adapter()));
    }
    let spec = &project.spec.rewrite;
    let matches = match spec.matches.as_slice() {
        [] => default_matches(registry)?,
        given => given.to_vec(),
    };
    let name = project.harbor_name();
    let rule = RewriteRuleStatus {
        replaces: replaces(registry, &matches, name),
        matches,
        docker_hub: registry.spec.type_ == RegistryType::DockerHub,
        host: pull_host.to_owned(),
        project: name.to_owned(),
        target: format!("{pull_host}/{name}"),
        generation: project.metadata.generation.unwrap_or_default(),
        terms: spec.terms.clone(),
    };
    let alone = Rules::compile([rule_of(project, &rule, false)]);
    match alone.findings().iter().find(|finding| finding.is_fatal()) {
        Some(finding) => Err(DesiredRuleError::Rule(finding.clone())),
        None => Ok(rule),
    }
}

/// Compiles the rules of manifests as if Harbor served all of them: for tools that send no request to Harbor. Suspended
/// projects have no rules. Also returns the problems of skipped rules.
pub fn assumed(
    instances: &[HarborInstance],
    registries: &[Registry],
    projects: &[ProxyProject],
) -> (Rules, Vec<DesiredRuleError>) {
    let instances: HashMap<_, _> = instances.iter().map(|found| (found.metadata.name.as_deref(), found)).collect();
    let registries: HashMap<_, _> = registries.iter().map(|found| (found.metadata.name.as_deref(), found)).collect();
    let mut problems = Vec::new();
    let mut rules = Vec::new();
    for project in projects.iter().filter(|project| !project.spec.suspend) {
        let missing = |kind, name: &str| DesiredRuleError::Missing {
            project: project.metadata.name.clone().unwrap_or_default(),
            kind,
            name: name.to_owned(),
        };
        let (instance, registry) = (&project.spec.harbor_ref.name, &project.spec.registry_ref.name);
        let rule = instances.get(&Some(instance.as_str())).ok_or_else(|| missing("HarborInstance", instance)).and_then(
            |instance| {
                let registry = registries.get(&Some(registry.as_str())).ok_or_else(|| missing("Registry", registry))?;
                desired_rule(project, registry, instance.spec.effective_pull_host())
            },
        );
        match rule {
            Ok(rule) => rules.push(rule_of(project, &rule, false)),
            Err(problem) => problems.push(problem),
        }
    }
    (Rules::compile(rules), problems)
}

/// Returns the matches that name this project at another Harbor, `harbor.old/dockerhub`: their host is not the registry's,
/// and their path is the name of the project. The images of the registry are below that path, so the rule drops it.
fn replaces(registry: &Registry, matches: &[String], project: &str) -> Vec<String> {
    let own = default_matches(registry).unwrap_or_default();
    let is_other = |matched: &&String| {
        let (host, path) = matched.trim_end_matches('/').split_once('/').unwrap_or((matched, ""));
        path == project && !DOCKER_HUBS.contains(&host) && !own.iter().any(|own| is_same_host(own, host))
    };
    matches.iter().filter(is_other).cloned().collect()
}

/// Returns the hosts that name images of this registry.
fn default_matches(registry: &Registry) -> Result<Vec<String>, DesiredRuleError> {
    if registry.spec.type_ == RegistryType::DockerHub {
        // The rules add its other names.
        return Ok(vec![DOCKER_HUB.to_owned()]);
    }
    let url = registry.url();
    let url = url.as_ref();
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split('/').next().unwrap_or_default();
    if registry.spec.type_ == RegistryType::AwsEcr && host.starts_with("api.ecr.") {
        return Err(DesiredRuleError::EcrApi);
    }
    let mut matches = vec![host.to_owned()];
    matches.extend(other_names(scheme, host));
    Ok(matches)
}

/// Returns the other names of a registry's host.
fn other_names(scheme: &str, host: &str) -> Vec<String> {
    let default_port = if scheme == "http" { ":80" } else { ":443" };
    if let Some(bare) = host.strip_suffix(default_port) {
        return vec![bare.to_owned()];
    }
    match host {
        "registry.k8s.io" => return vec!["k8s.gcr.io".to_owned()],
        "public.ecr.aws" => return vec!["ecr-public.aws.com".to_owned()],
        _ => {}
    }
    // The registry of each account has a FIPS name, and in most partitions an IPv6 name.
    let Some((account, region)) = host.split_once(".dkr.ecr.") else { return Vec::new() };
    let mut names = vec![format!("{account}.dkr.ecr-fips.{region}")];
    if let Some(region) = region.strip_suffix(".amazonaws.com") {
        names.push(format!("{account}.dkr-ecr.{region}.on.aws"));
    } else if let Some(region) = region.strip_suffix(".amazonaws.com.cn") {
        names.push(format!("{account}.dkr-ecr.{region}.on.amazonwebservices.com.cn"));
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::image::ImageRef;
    use crate::rewrite::RuleDecision;

    fn instance() -> HarborInstance {
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "HarborInstance", "metadata": {"name": "default"},
            "spec": {"url": "https://harbor.corp", "credentialsSecretRef": {"name": "harbor"}},
        }))
        .unwrap()
    }

    fn registry(type_: &str, url: &str) -> Registry {
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "up"},
            "spec": {"type": type_, "url": url},
        }))
        .unwrap()
    }

    fn project(rewrite: serde_json::Value) -> ProxyProject {
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": "p"},
            "spec": {"registryRef": {"name": "up"}, "rewrite": rewrite},
        }))
        .unwrap()
    }

    fn rewritten(type_: &str, url: &str, image: &str) -> Option<String> {
        let (rules, problems) = assumed(&[instance()], &[registry(type_, url)], &[project(json!({}))]);
        assert_eq!(problems, []);
        assert_eq!(rules.findings(), []);
        match rules.find_for_anyone(&ImageRef::parse(image).unwrap()) {
            RuleDecision::Rewritten { image, .. } => Some(image.to_string()),
            _ => None,
        }
    }

    #[test]
    fn what_harbor_cannot_proxy_is_refused_with_the_way_out() {
        for (type_, about) in [
            ("quay", "quay-io"),
            ("huawei-SWR", "docker-registry"),
            ("tencent-tcr", "docker-registry"),
            ("volcengine-cr", "docker-registry"),
        ] {
            let registry = registry(type_, "https://registry.corp");
            let (rules, problems) = assumed(&[instance()], &[registry], &[project(json!({}))]);
            assert_eq!(problems, [DesiredRuleError::NotProxied(type_)]);
            assert!(problems[0].to_string().contains(about) && problems[0].to_string().contains(type_), "{problems:?}");
            let image = ImageRef::parse("registry.corp/a/b").unwrap();
            assert!(!matches!(rules.find_for_anyone(&image), RuleDecision::Rewritten { .. }));
        }
    }

    #[test]
    fn a_registry_is_known_by_all_its_names() {
        let table = [
            ("docker-hub", "https://hub.docker.com", "nginx", "library/nginx"),
            ("docker-hub", "https://hub.docker.com", "docker.io/nginx", "library/nginx"),
            ("docker-hub", "https://hub.docker.com", "index.docker.io/library/nginx:1", "library/nginx:1"),
            ("docker-hub", "https://hub.docker.com", "registry-1.docker.io/nginx", "library/nginx"),
            ("docker-hub", "https://hub.docker.com", "registry.hub.docker.com/a/b", "a/b"),
            ("github-ghcr", "https://ghcr.io", "ghcr.io/acme/app", "acme/app"),
            ("docker-registry", "https://quay.io", "quay.io/acme/app", "acme/app"),
            ("docker-registry", "https://registry.k8s.io", "registry.k8s.io/pause:3.10", "pause:3.10"),
            ("docker-registry", "https://registry.k8s.io", "k8s.gcr.io/pause:3.2", "pause:3.2"),
            ("docker-registry", "https://mcr.microsoft.com/", "mcr.microsoft.com/dotnet/sdk", "dotnet/sdk"),
            ("docker-registry", "https://public.ecr.aws", "public.ecr.aws/nginx/nginx", "nginx/nginx"),
            ("docker-registry", "https://public.ecr.aws", "ecr-public.aws.com/nginx/nginx", "nginx/nginx"),
            ("docker-registry", "https://reg.example:5000", "reg.example:5000/a", "a"),
            ("docker-registry", "https://reg.example:443", "reg.example/a", "a"),
            ("docker-registry", "http://reg.example:80", "reg.example/a", "a"),
        ];
        for (type_, url, image, path) in table {
            assert_eq!(rewritten(type_, url, image), Some(format!("harbor.corp/p/{path}")), "{url} {image}");
        }
        assert_eq!(rewritten("docker-registry", "https://reg.example:5000", "reg.example/a"), None);
        assert_eq!(rewritten("docker-registry", "https://quay.io", "quay.io.evil/a"), None);
    }

    #[test]
    fn a_match_that_names_the_project_at_another_harbor_is_replaced_and_others_are_kept() {
        let hub = registry("docker-hub", "https://hub.docker.com");
        let named = |matches: &[&str]| project(json!({"matches": matches}));
        for (matches, image, expected) in [
            (&["docker.io", "harbor.old/p"][..], "harbor.old/p/library/nginx:1", "harbor.corp/p/library/nginx:1"),
            (&["harbor.old/p/"], "HARBOR.old:443/p/library/nginx", "harbor.corp/p/library/nginx"),
            (&["docker.io", "harbor.old/p"], "nginx:1", "harbor.corp/p/library/nginx:1"),
            (&["docker.io/p"], "docker.io/p/app:1", "harbor.corp/p/p/app:1"),
            (&["registry-1.docker.io/p"], "registry-1.docker.io/p/app:1", "harbor.corp/p/p/app:1"),
            (&["harbor.old/other"], "harbor.old/other/app:1", "harbor.corp/p/other/app:1"),
        ] {
            let (rules, problems) = assumed(&[instance()], std::slice::from_ref(&hub), &[named(matches)]);
            assert_eq!((problems, rules.findings()), (vec![], &[][..]));
            let found = rules.rewritten_for_anyone(&ImageRef::parse(image).unwrap());
            assert_eq!(found.map(|image| image.to_string()).as_deref(), Some(expected), "{matches:?} {image}");
        }
        let upstream = registry("harbor", "https://harbor.old");
        let (rules, _) = assumed(&[instance()], &[upstream], &[named(&["harbor.old/p"])]);
        let found = rules.rewritten_for_anyone(&ImageRef::parse("harbor.old/p/app:1").unwrap());
        assert_eq!(found.unwrap().as_str(), "harbor.corp/p/p/app:1", "that Harbor is the upstream");
    }

    #[test]
    fn a_host_with_its_default_port_is_the_host() {
        let table = [
            ("docker-registry", "https://quay.io", "quay.io:443/acme/app:1", "acme/app:1"),
            ("docker-registry", "https://quay.io:443", "quay.io/acme/app", "acme/app"),
            ("docker-hub", "https://hub.docker.com", "registry-1.docker.io:443/library/nginx", "library/nginx"),
            ("docker-hub", "https://hub.docker.com", "docker.io:443/library/nginx:1", "library/nginx:1"),
            ("docker-hub", "https://hub.docker.com", "index.docker.io:443/acme/app", "acme/app"),
        ];
        for (type_, url, image, path) in table {
            assert_eq!(rewritten(type_, url, image), Some(format!("harbor.corp/p/{path}")), "{url} {image}");
        }
        assert_eq!(rewritten("docker-registry", "https://quay.io", "quay.io:4430/acme/app"), None);
        for other in ["docker.io:443/nginx", "index.docker.io:443/nginx", "docker.io:4430/library/nginx"] {
            assert_eq!(rewritten("docker-hub", "https://hub.docker.com", other), None, "{other}: another repository");
        }
        let (rules, _) =
            assumed(&[instance()], &[registry("docker-registry", "https://quay.io")], &[project(json!({}))]);
        let at_harbor = ImageRef::parse("harbor.corp:443/p/acme/app").unwrap();
        assert!(matches!(rules.find_for_anyone(&at_harbor), RuleDecision::AlreadyAtHarbor { rule: Some(_) }));
    }

    #[test]
    fn a_private_ecr_is_known_in_every_partition() {
        let table = [
            ("1.dkr.ecr.eu-central-1.amazonaws.com", "1.dkr.ecr.eu-central-1.amazonaws.com"),
            ("1.dkr.ecr.us-gov-west-1.amazonaws.com", "1.dkr.ecr-fips.us-gov-west-1.amazonaws.com"),
            ("1.dkr.ecr.eu-west-1.amazonaws.com", "1.dkr-ecr.eu-west-1.on.aws"),
            ("1.dkr.ecr.cn-north-1.amazonaws.com.cn", "1.dkr.ecr.cn-north-1.amazonaws.com.cn"),
            ("1.dkr.ecr.cn-north-1.amazonaws.com.cn", "1.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn"),
            ("1.dkr.ecr.us-iso-east-1.c2s.ic.gov", "1.dkr.ecr.us-iso-east-1.c2s.ic.gov"),
            ("1.dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "1.dkr.ecr.us-isob-east-1.sc2s.sgov.gov"),
        ];
        for (host, named) in table {
            let found = rewritten("aws-ecr", &format!("https://{host}"), &format!("{named}/team/app:1"));
            assert_eq!(found.as_deref(), Some("harbor.corp/p/team/app:1"), "{named}");
        }
        let ecr = registry("aws-ecr", "https://api.ecr.eu-central-1.amazonaws.com");
        let (rules, problems) = assumed(&[instance()], &[ecr], &[project(json!({}))]);
        assert!(rules.is_empty());
        assert_eq!(problems, [DesiredRuleError::EcrApi]);
    }

    #[test]
    fn desired_rule_reports_invalid_fields() {
        let hub = [registry("docker-hub", "https://hub.docker.com")];
        for (rewrite, reported) in [
            (json!({"matches": ["nodot"]}), "match nodot is not host"),
            (json!({"exclude": ["nginx"]}), "exclude: \"nginx\" is not a pattern"),
            (
                json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
                "namespaceSelector: operator In of key \"a\" needs values",
            ),
        ] {
            let (rules, problems) = assumed(&[instance()], &hub, &[project(rewrite)]);
            assert!(rules.is_empty());
            assert!(problems[0].to_string().contains(reported), "{}", problems[0]);
        }
        let (_, problems) = assumed(&[instance()], &[], &[project(json!({}))]);
        assert_eq!(problems[0].to_string(), "p: the manifests have no Registry up; add it");
    }
}
