//! The first Harbor version of each optional field. An older Harbor answers 200 or 201 and drops unknown fields: the
//! controller would repeat the same change at each reconcile.

use std::fmt;

use super::Refusal;
use crate::api::Reason;

/// A version of Harbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl Version {
    /// Parses the version of GET /systeminfo, such as `v2.15.2-080b0220`. `None` for a version that is not a release, such as
    /// `dev`: its fields are not known.
    pub fn parse(text: &str) -> Option<Self> {
        let release = text.trim_start_matches('v').split('-').next()?;
        let mut numbers = release.splitn(3, '.').map(str::parse::<u16>);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A field of a spec, and the first Harbor that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequiredVersion {
    /// Harbor's name of the field.
    pub key: &'static str,
    /// Our name of the field.
    pub field: &'static str,
    /// The first Harbor that has it.
    pub version: Version,
}

/// Metadata of projects. Other keys are older than any Harbor that is still maintained.
pub const METADATA: &[RequiredVersion] = &[
    RequiredVersion { key: "auto_sbom_generation", field: "autoSBOM", version: Version(2, 11, 0) },
    RequiredVersion { key: "proxy_speed_kb", field: "proxySpeedKB", version: Version(2, 12, 0) },
    RequiredVersion { key: "max_upstream_conn", field: "maxUpstreamConnections", version: Version(2, 14, 1) },
    RequiredVersion { key: "proxy_cache_local_on_not_found", field: "serveRemoved", version: Version(2, 15, 1) },
];

/// The CA certificate of a registry.
pub const CA_CERTIFICATE: RequiredVersion =
    RequiredVersion { key: "ca_certificate", field: "caBundle", version: Version(2, 15, 0) };

/// Checks that a Harbor of the version `have` has all requested fields. An unknown version has all fields.
///
/// # Errors
/// A [`Refusal`] that names each field and the version that has it.
pub fn check<'a>(asked: impl Iterator<Item = &'a RequiredVersion>, have: Option<&str>) -> Result<(), Refusal> {
    let Some(version) = have.and_then(Version::parse) else { return Ok(()) };
    let missing: Vec<String> = asked
        .filter(|since| since.version > version)
        .map(|since| format!("spec.{} needs Harbor {} or later", since.field, since.version))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("{}; this Harbor is {version}: remove it, or upgrade Harbor", missing.join(", "));
    Err(Refusal { reason: Reason::InvalidSpec, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_parsed_and_a_development_build_has_everything() {
        for (text, version) in [
            ("v2.15.2-080b0220", Some(Version(2, 15, 2))),
            ("v2.9.0", Some(Version(2, 9, 0))),
            ("2.14.1-rc1", Some(Version(2, 14, 1))),
            ("dev", None),
            ("v2.15", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text}");
        }
        assert!(Version(2, 9, 9) < Version(2, 11, 0), "versions are numbers");
        assert_eq!(check(METADATA.iter(), Some("dev")), Ok(()));
        assert_eq!(check(METADATA.iter(), None), Ok(()));
    }

    #[test]
    fn each_field_is_refused_by_the_last_harbor_without_it_and_taken_by_the_first_with_it() {
        for since in METADATA.iter().chain([&CA_CERTIFICATE]) {
            let Version(major, minor, patch) = since.version;
            let before = if patch > 0 { Version(major, minor, patch - 1) } else { Version(major, minor - 1, 9) };
            let refusal = check([since].into_iter(), Some(&before.to_string())).unwrap_err();
            let named = [since.field.to_owned(), since.version.to_string(), before.to_string()];
            assert!(named.iter().all(|part| refusal.message.contains(part)), "{}", refusal.message);
            assert_eq!(check([since].into_iter(), Some(&since.version.to_string())), Ok(()));
        }
    }
}
