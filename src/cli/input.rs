//! Manifests named on the command line, the same for every command that reads them.

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::manifests::Manifests;

/// More is refused, of standard input as of a file: a chart makes some 100 KiB.
const MAX_BYTES: u64 = 64 << 20;
/// Directories within directories.
const MAX_DEPTH: usize = 32;

/// Which manifests.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// File or directory of manifests (.yaml, .yml and .json), or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    filenames: Vec<PathBuf>,
    /// Reads directories below directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// The same for a command that has something to do without manifests.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(super) struct Optional {
    /// File or directory of manifests (.yaml, .yml and .json), or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    filenames: Vec<PathBuf>,
    /// Reads directories below directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// One text.
#[derive(Debug)]
pub(super) struct Input {
    /// What people call it.
    pub(super) name: String,
    /// The file; `None` for standard input.
    pub(super) file: Option<PathBuf>,
    pub(super) text: String,
}

impl Arguments {
    /// Reads all, each file once, those of a directory in the order of their names.
    pub(super) fn read(&self) -> anyhow::Result<Vec<Input>> {
        read(&self.filenames, self.recursive)
    }
}

impl Optional {
    /// As [`Arguments::read`].
    pub(super) fn read(&self) -> anyhow::Result<Vec<Input>> {
        read(&self.filenames, self.recursive)
    }
}

/// Reads the texts as manifests.
pub(super) fn parse(inputs: &[Input]) -> anyhow::Result<Vec<Manifests<'_>>> {
    let parsed = inputs
        .iter()
        .map(|input| Manifests::read(&input.text).map_err(|error| anyhow::anyhow!("{}: {error}", input.name)));
    parsed.collect()
}

fn read(filenames: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Input>> {
    let mut seen = BTreeSet::new();
    let mut inputs = Vec::new();
    for given in filenames {
        if given.as_os_str() == "-" {
            ensure!(seen.insert(given.clone()), "standard input can be read once only: give -f - once");
            let text = bounded(std::io::stdin().lock()).context("standard input")?;
            inputs.push(Input { name: "(standard input)".to_owned(), file: None, text });
            continue;
        }
        let mut files = vec![given.clone()];
        if given.is_dir() {
            files.clear();
            collect(given, recursive, 0, &mut files)?;
            ensure!(!files.is_empty(), "{}: no .yaml, .yml or .json file there", given.display());
        }
        for file in files {
            if seen.insert(file.clone()) {
                let name = file.display().to_string();
                let opened = std::fs::File::open(&file).with_context(|| name.clone())?;
                let text = bounded(opened).with_context(|| name.clone())?;
                inputs.push(Input { name, file: Some(file), text });
            }
        }
    }
    Ok(inputs)
}

fn collect(directory: &Path, recursive: bool, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if depth > MAX_DEPTH {
        bail!("{}: more than {MAX_DEPTH} directories within one another", directory.display());
    }
    let listing = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut entries = listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                collect(&entry, recursive, depth + 1, files)?;
            }
        } else if entry.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)) {
            files.push(entry);
        }
    }
    Ok(())
}

fn bounded(source: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_BYTES, "longer than {MAX_BYTES} bytes");
    String::from_utf8(bytes).map_err(|error| {
        anyhow::anyhow!("not UTF-8 at byte {}: save it as UTF-8", error.utf8_error().valid_up_to() + 1)
    })
}
