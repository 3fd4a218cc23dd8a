//! The name of the CachedImage of an image: the same for every Pod that uses it.

use crate::{
    image::{ImageRef, canonical_host},
    registry::Digest,
};

/// Maximum length of the readable part, in bytes.
const SLUG: usize = 60;
/// Hexadecimal digits of SHA-256 at the end: 64 bits, so that names of two images do not collide by chance.
const HASH: usize = 16;

/// Returns the name for `image`: a DNS-1123 label of at most 77 bytes (`metadata.name` allows 253). It consists of repository
/// and tag for people, and a hash of the whole reference for uniqueness. It never changes for one reference, and is the same
/// for all spellings of its host.
pub fn cached_image_name(image: &ImageRef) -> String {
    let readable = format!("{}-{}", image.repository(), image.tag().unwrap_or_default());
    let mut slug = String::with_capacity(SLUG);
    for character in readable.chars() {
        let plain = character.is_ascii_alphanumeric().then(|| character.to_ascii_lowercase());
        match plain {
            Some(plain) => slug.push(plain),
            None if slug.is_empty() || slug.ends_with('-') => {}
            None => slug.push('-'),
        }
        if slug.len() >= SLUG {
            break;
        }
    }
    let rest = image.as_str().get(image.host().len()..).unwrap_or_default();
    let digest = Digest::of(format!("{}{rest}", canonical_host(image.host())).as_bytes());
    let hash: String = digest.as_str().chars().skip("sha256:".len()).take(HASH).collect();
    match slug.trim_end_matches('-') {
        "" => hash,
        slug => format!("{slug}-{hash}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(image: &str) -> String {
        cached_image_name(&ImageRef::parse(image).unwrap())
    }

    #[test]
    fn a_person_recognises_the_image_and_the_name_stays() {
        assert_eq!(name("harbor.example.com/hub/library/nginx:1.27"), "hub-library-nginx-1-27-3a7baf28930e459b");
        assert_eq!(name("nginx:1.27"), name("docker.io/library/nginx:1.27"));
    }

    #[test]
    fn images_that_differ_in_anything_have_different_names() {
        let digest = |digit: &str| format!("h.example/p/a@sha256:{}", digit.repeat(64));
        let near = [
            "h.example/p/a".to_owned(),
            "h.example/p/a:1".to_owned(),
            "h.example/p/a-1".to_owned(),
            "h.example/p-a:1".to_owned(),
            "h.example/p/a:1-0".to_owned(),
            "h.example/p/a:1.0".to_owned(),
            "h.example/p/a:1_0".to_owned(),
            "h.example/p/a:V1".to_owned(),
            "h.example/p/a:v1".to_owned(),
            "i.example/p/a:1".to_owned(),
            "h.example:444/p/a:1".to_owned(),
            digest("a"),
            digest("b"),
            format!("h.example/p/{}:1", "a".repeat(200)),
            format!("h.example/p/{}:2", "a".repeat(200)),
        ];
        let names: HashSet<_> = near.iter().map(|image| name(image)).collect();
        assert_eq!(names.len(), near.len());
    }

    #[test]
    fn spellings_of_one_host_have_one_name() {
        for image in ["H.Example/p/a:1", "h.example:443/p/a:1", "H.EXAMPLE:443/p/a:1"] {
            assert_eq!(name(image), name("h.example/p/a:1"), "{image}");
        }
    }

    #[test]
    fn every_name_is_a_dns_label_of_bounded_length() {
        let long = format!("h.example/{}:{}", "a.b__c--d/".repeat(20).trim_end_matches('/'), "T".repeat(128));
        for image in ["nginx", "h.example/a.b/c__d/e---f:_.-X", "h.example/p/x:-1", long.as_str()] {
            let Ok(image) = ImageRef::parse(image) else { continue };
            let name = cached_image_name(&image);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() <= 77 && name.chars().all(plain), "{name}");
            assert!(!name.starts_with('-') && !name.ends_with('-') && !name.contains("--"), "{name}");
        }
    }
}
