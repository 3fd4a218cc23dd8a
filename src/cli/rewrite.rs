//! `harbor-pilot rewrite`

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use anyhow::{Context, ensure};
use clap::Args;
use similar::TextDiff;

use super::{
    FAILED,
    input::{self, Input},
    print, sources, tell,
    templates::Admission,
};
use crate::{
    manifests::{Manifests, Template, Wish},
    rewrite::{Outcome, Subject, Target},
};

const DONE: u8 = 0;
/// With `--diff`.
const DIFFERENT: u8 = 1;
const UNKEPT: u8 = 3;

const EXIT_CODES: &str = "\
Exit status:
  0  done; with --diff: nothing would change
  1  with --diff: something would change
  2  an error: nothing was written. With --diff also what is 3 without
  3  written, but an image or a pull secret could not be changed without changing
     something else (an anchor, a merge key); standard error says which

Images whose place is a Pod's specification are rewritten, in objects of any kind: the
items of containers, initContainers and ephemeralContainers that have a name, and
image volumes beside them. All else stays byte for byte.

Examples:
  helm template web ./chart | harbor-pilot rewrite -f - --rules rules/ | kubectl apply -f -
  harbor-pilot rewrite -f deploy/ -R --diff";

/// What rewriting takes from the command line.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: input::Arguments,
    #[command(flatten)]
    sources: sources::Arguments,
    /// Prints what would change as a unified diff
    #[arg(long)]
    diff: bool,
    /// Writes the files instead of printing them
    #[arg(long, conflicts_with = "diff")]
    in_place: bool,
    /// Adds the pull secrets of the rules to specifications whose images were rewritten
    #[arg(long)]
    pull_secrets: bool,
    /// Namespace of objects that name none [default: that of the kubeconfig, where rules come from the cluster]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Rewrites; see [`EXIT_CODES`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let inputs = arguments.input.read()?;
    let from_stdin = inputs.iter().any(|input| input.file.is_none());
    ensure!(!(arguments.in_place && from_stdin), "--in-place has no file to write with -f -: leave one of them out");
    let sources = arguments.sources.read().await?;
    let rules = sources.rules_in_force()?;
    if rules.is_empty() {
        tell("warning: there is no rule in force: no image is rewritten");
    }

    let manifests = input::parse(&inputs)?;
    let admission = Admission::new(&rules, &sources, arguments.namespace.as_deref(), &manifests);
    let mut work = Work::new(&admission, arguments.pull_secrets);
    let mut results = Vec::with_capacity(inputs.len());
    for (input, manifests) in inputs.iter().zip(&manifests) {
        results.push(work.rewrite(input, manifests)?);
    }
    work.summary();

    let changed = inputs.iter().zip(&results).any(|(input, text)| input.text != *text);
    let unkept = work.unkept > 0;
    if arguments.diff {
        print(&diff(&inputs, &results))?;
        return Ok(if unkept {
            FAILED
        } else if changed {
            DIFFERENT
        } else {
            DONE
        });
    }
    if arguments.in_place {
        for (input, text) in inputs.iter().zip(&results).filter(|(input, text)| input.text != **text) {
            if let Some(file) = &input.file {
                replace(file, text).with_context(|| input.name.clone())?;
            }
        }
    } else {
        print(&joined(&results))?;
    }
    Ok(if unkept { UNKEPT } else { DONE })
}

struct Work<'w> {
    admission: &'w Admission<'w>,
    pull_secrets: bool,
    images: usize,
    rewritten: usize,
    secrets: usize,
    unkept: usize,
    /// What was said once and need not be said again.
    said: BTreeSet<String>,
}

impl<'w> Work<'w> {
    fn new(admission: &'w Admission<'w>, pull_secrets: bool) -> Self {
        Self { admission, pull_secrets, images: 0, rewritten: 0, secrets: 0, unkept: 0, said: BTreeSet::new() }
    }

    fn rewrite(&mut self, input: &Input, manifests: &Manifests<'_>) -> anyhow::Result<String> {
        for document in manifests.strangers() {
            let why = "has no apiVersion and kind and stays as it is";
            tell(format_args!("{}: warning: document {document} {why}", input.name));
        }
        let mut wishes = Vec::new();
        for (index, template) in manifests.templates().iter().enumerate() {
            self.images += template.images.len();
            self.admission.admit(&input.name, template, |subject, outcome| {
                self.warn_of_selectors(template, subject);
                self.wish(&input.name, index, template, outcome, &mut wishes);
            })?;
        }
        let edited = manifests.edit(&wishes).map_err(|error| anyhow::anyhow!("{}: {error}", input.name))?;
        for unkept in &edited.unkept {
            tell(format_args!("{}:{}: {}", input.name, unkept.line, unkept.detail));
        }
        self.rewritten += edited.images;
        self.secrets += edited.pull_secrets;
        self.unkept += edited.unkept.len();
        Ok(edited.text)
    }

    /// Wishes for what admission would make of the Pods of a template.
    fn wish(&self, file: &str, template: usize, found: &Template, outcome: &Outcome<'_>, wishes: &mut Vec<Wish>) {
        let at = format_args!("{file}:{}: warning: {}", found.line, found.object);
        for warning in outcome.warnings() {
            let warning = warning.strip_prefix("harbor-pilot: ").unwrap_or(warning);
            tell(format_args!("{at}: {warning}"));
        }
        for (image, each) in found.images.iter().enumerate() {
            if let Some(new) = outcome.image(each.list, each.index) {
                wishes.push(Wish::Image { template, image, text: new.to_owned() });
            }
        }
        if self.pull_secrets {
            let names = outcome.pull_secrets().iter();
            let names: Vec<_> = names.map(|name| Wish::PullSecret { template, name: name.to_string() }).collect();
            if found.pull_secrets.is_empty() && !names.is_empty() {
                tell(format_args!(
                    "{at}: a Pod that names pull secrets does not get those of its ServiceAccount: if it needs them, name \
                     them, too"
                ));
            }
            wishes.extend(names);
        }
    }

    /// What is not known is judged as if there were no labels: say so where a rule asks.
    fn warn_of_selectors(&mut self, template: &Template, subject: &Subject<'_>) {
        let ask = |asks: &dyn Fn(&Target) -> bool| {
            let names =
                self.admission.rules.targets().iter().filter(|target| asks(target)).map(|target| &**target.name());
            names.collect::<Vec<_>>().join(", ")
        };
        let mut warnings = Vec::new();
        let names = ask(&|target| !target.selectors().namespaces.is_everything());
        if subject.namespace_labels.is_none() && !names.is_empty() {
            let whose = match subject.namespace {
                "" => "an object names no namespace (give --namespace)".to_owned(),
                name => format!("the labels of namespace {name} are not known (add the Namespace to the input)"),
            };
            warnings.push(format!("{whose}; the namespaceSelector of {names} is judged as if it had none"));
        }
        let names = ask(&|target| !target.selectors().objects.is_everything());
        if template.labels.is_none() && !names.is_empty() {
            let object = &template.object;
            warnings.push(format!(
                "which labels the Pods of {object} have is not known; the objectSelector of {names} is judged as if they had none"
            ));
        }
        for warning in warnings {
            if !self.said.contains(&warning) {
                tell(format_args!("warning: {warning}"));
                self.said.insert(warning);
            }
        }
    }

    fn summary(&self) {
        let Self { images, rewritten, secrets, unkept, .. } = self;
        let mut text = format!("{rewritten} of {images} images rewritten");
        if *secrets > 0 {
            let _ = write!(text, ", pull secrets added to {secrets} Pod specifications");
        }
        if *unkept > 0 {
            let _ = write!(text, ", {unkept} changes left out");
        }
        tell(text);
    }
}

/// One stream of documents.
fn joined(texts: &[String]) -> String {
    let [only] = texts else {
        let mut out = String::new();
        for text in texts {
            let text = text.trim_start_matches('\u{feff}');
            if !text.starts_with("---") {
                out.push_str("---\n");
            }
            out.push_str(text);
            if !text.ends_with('\n') && !text.is_empty() {
                out.push('\n');
            }
        }
        return out;
    };
    only.clone()
}

fn diff(inputs: &[Input], results: &[String]) -> String {
    let mut out = String::new();
    for (input, text) in inputs.iter().zip(results).filter(|(input, text)| input.text != **text) {
        let changes = TextDiff::from_lines(&input.text, text);
        let (old, new) = (input.name.clone(), format!("{} (rewritten)", input.name));
        let _ = write!(out, "{}", changes.unified_diff().header(&old, &new));
    }
    out
}

/// Writes beside the file first: whatever happens, it is there, old or new.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let file = file.canonicalize()?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = file.with_file_name(name);
    let written = std::fs::write(&beside, text)
        .and_then(|()| std::fs::set_permissions(&beside, std::fs::metadata(&file)?.permissions()))
        .and_then(|()| std::fs::rename(&beside, &file));
    if written.is_err() {
        std::fs::remove_file(&beside).ok();
    }
    Ok(written?)
}
