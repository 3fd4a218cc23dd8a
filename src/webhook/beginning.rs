//! The beginning of an AdmissionReview of which the rest was not read: the uid to answer, and what the review is about.
//!
//! An API server writes the object after all of this.

use super::request::{AdmissionRequest, PartialRequest, RequestInfo};
use crate::json_scan::{Fields, Read, Scanner, Unread, read_beginning};

/// The fields in the first bytes of a review.
#[derive(Default)]
pub(super) struct Beginning<'a> {
    request: AdmissionRequest<'a, Skipped>,
}

/// The longest namespace that is used, in bytes.
const LONGEST: usize = 63;

impl<'a> Beginning<'a> {
    /// Reads the fields; `None` if the uid is not there, so that no answer in kind can be given.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let beginning: Self = read_beginning(bytes);
        (!beginning.about().uid.is_empty()).then_some(beginning)
    }

    pub(super) fn about(&self) -> RequestInfo<'_> {
        let about = self.request.about();
        RequestInfo {
            namespace: if about.namespace.len() > LONGEST { "" } else { about.namespace },
            dry_run: false,
            ..about
        }
    }

    pub(super) fn rest(&self) -> PartialRequest {
        self.request.rest()
    }
}

impl<'a> Fields<'a> for Beginning<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        match name {
            // In place, so that fields stay known where the text ends within the request.
            b"request" => scanner.object(|name, scanner| self.request.field(&name, scanner)),
            _ => scanner.skip(),
        }
    }
}

/// An object that is not needed.
#[derive(Default)]
struct Skipped;

impl<'a> Read<'a> for Skipped {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        scanner.skip().map(|()| Self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{MAX_UID, Operation};
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
            let kind = found.and_then(|found| found.rest().kind);
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
