//! Globs over image references: `docker.io/library/*`, `ghcr.io/acme/**`, `**:latest`.

use globset::{GlobBuilder, GlobMatcher};

use crate::image::ImageRef;

/// Compiled patterns in their original order.
#[derive(Debug, Clone, Default)]
pub struct Globs(Vec<GlobMatcher>);

/// The problem of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a pattern for images: {problem}")]
pub struct GlobError {
    /// The pattern.
    pub pattern: String,
    /// The problem.
    pub problem: String,
}

impl Globs {
    /// Compiles patterns. `*` and `?` match characters of one component, `**` matches whole components, `[ab]` and `{a,b}`
    /// match a choice. Patterns apply to the full form of an image, so patterns for Docker Hub begin with
    /// `docker.io/library/` or `docker.io/`.
    pub fn compile<'p>(patterns: impl IntoIterator<Item = &'p String>) -> Result<Self, GlobError> {
        let compiled = patterns.into_iter().map(|pattern| {
            let problem = |problem: String| GlobError { pattern: pattern.clone(), problem };
            if !begins_with_host(pattern) {
                let advice = "it must begin with a host or a wildcard, such as docker.io/library/nginx or **/nginx";
                return Err(problem(advice.to_owned()));
            }
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            glob.map(|glob| glob.compile_matcher()).map_err(|error| problem(error.kind().to_string()))
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of patterns.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the first pattern that matches host and repository, or the whole reference. Runtimes ignore the tag of an
    /// image that has a digest, so only a pattern with `@` matches more of such an image than host and repository: `app:v1*`
    /// matches no digest.
    pub fn matching(&self, image: &ImageRef) -> Option<&str> {
        let pinned = image.digest().is_some();
        let whole = |glob: &GlobMatcher| !pinned || glob.glob().glob().contains('@');
        let matches = |glob: &&GlobMatcher| glob.is_match(image.name()) || whole(glob) && glob.is_match(image.as_str());
        self.0.iter().find(matches).map(|glob| glob.glob().glob())
    }
}

fn begins_with_host(pattern: &str) -> bool {
    let first = pattern.split('/').next().unwrap_or_default();
    first.contains(['.', '*', '?', '[', '{']) || (first.contains(':') && pattern.contains('/')) || first == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(pattern: &str, image: &str) -> bool {
        Globs::compile([&pattern.to_owned()]).unwrap().matching(&ImageRef::parse(image).unwrap()).is_some()
    }

    #[test]
    fn globs_match_whole_components_of_the_full_form() {
        let table = [
            ("docker.io/library/nginx", "nginx:1.27", true),
            ("docker.io/library/nginx", "nginx-unprivileged", false),
            ("docker.io/library/*", "redis", true),
            ("docker.io/*", "redis", false),
            ("docker.io/**", "redis", true),
            ("docker.io/**", "ghcr.io/redis", false),
            ("docker.io/bitnami/{redis,kafka}", "bitnami/kafka:3", true),
            ("**/nginx", "h:5000/a/b/nginx:1", true),
            ("**/*:latest", "a/nginx:latest", true),
            ("**/*:latest", "a/nginx:1", false),
            ("ghcr.io/acme/app:v1*", "ghcr.io/acme/app:v1.2", true),
            ("h:5000/team/?pp", "h:5000/team/app", true),
            ("*.evil/**", "docker.io.evil/a/b", true),
        ];
        for (pattern, image, expected) in table {
            assert_eq!(matching(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[test]
    fn globs_match_no_digest_by_its_tag() {
        let image = format!("ghcr.io/acme/app:v1@sha256:{}", "0".repeat(64));
        let table = [
            ("ghcr.io/acme/app:v1*", false),
            ("ghcr.io/acme/*:*", false),
            ("ghcr.io/acme/app", true),
            ("ghcr.io/**", true),
            ("ghcr.io/acme/app:v1@sha256:0*", true),
            ("ghcr.io/acme/app*@sha256:1*", false),
        ];
        for (pattern, expected) in table {
            assert_eq!(matching(pattern, &image), expected, "{pattern}");
        }
    }

    #[test]
    fn patterns_that_could_never_match_are_refused_with_what_to_write() {
        for pattern in ["nginx", "library/nginx", "docker.io/{a", "docker.io/[a"] {
            let error = Globs::compile([&pattern.to_owned()]).unwrap_err();
            assert_eq!(error.pattern, pattern);
        }
    }

    #[test]
    fn many_wildcards_cost_no_more_than_the_text_is_long() {
        let pattern = format!("docker.io/{}b", "*a".repeat(60));
        let image = format!("docker.io/{}", "a".repeat(240));
        assert!(!matching(&pattern, &image));
    }
}
