//! Manifests from the command line, shared by all commands that read them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::{
    kustomization::{self, is_kustomization, is_manifest},
    output::eprint_line,
};
use crate::manifests::{self, KindTable, ManifestText};

/// Maximum size of a file and of standard input. A chart renders to about 100 KiB.
const MAX_BYTES: u64 = 32 << 20;
/// Maximum size of all inputs together.
const MAX_TOTAL: u64 = 64 << 20;
/// Maximum depth of nested directories.
const MAX_DEPTH: usize = 32;

/// Which manifests to read.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// File or directory of manifests (.yaml, .yml and .json), or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    filenames: Vec<PathBuf>,
    /// Reads subdirectories, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// The same for a command that also works without manifests.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(super) struct Optional {
    /// File or directory of manifests (.yaml, .yml and .json), or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    filenames: Vec<PathBuf>,
    /// Reads subdirectories, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// How manifests are read.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(super) struct ReadOptions {
    /// File with more kinds, and their fields that contain images
    #[arg(long, value_name = "FILE")]
    pub(super) fields: Option<PathBuf>,
    /// Stops at the first file that cannot be read, and does not process the others
    #[arg(long)]
    pub(super) fail_fast: bool,
}

/// One text.
#[derive(Debug)]
pub(super) struct Input {
    /// Name for messages.
    pub(super) name: String,
    /// The file; `None` for standard input.
    pub(super) file: Option<PathBuf>,
    pub(super) text: String,
}

/// The texts that are manifests. For the others an error was printed.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) inputs: Vec<Input>,
    /// Labels of the Namespaces in them.
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Number of files that could not be read.
    pub(super) failed: usize,
    /// Kustomizations among the files that could not be read.
    pub(super) unread: Vec<Unread>,
    fields: KindTable,
}

/// A Kustomization that could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) file: PathBuf,
    /// Its content, if it is text.
    pub(super) text: Option<String>,
}

impl Arguments {
    /// Reads all inputs, each file once, files of a directory in order of their names.
    pub(super) fn read(&self) -> anyhow::Result<Vec<Input>> {
        let inputs: Vec<Input> =
            read(&self.filenames, self.recursive).into_iter().map(|(_, input)| input).collect::<anyhow::Result<_>>()?;
        for input in &inputs {
            // If there are no manifests, the user gets the error.
            ManifestText::read(&input.text).iter().for_each(|manifests| warn_of_duplicates(input, manifests));
        }
        Ok(inputs)
    }

    /// Reads all as manifests.
    pub(super) fn manifests(&self, reading: &ReadOptions) -> anyhow::Result<Files> {
        Files::read(read(&self.filenames, self.recursive), reading)
    }
}

impl Optional {
    /// As [`Arguments::manifests`].
    pub(super) fn manifests(&self, reading: &ReadOptions) -> anyhow::Result<Files> {
        Files::read(read(&self.filenames, self.recursive), reading)
    }
}

impl Input {
    /// Returns whether its file name is that of a Kustomization, whatever its content.
    pub(super) fn is_kustomization(&self) -> bool {
        self.file.as_deref().is_some_and(is_kustomization)
    }
}

impl Files {
    fn read(inputs: Vec<(PathBuf, anyhow::Result<Input>)>, reading: &ReadOptions) -> anyhow::Result<Self> {
        let mut files = Self::of(Vec::new(), fields(reading.fields.as_deref())?);
        for (file, input) in inputs {
            let added = match input {
                Ok(input) => files.add(input),
                Err(error) => Err((error, None)),
            };
            if let Err((error, text)) = added {
                if reading.fail_fast {
                    return Err(error);
                }
                eprint_line(format_args!("{error:#}"));
                files.failed += 1;
                if is_kustomization(&file) {
                    files.unread.push(Unread { file, text });
                }
            }
        }
        Ok(files)
    }

    /// Wraps texts that are known to be manifests.
    pub(super) fn of(inputs: Vec<Input>, fields: KindTable) -> Self {
        Self { inputs, namespaces: BTreeMap::new(), failed: 0, unread: Vec::new(), fields }
    }

    /// Adds a text, or returns the error and the text.
    fn add(&mut self, input: Input) -> Result<(), (anyhow::Error, Option<String>)> {
        let read = self.parse(&input).map(|manifests| {
            warn_of_duplicates(&input, &manifests);
            manifests.namespaces().clone()
        });
        match read {
            Ok(namespaces) => self.namespaces.extend(namespaces),
            Err(error) => return Err((error, Some(input.text))),
        }
        self.inputs.push(input);
        Ok(())
    }

    /// Reads a text as manifests.
    pub(super) fn parse<'t>(&'t self, input: &'t Input) -> anyhow::Result<ManifestText<'t>> {
        let read = ManifestText::read_file(&input.text, &self.fields, input.is_kustomization());
        read.map_err(|error| {
            let manifests::ManifestError { line, column, detail, .. } = &error;
            let advice = unrendered(&input.text).map(|line| {
                format!(" (line {line} has `{{{{`: this is a chart template; render it first with `helm template`)")
            });
            anyhow::anyhow!("{}:{line}:{column}: {detail}{}", input.name, advice.unwrap_or_default())
        })
    }
}

fn warn_of_duplicates(input: &Input, manifests: &ManifestText<'_>) {
    for manifests::ManifestError { line, column, detail, .. } in manifests.duplicates() {
        eprint_line(format_args!("{}:{line}:{column}: warning: {detail}", input.name));
    }
}

/// Reads the user's table, if given.
fn fields(file: Option<&Path>) -> anyhow::Result<KindTable> {
    let Some(file) = file else { return Ok(KindTable::default()) };
    let name = || file.display().to_string();
    let text =
        std::fs::File::open(file).map_err(Into::into).and_then(|file| bounded(file, MAX_BYTES)).with_context(name)?;
    KindTable::with(&text)
        .map_err(|error| anyhow::anyhow!("{}:{}:{}: {}", name(), error.line, error.column, error.detail))
}

/// Returns the first line with the syntax of chart templates.
fn unrendered(text: &str) -> Option<usize> {
    text.lines().position(|line| line.contains("{{")).map(|index| index + 1)
}

fn read(filenames: &[PathBuf], recursive: bool) -> Vec<(PathBuf, anyhow::Result<Input>)> {
    let mut seen = BTreeSet::new();
    let mut inputs = Vec::new();
    let mut left = MAX_TOTAL;
    for given in filenames {
        let files = match files_of(given, recursive) {
            Ok(files) => files,
            Err(error) => {
                inputs.push((given.clone(), Err(error)));
                continue;
            }
        };
        let mut files: VecDeque<PathBuf> = files.into();
        while let Some(file) = files.pop_front() {
            if seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())) {
                let input = read_one(file.clone(), left);
                left = left.saturating_sub(input.as_ref().map_or(0, |input| input.text.len() as u64));
                if let Some(input) = input.as_ref().ok().filter(|input| input.is_kustomization() && given.is_dir()) {
                    kustomization::unlisted(&input.text, &file, given, recursive)
                        .into_iter()
                        .for_each(|file| files.push_front(file));
                }
                inputs.push((file, input));
            } else if file.as_os_str() == "-" {
                let error = anyhow::anyhow!("standard input can be read only once: use -f - once");
                inputs.push((file, Err(error)));
            }
        }
    }
    inputs
}

/// Reads a file that is not on the command line.
pub(super) fn sibling_path(file: &Path) -> anyhow::Result<Input> {
    read_one(file.to_owned(), MAX_BYTES)
}

fn files_of(given: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    if !given.is_dir() {
        return Ok(vec![given.to_owned()]);
    }
    let mut files = Vec::new();
    collect(given, recursive, &mut Vec::new(), &mut files)?;
    ensure!(!files.is_empty(), "{}: no .yaml, .yml or .json file", given.display());
    Ok(files)
}

fn read_one(file: PathBuf, left: u64) -> anyhow::Result<Input> {
    ensure!(left > 0, "{}: the files have more than {MAX_TOTAL} bytes together: use fewer files", file.display());
    let limit = MAX_BYTES.min(left);
    if file.as_os_str() == "-" {
        let text = bounded(std::io::stdin().lock(), limit).context("standard input")?;
        return Ok(Input { name: "(standard input)".to_owned(), file: None, text });
    }
    let name = file.display().to_string();
    let opened = std::fs::File::open(&file).with_context(|| name.clone())?;
    let text = bounded(opened, limit).with_context(|| name.clone())?;
    Ok(Input { name, file: Some(file), text })
}

/// `above` are the parent directories.
fn collect(
    directory: &Path,
    recursive: bool,
    above: &mut Vec<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let own = directory.canonicalize().with_context(|| directory.display().to_string())?;
    if above.contains(&own) {
        eprint_line(format_args!("{}: skipped: a symbolic link to a directory above it", directory.display()));
        return Ok(());
    }
    if above.len() > MAX_DEPTH {
        bail!("{}: more than {MAX_DEPTH} nested directories", directory.display());
    }
    let listing = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut entries = listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    above.push(own);
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                collect(&entry, recursive, above, files)?;
            }
        } else if is_manifest(&entry) {
            // Reading a pipe or a device may never end. A broken link fails later.
            if entry.metadata().is_ok_and(|metadata| !metadata.is_file()) {
                eprint_line(format_args!("{}: skipped: not a regular file", entry.display()));
            } else {
                files.push(entry);
            }
        }
    }
    above.pop();
    Ok(())
}

fn bounded(source: impl Read, limit: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "longer than {limit} bytes");
    String::from_utf8(bytes).map_err(|error| {
        anyhow::anyhow!("not UTF-8 at byte {}: save it as UTF-8", error.utf8_error().valid_up_to() + 1)
    })
}
