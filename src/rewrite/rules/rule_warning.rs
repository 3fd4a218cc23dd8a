//! Problems of rules.

use crate::image::ImageRefError;

/// A problem of a rule, or of two rules. The rest of the rule still applies, unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleWarning {
    /// Two rules have the same match; the older rule keeps it.
    #[error("{rule}: match {matched} belongs to the older rule {winner}; remove it from one of them")]
    Conflict {
        /// The rule that lost the match.
        rule: String,
        /// The match.
        matched: String,
        /// The rule that keeps it.
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
    /// The match is at a pull host, and images there are never rewritten.
    #[error("{rule}: match {matched} names Harbor itself and never applies; remove it")]
    AtHarbor {
        /// The rule.
        rule: String,
        /// The match.
        matched: String,
    },
    /// A selector or a glob is invalid. The whole rule is skipped: without its scope it would rewrite too much.
    #[error("{rule}: {problem}; no image is rewritten until this is fixed")]
    BadScope {
        /// The rule.
        rule: String,
        /// The problem.
        problem: String,
    },
    /// Pull host and project form no image reference. The whole rule is skipped.
    #[error("{rule}: {host}/{project}/… is not a valid image name: {error}; the host needs a dot or a port")]
    BadTarget {
        /// The rule.
        rule: String,
        /// Its pull host.
        host: String,
        /// Its project.
        project: String,
        /// The problem of host and project.
        error: ImageRefError,
    },
}

impl RuleWarning {
    /// Returns whether the rule by itself can do nothing, or not what it says. The other findings are about its neighbours.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Conflict { .. } | Self::AtHarbor { .. })
    }

    /// Returns the rule of the finding.
    pub fn rule(&self) -> &str {
        match self {
            Self::Conflict { rule, .. }
            | Self::BadMatch { rule, .. }
            | Self::AtHarbor { rule, .. }
            | Self::BadScope { rule, .. }
            | Self::BadTarget { rule, .. } => rule,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::rewrite::rules::{
        Rule, Rules,
        tests::{reported, rule, scoped},
    };

    #[test]
    fn of_two_rules_with_one_match_the_older_wins_then_the_name_in_any_order_of_arrival() {
        let (old, young, twin) = (
            rule("z", 1, &["ghcr.io"], "z"),
            rule("a", 2, &["ghcr.io", "x.io"], "a"),
            rule("y", 1, &["GHCR.io/"], "y"),
        );
        for rules in [vec![old.clone(), young.clone(), twin.clone()], vec![young, twin, old]] {
            let rules = Rules::compile(rules);
            assert_eq!(reported(&rules, "ghcr.io/app"), "harbor.corp/y/app");
            assert_eq!(reported(&rules, "x.io/app"), "harbor.corp/a/app");
            let reported: Vec<_> = rules.findings().iter().map(ToString::to_string).collect();
            assert_eq!(
                reported,
                [
                    "z: match ghcr.io belongs to the older rule y; remove it from one of them",
                    "a: match ghcr.io belongs to the older rule y; remove it from one of them",
                ]
            );
        }
    }

    #[test]
    fn rule_warning_reports_matches_that_cannot_apply() {
        let broken = Rule { pull_host: "harbor".to_owned(), ..rule("broken", 0, &["docker.io"], "p") };
        let bad = ["nginx", "", "/", "a b.c", "ghcr.io/Acme", "ghcr.io//x", "https://ghcr.io", "*.io", "harbor.corp/x"];
        let mut matches = bad.to_vec();
        matches.extend(["docker.io", "docker.io"]);
        let rules = Rules::compile([rule("hub", 1, &matches, "hub"), broken]);
        assert_eq!(rules.len(), 1);
        assert_eq!(rules.findings().len(), bad.len() + 1, "{:#?}", rules.findings());
        assert_eq!(reported(&rules, "nginx"), "harbor.corp/hub/library/nginx");
    }

    #[test]
    fn a_match_is_in_conflict_only_where_the_older_rule_leaves_no_room() {
        let team = |team: &str| serde_json::json!({"namespaces": {"matchLabels": {"team": team}}});
        let everything = serde_json::json!({});
        let exclude = serde_json::json!({"exclude": ["**/nginx"]});
        let table = [
            (everything.clone(), team("shop"), true),
            (team("shop"), everything.clone(), false),
            (team("shop"), team("bank"), false),
            (team("shop"), team("shop"), true),
            (exclude, everything, false),
        ];
        for (older, younger, conflict) in table {
            let rules =
                [scoped("older", 1, "docker.io", older.clone()), scoped("younger", 2, "docker.io", younger.clone())];
            let findings = Rules::compile(rules);
            let expected = "younger: match docker.io belongs to the older rule older; remove it from one of them";
            let found: Vec<_> = findings.findings().iter().map(ToString::to_string).collect();
            assert_eq!(found, if conflict { vec![expected] } else { vec![] }, "{older} {younger}");
        }
    }
}
