//! `harbor-pilot rewrite`

mod kustomize;
mod replace;
mod run;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use clap::Args;
use similar::TextDiff;

use self::{
    kustomize::{Consequences, Seen, consequences},
    run::RewriteRun,
};
use super::{
    deadline, exit,
    input::{self, Files, Input},
    kustomization::KUSTOMIZATIONS,
    output::{eprint_line, print},
    signals::shutdown_on_signal,
    sources,
    templates::TemplateAdmission,
};
use crate::manifests::separated;

const EXIT_CODES: &str = "\
Exit status:
  0  done; with --diff: nothing would change
  1  with --diff: something would change. With --strict: listed texts with images of mapped
     hosts are not rewritten, or an image is a placeholder
  2  an error: the readable files were still rewritten. With --fail-fast, or if writing
     failed, nothing was written. With --diff, also the cases of exit status 3
  3  written, but an image or a pull secret could not be changed without changing
     something else (an anchor, a merge key, a Kustomization); standard error says which

The command rewrites certain images: those of containers and image volumes of Pods and
Pod templates in objects of any kind, of known fields of a kind (Argo Workflows, Tekton,
Spark, operators; more by --fields), and of Kustomizations, with the names that they
select. Other texts with an image of a mapped host (arguments, variables, data of
ConfigMaps, values of charts) are listed on standard error with file, line and field.
Everything else stays byte for byte.

Examples:
  helm template web ./chart | harbor-pilot rewrite -f - --rules rules/ | kubectl apply -f -
  harbor-pilot rewrite -f deploy/ -R --diff --strict";

/// Arguments of `rewrite`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: input::Arguments,
    #[command(flatten)]
    reading: input::ReadOptions,
    #[command(flatten)]
    sources: sources::Arguments,
    #[command(flatten)]
    deadline: deadline::Arguments,
    /// Prints changes as a unified diff
    #[arg(long)]
    diff: bool,
    /// Writes the files instead of printing them: all of them, or none
    #[arg(long, conflicts_with = "diff")]
    in_place: bool,
    /// Adds the pull secrets of the rules to kinds of rewritten images that have a field for them
    #[arg(long)]
    pull_secrets: bool,
    /// Exits with 1 if a text with an image of a mapped host is not rewritten
    #[arg(long)]
    strict: bool,
    /// Namespace of objects without one [default: that of the kubeconfig, if rules come from the cluster]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Runs the command; see [`EXIT_CODES`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let files = arguments.input.manifests(&arguments.reading)?;
    let inputs = &files.inputs;
    let from_stdin = inputs.iter().any(|input| input.file.is_none());
    ensure!(!(arguments.in_place && from_stdin), "--in-place cannot be used with -f -");
    let sources = arguments.deadline.bound(arguments.sources.read()).await?;
    let rules = sources.active_rules()?;
    if rules.is_empty() {
        eprint_line("warning: no active rule: no image is rewritten");
    }

    let admission = TemplateAdmission::new(&rules, &sources, arguments.namespace.as_deref(), &files.namespaces);
    let mut work = RewriteRun::new(&files, &admission, arguments.pull_secrets);
    let needs = kustomizations(&files, &work)?;
    let (mut results, mut failed) = (Vec::with_capacity(inputs.len()), files.failed);
    for (number, input) in inputs.iter().enumerate() {
        match work.rewrite(number, input, &needs) {
            Ok(text) => results.push((input, text)),
            Err(error) if arguments.reading.fail_fast => return Err(error),
            Err(error) => {
                eprint_line(format_args!("{error:#}"));
                failed += 1;
            }
        }
    }
    eprint_line(work.counts.summary(failed));

    let changed = results.iter().any(|(input, text)| input.text != *text);
    if arguments.diff {
        print(&diff(&results))?;
    } else if arguments.in_place {
        write(&results)?;
    } else {
        print(&joined(&results)?)?;
    }
    let counts = &work.counts;
    let unkept = counts.unkept > 0;
    Ok(if failed > 0 || (unkept && arguments.diff) {
        exit::FAILED
    } else if unkept {
        exit::INCOMPLETE
    } else if (arguments.diff && changed) || (arguments.strict && counts.has_findings()) {
        exit::FOUND
    } else {
        exit::DONE
    })
}

/// Computes what Kustomizations in the files, and next to them, require.
fn kustomizations(files: &Files, work: &RewriteRun<'_>) -> anyhow::Result<Consequences> {
    let outside = outside(files);
    if outside.is_empty() && !files.inputs.iter().any(may_be_kustomization) {
        return Ok(Consequences::default());
    }
    let mut seen = files.inputs.iter().map(|input| work.see(input)).collect::<anyhow::Result<Vec<Seen>>>()?;
    seen.extend(outside);
    let parts = parts(files, &seen);
    seen.extend(parts);
    Ok(if seen.iter().any(Seen::is_kustomization) { consequences(&seen) } else { Consequences::default() })
}

/// Files that Kustomizations refer to and that are not on the command line: patches, `replacements` and `configurations`.
fn parts(files: &Files, seen: &[Seen]) -> Vec<Seen> {
    let known: BTreeSet<&Path> = seen.iter().filter_map(|seen| seen.path.as_deref()).collect();
    let named = seen.iter().flat_map(|seen| {
        let directory = seen.path.as_deref().and_then(Path::parent);
        directory.into_iter().flat_map(|directory| seen.parts().map(|part| directory.join(part)))
    });
    let paths: BTreeSet<PathBuf> =
        named.filter_map(|path| path.canonicalize().ok()).filter(|path| path.is_file()).collect();
    paths
        .into_iter()
        .filter(|path| !known.contains(path.as_path()))
        .filter_map(|path| read_beside(files, path))
        .collect()
}

/// A file that is not on the command line; `None` if it cannot be read.
fn read_beside(files: &Files, path: PathBuf) -> Option<Seen> {
    let input = input::sibling_path(&path).ok()?;
    let seen = Seen::of(&files.parse(&input).ok()?, |_, _| None);
    Some(Seen { name: path.display().to_string(), path: Some(path), outside: true, ..seen })
}

fn may_be_kustomization(input: &Input) -> bool {
    input.is_kustomization() || input.text.contains("kustomize.config.k8s.io")
}

/// Kustomizations next to the files, and those that cannot be read.
fn outside(files: &Files) -> Vec<Seen> {
    let given: Vec<PathBuf> =
        files.inputs.iter().filter_map(|input| input.file.as_deref()?.canonicalize().ok()).collect();
    let directories: BTreeSet<&Path> = given.iter().filter_map(|file| file.parent()).collect();
    let beside = directories.into_iter().flat_map(|directory| KUSTOMIZATIONS.map(|name| directory.join(name)));
    // Kustomizations of the input that cannot be read: images that they may use are not rewritten.
    let unread = files.unread.iter().map(|unread| {
        let path = unread.file.canonicalize().unwrap_or_else(|_| unread.file.clone());
        let seen = Seen::unreadable(unread.text.as_deref());
        Seen { name: unread.file.display().to_string(), path: Some(path), ..seen }
    });
    let unread: Vec<Seen> = unread.collect();
    let is_unread = |path: &PathBuf| unread.iter().any(|seen| seen.path.as_ref() == Some(path));
    let others = beside.filter(|path| !given.contains(path) && path.is_file() && !is_unread(path));
    let read = others.map(|path| {
        let seen = match input::sibling_path(&path) {
            Ok(input) => match files.parse(&input) {
                Ok(manifests) => Seen::of(&manifests, |_, _| None),
                Err(_) => Seen::unreadable(Some(&input.text)),
            },
            Err(_) => Seen::unreadable(None),
        };
        Seen { name: path.display().to_string(), path: Some(path), outside: true, ..seen }
    });
    let mut all: Vec<Seen> = read.collect();
    all.extend(unread);
    all
}

fn write(results: &[(&Input, String)]) -> anyhow::Result<()> {
    let changed = results.iter().filter(|(input, text)| input.text != *text);
    let changed: Vec<replace::FileChange<'_>> = changed
        .filter_map(|(input, new)| Some(replace::FileChange { file: input.file.as_deref()?, old: &input.text, new }))
        .collect();
    let stop = shutdown_on_signal()?;
    replace::replace_all(&changed, &stop)?;
    let left = replace::leftovers(results.iter().filter_map(|(input, _)| input.file.as_deref()));
    if let Some(first) = left.first() {
        eprint_line(format_args!(
            "warning: {} of an earlier run that was killed: all files are complete; remove files that end in .harbor-pilot-new or \
             .harbor-pilot-old when no other run is at work ({}, …)",
            if left.len() == 1 { "1 file is left".to_owned() } else { format!("{} files are left", left.len()) },
            first.display()
        ));
    }
    Ok(())
}

/// One stream of documents. kubectl reads a stream of several files as YAML: JSON values need separators there.
fn joined(results: &[(&Input, String)]) -> anyhow::Result<String> {
    let [(_, only)] = results else {
        let mut out = String::new();
        for (input, text) in results {
            let text = separated(without_directives(input, text.trim_start_matches('\u{feff}'))?.as_str())?;
            if !text.starts_with("---") {
                out.push_str("---\n");
            }
            out.push_str(&text);
            if !text.ends_with('\n') && !text.is_empty() {
                out.push('\n');
            }
        }
        return Ok(out);
    };
    Ok(only.clone())
}

/// A text without `%YAML` at its beginning, which is allowed only at the beginning of a stream.
fn without_directives(input: &Input, text: &str) -> anyhow::Result<String> {
    let of_head = |line: &str| line.trim().is_empty() || line.starts_with(['#', '%']);
    let length: usize = text.split_inclusive('\n').take_while(|line| of_head(line)).map(str::len).sum();
    let (head, rest) = text.split_at_checked(length).unwrap_or((text, ""));
    let mut kept = String::new();
    for line in head.split_inclusive('\n') {
        ensure!(
            !line.starts_with('%') || line.starts_with("%YAML"),
            "{}: a file with the directive {} cannot be printed with other files: pass it alone, or use --in-place",
            input.name,
            line.trim_end()
        );
        kept.push_str(if line.starts_with('%') { "" } else { line });
    }
    Ok(kept + rest)
}

fn diff(results: &[(&Input, String)]) -> String {
    let mut out = String::new();
    for (input, text) in results.iter().filter(|(input, text)| input.text != *text) {
        let changes = TextDiff::from_lines(&input.text, text);
        let (old, new) = (input.name.clone(), format!("{} (rewritten)", input.name));
        let _ = write!(out, "{}", changes.unified_diff().header(&old, &new));
    }
    out
}
