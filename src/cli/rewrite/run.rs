//! Rewrites the texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::kustomize::{Consequences, Seen, name_of};
use crate::{
    cli::{
        input::{Files, Input},
        listing,
        output::eprint_line,
        templates::TemplateAdmission,
    },
    image::ImageRef,
    manifests::{Edit, ImageRole, ManifestText, Placeholder, Template, TemplateImage},
    rewrite::{PodMutation, PodScope, RewriteTarget, RuleDecision},
};

pub(super) struct RewriteRun<'w> {
    pub(super) files: &'w Files,
    pub(super) admission: &'w TemplateAdmission<'w>,
    pub(super) pull_secrets: bool,
    pub(super) counts: RewriteCounts,
    /// Warnings that were printed.
    said: BTreeSet<String>,
}

/// The counts for all files together.
#[derive(Debug, Default)]
pub(super) struct RewriteCounts {
    /// Certain images.
    images: usize,
    rewritten: usize,
    at_harbor: usize,
    /// Texts with an image of a mapped host that are not rewritten.
    pub(super) listed: usize,
    /// Images that are placeholders.
    pub(super) unrendered: usize,
    /// Invalid references of a mapped host.
    pub(super) invalid: usize,
    secrets: usize,
    /// Images whose kind has no known field for pull secrets.
    pub(super) secretless: usize,
    pub(super) unkept: usize,
}

impl<'w> RewriteRun<'w> {
    pub(super) fn new(files: &'w Files, admission: &'w TemplateAdmission<'w>, pull_secrets: bool) -> Self {
        Self { files, admission, pull_secrets, counts: RewriteCounts::default(), said: BTreeSet::new() }
    }

    /// Reads the parts of a file that matter for Kustomizations.
    pub(super) fn see(&self, input: &Input) -> anyhow::Result<Seen> {
        let manifests = self.files.parse(input)?;
        let mut new: BTreeMap<(usize, usize), String> = BTreeMap::new();
        for (index, template) in manifests.templates().iter().enumerate() {
            self.admission.admit(&input.name, template, |_, outcome| {
                for (number, image) in template.images.iter().enumerate() {
                    let becomes = outcome.image(image.list, image.index).filter(|_| image.placeholder.is_none());
                    let becomes = becomes.filter(|_| !is_image_id(&image.image));
                    becomes.into_iter().for_each(|text| drop(new.insert((index, number), text.to_owned())));
                }
            })?;
        }
        // An entry must not follow an image that cannot change, for example because of a YAML anchor.
        let edit = |(&(template, image), text): (&(usize, usize), &String)| Edit::Image {
            template,
            image,
            text: text.clone(),
        };
        match manifests.edit(&new.iter().map(edit).collect::<Vec<_>>()) {
            Ok(edited) => edited.unkept.iter().for_each(|unkept| {
                if let Edit::Image { template, image, .. } = unkept.wish {
                    new.remove(&(template, image));
                }
            }),
            Err(_) => new.clear(),
        }
        let path = input.file.as_deref().and_then(|file| file.canonicalize().ok());
        let seen = Seen::of(&manifests, |template, image| new.get(&(template, image)).cloned());
        Ok(Seen { name: input.name.clone(), path, ..seen })
    }

    pub(super) fn rewrite(&mut self, number: usize, input: &Input, needs: &Consequences) -> anyhow::Result<String> {
        let manifests = self.files.parse(input)?;
        for document in manifests.foreign_documents() {
            let why = "has no apiVersion and kind, and is not modified";
            eprint_line(format_args!("{}: warning: document {document} {why}", input.name));
        }
        let mut wishes = Vec::new();
        for (index, template) in manifests.templates().iter().enumerate() {
            self.admission.admit(&input.name, template, |subject, outcome| {
                self.warn_of_selectors(template, subject);
                self.wish(number, input, index, template, outcome, needs, &mut wishes);
            })?;
        }
        let edited = manifests.edit(&wishes);
        let edited = edited
            .map_err(|error| anyhow::anyhow!("{}:{}:{}: {}", input.name, error.line, error.column, error.detail))?;
        for unkept in &edited.unkept {
            eprint_line(format_args!("{}:{}: {}", input.name, unkept.line, unkept.detail));
        }
        self.list(input, &manifests);
        self.counts.rewritten += edited.images;
        self.counts.secrets += edited.pull_secrets;
        self.counts.unkept += edited.unkept.len();
        Ok(edited.text)
    }

    /// Adds the edits that admission would make in the Pods of a template.
    #[expect(clippy::too_many_arguments, reason = "inputs and context of one template")]
    fn wish(
        &mut self,
        file: usize,
        input: &Input,
        template: usize,
        found: &Template,
        outcome: &PodMutation<'_>,
        needs: &Consequences,
        wishes: &mut Vec<Edit>,
    ) {
        let at = format!("{}:{}: warning: {}", input.name, found.line, found.object);
        // Invalid references have their own lines.
        let parsed = found.images.iter().filter(|image| image.placeholder.is_none());
        let invalid = parsed.filter_map(|image| Some(ImageRef::parse(&image.image).err()?.to_string()));
        let invalid: BTreeSet<String> = invalid.collect();
        let is_said = |warning: &&String| invalid.iter().any(|error| warning.ends_with(error));
        for warning in outcome.warnings().iter().filter(|warning| !is_said(warning)) {
            let warning = warning.strip_prefix("harbor-pilot: ").unwrap_or(warning);
            self.tell_once(format!("{at}: {warning}"));
        }
        let mut rewrites = false;
        for (number, image) in found.images.iter().enumerate() {
            self.counts.images += 1;
            if is_image_id(&image.image) {
                self.stay_with(input, found, image, "the ID of a local image");
                continue;
            }
            let new = match image.role {
                ImageRole::KustomizeName => needs.renamed.get(&(file, template, number)).map(String::as_str),
                ImageRole::Image | ImageRole::KustomizeNewName => {
                    outcome.image(image.list, image.index).filter(|_| image.placeholder.is_none())
                }
            };
            let held = needs.held.get(&(file, name_of(&image.image).to_owned())).filter(|_| new.is_some());
            match (new, held) {
                (_, Some(why)) => {
                    let TemplateImage { image, line, column, .. } = image;
                    eprint_line(format_args!("{}:{line}:{column}: {image} is not rewritten: {why}", input.name));
                    self.counts.unkept += 1;
                }
                (Some(new), None) => {
                    rewrites = true;
                    wishes.push(Edit::Image { template, image: number, text: new.to_owned() });
                }
                (None, None) => self.stays(input, found, image),
            }
        }
        if self.pull_secrets && rewrites {
            self.wish_for_secrets(&at, template, found, outcome, wishes);
        }
    }

    fn wish_for_secrets(
        &mut self,
        at: &str,
        template: usize,
        found: &Template,
        outcome: &PodMutation<'_>,
        wishes: &mut Vec<Edit>,
    ) {
        let names = outcome.pull_secrets();
        if names.is_empty() || found.object.is_kustomization() {
            return;
        }
        if !found.takes_pull_secrets() {
            let names = names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
            let kind = &found.object.kind;
            eprint_line(format_args!(
                "{at}: pull secret {names} was not added: {kind} has no known field for pull secrets of these images; \
                 not there; add it to the ServiceAccount of the Pods"
            ));
            self.counts.secretless += 1;
            return;
        }
        if found.pull_secrets.is_empty() {
            self.tell_once(format!(
                "{at}: a Pod with pull secrets does not get those of its ServiceAccount: if it needs them, add \
                 them, too"
            ));
        }
        wishes.extend(names.iter().map(|name| Edit::PullSecret { template, name: name.to_string() }));
    }

    /// Prints why an image is not changed, unless that is obvious.
    fn stays(&mut self, input: &Input, found: &Template, image: &TemplateImage) {
        let TemplateImage { image: text, line, column, place, placeholder, .. } = image;
        let at = format!("{}:{line}:{column}: {}: {place}", input.name, found.object);
        if let Some(placeholder) = placeholder {
            if *placeholder != Placeholder::RunTime {
                eprint_line(format_args!("{at}: {text} is not rewritten: {}", placeholder.advice()));
                self.counts.unrendered += 1;
            }
            return;
        }
        if let Some(whose) = crate::rewrite::placeholder(text) {
            return self.stay_with(input, found, image, &format!("a placeholder that {whose} replaces"));
        }
        let parsed = match ImageRef::parse(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.counts.invalid += usize::from(listing::would_be_mapped(self.admission.rules, text));
                return self.stay_with(input, found, image, &error.to_string());
            }
        };
        match self.admission.rules.find_for_anyone(&parsed) {
            RuleDecision::AlreadyAtHarbor { .. } => self.counts.at_harbor += 1,
            RuleDecision::Rewritten { .. } if image.role == ImageRole::KustomizeName => {
                eprint_line(format_args!(
                    "{at}: {text} is not rewritten: an entry of a Kustomization selects this name"
                ));
            }
            RuleDecision::Rewritten { .. } => {
                eprint_line(format_args!(
                    "{at}: {text} is not rewritten: admission would not change it either (a label or annotation of the Pod, a selector \
                     or the mode of the rule, imagePullPolicy)"
                ));
            }
            _ => {}
        }
    }

    fn stay_with(&self, input: &Input, found: &Template, image: &TemplateImage, why: &str) {
        eprint_line(listing::image_line(input, found, image, &format!("is not rewritten: {why}")));
    }

    /// Texts with images that are not certain to be images.
    fn list(&mut self, input: &Input, manifests: &ManifestText<'_>) {
        let is_said = listing::is_defect(manifests);
        for mention in listing::mentions(manifests, self.admission.rules).iter().filter(|mention| !is_said(mention)) {
            eprint_line(listing::line(input, mention, "is not rewritten: it is not certain that this is an image"));
            self.counts.listed += 1;
        }
    }

    /// Unknown labels are treated as no labels: prints a warning if a rule uses them.
    fn warn_of_selectors(&mut self, template: &Template, subject: &PodScope<'_>) {
        let ask = |asks: &dyn Fn(&RewriteTarget) -> bool| {
            let names =
                self.admission.rules.targets().iter().filter(|target| asks(target)).map(|target| &**target.name());
            names.collect::<Vec<_>>().join(", ")
        };
        let mut warnings = Vec::new();
        let names = ask(&|target| !target.selectors().namespaces.is_everything());
        if subject.namespace_labels.is_none() && !names.is_empty() {
            let whose = match subject.namespace {
                "" => "an object has no namespace (set --namespace)".to_owned(),
                name => format!("the labels of namespace {name} are unknown (add the Namespace to the input)"),
            };
            warnings.push(format!("{whose}; the namespaceSelector of {names} is evaluated without labels"));
        }
        let names = ask(&|target| !target.selectors().objects.is_everything());
        if template.labels.is_none() && !names.is_empty() {
            let object = &template.object;
            warnings.push(format!(
                "the labels of the Pods of {object} are unknown; the objectSelector of {names} is evaluated without labels"
            ));
        }
        for warning in warnings {
            self.tell_once(format!("warning: {warning}"));
        }
    }

    /// An object with several templates gets the same warning for each; it is printed once.
    fn tell_once(&mut self, line: String) {
        if !self.said.contains(&line) {
            eprint_line(&line);
            self.said.insert(line);
        }
    }
}

impl RewriteCounts {
    /// Returns whether something was not rewritten that may have to change.
    pub(super) fn has_findings(&self) -> bool {
        self.listed > 0 || self.unrendered > 0 || self.invalid > 0 || self.secretless > 0
    }

    /// A summary in one line.
    pub(super) fn summary(&self, failed: usize) -> String {
        let Self { images, rewritten, at_harbor, listed, invalid, secrets, secretless, unkept, .. } = self;
        let left = images - rewritten - at_harbor;
        let mut text =
            format!("{rewritten} of {images} images rewritten, {at_harbor} already at Harbor, {left} not rewritten");
        // Writing to a string cannot fail.
        let mut add = |count: &usize, one: &str, more: &str| {
            if *count > 0 {
                let _ = write!(text, ", {count} {}", if *count == 1 { one } else { more });
            }
        };
        add(secrets, "list of pull secrets extended", "lists of pull secrets extended");
        add(secretless, "without a field for pull secrets", "without a field for pull secrets");
        add(invalid, "invalid reference of a mapped host", "invalid references of mapped hosts");
        add(unkept, "change skipped", "changes skipped");
        add(&failed, "unreadable file", "unreadable files");
        let _ = write!(text, "; {}", listing::counted(*listed, "is not rewritten", "are not rewritten"));
        if *listed > 0 {
            text.push_str(": change them manually, or add their fields with --fields");
        }
        text
    }
}

/// Returns whether a text is an image ID of container runtimes: `sha256:` and 64 hexadecimal digits.
fn is_image_id(text: &str) -> bool {
    let is_hex = |id: &str| id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(is_hex)
}
