//! Finds which rules can affect each other, without compiling them.

use std::borrow::Cow;

use super::host::read_match;
use crate::image::canonical_host as lower;

/// The images that the matches of one rule cover.
pub(in crate::rewrite) struct Reach<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Reach<'a> {
    /// Returns the reach of these matches.
    pub(in crate::rewrite) fn of(matches: &'a [String]) -> Self {
        Self(matches.iter().filter_map(|matched| read_match(matched)).collect())
    }

    /// Returns whether a rule with these matches and this pull host can affect it: it has a match in common, or its Harbor is
    /// the host of a match.
    pub(in crate::rewrite) fn meets(&self, matches: &[String], pull_host: &str) -> bool {
        let pull_host = lower(pull_host);
        let shared = |matched: &String| read_match(matched).is_some_and(|matched| self.0.contains(&matched));
        self.0.iter().any(|(host, _)| *host == pull_host) || matches.iter().any(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meets(own: &[&str], others: &[&str], pull_host: &str) -> bool {
        let texts = |matches: &[&str]| matches.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Reach::of(&texts(own)).meets(&texts(others), pull_host)
    }

    #[test]
    fn rules_meet_where_they_match_the_same_or_where_one_is_at_the_harbor_of_the_other() {
        for (own, other, pull_host, expected) in [
            ("ghcr.io", "ghcr.io", "harbor.corp", true),
            ("ghcr.io", "GHCR.io/", "harbor.corp", true),
            ("ghcr.io", "ghcr.io/acme", "harbor.corp", false),
            ("docker.io", "registry-1.docker.io", "harbor.corp", true),
            ("index.docker.io/library", "docker.io/library", "harbor.corp", true),
            ("ghcr.io", "quay.io", "harbor.corp", false),
            ("Harbor.corp/team", "quay.io", "harbor.CORP", true),
            ("harbor.corp:443", "quay.io", "harbor.corp", true),
            ("harbor.corp:8443", "quay.io", "harbor.corp", false),
            ("not a host", "not a host", "harbor.corp", false),
        ] {
            assert_eq!(meets(&[own], &[other], pull_host), expected, "{own} {other} {pull_host}");
        }
        assert!(meets(&["a.example", "b.example"], &["c.example", "b.example"], "harbor.corp"));
    }
}
