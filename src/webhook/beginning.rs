//! Reads the beginning of an AdmissionReview whose rest was not read: the uid to answer, and the object that it is about.
//!
//! An API server writes the object after these fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::request::{About, MAX_UID, Operation, Rest};

/// The fields in the first bytes of a review.
#[derive(Debug)]
pub(super) struct Beginning {
    rest: Rest,
    namespace: String,
    operation: Operation,
}

/// The longest namespace or operation, in bytes.
const LONGEST: usize = 63;

impl Beginning {
    /// Reads the fields; `None` without a uid, because then no AdmissionReview can answer.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut found = Found::default();
        // The text ends early, so this always fails; `found` keeps the fields before that.
        Review(&mut found).deserialize(&mut serde_json::Deserializer::from_slice(bytes)).ok();
        let Found { uid, kind, namespace, operation } = found;
        let uid = uid.filter(|uid| !uid.is_empty() && uid.len() <= MAX_UID)?;
        let operation = match operation.as_deref() {
            Some("CREATE") => Operation::Create,
            Some("UPDATE") => Operation::Update,
            _ => Operation::Other,
        };
        Some(Self { rest: Rest { uid, kind }, namespace: namespace.unwrap_or_default(), operation })
    }

    pub(super) fn about(&self) -> About<'_> {
        About { uid: &self.rest.uid, namespace: &self.namespace, operation: self.operation, ..About::default() }
    }

    pub(super) fn rest(&self) -> &Rest {
        &self.rest
    }
}

#[derive(Default)]
struct Found {
    uid: Option<String>,
    kind: Option<(String, String)>,
    namespace: Option<String>,
    operation: Option<String>,
}

/// The review; only its `request` is read.
struct Review<'f>(&'f mut Found);

/// The `request` of the review.
struct Request<'f>(&'f mut Found);

/// A GroupVersionKind.
#[derive(serde::Deserialize)]
struct Kind<'a> {
    #[serde(default, borrow)]
    group: Cow<'a, str>,
    #[serde(default, borrow)]
    kind: Cow<'a, str>,
}

impl<'de> DeserializeSeed<'de> for Review<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Review<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AdmissionReview")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if name == "request" {
                map.next_value_seed(Request(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Request<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Request<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AdmissionRequest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let found = self.0;
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match &*name {
                "uid" => found.uid = Some(map.next_value()?),
                "kind" => {
                    let Kind { group, kind } = map.next_value()?;
                    found.kind = Some((group.into_owned(), kind.into_owned()));
                }
                "namespace" => found.namespace = Some(short(map.next_value()?)),
                "operation" => found.operation = Some(short(map.next_value()?)),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

fn short(text: Cow<'_, str>) -> String {
    if text.len() > LONGEST { String::new() } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVIEW: &str = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-1","kind":{"group":"","version":"v1","kind":"Pod"},"name":"p","namespace":"shop","operation":"UPDATE","userInfo":{"username":"u"},"object":{"kind":"Pod""#;

    #[test]
    fn beginning_has_what_came_before_the_text_breaks_off() {
        let beginning = Beginning::read(REVIEW.as_bytes()).unwrap();
        let about = beginning.about();
        assert_eq!((about.uid, about.namespace, about.operation), ("u-1", "shop", Operation::Update));
        assert_eq!(beginning.rest().kind, Some((String::new(), "Pod".to_owned())));
        let until = |text: &str| REVIEW.split_once(text).unwrap().0.len();
        for end in 0..=REVIEW.len() {
            let found = Beginning::read(&REVIEW.as_bytes()[..end]);
            assert_eq!(found.is_some(), end >= until(r#","kind":{"#), "after {end} bytes");
            let kind = found.and_then(|found| found.rest.kind);
            assert_eq!(kind.is_some(), end >= until(r#","name""#), "after {end} bytes");
        }
    }

    #[test]
    fn beginning_is_none_without_a_uid_that_can_be_sent_back() {
        let long = format!(r#"{{"request":{{"uid":"{}","#, "u".repeat(MAX_UID + 1));
        for text in
            ["", "no JSON", "[1", r#"{"request":{"#, r#"{"request":{"uid":7,"#, r#"{"request":{"uid":"","#, &long]
        {
            assert!(Beginning::read(text.as_bytes()).is_none(), "{text}");
        }
    }
}
