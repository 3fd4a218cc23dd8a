//! Image references: the one parser of this product.
//!
//! The grammar is that of `ParseNormalizedNamed` in github.com/distribution/reference, with sha256, sha384 and sha512
//! registered, because container runtimes read images this way. This parser copies the odd cases of that library too: if it
//! read a reference differently from the runtime, a Pod would get another image.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The host of Docker Hub, which applies to short names.
pub const DOCKER_HUB: &str = "docker.io";
/// A host of Docker Hub that container runtimes read as [`DOCKER_HUB`].
pub const LEGACY_DOCKER_HUB: &str = "index.docker.io";

const OFFICIAL: &str = "library/";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
const MIN_DIGEST_HEX: usize = 32;

/// A valid image reference in its normalised full form: `host/repository[:tag][@digest]`.
///
/// Equality, order and hash use that text. A clone costs one allocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    text: Box<str>,
    /// 0 when the reference has no host, see [`ImageRef::host`].
    host_end: usize,
    repository_end: usize,
    tag_end: usize,
}

/// The reason why a text is not an image reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// The text is 64 lower-case hexadecimal digits: container runtimes take it for the ID of a local image.
    #[error("cannot specify 64-byte hexadecimal strings: add a registry host or a namespace")]
    Identifier,
    /// The name has upper-case letters; in lower case it is valid.
    #[error("repository name must be lowercase")]
    Uppercase,
    /// The text does not match the grammar for another reason.
    #[error("invalid reference format: expected [host[:port]/]name[:tag][@digest]")]
    Format,
    /// The repository, without its host, is longer than 255 bytes.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The digest is well formed, but its algorithm is not sha256, sha384 or sha512.
    #[error("unsupported digest algorithm: use sha256, sha384 or sha512")]
    DigestAlgorithm,
    /// The number of digits does not match the algorithm.
    #[error("invalid digest length")]
    DigestLength,
    /// The digest has characters that are not allowed, such as upper-case letters.
    #[error("invalid digest format: use lower-case hexadecimal digits")]
    DigestFormat,
}

/// The port that runtimes use when the host has none.
const DEFAULT_PORT: &str = ":443";

impl ImageRef {
    /// Parses a reference as a container runtime does, and normalises it: `nginx` becomes `docker.io/library/nginx`. Adds no
    /// default tag. Takes time linear in the length of `input`, and one allocation.
    pub fn parse(input: &str) -> Result<Self, ImageRefError> {
        if input.len() == 64 && input.bytes().all(is_lower_hex) {
            return Err(ImageRefError::Identifier);
        }
        let split = split_host(input);
        let before_colon = split.rest.split(':').next().unwrap_or_default();
        if has_uppercase(before_colon) {
            return Err(ImageRefError::Uppercase);
        }
        let Some(parts) = Parts::read(split.host, split.rest) else {
            return Err(refusal(&split));
        };
        let library = if split.official { OFFICIAL } else { "" };
        let host_in_path = if parts.host.is_empty() { split.host.len() + 1 } else { 0 };
        if host_in_path + library.len() + parts.path.len() > MAX_REPOSITORY {
            return Err(ImageRefError::TooLong);
        }
        if let Some(digest) = parts.digest {
            check_digest(digest)?;
        }

        let mut text = String::with_capacity(split.host.len() + 1 + library.len() + split.rest.len());
        text.push_str(split.host);
        text.push('/');
        text.push_str(library);
        text.push_str(split.rest);
        let repository_end = split.host.len() + 1 + library.len() + parts.path.len();
        Ok(Self {
            text: text.into_boxed_str(),
            host_end: parts.host.len(),
            repository_end,
            tag_end: repository_end + parts.tag.map_or(0, |tag| tag.len() + 1),
        })
    }

    /// Returns the registry: `host[:port]`, with an IPv6 address in brackets, in its original case; `docker.io` for short
    /// names.
    ///
    /// Empty in one odd case of the reference library: a first component with a dot and an underscore, as in
    /// `my_host.example/app`, is not a valid host, so the whole text is the repository.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_end).unwrap_or_default()
    }

    /// Returns the repository without its host, at most 255 bytes: `library/nginx`.
    pub fn repository(&self) -> &str {
        let start = if self.host_end == 0 { 0 } else { self.host_end + 1 };
        self.text.get(start..self.repository_end).unwrap_or_default()
    }

    /// Returns host and repository, without tag and digest: `docker.io/library/nginx`.
    pub fn name(&self) -> &str {
        self.text.get(..self.repository_end).unwrap_or_default()
    }

    /// Returns the tag, if the reference has one: 1 to 128 characters.
    pub fn tag(&self) -> Option<&str> {
        self.text.get(self.repository_end + 1..self.tag_end)
    }

    /// Returns the digest, if the reference has one: `sha256:` and 64 lower-case hexadecimal digits, or the same form for
    /// sha384 and sha512.
    pub fn digest(&self) -> Option<&str> {
        self.text.get(self.tag_end + 1..)
    }

    /// Returns the normalised full form, which parses to the same value.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the same image without the default port: `quay.io:443/app` becomes `quay.io/app`. `None` when the reference
    /// has no default port, and when the name without it is another repository: runtimes read `docker.io:443/nginx` as
    /// `nginx` of that host, and `docker.io/nginx` as `library/nginx`.
    pub fn without_default_port(&self) -> Option<Self> {
        let host = self.host().strip_suffix(DEFAULT_PORT)?;
        let rest = self.text.get(self.host_end..)?;
        let is_same_host = |other: &str| other == host || other == DOCKER_HUB && host == LEGACY_DOCKER_HUB;
        let image = Self::parse(&format!("{host}{rest}")).ok()?;
        (is_same_host(image.host()) && image.repository() == self.repository()).then_some(image)
    }

    /// Returns the same image without `path` at the start of its repository; `None` when the repository starts differently or
    /// has no other component.
    pub fn without_path(&self, path: &str) -> Option<Self> {
        let rest = self.text.get(self.host_end..)?.strip_prefix('/')?.strip_prefix(path)?.strip_prefix('/')?;
        Self::parse(&format!("{}/{rest}", self.host())).ok().filter(|image| image.host() == self.host())
    }

    /// Returns the same repository, tag and digest under another host and path: `host/path/repository[:tag][@digest]`. The
    /// only error is [`ImageRefError::TooLong`]. One allocation.
    pub fn moved_under(&self, prefix: &ImagePrefix) -> Result<Self, ImageRefError> {
        let repository = self.repository();
        if prefix.path().len() + 1 + repository.len() > MAX_REPOSITORY {
            return Err(ImageRefError::TooLong);
        }
        let kept = self.text.len() - (self.repository_end - repository.len());
        let start = prefix.text.len() + 1;
        let mut text = String::with_capacity(start + kept);
        text.push_str(&prefix.text);
        text.push('/');
        text.push_str(self.text.get(self.text.len() - kept..).unwrap_or_default());
        let repository_end = start + repository.len();
        Ok(Self {
            text: text.into_boxed_str(),
            host_end: prefix.host_end,
            repository_end,
            tag_end: repository_end + (self.tag_end - self.repository_end),
        })
    }
}

/// A valid host and path for repositories: `harbor.example/dockerhub`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImagePrefix {
    text: Box<str>,
    host_end: usize,
}

impl ImagePrefix {
    /// Checks that every reference built from the two parses back to this `host` and `path`. The host needs a dot, a port or
    /// an upper-case letter, or is `localhost`, and is not the legacy name of Docker Hub. The path has one or more components
    /// of a repository name.
    pub fn new(host: &str, path: &str) -> Result<Self, ImageRefError> {
        if !is_host(host) || !reads_as_host(host) || host == LEGACY_DOCKER_HUB {
            return Err(ImageRefError::Format);
        }
        if !is_path(path) {
            return Err(if has_uppercase(path) { ImageRefError::Uppercase } else { ImageRefError::Format });
        }
        if path.len() > MAX_REPOSITORY {
            return Err(ImageRefError::TooLong);
        }
        Ok(Self { text: format!("{host}/{path}").into_boxed_str(), host_end: host.len() })
    }

    /// Returns the host, with its port if it has one.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_end).unwrap_or_default()
    }

    /// Returns the path, without leading and trailing slashes.
    pub fn path(&self) -> &str {
        self.text.get(self.host_end + 1..).unwrap_or_default()
    }
}

impl fmt::Display for ImagePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageRef({})", self.text)
    }
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReferenceParser;

        impl Visitor<'_> for ReferenceParser {
            type Value = ImageRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an image reference")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ImageRef, E> {
                ImageRef::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(ReferenceParser)
    }
}

/// Compares two hosts: ignores case, as in DNS, and the default port.
pub fn is_same_host(one: &str, other: &str) -> bool {
    let bare = |host: &'_ str| host.strip_suffix(DEFAULT_PORT).map_or(host.len(), str::len);
    let (one, other) = (one.get(..bare(one)), other.get(..bare(other)));
    one.zip(other).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// Returns a host in the form for comparison: in lower case, without the default port.
pub fn canonical_host(host: &str) -> Cow<'_, str> {
    let host = without_default_port(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Returns a host without the default port.
pub fn without_default_port(host: &str) -> &str {
    host.strip_suffix(DEFAULT_PORT).unwrap_or(host)
}

/// Checks whether `text` is a host of the grammar: a domain name, an IPv4 address or an IPv6 address in brackets, with or
/// without a port.
pub fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        let Some((address, port)) = inner.split_once(']') else {
            return false;
        };
        let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    name.split('.').all(is_host_component) && port.is_none_or(is_port)
}

/// Checks whether `text` is one or more components of a repository name, joined by slashes. A component is runs of lower-case
/// letters and digits with separators between them.
pub fn is_path(text: &str) -> bool {
    let mut separator = None;
    let mut length = 0_usize;
    // The start of a component counts as a separator: a letter or a digit must follow.
    let mut in_word = false;
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => {
                in_word = true;
                separator = None;
                length = 0;
            }
            b'/' if in_word => in_word = false,
            // Within a component: one dot, one or two underscores, or any number of hyphens.
            b'.' | b'_' | b'-' => {
                let longer = match separator {
                    None => in_word,
                    Some(before) => before == byte && (byte == b'-' || (byte == b'_' && length < 2)),
                };
                if !longer {
                    return false;
                }
                in_word = false;
                separator = Some(byte);
                length += 1;
            }
            _ => return false,
        }
    }
    in_word
}

/// Checks whether runtimes read the first component of a reference as a host, and not as a namespace of Docker Hub.
pub fn reads_as_host(first: &str) -> bool {
    first == "localhost" || first.bytes().any(|b| b == b'.' || b == b':') || has_uppercase(first)
}

struct Split<'a> {
    host: &'a str,
    /// Whether the normalised form has `library/` before `rest`.
    official: bool,
    rest: &'a str,
}

fn split_host(input: &str) -> Split<'_> {
    let (host, rest) = match input.split_once('/') {
        None => {
            return Split { host: DOCKER_HUB, official: true, rest: input };
        }
        Some((LEGACY_DOCKER_HUB, rest)) => (DOCKER_HUB, rest),
        Some((first, rest)) if reads_as_host(first) => (first, rest),
        Some(_) => (DOCKER_HUB, input),
    };
    Split { host, official: host == DOCKER_HUB && !rest.contains('/'), rest }
}

struct Parts<'a> {
    /// Empty when the first component is part of the repository and not a host.
    host: &'a str,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn read(first: &'a str, rest: &'a str) -> Option<Self> {
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        let host = if is_host(first) { first } else { "" };
        let fits = (!host.is_empty() || is_path(first))
            && is_path(path)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(has_form_of_digest);
        fits.then_some(Self { host, path, tag, digest })
    }
}

/// The library parses the text again in lower case, and reports when that is valid.
fn refusal(split: &Split<'_>) -> ImageRefError {
    let (host, rest) = (lowered(split.host), lowered(split.rest));
    let changed = host != split.host || rest != split.rest;
    if changed && Parts::read(&host, &rest).is_some() { ImageRefError::Uppercase } else { ImageRefError::Format }
}

fn lowered(text: &str) -> String {
    // Maps each character to one character, as Go's ToLower does: U+0130 becomes `i`.
    text.chars().filter_map(|c| c.to_lowercase().next()).collect()
}

fn has_uppercase(text: &str) -> bool {
    if text.is_ascii() {
        return text.bytes().any(|b| b.is_ascii_uppercase());
    }
    text.chars().any(|c| c.to_lowercase().next() != Some(c))
}

fn is_host_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Checks the wider form that the reference grammar allows for digests; [`check_digest`] then checks by algorithm.
fn has_form_of_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    }) && hex.len() >= MIN_DIGEST_HEX
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn check_digest(text: &str) -> Result<(), ImageRefError> {
    let (algorithm, hex) = text.split_once(':').ok_or(ImageRefError::DigestFormat)?;
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ if has_uppercase(algorithm) => return Err(ImageRefError::DigestFormat),
        _ => return Err(ImageRefError::DigestAlgorithm),
    };
    if hex.len() != digits {
        return Err(ImageRefError::DigestLength);
    }
    if hex.bytes().all(is_lower_hex) { Ok(()) } else { Err(ImageRefError::DigestFormat) }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests;
