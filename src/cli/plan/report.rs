//! A plan as text and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    controller::{Preview, PreviewResult},
    plan::Action,
    text::printable,
};

/// Indentation of detail lines.
const DETAIL: &str = "           ";

/// The printed document.
pub(super) struct PlanReport {
    /// The installation id in the markers.
    pub(super) installation: String,
    /// Whether the plan was applied.
    pub(super) applied: bool,
    /// In order of dependency.
    pub(super) entries: Vec<PlanEntry>,
}

/// One resource.
pub(super) struct PlanEntry {
    /// The planned change.
    pub(super) before: Preview,
    /// The completed change, as confirmed by the second comparison.
    pub(super) done: Vec<String>,
    /// Changes that Harbor accepted and that the second comparison does not show.
    pub(super) unverified: Vec<String>,
    /// The remaining change after `--apply`.
    pub(super) left: Option<PreviewResult>,
}

impl PlanEntry {
    /// A plan that is not applied.
    pub(super) fn planned(before: Preview) -> Self {
        Self { before, done: Vec::new(), unverified: Vec::new(), left: None }
    }

    /// The final state.
    pub(super) fn verdict(&self) -> &PreviewResult {
        self.left.as_ref().unwrap_or(&self.before.verdict)
    }
}

/// The planned action in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum ActionWord {
    Nothing,
    Create,
    Adopt,
    Change,
    /// It differs, and the policy is `ObserveOnly`.
    Observe,
    Refused,
}

impl ActionWord {
    const ALL: [Self; 6] = [Self::Create, Self::Adopt, Self::Change, Self::Observe, Self::Refused, Self::Nothing];

    fn of(verdict: &PreviewResult) -> Self {
        match verdict {
            PreviewResult::Idle(_) => Self::Nothing,
            PreviewResult::Refused { .. } => Self::Refused,
            PreviewResult::Compared { difference, writes } => match difference.action {
                Action::Nothing => Self::Nothing,
                _ if !writes => Self::Observe,
                Action::Create => Self::Create,
                Action::Adopt => Self::Adopt,
                Action::Change => Self::Change,
            },
        }
    }

    fn counted(self) -> &'static str {
        match self {
            Self::Nothing => "as specified",
            Self::Create => "to create",
            Self::Adopt => "to adopt",
            Self::Change => "to change",
            Self::Observe => "to observe only",
            Self::Refused => "refused",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Change => "change",
            Self::Observe => "observe",
            Self::Refused => "refused",
        }
    }
}

/// One resource as JSON.
#[derive(Serialize)]
struct PlanLine<'a> {
    kind: &'a str,
    name: &'a str,
    harbor: &'a str,
    #[serde(flatten)]
    planned: Shown<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    remarks: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<&'a [String]>,
    /// Changes that Harbor accepted and does not show.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unverified: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<Shown<'a>>,
}

/// A result as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    action: ActionWord,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<PlanChange<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct PlanChange<'a> {
    field: &'a str,
    harbor: &'a str,
    spec: &'a str,
}

#[derive(Serialize)]
struct PlanDocument<'a> {
    installation: &'a str,
    applied: bool,
    resources: Vec<PlanLine<'a>>,
    summary: serde_json::Map<String, serde_json::Value>,
}

impl PlanReport {
    /// One line for each resource and each field that differs, and a summary.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let Preview { kind, name, verdict, remarks, .. } = &entry.before;
            describe(&mut text, &format!("{kind} {name}"), verdict);
            for remark in remarks {
                writeln!(text, "{DETAIL}({remark})").ok();
            }
            for done in &entry.done {
                writeln!(text, "  done     {}", printable(done)).ok();
            }
            for sent in &entry.unverified {
                writeln!(text, "  sent     {} (Harbor accepted it and does not show it)", printable(sent)).ok();
            }
            if let Some(left) = entry.left.as_ref().filter(|left| ActionWord::of(left) != ActionWord::Nothing) {
                describe(&mut text, "afterwards", left);
            }
        }
        let head = if self.applied { "Afterwards" } else { "Plan" };
        let verdicts: Vec<&PreviewResult> = self.entries.iter().map(PlanEntry::verdict).collect();
        let counts: Vec<String> =
            counted(&verdicts).map(|(word, count)| format!("{count} {}", word.counted())).collect();
        writeln!(text, "{head}: {}", counts.join(", ")).ok();
        text
    }

    /// The same as one object. Later versions may add fields, and keep these.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let verdicts: Vec<&PreviewResult> = self.entries.iter().map(PlanEntry::verdict).collect();
        let whole = PlanDocument {
            installation: &self.installation,
            applied: self.applied,
            resources: self.entries.iter().map(|entry| line_of(entry, self.applied)).collect(),
            summary: counted(&verdicts).map(|(word, count)| (word.as_str().to_owned(), count.into())).collect(),
        };
        Ok(serde_json::to_string_pretty(&whole)? + "\n")
    }
}

fn line_of(entry: &PlanEntry, applied: bool) -> PlanLine<'_> {
    let Preview { kind, name, instance, verdict, remarks } = &entry.before;
    PlanLine {
        kind,
        name,
        harbor: instance,
        planned: shown(verdict),
        remarks,
        done: applied.then_some(entry.done.as_slice()),
        unverified: &entry.unverified,
        left: applied.then(|| shown(entry.verdict())),
    }
}

fn shown(verdict: &PreviewResult) -> Shown<'_> {
    let empty =
        Shown { action: ActionWord::of(verdict), object: None, changes: Vec::new(), reason: None, message: None };
    match verdict {
        PreviewResult::Idle(message) => Shown { message: Some(message), ..empty },
        PreviewResult::Refused { reason, message } => Shown { reason: Some(reason), message: Some(message), ..empty },
        PreviewResult::Compared { difference, .. } => {
            let changes = difference.drift.iter();
            let changes = changes
                .map(|drift| PlanChange { field: &drift.field, harbor: &drift.have, spec: &drift.want })
                .collect();
            Shown { object: Some(&difference.object), changes, ..empty }
        }
    }
}

fn counted(verdicts: &[&PreviewResult]) -> impl Iterator<Item = (ActionWord, usize)> {
    ActionWord::ALL
        .into_iter()
        .map(|word| (word, verdicts.iter().filter(|verdict| ActionWord::of(verdict) == word).count()))
}

fn describe(text: &mut String, whose: &str, verdict: &PreviewResult) {
    let word = ActionWord::of(verdict).as_str();
    let (said, lines) = match verdict {
        PreviewResult::Idle(message) => (message.clone(), Vec::new()),
        PreviewResult::Refused { reason, message } => (format!("{reason}: {message}"), Vec::new()),
        PreviewResult::Compared { difference, writes } => {
            let said_by_word = difference.action == Action::Create && *writes;
            let lines = if said_by_word { Vec::new() } else { difference.lines() };
            (difference.object.clone(), lines)
        }
    };
    writeln!(text, "{word:<8} {whose}: {}", printable(&said)).ok();
    for line in lines {
        writeln!(text, "{DETAIL}{}", printable(&line)).ok();
    }
}
