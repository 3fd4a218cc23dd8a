//! Places of values in an object, and patterns of places.

use std::fmt;

/// One step from a value to a value inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathSegment<'v> {
    /// By a key of a mapping.
    Key(&'v str),
    /// By an index of a list.
    Item(usize),
}

/// Formats steps for users: `spec.containers[0].image`.
#[derive(Debug)]
pub(super) struct FieldPath<'s, 'v>(pub(super) &'s [PathSegment<'v>]);

impl fmt::Display for FieldPath<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                PathSegment::Item(item) => write!(f, "[{item}]")?,
                PathSegment::Key(key) if key.is_empty() || key.contains(['.', '[', ']', ' ', '\n']) => {
                    write!(f, "[{key:?}]")?;
                }
                PathSegment::Key(key) => write!(f, "{}{key}", if index == 0 { "" } else { "." })?,
            }
        }
        Ok(())
    }
}

/// A pattern of places: keys with dots between them. `*` matches one key or item, `**` matches any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldPattern(Vec<PatternPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternPart {
    Key(Box<str>),
    One,
    Any,
}

impl FieldPattern {
    /// Parses a pattern; `[*]` and `[]` after a key are read as `.*`. `None` for a text with an empty step.
    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches("$.").trim_start_matches('.');
        let text = text.replace("[*]", ".*").replace("[]", ".*");
        let parts = text.split('.').map(|part| match part {
            "" => None,
            "*" => Some(PatternPart::One),
            "**" => Some(PatternPart::Any),
            key => Some(PatternPart::Key(key.into())),
        });
        parts.collect::<Option<_>>().map(Self)
    }

    /// Returns the pattern without its last step, and that step if it is a key.
    pub(super) fn split_last(&self) -> Option<(Self, &str)> {
        let (PatternPart::Key(key), before) = self.0.split_last()? else { return None };
        Some((Self(before.to_vec()), key))
    }

    /// Returns whether the pattern matches a place. Takes at most the product of the lengths.
    pub(super) fn matches(&self, steps: &[PathSegment<'_>]) -> bool {
        let (mut part, mut step) = (0, 0);
        // Where to continue when the steps after the last `**` do not match.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let fits = match (self.0.get(part), steps.get(step)) {
                (None, None) => return true,
                (Some(PatternPart::Any), _) => {
                    retry = Some((part + 1, step));
                    part += 1;
                    continue;
                }
                (Some(PatternPart::One), Some(_)) => true,
                (Some(PatternPart::Key(key)), Some(PathSegment::Key(name))) => **key == **name,
                _ => false,
            };
            if fits {
                (part, step) = (part + 1, step + 1);
            } else if let Some((again, from)) = retry.filter(|(_, from)| *from < steps.len()) {
                retry = Some((again, from + 1));
                (part, step) = (again, from + 1);
            } else {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses steps; numbers are items.
    fn steps(text: &str) -> Vec<PathSegment<'_>> {
        text.split('.').map(|part| part.parse().map_or(PathSegment::Key(part), PathSegment::Item)).collect()
    }

    #[test]
    fn a_pattern_matches_whole_places_only() {
        for (pattern, place, expected) in [
            ("spec.image", "spec.image", true),
            ("spec.image", "spec.image.x", false),
            ("spec.image", "spec", false),
            ("spec.*.image", "spec.a.image", true),
            ("spec.*.image", "spec.a.b.image", false),
            ("spec.list[*].image", "spec.list.3.image", true),
            ("spec.list[].image", "spec.list.3.image", true),
            ("spec.**.image", "spec.image", true),
            ("spec.**.image", "spec.a.0.b.image", true),
            ("spec.**.image", "spec.image.image", true),
            ("spec.**.image", "spec.image.tag", false),
            ("spec.**", "spec.a.b", true),
            ("**.steps.*.image", "spec.tasks.0.taskSpec.steps.1.image", true),
            ("**.a.**.b.*", "x.a.y.b.z", true),
            ("**.a.**.b.*", "x.a.y.b", false),
        ] {
            assert_eq!(FieldPattern::read(pattern).unwrap().matches(&steps(place)), expected, "{pattern} {place}");
        }
        assert_eq!(FieldPattern::read("spec..image"), None);
        assert_eq!(FieldPattern::read(""), None);
    }

    #[test]
    fn a_place_is_written_as_people_write_it() {
        let steps = [
            PathSegment::Key("data"),
            PathSegment::Key("pod.yaml"),
            PathSegment::Key("a"),
            PathSegment::Item(2),
            PathSegment::Key("b"),
        ];
        assert_eq!(FieldPath(&steps).to_string(), "data[\"pod.yaml\"].a[2].b");
    }
}
