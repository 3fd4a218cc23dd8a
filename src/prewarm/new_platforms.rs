//! Platforms that became wanted after an image was pulled: a node of another architecture, a longer list of the project.
//!
//! Pure. A platform that is no longer wanted changes nothing: nodes come and go, and stored content costs nothing.

use super::{phase::Phase, platform_select::takes};
use crate::api::{CachedImageStatus, ConditionType, Platform, condition};

/// Returns the platforms of `wanted` that the last pull did not cover, if the image is idle. An image that was pulled for all
/// platforms, or not yet, lacks none.
pub fn added_platforms(status: &CachedImageStatus, wanted: &[Platform]) -> Vec<Platform> {
    // A running or failed pull uses the current platforms in its next attempt; a verification finishes first.
    let is_idle = match Phase::of(status) {
        Phase::Settled { .. } => true,
        Phase::Verifying => condition::is_true(&status.conditions, ConditionType::Ready),
        Phase::Pending | Phase::Pulling | Phase::Deferred { .. } | Phase::BackingOff { .. } => false,
    };
    let pulled = &status.wanted;
    if !is_idle || pulled.is_empty() {
        return Vec::new();
    }
    wanted.iter().filter(|platform| !takes(pulled, Some(platform))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn platforms(list: &[&str]) -> Vec<Platform> {
        list.iter().map(|platform| platform.parse().unwrap()).collect()
    }

    #[test]
    fn only_a_platform_that_came_starts_a_pull_and_only_of_an_image_with_which_nothing_is_under_way() {
        let time = "2026-01-01T00:00:00Z";
        let ready =
            json!([{"type": "Ready", "status": "True", "reason": "Warm", "message": "", "lastTransitionTime": time}]);
        let settled = json!({"warmedAt": time, "digest": "sha256:a", "nextAttemptAt": time, "wanted": ["linux/amd64"], "conditions": ready});
        let with = |key: &str, value: serde_json::Value| {
            let mut status = settled.clone();
            status[key] = value;
            status
        };
        let table = [
            ("nothing came", settled.clone(), vec!["linux/amd64"], vec![]),
            ("one came", settled.clone(), vec!["linux/amd64", "linux/arm64"], vec!["linux/arm64"]),
            ("one went, one came", settled.clone(), vec!["linux/arm64"], vec!["linux/arm64"]),
            ("all went", settled.clone(), vec![], vec![]),
            ("warm, with open questions", with("nextAttemptAt", json!(null)), vec!["linux/arm64"], vec!["linux/arm64"]),
            ("pulled for all", with("wanted", json!([])), vec!["linux/arm64"], vec![]),
            ("failing", with("attempts", json!(1)), vec!["linux/arm64"], vec![]),
            ("never pulled", with("warmedAt", json!(null)), vec!["linux/arm64"], vec![]),
        ];
        for (what, status, wanted, expected) in table {
            let status = serde_json::from_value(status).unwrap();
            assert_eq!(added_platforms(&status, &platforms(&wanted)), platforms(&expected), "{what}");
        }
        let verifying = json!({"warmedAt": time, "digest": "sha256:a", "wanted": ["linux/amd64"]});
        let verifying = serde_json::from_value(verifying).unwrap();
        assert!(added_platforms(&verifying, &platforms(&["linux/arm64"])).is_empty());
    }
}
