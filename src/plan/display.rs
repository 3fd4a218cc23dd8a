//! The text of a plan: the same in status, in Events and on the command line.

use super::{Action, Drift, Plan};

/// The summary of a plan without its requests, which may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The overall action of the plan.
    pub action: Action,
    /// The name of the object, such as `registry dockerhub`.
    pub object: String,
    /// Where Harbor differs from the spec. Empty when the object does not exist.
    pub drift: Vec<Drift>,
}

impl<Step> Plan<Step> {
    /// Returns the plan without its requests.
    pub fn difference(&self, object: impl Into<String>) -> Difference {
        Difference { action: self.action, object: object.into(), drift: self.drift.clone() }
    }
}

impl Difference {
    /// Returns one line for each difference; a missing object is one difference.
    pub fn lines(&self) -> Vec<String> {
        if self.action == Action::Create {
            return vec!["Harbor has no such object".to_owned()];
        }
        self.drift.iter().map(ToString::to_string).collect()
    }

    /// Returns the text for a plan that was applied.
    pub fn done(&self) -> String {
        let object = &self.object;
        let had = self.lines().join("; ");
        match self.action {
            Action::Nothing => format!("{object} in Harbor matches the spec"),
            Action::Create => format!("created {object} in Harbor"),
            Action::Adopt => format!("adopted {object} in Harbor, which had {had}"),
            Action::Change => format!("changed {object} in Harbor, which had {had}"),
        }
    }
}
