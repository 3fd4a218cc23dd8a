//! Texts with images of mapped hosts that are not processed, shared by all commands that read manifests.

use std::collections::BTreeSet;

use super::{
    input::{Files, Input},
    output::eprint_line,
    templates::is_mapped,
};
use crate::{
    image::ImageRef,
    manifests::{ImageRole, ManifestText, Mention, Placeholder, Template, TemplateImage},
    rewrite::Rules,
};

/// Prints each text of the files with an image of a mapped host that is not certain to be an image, without those that [`defect`]
/// reports if the command prints these. Returns their number.
pub(super) fn tell_mentions(
    files: &Files,
    rules: &Rules,
    what_happens: &str,
    without_defects: bool,
) -> anyhow::Result<usize> {
    let mut count = 0;
    for input in &files.inputs {
        let manifests = files.parse(input)?;
        let is_said = is_defect(&manifests);
        let mentions = mentions(&manifests, rules);
        for mention in mentions.iter().filter(|mention| !(without_defects && is_said(mention))) {
            eprint_line(line(input, mention, what_happens));
            count += 1;
        }
    }
    Ok(count)
}

/// Returns whether a text is part of an image that is a placeholder. A command that lists such images prints them once.
pub(super) fn is_defect(manifests: &ManifestText<'_>) -> impl Fn(&Mention) -> bool {
    let images = manifests.templates().iter().flat_map(|template| &template.images);
    let unfilled = images.filter(|image| !matches!(image.placeholder, None | Some(Placeholder::RunTime)));
    let places: BTreeSet<(usize, String)> = unfilled.map(|image| (image.line, image.place.clone())).collect();
    move |mention| places.contains(&(mention.line, mention.place.clone()))
}

/// Like [`tell_mentions`], including certain images: for a command that processes none.
pub(super) fn tell_images(files: &Files, rules: &Rules, what_happens: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    for input in &files.inputs {
        let manifests = files.parse(input)?;
        for template in manifests.templates() {
            let images = template.images.iter().filter(|image| image.placeholder.is_none());
            let mapped =
                |image: &&TemplateImage| image.role != ImageRole::KustomizeName && is_mapped(rules, &image.image);
            for image in images.filter(mapped) {
                eprint_line(image_line(input, template, image, what_happens));
                count += 1;
            }
        }
    }
    Ok(count + tell_mentions(files, rules, what_happens, false)?)
}

/// Texts of one file with an image of a mapped host that are not certain to be images.
pub(super) fn mentions(manifests: &ManifestText<'_>, rules: &Rules) -> Vec<Mention> {
    manifests.mentions(&|image| is_mapped(rules, image))
}

/// Why an image of a mapped host cannot be used: it is a placeholder, or not a valid reference.
pub(super) fn defect(rules: &Rules, image: &TemplateImage) -> Option<String> {
    match image.placeholder {
        Some(Placeholder::RunTime) => None,
        Some(placeholder) => Some(placeholder.advice().to_owned()),
        None => {
            let error = ImageRef::parse(&image.image).err()?;
            would_be_mapped(rules, &image.image).then(|| error.to_string())
        }
    }
}

/// `FILE:LINE:COLUMN: Kind name: field: image what happens`.
pub(super) fn line(input: &Input, mention: &Mention, what_happens: &str) -> String {
    let Mention { object, place, image, line, column } = mention;
    let object = object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    format!("{}:{line}:{column}: {object}{place}: {image} {what_happens}", input.name)
}

/// The same for a certain image.
pub(super) fn image_line(input: &Input, template: &Template, image: &TemplateImage, what_happens: &str) -> String {
    let TemplateImage { image, line, column, place, .. } = image;
    format!("{}:{line}:{column}: {}: {place}: {image} {what_happens}", input.name, template.object)
}

/// The number of listed texts: `1 more text names …`. `one` and `several` say what happens to them: `is skipped`, `are skipped`.
pub(super) fn counted(count: usize, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 more text names an image of a mapped host and {one}"),
        _ => format!("{count} more texts name images of mapped hosts and {several}"),
    }
}

/// Returns whether rules map the host of an invalid reference.
pub(super) fn would_be_mapped(rules: &Rules, text: &str) -> bool {
    let (host, path) = text.split_once('/').unwrap_or(("docker.io", text));
    let path = path.split(['@', ':']).next().unwrap_or_default().to_ascii_lowercase();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    [parts.join("/").as_str(), "library/any"].iter().any(|path| is_mapped(rules, &format!("{host}/{path}")))
}
