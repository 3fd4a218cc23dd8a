//! Replaces some images of a text, and adds pull secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use granit_parser::ScalarStyle;

use super::{
    ManifestError, ManifestText, Object, TemplateImage,
    pull_secrets::TextInsertion,
    scalar::{is_plain, quoted},
    template::SecretsPlace,
    tree::{NodeContent, NodeId, Tree},
    value::{Value, ValueData, values},
};

/// An edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Replaces an image of a template.
    Image {
        /// Index in [`ManifestText::templates`].
        template: usize,
        /// Index in [`Template::images`](super::Template::images).
        image: usize,
        /// The new image.
        text: String,
    },
    /// Adds a name to the `imagePullSecrets` of a template.
    PullSecret {
        /// Index in [`ManifestText::templates`].
        template: usize,
        /// Name of the Secret.
        name: String,
    },
}

/// A text, edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditedText {
    /// The new text.
    pub text: String,
    /// The number of replaced images, as the text is read.
    pub images: usize,
    /// The number of templates with new pull secrets.
    pub pull_secrets: usize,
    /// Edits that would have changed another part of the text.
    pub unkept: Vec<RejectedEdit>,
}

/// An edit that was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedEdit {
    /// The edit.
    pub wish: Edit,
    /// Line, counted from 1.
    pub line: usize,
    /// The reason, and the fix.
    pub detail: String,
}

impl ManifestText<'_> {
    /// Returns the text with these edits. No other part of the text changes: an image that shares its node with a value that
    /// must stay is not modified, and is listed in [`EditedText::unkept`].
    ///
    /// # Errors
    /// When the new text does not parse to the expected value. Then no part of it may be used.
    pub fn edit(&self, wishes: &[Edit]) -> Result<EditedText, ManifestError> {
        let mut editing = TextEditor { of: self, splices: BTreeMap::new(), met: Vec::new(), unkept: Vec::new() };
        editing.images(wishes);
        let images = editing.met.len();
        let mut additions = editing.pull_secrets(wishes);
        // A new field shifts the indexes of all values in its mapping, so inner positions change first.
        additions.sort_by_key(|(_, place, _)| std::cmp::Reverse(place.path.len()));
        let TextEditor { splices, met, unkept, .. } = editing;

        let mut expected = self.values.clone();
        for wish in met {
            self.expect(&mut expected, wish);
        }
        for (document, place, addition) in &additions {
            if let Some(spec) = self.place(&mut expected, *document, &place.path) {
                addition.expect(spec);
            }
        }
        let text = spliced(self.text, &splices);
        self.verify(&text, &expected)?;
        Ok(EditedText { text, images, pull_secrets: additions.len(), unkept })
    }

    fn expect(&self, expected: &mut [Value], wish: &Edit) {
        let Edit::Image { template, image, text } = wish else { return };
        let Some(template) = self.templates().get(*template) else { return };
        let Some(image) = template.images.get(*image) else { return };
        if let Some(value) = self.place(expected, template.document, &image.path) {
            value.data = ValueData::Text(text.as_str().into());
        }
    }

    fn place<'e>(&self, expected: &'e mut [Value], document: usize, path: &[usize]) -> Option<&'e mut Value> {
        expected.get_mut(document.checked_sub(1)?)?.at_mut(path)
    }

    fn verify(&self, text: &str, expected: &[Value]) -> Result<(), ManifestError> {
        let read = Tree::parse(text).and_then(|tree| values(&tree));
        let document = match &read {
            Ok(values) if values == expected => return Ok(()),
            Ok(values) => values.iter().zip(expected).position(|(is, ought)| is != ought).map_or(1, |index| index + 1),
            Err(error) => error.document,
        };
        let root = self.tree.documents.get(document - 1).copied().unwrap_or_default();
        Err(self.tree.error(root, "this document cannot be rewritten in place: write its images as plain text"))
    }
}

struct TextEditor<'m, 'w> {
    of: &'m ManifestText<'m>,
    /// The replacements by first byte; they do not overlap.
    splices: BTreeMap<usize, (Range<usize>, String)>,
    met: Vec<&'w Edit>,
    unkept: Vec<RejectedEdit>,
}

/// An image and its edit.
struct ImageUse<'m, 'w> {
    image: &'m TemplateImage,
    wish: Option<(&'w Edit, &'w str)>,
}

impl<'m, 'w> TextEditor<'m, 'w> {
    fn images(&mut self, wishes: &'w [Edit]) {
        let mut wished: BTreeMap<(usize, usize), (&'w Edit, &'w str)> = BTreeMap::new();
        for wish in wishes {
            if let Edit::Image { template, image, text } = wish {
                wished.insert((*template, *image), (wish, text));
            }
        }
        let mut uses: BTreeMap<NodeId, Vec<ImageUse<'m, 'w>>> = BTreeMap::new();
        for (template, found) in self.of.templates().iter().enumerate() {
            for (index, image) in found.images.iter().enumerate() {
                let wish = wished.get(&(template, index)).copied().filter(|(_, text)| *text != image.image);
                uses.entry(image.target).or_default().push(ImageUse { image, wish });
            }
        }
        for (target, uses) in uses {
            if uses.iter().any(|each| each.wish.is_some()) {
                self.image(target, uses);
            }
        }
    }

    /// Edits all images of one node: it changes if all its uses change alike; otherwise only its aliases change.
    fn image(&mut self, target: NodeId, mut uses: Vec<ImageUse<'m, 'w>>) {
        let mut left = self.of.visits.target(target);
        if !agree(uses.iter(), left) {
            let tokens: BTreeSet<NodeId> = uses.iter().map(|each| each.image.token).collect();
            for token in tokens.into_iter().filter(|token| *token != target) {
                let all = self.of.visits.token(token);
                let here = || uses.iter().filter(|each| each.image.token == token);
                if agree(here(), all) && self.splice_image(token, here().find_map(|each| each.wish)) {
                    left -= all;
                    self.met.extend(here().filter_map(|each| each.wish).map(|(wish, _)| wish));
                    uses.retain(|each| each.image.token != token);
                }
            }
        }
        let first = uses.iter().find_map(|each| each.wish);
        if first.is_none() {
            return;
        }
        if agree(uses.iter(), left) && self.splice_image(target, first) {
            self.met.extend(uses.iter().filter_map(|each| each.wish).map(|(wish, _)| wish));
            return;
        }
        for each in uses {
            let Some((wish, text)) = each.wish else { continue };
            let TemplateImage { image, line, .. } = each.image;
            let detail = format!(
                "{image} is not rewritten: its anchor is also used where it would not become {text}; write the image \
                 without the anchor"
            );
            self.unkept.push(RejectedEdit { wish: wish.clone(), line: *line, detail });
        }
    }

    /// Replaces a node with a text, in the style of the node.
    fn splice_image(&mut self, token: NodeId, wish: Option<(&Edit, &str)>) -> bool {
        let (Some(node), Some((_, text))) = (self.of.tree.node(token), wish) else { return false };
        let source = self.of.text.get(node.span.clone()).unwrap_or_default();
        let (range, new) = match &node.content {
            NodeContent::Scalar { style: ScalarStyle::SingleQuoted, .. } => {
                (node.span.clone(), format!("'{}'", text.replace('\'', "''")))
            }
            NodeContent::Scalar { style: ScalarStyle::DoubleQuoted, .. } => (node.span.clone(), quoted(text)),
            NodeContent::Scalar { style: ScalarStyle::Literal | ScalarStyle::Folded, text: old, .. } => {
                let Some(at) = source.find(&**old).filter(|_| source.trim() == &**old) else { return false };
                let start = node.span.start + at;
                (start..start + old.len(), text.to_owned())
            }
            NodeContent::Scalar { .. } | NodeContent::Alias(_) => {
                (node.span.clone(), if is_plain(text) { text.to_owned() } else { quoted(text) })
            }
            NodeContent::Sequence { .. } | NodeContent::Mapping { .. } => return false,
        };
        self.splices.insert(range.start, (range, new));
        true
    }

    fn pull_secrets(&mut self, wishes: &[Edit]) -> Vec<(usize, &'m SecretsPlace, TextInsertion)> {
        let places: Vec<PullSecretsEdit<'m, '_>> = self.secrets(wishes);
        let mut additions = Vec::new();
        let mut done: BTreeMap<NodeId, &[(&str, &Edit)]> = BTreeMap::new();
        for PullSecretsEdit { document, place, object, line, wished } in &places {
            if wished.is_empty() {
                continue;
            }
            let texts: Vec<&str> = wished.iter().map(|(name, _)| *name).collect();
            let sharing = places.iter().filter(|other| other.place.node == place.node);
            let (count, alike) = sharing.fold((0, true), |(count, alike), other| {
                (count + 1, alike && other.wished.iter().map(|(name, _)| name).eq(&texts))
            });
            let addition = if self.of.visits.target(place.node) == count && alike {
                TextInsertion::new(&self.of.tree, self.of.text, place, &texts)
            } else {
                Err("its specification is shared by an anchor")
            };
            match addition {
                Ok(addition) => {
                    if done.insert(place.node, wished).is_none() {
                        let at = addition.at();
                        let before = self.splices.insert(at, (at..addition.end(), addition.text().to_owned()));
                        debug_assert!(before.is_none(), "an edit at this position is unambiguous");
                    }
                    additions.push((*document, *place, addition));
                }
                Err(why) => {
                    let all = wished.iter().map(|(name, wish)| RejectedEdit {
                        wish: (*wish).clone(),
                        line: *line,
                        detail: format!("{object}: pull secret {name} was not added: {why}; add it manually"),
                    });
                    self.unkept.extend(all);
                }
            }
        }
        additions
    }

    /// Returns every mapping that takes pull secrets, with the new names that it does not have.
    fn secrets<'s>(&self, wishes: &'s [Edit]) -> Vec<PullSecretsEdit<'m, 's>> {
        let mut wished: BTreeMap<usize, BTreeMap<&'s str, &'s Edit>> = BTreeMap::new();
        for wish in wishes {
            if let Edit::PullSecret { template, name } = wish {
                wished.entry(*template).or_default().insert(name, wish);
            }
        }
        let mut places = Vec::new();
        for (index, template) in self.of.templates().iter().enumerate() {
            for place in &template.secrets {
                let all = wished.get(&index).into_iter().flatten();
                let new = all.filter(|(name, _)| !place.present.iter().any(|known| known == *name));
                places.push(PullSecretsEdit {
                    document: template.document,
                    place,
                    object: &template.object,
                    line: template.line,
                    wished: new.map(|(name, wish)| (*name, *wish)).collect(),
                });
            }
        }
        places
    }
}

/// A mapping that takes pull secrets, and its new names.
struct PullSecretsEdit<'m, 's> {
    document: usize,
    place: &'m SecretsPlace,
    object: &'m Object,
    line: usize,
    wished: Vec<(&'s str, &'s Edit)>,
}

/// Returns whether all uses of a node, which occurs this often in the value, have the same edit.
fn agree<'u, 'w: 'u, 'm: 'u>(uses: impl Iterator<Item = &'u ImageUse<'m, 'w>>, visits: usize) -> bool {
    let wishes: Vec<Option<&str>> = uses.map(|each| each.wish.map(|(_, text)| text)).collect();
    wishes.len() == visits
        && wishes.first().is_some_and(|first| first.is_some() && wishes.iter().all(|wish| wish == first))
}

fn spliced(text: &str, splices: &BTreeMap<usize, (Range<usize>, String)>) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut at = 0;
    for (range, new) in splices.values() {
        out.push_str(text.get(at..range.start).unwrap_or_default());
        out.push_str(new);
        at = range.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}
