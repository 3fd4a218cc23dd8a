//! Manifests of our own kinds, for `plan` and `permissions`.

use std::path::Path;

use super::input::{self, Input};
use crate::standalone::{self, ManifestSet};

/// Reads the resources in the files of the command line, and the files.
pub(super) fn read(arguments: &input::Arguments) -> anyhow::Result<(ManifestSet, Vec<Input>)> {
    let inputs = arguments.read()?;
    let texts = inputs.iter().map(|input| {
        let name = input.file.as_deref().unwrap_or_else(|| Path::new(&input.name));
        (name, input.text.as_str())
    });
    let manifests = standalone::parse(texts)?;
    Ok((manifests, inputs))
}
