//! The rules in force: those of the ProxyProjects that Harbor is known to serve.

use super::{Rule, Rules};
use crate::api::ProxyProject;

/// Compiles the rules of the projects that serve: `status.rewrite` where it is present and the resource neither suspended
/// nor being deleted. What the spec says and Harbor does not have yet plays no part.
pub fn serving<'a>(projects: impl IntoIterator<Item = &'a ProxyProject>) -> Rules {
    Rules::compile(projects.into_iter().filter_map(rule_of))
}

fn rule_of(project: &ProxyProject) -> Option<Rule> {
    let serving = project.serving_rule()?;
    Some(Rule {
        name: project.metadata.name.clone()?,
        created: project.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        matches: serving.matches.clone(),
        pull_host: serving.host.clone(),
        project: serving.project.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{image::ImageRef, rewrite::Decision};

    fn project(name: &str, suspend: bool, serving: bool) -> ProxyProject {
        let rewrite = serving.then(|| {
            json!({"rewrite": {"matches": ["docker.io"], "host": "harbor.example.com", "project": name,
                   "target": format!("harbor.example.com/{name}"), "generation": 1}})
        });
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": name},
            "spec": {"registryRef": {"name": "hub"}, "suspend": suspend}, "status": rewrite,
        }))
        .unwrap()
    }

    fn rewritten(projects: &[ProxyProject]) -> Option<String> {
        match serving(projects).find(&ImageRef::parse("nginx").unwrap()) {
            Decision::Rewritten { image, .. } => Some(image.to_string()),
            _ => None,
        }
    }

    #[test]
    fn only_what_harbor_serves_rewrites() {
        assert_eq!(rewritten(&[project("hub", false, false)]), None);
        assert_eq!(rewritten(&[project("hub", true, true)]), None);
        assert_eq!(rewritten(&[project("hub", false, true)]).unwrap(), "harbor.example.com/hub/library/nginx");
    }
}
