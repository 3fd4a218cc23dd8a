//! What a resource of ours is said to be: by its own conditions, by kstatus (and so by Flux), and by Argo CD with the health
//! check of `config/argocd`. [`State`] is the one table of what they have to agree on.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::process::directory;
use crate::tools::Tool;

/// What a resource is, by its own conditions. Each judge has one word for each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The status speaks of an older spec, or of none.
    Unseen,
    /// Ready is False, and becomes True without anybody's help: Reconciling.
    Progressing,
    /// Ready is True.
    Ready,
    /// Ready is False needs user action: Stalled.
    Stalled,
    /// Ready is False, for the spec says to leave it alone.
    Suspended,
    /// It is being deleted, whatever its conditions say.
    Deleting,
}

impl State {
    /// The word of kstatus. What is suspended is to it like anything that is not ready.
    #[must_use]
    pub fn kstatus(self) -> &'static str {
        match self {
            Self::Unseen | Self::Progressing | Self::Suspended => "InProgress",
            Self::Ready => "Current",
            Self::Stalled => "Failed",
            Self::Deleting => "Terminating",
        }
    }

    /// The word of Argo CD, which has none for what is being deleted.
    #[must_use]
    pub fn argo(self) -> &'static str {
        match self {
            Self::Unseen | Self::Progressing | Self::Deleting => "Progressing",
            Self::Ready => "Healthy",
            Self::Stalled => "Degraded",
            Self::Suspended => "Suspended",
        }
    }

    /// The state of a resource.
    ///
    /// # Errors
    /// When its conditions contradict one another, or speak of another generation than the status does.
    pub fn of(object: &Value) -> Result<Self> {
        let at = |pointer: &str| object.pointer(pointer).unwrap_or(&Value::Null);
        if !at("/metadata/deletionTimestamp").is_null() {
            return Ok(Self::Deleting);
        }
        let generation = at("/metadata/generation");
        if at("/status/observedGeneration") != generation {
            return Ok(Self::Unseen);
        }
        let conditions = at("/status/conditions").as_array().map_or(&[][..], Vec::as_slice);
        let find = |kind: &str| conditions.iter().find(|condition| condition.get("type").is_some_and(|is| is == kind));
        let ready = find("Ready").context("there is no Ready condition")?;
        let word = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).map(str::to_owned);
        for condition in [Some(ready), find("Reconciling"), find("Stalled")].into_iter().flatten() {
            if condition.get("observedGeneration") != Some(generation) {
                bail!("{condition} is of another generation than {generation}");
            }
        }
        let is = |kind: &str| match find(kind) {
            None => Ok(false),
            Some(found) if word(found, "status").as_deref() == Some("True") => Ok(true),
            Some(found) => bail!("{found} is there although it is not true"),
        };
        let (status, reason) = (word(ready, "status").unwrap_or_default(), word(ready, "reason").unwrap_or_default());
        match (status.as_str(), is("Reconciling")?, is("Stalled")?) {
            ("True", false, false) => Ok(Self::Ready),
            ("False", true, false) => Ok(Self::Progressing),
            ("False", false, true) => Ok(Self::Stalled),
            ("False", false, false) if reason == "Suspended" => Ok(Self::Suspended),
            (status, reconciling, stalled) => {
                bail!("Ready is {status} {reason}, Reconciling {reconciling}, Stalled {stalled}")
            }
        }
    }
}

/// What the tools say of one object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Verdicts {
    /// kstatus, as Flux asks it.
    pub kstatus: Verdict,
    /// Argo CD with our health check.
    pub argo: Verdict,
}

/// What one tool says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// The tool's own word.
    pub status: String,
    /// What a person is shown with it.
    pub message: String,
}

/// What the tools say of each object, in order; the programs are built first if need be. Blocks.
///
/// # Errors
/// Those of [`Tool::path`], or when the program cannot read an object.
pub fn verdicts(objects: &[Value]) -> Result<Vec<Verdicts>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tree has a root")?;
    let scratch = directory("harbor-pilot-e2e-health-")?;
    let input = scratch.path().join("objects");
    let lines: Vec<String> = objects.iter().map(|object| format!("{object}\n")).collect();
    fs::write(&input, lines.concat()).context("write the objects")?;
    let output = Command::new(Tool::Health.path()?)
        .arg(root.join("config/argocd/health.lua"))
        .stdin(Stdio::from(File::open(&input).context("read the objects")?))
        .output()
        .context("run the judges")?;
    if !output.status.success() {
        bail!("the judges ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    let verdicts = answers.collect::<Result<Vec<Verdicts>, _>>().context("read the verdicts")?;
    if verdicts.len() != objects.len() {
        bail!("{} verdicts of {} objects", verdicts.len(), objects.len());
    }
    Ok(verdicts)
}
