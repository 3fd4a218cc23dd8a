//! Texts that name images of mapped hosts and stay as they are, the same for every command that reads manifests.

use super::{
    input::{Files, Input},
    tell,
    templates::is_mapped,
};
use crate::{
    manifests::{Manifests, Mention},
    rewrite::Rules,
};

/// Texts of all files that name an image of a mapped host where nothing says for certain that it is one; each is told with
/// its line. Hands over how many there are.
pub(super) fn tell_mentions(files: &Files, rules: &Rules, what_happens: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    for input in &files.inputs {
        for mention in mentions(&files.parse(input)?, rules) {
            tell(line(input, &mention, what_happens));
            count += 1;
        }
    }
    Ok(count)
}

/// Texts of one file that name an image of a mapped host where nothing says for certain that it is one.
pub(super) fn mentions(manifests: &Manifests<'_>, rules: &Rules) -> Vec<Mention> {
    manifests.mentions(&|image| is_mapped(rules, image))
}

/// `FILE:LINE:COLUMN: Kind name: place: image what happens`.
pub(super) fn line(input: &Input, mention: &Mention, what_happens: &str) -> String {
    let Mention { object, place, image, line, column } = mention;
    let object = object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    format!("{}:{line}:{column}: {object}{place}: {image} {what_happens}", input.name)
}
