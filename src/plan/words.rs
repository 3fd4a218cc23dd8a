//! A plan in words: the same in status, in Events and on the command line.

use super::{Action, Drift, Plan};

/// What a plan is about, without its requests, which may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the plan comes to.
    pub action: Action,
    /// What the object is called, such as `registry dockerhub`.
    pub object: String,
    /// Where Harbor differs from the spec. Empty when the object does not exist.
    pub drift: Vec<Drift>,
}

impl<Step> Plan<Step> {
    /// The plan without its requests.
    pub fn difference(&self, object: impl Into<String>) -> Difference {
        Difference { action: self.action, object: object.into(), drift: self.drift.clone() }
    }
}

impl Difference {
    /// Each difference in a line; an object that does not exist is one, too.
    pub fn lines(&self) -> Vec<String> {
        if self.action == Action::Create {
            return vec!["Harbor has no such object".to_owned()];
        }
        self.drift.iter().map(ToString::to_string).collect()
    }

    /// What was done, once the steps are carried out.
    pub fn done(&self) -> String {
        let object = &self.object;
        let had = self.lines().join("; ");
        match self.action {
            Action::Nothing => format!("{object} in Harbor is as specified"),
            Action::Create => format!("created {object} in Harbor"),
            Action::Adopt => format!("adopted {object} in Harbor, which had {had}"),
            Action::Change => format!("changed {object} in Harbor, which had {had}"),
        }
    }
}
