//! What a push, a new tag or a deletion sets going: each is an event of its own, one for each manifest.

use std::sync::Arc;

use super::{
    filters::{Deletes, Found, Item, keep_artifacts, keeps_repository},
    tables::Policy,
};
use crate::harbor::Core;

impl Core {
    /// A manifest was pushed under a tag, or a tag was added to it.
    pub(crate) fn pushed(self: &Arc<Self>, repository: &str, digest: &str, tag: Option<&str>) {
        let tags = tag.map(ToOwned::to_owned).into_iter().collect();
        self.happened(repository, digest, tags, None);
    }

    /// An artifact was deleted with its tags, or a tag alone.
    pub(crate) fn deleted(self: &Arc<Self>, repository: &str, digest: &str, tags: Vec<String>, what: Deletes) {
        self.happened(repository, digest, tags, Some(what));
    }

    fn happened(self: &Arc<Self>, repository: &str, digest: &str, tags: Vec<String>, deletes: Option<Deletes>) {
        let (found, policies) = {
            let state = self.state.lock();
            let project = state.project_named(repository.split('/').next().unwrap_or_default());
            let public =
                project.and_then(|project| project.metadata.get("public")).is_some_and(|public| public == "true");
            let labels = state.labels_of(repository, digest);
            let artifacts = vec![Item { digest: digest.to_owned(), tags, labels }];
            let found = Found { repository: repository.to_owned(), public: Some(public), artifacts, deletes };
            let related: Vec<Policy> =
                state.policies.values().filter(|policy| concerns(policy, &found)).cloned().collect();
            (found, related)
        };
        for policy in policies {
            // A policy that was disabled meanwhile does not run.
            drop(self.run_policy(&policy, Some(found.clone()), "event_based"));
        }
    }
}

fn concerns(policy: &Policy, found: &Found) -> bool {
    policy.enabled
        && policy.source == 0
        && policy.trigger.as_ref().is_some_and(|trigger| trigger.kind == "event_based")
        && (found.deletes.is_none() || policy.deletion)
        && keeps_repository(&policy.filters, &found.repository).unwrap_or_default()
        && keep_artifacts(&policy.filters, found.artifacts.clone()).is_ok_and(|kept| !kept.is_empty())
}
